from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from mlops_assets.features.decision_table import DecisionTable, decision_schema, fixed_lists, write_decisions
from mlops_assets.features.training_set import TrainingSet
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.training.learner import CurvePoint
from mlops_assets.training.lifecycle import TrainedModel, new_origin, train_or_reuse
from mlops_assets.training.lineage import Lineage
from mlops_assets.training.tracking import TrainingTracker, connect
from mlops_assets_tests.training.samples import FAST, TOY

CONFIG = FAST.model_copy(update={"updates": 40})
LINEAGE = Lineage(
    git_sha="a1",
    data_hash="b2",
    training_hash="c3",
    config_hash=CONFIG.config_hash,
    seed=7,
    lock_hash="e5",
    feature_views={},
)


@pytest.fixture
def training_set(table: DecisionTable, tmp_path: Path) -> TrainingSet:
    schema = decision_schema(3, 2)
    lists = {"state": fixed_lists(table.state), "action_values": fixed_lists(table.action_values)}
    columns = [lists[name] if name in lists else pa.array(getattr(table, name)) for name in schema.names]
    write_decisions(tmp_path / "train.parquet", pa.table(columns, names=schema.names).cast(schema))
    return TrainingSet(
        agent="toy",
        training_hash="c3",
        data_hash="b2",
        folder=tmp_path,
        rows=len(table),
        holdout_rows=0,
        labelled_rows=0,
        holdout_labelled_rows=0,
        split_time=None,
        vector_fields=TOY.state_fields,
        incomplete_episodes=0,
        incomplete_rows=0,
        straddling_episodes=0,
        straddling_rows=0,
        missing_rates={},
    )


def _train(
    training_set: TrainingSet, tracker: TrainingTracker, run: str, lineage: Lineage = LINEAGE
) -> tuple[TrainedModel, list[CurvePoint]]:
    seen: list[CurvePoint] = []
    model = train_or_reuse(
        training_set,
        TOY,
        CONFIG,
        lineage=lineage,
        origin=new_origin(run, {"trigger_type": "manual"}, datetime(2026, 6, 1, tzinfo=UTC), "0" * 32),
        device="cpu",
        tracker=tracker,
        paths=ArtifactPaths(training_set.folder / "home"),
        progress=seen.append,
    )
    return model, seen


def test_the_same_inputs_are_trained_once(training_set: TrainingSet, tracker: TrainingTracker) -> None:
    """A second run over unchanged data trains for a minute and registers a duplicate."""
    first, curve = _train(training_set, tracker, "dagster-1")
    assert first.trained
    assert curve[-1].update == 40
    second, nothing = _train(training_set, tracker, "dagster-2")
    assert (second.trained, nothing) == (False, [])
    assert (second.run_id, second.weights_hash, second.files) == (first.run_id, first.weights_hash, first.files)


@pytest.mark.parametrize("change", [{"training_hash": "c4"}, {"git_sha": "a1-dirty"}])
def test_other_inputs_are_trained_again(
    training_set: TrainingSet, tracker: TrainingTracker, change: dict[str, object]
) -> None:
    """New data, another seed, or code that no commit names are taken for what was trained before."""
    first, _ = _train(training_set, tracker, "dagster-1", replace(LINEAGE, **change))  # type: ignore[arg-type]
    again, _ = _train(training_set, tracker, "dagster-2")
    assert again.trained
    dirty, _ = _train(training_set, tracker, "dagster-3", replace(LINEAGE, **change))  # type: ignore[arg-type]
    assert dirty.trained is ("git_sha" in change)
    assert (dirty.run_id == first.run_id) is not dirty.trained


def test_lost_files_are_made_again(training_set: TrainingSet, tracker: TrainingTracker) -> None:
    """MLflow remembers a run whose files somebody deleted: the next step finds nothing to evaluate."""
    first, _ = _train(training_set, tracker, "dagster-1")
    first.files.onnx.unlink()
    second, _ = _train(training_set, tracker, "dagster-2")
    assert second.trained
    assert second.files.onnx.is_file()
    assert second.weights_hash == first.weights_hash
    run = connect(tracker.tracking_uri).get_run(second.run_id)
    assert (run.info.run_name, run.data.tags["mlflow.parentRunId"]) == ("20260601_manual", "0" * 32)
