"""What the assets of this room do for one agent: evaluate a training's model once, and publish its report."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import JsonValue
from sqlalchemy import Engine

from mlops_assets.evaluation.champion import architecture, find_champion
from mlops_assets.evaluation.evaluate import ModelUnderTest, evaluate
from mlops_assets.evaluation.intervals import Interval
from mlops_assets.evaluation.prioritisation import measure_prioritisation
from mlops_assets.evaluation.report import (
    REPORT_JSON,
    ModelIdentity,
    ReportFiles,
    ValidationReport,
    read_report,
    summary_metrics,
    write_report,
)
from mlops_assets.experiences.environment import ExperienceSource
from mlops_assets.experiences.replay.source import HistoryReplay
from mlops_assets.experiences.snapshots import Snapshot, open_snapshot
from mlops_assets.experiences.sources import experience_source
from mlops_assets.features.training_set import TrainingSet
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.file_lock import file_lock
from mlops_assets.foundation.files import atomic_write
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.foundation.settings import Settings
from mlops_assets.training.artifacts import ArtifactFolder, served_hash
from mlops_assets.training.checkpoint import load_checkpoint
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets.training.tracking import TrainingTracker


@dataclass(frozen=True)
class Evaluation:
    """A report; `measured_now` is false when the run had been evaluated before."""

    report: ValidationReport
    measured_now: bool


@dataclass(frozen=True)
class PublishedReport:
    """A report and its files; the picture also as a data URI, None without labelled decisions."""

    report: ValidationReport
    files: ReportFiles
    confusion_data_uri: str | None

    def facts(self) -> dict[str, Any]:
        """What later assets and the summary need of it."""
        comparison = self.report.comparison
        return {
            "run_id": self.report.identity.run_id,
            "verdict": self.report.verdict,
            "evidence_hash": self.report.evidence_hash,
            "accuracy": _bounds(self.report.intervals.get("accuracy")),
            "share_of_optimal": _bounds(self.report.intervals.get("return_share")),
            "champion": comparison.champion_version if comparison else None,
            "prioritisation": _ranking(self.report),
        }


def evaluate_run(
    model: Mapping[str, Any],
    training_set: TrainingSet,
    spec: AgentSpec,
    profile: PolicyProfile,
    *,
    settings: Settings,
    engine: Engine,
    tracker: TrainingTracker,
    now: datetime,
) -> Evaluation:
    """Evaluate the model of an MLflow run on its training set's held-out decisions, and log the figures on that run.

    `model` is the record of `dqn_model`. A run keeps its first report: latencies differ from try to try, and a decision
    is bound to the hash of the evidence it was taken on.

    Raises:
        InputError: no decision is held out, or a file of the model is missing.
        TransientError: MLflow does not answer.
    """
    run_id = model["run_id"]
    document = settings.paths.reports(spec.name) / run_id / REPORT_JSON
    # Two lifecycles that reuse one run would each measure it, and bind two decisions to two reports.
    with file_lock(document.parent / ".lock"):
        if document.is_file():
            return Evaluation(read_report(document), measured_now=False)
        report = _measure(
            model, training_set, spec, profile, settings=settings, engine=engine, tracker=tracker, now=now
        )
        tracker.log_metrics(run_id, summary_metrics(report), tags={"validation_verdict": report.verdict})
        with atomic_write(document) as temporary:
            temporary.write_text(report.model_dump_json(indent=2), encoding="utf-8")
    return Evaluation(report, measured_now=True)


def _measure(
    model: Mapping[str, Any],
    training_set: TrainingSet,
    spec: AgentSpec,
    profile: PolicyProfile,
    *,
    settings: Settings,
    engine: Engine,
    tracker: TrainingTracker,
    now: datetime,
) -> ValidationReport:
    run_id = model["run_id"]
    source = experience_source(settings, spec, engine)
    snapshot = open_snapshot(spec.name, model["data_hash"], paths=settings.paths, engine=engine)
    files = ArtifactFolder(settings.paths.models(spec.name) / run_id)
    under_test = _under_test(model, training_set, spec, files, snapshot)
    champion = find_champion(spec, engine=engine, paths=settings.paths, tracker=tracker)
    return evaluate(
        under_test,
        training_set.holdout(),
        spec,
        profile,
        champion=champion if champion is not None and champion.run_id != run_id else None,
        make_environment=lambda episodes: source.environment(spec, episodes),
        seed=settings.training_seed,
        now=now,
        prioritisation=_prioritisation(source, under_test, training_set, spec, profile, settings.training_seed),
    )


def finish_report(spec: AgentSpec, run_id: str, *, paths: ArtifactPaths, tracker: TrainingTracker) -> PublishedReport:
    """Render the report of an evaluated run for people, and attach everything to the MLflow run.

    Raises:
        InputError: the run was not evaluated.
        TransientError: MLflow does not answer.
    """
    folder = paths.reports(spec.name) / run_id
    report = read_report(folder / REPORT_JSON)
    files = write_report(report, folder)
    tracker.log_artifacts(run_id, folder)
    picture = files.confusion_png
    uri = None if picture is None else "data:image/png;base64," + b64encode(picture.read_bytes()).decode()
    return PublishedReport(report, files, uri)


def _under_test(
    model: Mapping[str, Any], training_set: TrainingSet, spec: AgentSpec, files: ArtifactFolder, snapshot: Snapshot
) -> ModelUnderTest:
    network = load_checkpoint(files.checkpoint).network
    return ModelUnderTest(
        identity=ModelIdentity(
            agent=spec.name,
            model_name=spec.registered_model,
            run_id=model["run_id"],
            data_hash=model["data_hash"],
            training_hash=model["identity"],
            architecture=architecture(network),
            training_rows=training_set.rows,
            served_hash=served_hash(files.onnx, snapshot.embedder() if spec.text_dimensions else None),
        ),
        policy=GreedyPolicy.from_onnx(files.onnx),
        runtime="onnxruntime",
        served_file=files.onnx,
        files=(files.checkpoint, files.onnx),
        other_runtimes={"torch": GreedyPolicy.from_network(network)},
    )


def _prioritisation(
    source: ExperienceSource,
    model: ModelUnderTest,
    training_set: TrainingSet,
    spec: AgentSpec,
    profile: PolicyProfile,
    seed: int,
) -> Mapping[str, JsonValue] | None:
    if not isinstance(source, HistoryReplay):
        return None
    measured = measure_prioritisation(
        model.policy,
        source,
        spec,
        held_out=training_set.holdout(),
        training=training_set.train(),
        samples=profile.evaluation.bootstrap_samples,
        confidence=profile.evaluation.confidence,
        seed=seed,
    )
    return None if measured is None else measured.to_json()


def _bounds(interval: Interval | None) -> dict[str, float | None] | None:
    return None if interval is None else {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def _ranking(report: ValidationReport) -> JsonValue:
    return None if report.prioritisation is None else report.prioritisation["held_out"]
