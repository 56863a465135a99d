"""One training from training set to finished MLflow run: what the asset `dqn_model` calls. Its parts live next door."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mlops_assets.experiences.text_embedding import TextEmbedder
from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import TransientError
from mlops_assets.training.artifacts import TrainingArtifacts, write_artifacts
from mlops_assets.training.config import DqnConfig
from mlops_assets.training.device import DeviceRequest, choose_device
from mlops_assets.training.learner import CurvePoint, TrainedAgent, train
from mlops_assets.training.lineage import Lineage, run_name, run_params, run_tags
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets.training.tracking import TrainingTracker

# Points of the curves that are sent to MLflow together while the training runs.
_CURVE_BATCH = 10
_EXAMPLE_ROWS = 4


@dataclass(frozen=True)
class TrainingOrigin:
    """Who started a training and why: names and tags of its MLflow run.

    `reason` holds at least `trigger_type` (manual, schedule, drift, ...); `description` ends the run's name.
    """

    lifecycle_run_id: str
    description: str
    reason: Mapping[str, str]
    started_at: datetime
    parent_run_id: str | None = None


@dataclass(frozen=True)
class TrainingRun:
    """A finished training: its MLflow run, the logged model's URI, the agent, and its files."""

    run_id: str
    model_uri: str
    trained: TrainedAgent
    artifacts: TrainingArtifacts


def run_training(
    table: DecisionTable,
    spec: AgentSpec,
    config: DqnConfig,
    *,
    device: DeviceRequest,
    lineage: Lineage,
    origin: TrainingOrigin,
    dataset_source: str,
    folder_for: Callable[[str], Path],
    tracker: TrainingTracker,
    text_embedder: TextEmbedder | None = None,
    progress: Callable[[CurvePoint], None] | None = None,
) -> TrainingRun:
    """Train an agent and record everything about it in one MLflow run, which ends FINISHED, or FAILED on any exception.

    Args:
        table: training decisions.
        spec: the agent.
        config: hyper-parameters; its hash must be the lineage's.
        device: device asked for.
        lineage: hashes of all inputs; its seed is the training's.
        origin: who started the training, and why.
        dataset_source: where the training set lies, for MLflow's record of inputs.
        folder_for: folder of the artifacts, by MLflow run id.
        tracker: where the run is recorded.
        text_embedder: what made the text part of the states; None for an agent without one.
        progress: called with every new point of the curves.

    Raises:
        InputError: the table does not fit the agent, or the training diverged.
        TransientError: MLflow does not answer.
        StorageError: the artifacts cannot be written.
    """
    choice = choose_device(device)
    run_id = tracker.start(
        spec,
        lifecycle_run_id=origin.lifecycle_run_id,
        run_name=run_name(origin.started_at, origin.description),
        parent_run_id=origin.parent_run_id,
        params=run_params(spec, config, choice, seed=lineage.seed, reason=origin.reason),
        tags=run_tags(spec, choice, lineage),
    )
    try:
        finished = _train_and_log(
            run_id,
            table,
            spec,
            config,
            choice.device,
            lineage,
            dataset_source,
            folder_for(run_id),
            tracker,
            text_embedder,
            progress,
        )
    except BaseException as error:
        _mark_failed(tracker, run_id, error)
        raise
    tracker.finish(run_id)
    return finished


def _mark_failed(tracker: TrainingTracker, run_id: str, error: BaseException) -> None:
    """End the run FAILED; when MLflow does not answer either, the first error is the one to see."""
    try:
        tracker.finish(run_id, failed=True)
    except TransientError as second:
        error.add_note(f"MLflow run {run_id} still says RUNNING: {second}")


def _train_and_log(
    run_id: str,
    table: DecisionTable,
    spec: AgentSpec,
    config: DqnConfig,
    device: DeviceRequest,
    lineage: Lineage,
    dataset_source: str,
    folder: Path,
    tracker: TrainingTracker,
    text_embedder: TextEmbedder | None,
    progress: Callable[[CurvePoint], None] | None,
) -> TrainingRun:
    tracker.log_dataset(
        run_id,
        name=f"{spec.name}-training-set",
        digest=lineage.training_hash,
        source=dataset_source,
        rows=len(table),
        context="training",
    )
    waiting: list[CurvePoint] = []

    def report(point: CurvePoint) -> None:
        waiting.append(point)
        if len(waiting) >= _CURVE_BATCH:
            tracker.log_curves(run_id, waiting)
            waiting.clear()
        if progress is not None:
            progress(point)

    trained = train(table, spec, config, device=device, seed=lineage.seed, progress=report)
    tracker.log_curves(run_id, waiting)
    artifacts = write_artifacts(trained, table, spec, folder)
    tracker.log_episodes(run_id, artifacts.episodes)
    tracker.log_metrics(run_id, artifacts.metrics, step=trained.updates, tags={"weights_hash": trained.weights_hash})
    tracker.log_artifacts(run_id, folder)
    example = table.state[:_EXAMPLE_ROWS]
    q_values = GreedyPolicy.from_onnx(artifacts.files.onnx).q_values(example)
    model_uri = tracker.log_model(run_id, artifacts.files.onnx, spec, example, q_values, text_embedder=text_embedder)
    return TrainingRun(run_id=run_id, model_uri=model_uri, trained=trained, artifacts=artifacts)
