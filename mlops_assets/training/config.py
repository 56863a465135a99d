"""Hyper-parameters of the dueling double DQN; every field is read by the learner. Reasons stand in configs/dqn.yaml."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.files import digest

NETWORK_ARCHITECTURE = "dueling-dqn"


class DqnConfig(BaseModel):
    """Hyper-parameters of one training.

    The learner is offline: it sees logged decisions only, so it has no exploration schedule and no episodes of its own;
    the length of a training is a number of gradient updates, and `buffer_size` is how many of the newest logged
    transitions it replays.

    Attributes:
        learning_rate: AdamW's learning rate at the first update, falling to 0 along half a cosine; for one process, see
            `scaled_learning_rate`.
        learning_rate_scaling: `none`, or `linear` in the number of processes (Goyal et al. 2017).
        batch_size: transitions per gradient update and process; see `global_batch_size`.
        gamma: discount per decision; null takes the agent's own.
        buffer_size: replay capacity, in newest transitions.
        hidden_sizes: widths of the trunk's ReLU layers.
        updates: gradient updates.
        updates_per_block: updates that share one computation of TD targets (and one step of the target network).
        target_decay: share of its old weights that the target network keeps at each block (Polyak averaging).
        loss: `huber` (threshold one standard deviation of the rewards) or `mse`.
        max_gradient_norm: gradients are scaled down to this norm.
        weight_decay: decoupled weight decay of AdamW.
        threads: CPU threads of the learner; configuration, since the order of summation decides the last bit.
        report_every: updates between two points of the training curves.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 4e-3
    learning_rate_scaling: Literal["none", "linear"] = "none"
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 256
    gamma: Annotated[float, Field(ge=0, le=1)] | None = None
    buffer_size: Annotated[int, Field(ge=1)] = 1_000_000
    hidden_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=8)] = (
        96,
        96,
        96,
    )
    updates: Annotated[int, Field(ge=1)] = 8_000
    updates_per_block: Annotated[int, Field(ge=1, le=1024)] = 16
    target_decay: Annotated[float, Field(ge=0, lt=1)] = 0.8
    loss: Literal["huber", "mse"] = "mse"
    max_gradient_norm: Annotated[float, Field(gt=0)] = 10.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    report_every: Annotated[int, Field(ge=1)] = 200

    @property
    def config_hash(self) -> str:
        """Hex sha256 of all values, one of the five inputs that determine the weights."""
        return digest(self.model_dump(mode="json"))

    def discount(self, spec: AgentSpec) -> float:
        """Discount per decision: the configured one, else the agent's."""
        return spec.discount if self.gamma is None else self.gamma

    def global_batch_size(self, processes: int) -> int:
        """Transitions per update over all processes: `batch_size` is per process (256 on one GPU, 768 on three)."""
        return self.batch_size * processes

    def scaled_learning_rate(self, processes: int) -> float:
        """First learning rate of a training by `processes` data-parallel processes.

        Unchanged by default; with `learning_rate_scaling: linear` proportional to the global batch size.
        """
        return self.learning_rate * (processes if self.learning_rate_scaling == "linear" else 1)


def load_config(path: Path) -> DqnConfig:
    """Read a configuration from a YAML mapping; absent keys take their defaults.

    Raises:
        SettingsError: the file is missing, is no YAML mapping, or holds an unknown key or an invalid value.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"no training configuration at {path}; configs/dqn.yaml is the shipped one") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not readable as YAML: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path} holds {type(values).__name__}, expected a mapping of hyper-parameters")
    return parse_config(values, origin=str(path))


def parse_config(values: dict[str, object], *, origin: str = "training configuration") -> DqnConfig:
    """Validate hyper-parameters; `origin` names their source in errors.

    Raises:
        SettingsError: an unknown key or an invalid value; every one is named.
    """
    try:
        return DqnConfig.model_validate(values)
    except ValidationError as error:
        known = ", ".join(DqnConfig.model_fields)
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc']))} = {item['input']!r}: {item['msg']}" for item in error.errors()
        )
        raise SettingsError(f"{origin}: {wrong}. Known keys: {known}") from error
