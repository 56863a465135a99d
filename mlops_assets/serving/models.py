"""The versions in service: what one of them is, which stands behind which alias, and how one is fetched. No polling."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiences.text_embedding import TextEmbedder
from mlops_assets.features.vector import StateVectors, state_vector
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import canonical_json
from mlops_assets.registry.catalogue import CANDIDATE, CHALLENGER, CHAMPION
from mlops_assets.registry.mlflow_store import SEMVER_TAG, LoadedModel, MlflowStore, StoredVersion, read_served
from mlops_assets.registry.registration import TRAINING_HASH_TAG
from mlops_assets.training.policy import GreedyPolicy

SHADOW = "shadow"
SERVED_ALIASES = (CHAMPION, CANDIDATE, CHALLENGER, SHADOW)
# Batches of these sizes are what a server sees; the first run of each size allocates its buffers.
_WARM_UP_ROWS = (1, 8, 64)
_FACTS_FILE = "version.json"


class UnfitVersionError(InputError):
    """A version that this code's agent cannot be served with: loading it again would end the same way."""


@dataclass(frozen=True)
class ServedModel:
    """One registered version in memory, warm."""

    spec: AgentSpec
    semver: str
    mlflow_version: str
    run_id: str
    data_hash: str
    training_hash: str
    policy: GreedyPolicy = field(repr=False)
    text_embedder: TextEmbedder | None = field(repr=False)

    @property
    def key(self) -> tuple[str, str]:
        """Registered model and version, which identify it."""
        return self.spec.registered_model, self.semver

    def states(
        self, context: NDArray[np.float32], texts: list[str], features: Mapping[str, NDArray[np.generic]]
    ) -> StateVectors:
        """Build the state vectors (N, D) that this version expects, by the function that training uses.

        Args:
            context: decision contexts (N, C).
            texts: requirement texts (N,), "" without one; only an agent that reads texts looks at them.
            features: Feast features, as `state_vector` takes them.
        """
        if self.text_embedder is None:
            text = np.zeros((len(context), 0), dtype=np.float32)
        elif any(texts):
            text = self.text_embedder.transform(texts)
        else:
            text = np.zeros((len(context), self.spec.text_dimensions), dtype=np.float32)
        return state_vector(self.spec, context, text, features)


@dataclass(frozen=True)
class ServedModels:
    """Which version stands behind which alias of which agent: one immutable picture, swapped as a whole."""

    by_alias: Mapping[tuple[str, str], ServedModel] = field(default_factory=lambda: MappingProxyType({}))

    def get(self, agent: str, alias: str) -> ServedModel | None:
        """Return the version behind the alias, or None."""
        return self.by_alias.get((agent, alias))

    def all(self) -> tuple[ServedModel, ...]:
        """Every version once."""
        return tuple({model.key: model for model in self.by_alias.values()}.values())


def load_served_model(store: MlflowStore, spec: AgentSpec, number: str) -> ServedModel:
    """Fetch one version from the registry and load it, warm.

    Raises:
        InputError: no such version.
        UnfitVersionError: it was trained for another agent, or on another state vector or other actions than this code's.
        StorageError: MLflow does not answer.
    """
    name = spec.registered_model
    return _served_model(spec, store.stored_version(name, number), store.load_served(name, number))


def fetch_served_model(store: MlflowStore, spec: AgentSpec, number: str, folder: Path) -> None:
    """Bring one version's files and facts into `folder`, for `read_served_model`.

    Raises:
        InputError: no such version, or it is no exported policy.
        StorageError: MLflow does not answer, or the disk is full.
    """
    version = store.stored_version(spec.registered_model, number)
    store.fetch_served(spec.registered_model, number, folder)
    facts = {"number": version.number, "run_id": version.run_id, "tags": dict(version.tags)}
    (folder / _FACTS_FILE).write_text(canonical_json(facts), encoding="utf-8")


def mirrored_run(folder: Path) -> str | None:
    """Return the MLflow run of the version in `folder`; None when it holds none."""
    try:
        return str(json.loads((folder / _FACTS_FILE).read_text(encoding="utf-8"))["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_served_model(spec: AgentSpec, folder: Path) -> ServedModel:
    """Load what `fetch_served_model` brought, warm; MLflow is not asked, nor imported.

    Raises:
        InputError: a file is missing or damaged.
        UnfitVersionError: it was trained for another agent, or on another state vector or other actions than this code's.
    """
    try:
        facts = json.loads((folder / _FACTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} holds no version of {spec.registered_model} ({error}); delete the folder"
        ) from error
    return _served_model(spec, StoredVersion(**facts), read_served(folder))


def _served_model(spec: AgentSpec, version: StoredVersion, loaded: LoadedModel) -> ServedModel:
    """Check that the version is this code's and let it answer once for every usual batch size."""
    name, number = spec.registered_model, version.number
    if loaded.policy.state_fields != spec.state_fields:
        raise UnfitVersionError(
            f"{name} version {number} was trained on {len(loaded.policy.state_fields)} state fields in an order that is "
            f"not {spec.name}'s ({len(spec.state_fields)} fields); train it again with this version of the project"
        )
    if loaded.policy.action_names != spec.actions:
        raise UnfitVersionError(
            f"{name} version {number} was trained for another catalogue: its actions are "
            f"{', '.join(map(str, loaded.policy.action_names))}, those of {spec.name} are {', '.join(spec.actions)}; "
            "train it again with this version of the project"
        )
    if spec.text_dimensions and loaded.text_embedder is None:
        raise UnfitVersionError(f"{name} version {number} has no text embedder in its artifacts; train it again")
    for rows in _WARM_UP_ROWS:
        values = loaded.policy.q_values(np.zeros((rows, len(spec.state_fields)), dtype=np.float32))
        if not np.isfinite(values).all():
            raise UnfitVersionError(f"{name} version {number} gives no finite numbers; train it again")
    if loaded.text_embedder is not None:
        loaded.text_embedder.transform(["warm-up"])
    return ServedModel(
        spec=spec,
        semver=version.tags.get(SEMVER_TAG, number),
        mlflow_version=number,
        run_id=version.run_id,
        data_hash=version.tags.get("data_version", ""),
        training_hash=version.tags.get(TRAINING_HASH_TAG, ""),
        policy=loaded.policy,
        text_embedder=loaded.text_embedder,
    )
