"""What the asset `dqn_model` does for one agent: find the run that has these weights already, or train."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from mlops_assets.experiences.snapshots import Snapshot
from mlops_assets.experiences.text_embedding import TextEmbedder
from mlops_assets.features.training_set import TrainingSet
from mlops_assets.features.views import VIEWS
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.files import digest
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.provenance import git_sha, lock_hash, project_root
from mlops_assets.training.artifacts import ArtifactFolder
from mlops_assets.training.checkpoint import load_checkpoint
from mlops_assets.training.config import DqnConfig
from mlops_assets.training.device import DeviceRequest
from mlops_assets.training.learner import CurvePoint
from mlops_assets.training.lineage import Lineage
from mlops_assets.training.run import TrainingOrigin, run_training
from mlops_assets.training.tracking import TrainingTracker


@dataclass(frozen=True)
class TrainedModel:
    """One finished MLflow run and its files.

    `trained` is false when an earlier run had the same fingerprint: training again would give the same weights.
    """

    run_id: str
    files: ArtifactFolder
    lineage: Lineage
    weights_hash: str
    trained: bool
    metrics: Mapping[str, float]

    @property
    def identity(self) -> str:
        """What was trained: the fingerprint, or the weights themselves where the commit does not say which code ran."""
        if self.lineage.reproducible:
            return self.lineage.fingerprint
        return digest({"fingerprint": self.lineage.fingerprint, "weights_hash": self.weights_hash})


def lineage_of(training_set: TrainingSet, snapshot: Snapshot, config: DqnConfig, *, seed: int) -> Lineage:
    """Return the hashes of everything that determines the training."""
    root = project_root()
    return Lineage(
        git_sha=git_sha(root),
        data_hash=training_set.data_hash,
        training_hash=training_set.training_hash,
        config_hash=config.config_hash,
        seed=seed,
        lock_hash=lock_hash(root),
        feature_views={view.name: view.version for view in VIEWS},
        dvc_md5=snapshot.dvc_md5,
    )


def train_or_reuse(
    training_set: TrainingSet,
    spec: AgentSpec,
    config: DqnConfig,
    *,
    lineage: Lineage,
    origin: TrainingOrigin,
    device: DeviceRequest,
    tracker: TrainingTracker,
    paths: ArtifactPaths,
    text_embedder: TextEmbedder | None = None,
    progress: Callable[[CurvePoint], None],
) -> TrainedModel:
    """Return the model of `lineage`: of a finished run with the same fingerprint and its files at hand, else trained now.

    A working tree with uncommitted changes has no fingerprint that could be trusted, so it always trains.

    Raises:
        InputError: the training set does not fit the agent, or the training diverged.
        TransientError: MLflow does not answer.
        StorageError: the files cannot be written.
    """
    known = tracker.find_finished(spec, lineage.fingerprint) if lineage.reproducible else None
    if known is not None:
        files = ArtifactFolder(paths.models(spec.name) / known)
        if files.checkpoint.is_file() and files.onnx.is_file():
            weights = load_checkpoint(files.checkpoint).weights_hash
            return TrainedModel(known, files, lineage, weights, trained=False, metrics={})
    done = run_training(
        training_set.train(),
        spec,
        config,
        device=device,
        lineage=lineage,
        origin=origin,
        dataset_source=str(training_set.folder),
        folder_for=lambda run_id: paths.models(spec.name) / run_id,
        tracker=tracker,
        text_embedder=text_embedder,
        progress=progress,
    )
    weights = done.trained.weights_hash
    return TrainedModel(
        done.run_id, done.artifacts.files, lineage, weights, trained=True, metrics=done.artifacts.metrics
    )


def new_origin(run_id: str, reason: Mapping[str, str], now: datetime, parent_run_id: str) -> TrainingOrigin:
    """Name and tags of the MLflow run of one lifecycle run; the run is named after its trigger."""
    return TrainingOrigin(
        lifecycle_run_id=run_id,
        description=reason["trigger_type"],
        reason=reason,
        started_at=now,
        parent_run_id=parent_run_id,
    )
