"""Runs that have to stop: with a sentence that says what to do, and with every store as it was."""

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import Engine, select

from mlops_assets.experiences.environment import ExperienceBatch
from mlops_assets.experiences.simulator.simulate import Simulator
from mlops_assets.experiences.snapshots import latest_snapshot
from mlops_assets.experiences.sources import simulator_config
from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.settings import Settings
from mlops_assets.foundation.tables import (
    AuditEvent,
    ModelVersionRecord,
    QuarantinedRow,
    SnapshotRecord,
    ValidationRecord,
)
from mlops_assets_tests.lifecycle.worlds import SMALL, World

AGENT = "execution"
# A third of what the other tests of this folder take: nothing is learned from it.
FEW = {**SMALL, "MLOPS_SIMULATOR_ROWS": "900"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A fresh home."""
    return World.create(tmp_path, FEW)


def _rows(world: World, table: type[Any]) -> list[Any]:
    with world.database() as engine, read_transaction(engine) as session:
        return list(session.scalars(select(table)))


@pytest.mark.slow
def test_a_rejected_snapshot_stops_its_run_and_is_never_trained_on(world: World) -> None:
    """A blocking check stops only its own run: the next one trained on the data that it had just refused."""
    run = world.run("retrain", AGENT, settings={"MLOPS_DATA_PROFILE": "standard"})

    assert not run.success
    assert run.checks == {"expectations_met": False}
    assert run.assets == {
        "test_executions",
        "test_execution_features",
        "training_experiences",
        "data_validation_report",
    }
    report = run.facts("data_validation_report", AGENT)
    assert report["passed"] is False
    assert "| fail | critical |" in report["expectations"]
    assert Path(report["data_docs"].removeprefix("file://")).is_file()
    failed = [validation for validation in _rows(world, ValidationRecord) if not validation.passed]
    assert {validation.data_hash for validation in failed} == {report["data_hash"]}
    assert all(validation.failed_expectations for validation in failed)
    assert [record.status for record in _rows(world, SnapshotRecord)] == ["rejected"]

    alone = world.materialize(["training_set"], AGENT)
    trained = world.materialize(["dqn_model"], AGENT)

    refused = alone.failures["training_set"]
    assert f"snapshot {report['data_hash']} of agent '{AGENT}' did not pass its validation" in refused
    assert "correct the source, and collect again" in refused
    assert "'training_set' has not been materialised" in trained.failures["dqn_model"]
    assert (alone.made, trained.made) == ({}, {})
    assert _rows(world, ModelVersionRecord) == _rows(world, AuditEvent) == []
    assert not world.settings.paths.models(AGENT).exists()
    assert not world.settings.paths.mlflow_db.exists()


@pytest.mark.slow
def test_a_training_set_of_a_snapshot_that_was_rejected_later_is_refused(world: World) -> None:
    """The data were validated again with stricter rules and refused; the training set made of them was still at hand."""
    before = ["test_executions", "test_execution_features", "training_experiences", "data_validation_report"]
    made = world.materialize([*before, "agent_context_features", "training_set"], AGENT)
    assert made.success, made.failures
    again = world.materialize(["data_validation_report"], AGENT, settings={"MLOPS_DATA_PROFILE": "standard"})
    assert again.checks == {"expectations_met": False}

    run = world.materialize(["dqn_model"], AGENT)

    assert not run.success
    assert "did not pass its validation" in run.failures["dqn_model"]
    assert not world.settings.paths.mlflow_db.exists()


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"MLOPS_DATA_PROFILE": "strict"}, "MLOPS_DATA_PROFILE='strict'"),
        (
            {"MLOPS_EXPERIENCE_SOURCE": "ci_history"},
            "MLOPS_SOURCE_PATH: needed with MLOPS_EXPERIENCE_SOURCE=ci_history",
        ),
        ({"MLOPS_SIMULATOR_ROW": "5"}, "unknown environment variable MLOPS_SIMULATOR_ROW; did you mean"),
        ({"MLOPS_ENVIRONMENT": "production"}, "MLOPS_ENVIRONMENT=production refuses the embedded SQLite"),
    ],
)
def test_a_wrong_setting_reaches_the_runs_failure(world: World, variables: dict[str, str], text: str) -> None:
    """People read the run's page in the UI, not the settings module."""
    run = world.run("retrain", AGENT, settings=variables)
    assert not run.success
    assert text in run.failures["run"]
    assert run.made == {}
    assert not (world.root / "home").exists()


def test_a_wrong_hyperparameter_stops_the_run_before_it_reads_any_data(world: World) -> None:
    """A misspelt name was found out an hour later, when the data were ready; or ignored, and logged as if it counted."""
    run = world.run("retrain", AGENT, training={"update": 5})
    assert "overrides: update = 5" in run.failures["run"]
    assert "Known keys: learning_rate" in run.failures["run"]
    assert run.made == {}


def test_a_history_cannot_teach_an_agent_that_it_does_not_know(world: World, tmp_path: Path) -> None:
    """The main job on a CI history failed with a traceback at its first agent."""
    history = tmp_path / "history.csv"
    history.write_text("Name;Duration;LastRun;Verdict;Cycle\na;1000;2026-01-05 08:00:00;1;1\n", encoding="utf-8")
    variables = {"MLOPS_EXPERIENCE_SOURCE": "ci_history", "MLOPS_SOURCE_PATH": str(history)}
    run = world.run("model_lifecycle", settings=variables)
    failure = run.failures["training_experiences"]
    assert "only the agent 'execution' can learn, not 'requirements'" in failure
    assert "MLOPS_EXPERIENCE_SOURCE=simulator" in failure


class _WithBadRows(Simulator):
    """The simulator, which on its first day logs two rewards that are not numbers, and an action that does not exist."""

    def batches(self, spec: AgentSpec, cursor: str | None) -> Iterator[ExperienceBatch]:
        for number, batch in enumerate(super().batches(spec, cursor)):
            yield _broken(batch) if cursor is None and number == 0 else batch


def _broken(batch: ExperienceBatch) -> ExperienceBatch:
    table = batch.experiences
    reward, action = (table[name].to_numpy().copy() for name in ("reward", "action"))
    reward[[1, 3]] = np.nan, np.inf
    action[5] = 99
    for name, values in (("reward", reward), ("action", action)):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values))
    return replace(batch, experiences=table)


