"""What a version's traffic is compared with: its held-out decisions, frozen once, as its own policy decides on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from mlops_assets.evaluation.metrics import greedy, q_values
from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.features.training_set import open_training_set
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import insert_missing, read_transaction, transaction
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.foundation.files import atomic_write
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.policies import DriftPolicy
from mlops_assets.foundation.tables import AssetRecord, DriftReferenceRecord, ModelVersionRecord
from mlops_assets.monitoring.reference import Reference
from mlops_assets.monitoring.shared_values import shared_draws
from mlops_assets.monitoring.window import CATEGORICAL, decision_columns
from mlops_assets.serving.batch import confidences
from mlops_assets.training.artifacts import ArtifactFolder
from mlops_assets.training.policy import GreedyPolicy

CONFIDENCE = "confidence"


@dataclass(frozen=True)
class FrozenReference:
    """A version's reference; `accuracy` is None without labelled decisions."""

    model_version: str
    reference: Reference
    content_hash: str
    accuracy: float | None
    mean_confidence: float | None
    created_at: datetime
    frozen_now: bool


def frozen_reference(
    engine: Engine, spec: AgentSpec, version: str, policy: DriftPolicy, *, paths: ArtifactPaths, now: datetime
) -> FrozenReference:
    """Return a version's reference; the first call freezes it, from its training set's held-out decisions.

    Raises:
        NotReadyError: the version is not registered, or what it was trained on or its policy does not lie here.
        InputError: a file is damaged, or nothing was held out.
        StorageError: the reference cannot be written.
    """
    name = spec.registered_model
    with read_transaction(engine) as session:
        record = session.get(DriftReferenceRecord, (name, version))
    if record is not None:
        return _opened(record, paths)
    columns, episodes, facts = _evaluated(engine, spec, version, paths)
    reference = Reference.freeze(
        columns, policy, clusters=episodes, shared=shared_draws(columns, spec), categorical=CATEGORICAL
    )
    content_hash = reference.content_hash
    # The file first: a row without one would stop every check of the version.
    with atomic_write(_file(paths, spec, content_hash)) as temporary:
        temporary.write_bytes(reference.to_bytes())
    row = {
        "model_name": name,
        "model_version": version,
        "agent": spec.name,
        "content_hash": content_hash,
        "rows": reference.rows,
        **facts,
        "created_at": now,
    }
    with transaction(engine) as session:
        insert_missing(session, DriftReferenceRecord, [row])
    with read_transaction(engine) as session:
        kept = session.get(DriftReferenceRecord, (name, version))
    if kept is None:
        raise NotReadyError(f"the reference of {name} {version} was removed while it was written; run the check again")
    opened = _opened(kept, paths)
    return FrozenReference(**{**vars(opened), "frozen_now": True})


def reference_columns(
    engine: Engine, spec: AgentSpec, version: str, *, paths: ArtifactPaths
) -> Mapping[str, NDArray[Any]]:
    """Return the columns (N,) that the version's reference is frozen from, in the order of time.

    Raises:
        NotReadyError: as `frozen_reference`.
        InputError: a file is damaged, or nothing was held out.
    """
    return _evaluated(engine, spec, version, paths)[0]


def _evaluated(
    engine: Engine, spec: AgentSpec, version: str, paths: ArtifactPaths
) -> tuple[Mapping[str, NDArray[Any]], NDArray[np.object_], dict[str, float | None]]:
    run_id, training_hash = _trained_as(engine, spec, version)
    holdout = open_training_set(spec.name, training_hash, paths=paths).holdout()
    if not len(holdout):
        raise InputError(
            f"nothing was held out when {spec.registered_model} {version} was trained, so there is nothing to compare its "
            "traffic with; train it on more episodes"
        )
    policy = GreedyPolicy.from_onnx(ArtifactFolder(paths.models(spec.name) / run_id).onnx)
    values = q_values(policy, holdout.state)
    confidence = confidences(values)
    columns = decision_columns(
        spec,
        states=holdout.state,
        action=greedy(values),
        confidence=confidence,
        texts={name: getattr(holdout, name) for name in ("browser", "ui_framework", "test_type")},
    )
    return (
        columns,
        holdout.episode_id,
        {"accuracy": _accuracy(values, holdout), "mean_confidence": float(confidence.mean())},
    )


def _accuracy(values: NDArray[np.float32], holdout: DecisionTable) -> float | None:
    labelled = holdout.best_action >= 0
    if not labelled.any():
        return None
    return float((greedy(values[labelled]) == holdout.best_action[labelled]).mean())


def _trained_as(engine: Engine, spec: AgentSpec, version: str) -> tuple[str, str]:
    """The version's run, and the training set that it was trained on."""
    model, trained = ModelVersionRecord, AssetRecord
    with read_transaction(engine) as session:
        run_id = session.scalars(
            select(model.run_id).where(model.model_name == spec.registered_model, model.semver == version)
        ).one_or_none()
        if run_id is None:
            raise NotReadyError(f"{spec.registered_model} has no version {version}; register it first")
        payload = session.scalars(
            select(trained.payload)
            .where(
                trained.asset == "dqn_model",
                trained.partition == spec.name,
                trained.payload["run_id"].as_string() == run_id,
            )
            .order_by(trained.id.desc())
            .limit(1)
        ).one_or_none()
    if payload is None:
        raise NotReadyError(
            f"what {spec.registered_model} {version} (run {run_id}) was trained on is not on record here; check drift where "
            "its lifecycle ran, or train it here"
        )
    return run_id, str(payload["training_hash"])


def _opened(record: DriftReferenceRecord, paths: ArtifactPaths) -> FrozenReference:
    file = paths.monitoring(record.agent) / "references" / f"{record.content_hash}.bin"
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise NotReadyError(
            f"the reference of {record.model_name} {record.model_version} is gone: {file}; restore it from a backup, or "
            "delete its row of drift_reference to have it frozen again"
        ) from None
    reference = Reference.from_bytes(data)
    if reference.content_hash != record.content_hash:
        raise InputError(f"{file} is damaged: its content is {reference.content_hash}; restore it from a backup")
    return FrozenReference(
        record.model_version,
        reference,
        record.content_hash,
        record.accuracy,
        record.mean_confidence,
        record.created_at,
        frozen_now=False,
    )


def _file(paths: ArtifactPaths, spec: AgentSpec, content_hash: str) -> Path:
    return paths.monitoring(spec.name) / "references" / f"{content_hash}.bin"
