"""What a training run is made of, as MLflow parameters and tags. How they are stored is `tracking.py`'s business."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.files import digest
from mlops_assets.training.config import NETWORK_ARCHITECTURE, DqnConfig
from mlops_assets.training.device import DeviceChoice

Stage = Literal["dev", "staging", "prod"]


@dataclass(frozen=True)
class Lineage:
    """Everything that determines a training, by hash.

    The same git SHA, data, configuration, seed and lock give the same weights on one machine's CPU. `training_hash`
    names the training set that was built from the snapshot `data_hash`; `dvc_md5` is the snapshot's name in DVC.
    """

    git_sha: str
    data_hash: str
    training_hash: str
    config_hash: str
    seed: int
    lock_hash: str
    feature_views: Mapping[str, str]
    dvc_md5: str | None = None

    @property
    def fingerprint(self) -> str:
        """One hash over all inputs: two runs with the same fingerprint have the same weights."""
        return digest(
            {
                "git_sha": self.git_sha,
                "data_hash": self.data_hash,
                "training_hash": self.training_hash,
                "config_hash": self.config_hash,
                "seed": self.seed,
                "lock_hash": self.lock_hash,
            }
        )

    @property
    def reproducible(self) -> bool:
        """Whether the commit says which code ran: false outside git and with uncommitted changes."""
        return self.git_sha != "unknown" and not self.git_sha.endswith("-dirty")

    def tags(self) -> dict[str, str]:
        """Tags of the run: every hash under its name, feature views as `feature_view.<name>`."""
        tags = {
            "git_sha": self.git_sha,
            "data_hash": self.data_hash,
            "training_hash": self.training_hash,
            "config_hash": self.config_hash,
            "seed": str(self.seed),
            "lock_hash": self.lock_hash,
            "fingerprint": self.fingerprint,
        }
        if self.dvc_md5 is not None:
            tags["dvc_md5"] = self.dvc_md5
        return tags | {f"feature_view.{name}": version for name, version in self.feature_views.items()}


def run_name(now: datetime, description: str) -> str:
    """Name of a run, `{date}_{description}`, such as 20251027_baseline."""
    return f"{now:%Y%m%d}_{description}"


def run_params(
    spec: AgentSpec, config: DqnConfig, device: DeviceChoice, *, seed: int, reason: Mapping[str, str]
) -> dict[str, str]:
    """Parameters of a run: every hyper-parameter, architecture, device, and why it was started.

    Args:
        spec: the agent.
        config: hyper-parameters; `gamma` is logged as it is used.
        device: the device that was chosen.
        seed: seed of the training.
        reason: why the training was started, at least `trigger_type`, such as drift with its score.
    """
    processes = max(1, device.gpu_count)
    values = config.model_dump(mode="json") | {
        "gamma": config.discount(spec),
        "hidden_sizes": "x".join(map(str, config.hidden_sizes)),
        "network_architecture": NETWORK_ARCHITECTURE,
        "agent_type": f"{spec.name}_agent",
        "state_size": len(spec.state_fields),
        "actions": len(spec.actions),
        "gpu_count": device.gpu_count,
        "num_gpus": device.gpu_count,
        "global_batch_size": config.global_batch_size(processes),
        "device": device.device,
        "seed": seed,
    }
    return {name: str(value) for name, value in (values | dict(reason)).items()}


def run_tags(spec: AgentSpec, device: DeviceChoice, lineage: Lineage, *, stage: Stage = "dev") -> dict[str, str]:
    """Tags of a run: what it trains, where, in which stage of its life, and its lineage."""
    return {
        "model_type": "DQN",
        "framework": "pytorch",
        "agent": spec.name,
        "stage": stage,
        "gpu": str(device.gpu_count),
        "gpu_type": device.gpu_type,
        "device_reason": device.reason,
    } | lineage.tags()