def test_bad_rows_are_put_aside_with_line_and_reason_and_the_rest_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One NaN reward made every Q-value NaN; or one stopped the collection of a million good rows."""

    def source(settings: Settings, spec: AgentSpec, engine: Engine) -> Simulator:
        return _WithBadRows(simulator_config(settings))

    monkeypatch.setattr("mlops_assets.experiences.assets.experience_source", source)
    run = world.materialize(["training_experiences", "data_validation_report"], AGENT)

    assert run.success, run.failures
    rows = sum(
        batch.experiences.num_rows for batch in Simulator(simulator_config(world.settings)).batches(AGENTS[AGENT], None)
    )
    assert run.facts("training_experiences", AGENT)["rows"] == rows - 3
    found = sorted((row.line, row.reason) for row in _rows(world, QuarantinedRow))
    assert [line for line, _ in found] == [1, 3, 5]
    assert [reason.split()[0] for _, reason in found] == ["reward", "reward", "action"]
    with world.database() as engine:
        snapshot = latest_snapshot(AGENT, paths=world.settings.paths, engine=engine)
        assert snapshot is not None
        assert np.isfinite(snapshot.experiences(["reward"])["reward"].to_numpy()).all()


def test_a_store_that_turns_read_only_leaves_nothing_half_published(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot folder without its record, or a record without its folder, after the disk was remounted read-only."""

    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    with monkeypatch.context() as broken:
        broken.setattr(Path, "hardlink_to", refuse)
        run = world.materialize(["training_experiences", "data_validation_report"], AGENT)
    assert (
        "the file system is read-only: mount it writable or point MLOPS_HOME elsewhere"
        in run.failures["training_experiences"]
    )
    assert run.made == {}
    assert _rows(world, SnapshotRecord) == []
    assert [path.name for path in world.settings.paths.snapshots(AGENT).iterdir()] == [".lock"]

    healed = world.materialize(["training_experiences", "data_validation_report"], AGENT)
    assert healed.success, healed.failures
    assert len(_rows(world, SnapshotRecord)) == 1


def test_a_home_that_cannot_be_written_is_named_with_the_remedy(world: World, tmp_path: Path) -> None:
    """A traceback of the database driver at the start of every run."""
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    home = tmp_path / "file" / "home"
    run = world.run("retrain", AGENT, settings={"MLOPS_HOME": str(home)})
    assert not run.success
    assert f"cannot write {home}: a part of this path is a file" in run.failures["run"]
