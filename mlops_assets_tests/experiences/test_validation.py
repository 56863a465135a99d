"""Validation: a broken snapshot that passes poisons a model; a sound one that is rejected stops the product."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import Engine, select

from mlops_assets.experiences.environment import ExperienceBatch
from mlops_assets.experiences.parts import list_parts, read_part, write_part
from mlops_assets.experiences.snapshots import Snapshot, collect_snapshot, require_validated, snapshot_before
from mlops_assets.experiences.validation import ExpectationOutcome, ValidationResult, validate_snapshot
from mlops_assets.experiences.validation_data import FrameStatistics, NumberStatistics
from mlops_assets.experiences.validation_rules import shift_rules
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import DataRejectedError, NotReadyError
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.tables import ValidationRecord
from mlops_assets_tests.experiences.synthetic import AGENT, NOW, SyntheticSource, policy, replaced

Change = Callable[[int, ExperienceBatch], ExperienceBatch]


def _collect(engine: Engine, home: Path, source: SyntheticSource) -> Snapshot:
    return collect_snapshot(
        source, AGENT, paths=ArtifactPaths(home), engine=engine, policy=policy(), now=NOW, versions=None
    )


def _validate(
    engine: Engine, home: Path, snapshot: Snapshot, *, previous: Snapshot | None = None, **changes: Any
) -> ValidationResult:
    now = changes.pop("now", NOW)
    return validate_snapshot(
        snapshot, AGENT, policy(**changes), previous=previous, paths=ArtifactPaths(home), engine=engine, now=now
    )


def _outcome(result: ValidationResult, name: str) -> ExpectationOutcome:
    (found,) = [outcome for outcome in result.expectations if outcome.name == name]
    return found


def _with_states(table: pa.Table, change: Callable[[np.ndarray], None]) -> pa.Table:
    states = table["state"].combine_chunks().flatten().to_numpy().reshape(-1, 3).copy()
    change(states)
    return table.set_column(7, table.schema.field("state"), pa.FixedSizeListArray.from_arrays(states.ravel(), 3))


def _altered(days: int, first: int, change: Callable[[np.ndarray], None]) -> SyntheticSource:
    """States changed from day `first` on."""

    def alter(day: int, batch: ExperienceBatch) -> ExperienceBatch:
        return replace(batch, experiences=_with_states(batch.experiences, change)) if day >= first else batch

    return SyntheticSource(days=days, alter=alter)


def _rewrite(snapshot: Snapshot, change: Callable[[pa.Table], pa.Table]) -> None:
    """Put other rows into a published snapshot: what row checks keep out can only come in behind them."""
    for part in list_parts(snapshot.folder / "decisions"):
        table = change(read_part(part))
        part.path.unlink()
        write_part(snapshot.folder / "decisions", part.day, table)


def test_a_sound_snapshot_passes_and_may_be_trained_on(engine: Engine, tmp_path: Path) -> None:
    """Prevents: a suite that rejects good data, a verdict without a page to read, or one that nobody can ask for."""
    snapshot = _collect(engine, tmp_path, SyntheticSource())
    result = _validate(engine, tmp_path, snapshot)
    assert result.passed
    assert (result.failed, result.warnings, result.insufficient_data, result.failing_rows) == ((), (), (), ())
    assert result.quality_score == 1.0
    assert {outcome.name for outcome in result.expectations} >= {
        "row_count",
        "columns",
        "experience_id.unique",
        "state_length.not_null",
        "action.not_null",
        "reward.not_null",
        "reward.minimum",
        "reward.maximum",
        "reward.type",
        "action.maximum",
        "state.field_2.maximum",
        "state.field_2.missing",
    }
    require_validated(engine, "requirements", snapshot.data_hash)
    assert 'href="expectations/training_experiences.html"' in result.data_docs.read_text()
    assert str(result.data_docs).startswith(str(ArtifactPaths(tmp_path).validation("requirements", snapshot.data_hash)))
    pages = "".join(page.read_text() for page in result.data_docs.parent.rglob("validations/**/*.html"))
    assert "state.field_2" in pages
    assert "Succeeded" in pages
    stored = json.loads(result.report.read_text())
    assert stored["passed"] is True
    assert len(stored["expectations"]) == len(result.expectations)
    assert "| pass | critical | row_count | min_value 50" in result.as_markdown()
    with read_transaction(engine) as session:
        records = session.scalars(select(ValidationRecord)).all()
    assert sorted((record.suite, record.passed) for record in records) == [
        ("collection", True),
        ("training_experiences", True),
    ]


def test_every_broken_rule_is_named_with_its_rows(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Prevents: a suite that sees one error at a time, or says that rows are wrong without saying which."""
    snapshot = _collect(sqlite_engine, tmp_path, SyntheticSource(days=1))

    def break_everything(table: pa.Table) -> pa.Table:
        def wrong(states: np.ndarray) -> None:
            states[4, 0] = 1.5
            states[5, 0] = -0.5
            states[:5, 1] = np.nan

        table = _with_states(table, wrong)
        broken: tuple[tuple[str, dict[int, object]], ...] = (
            ("reward", {0: 100.5, 1: -101.0, 2: None}),
            ("action", {3: 4}),
            ("experience_id", {19: "0000-00000-0"}),
        )
        for name, changes in broken:
            table = replaced(table, name, changes)
        return table

    _rewrite(snapshot, break_everything)
    result = _validate(sqlite_engine, tmp_path, snapshot, min_rows=21)
    assert not result.passed
    assert set(result.failed) == {
        "row_count",
        "experience_id.unique",
        "reward.not_null",
        "reward.minimum",
        "reward.maximum",
        "action.maximum",
        "state.field_0.minimum",
        "state.field_0.maximum",
        "state.field_1.missing",
    }
    rows = {(row.experience_id, row.column, row.value) for row in result.failing_rows}
    assert {
        ("0000-00000-0", "reward", "100.5"),
        ("0000-00000-1", "reward", "-101.0"),
        ("0000-00000-2", "reward", "nan"),
        ("0000-00000-3", "action", "4"),
        ("0000-00001-0", "state.field_0", "1.5"),
        ("0000-00001-1", "state.field_0", "-0.5"),
        ("0000-00000-0", "experience_id", "0000-00000-0"),
        ("0000-00001-0", "state.field_1", "nan"),
    } <= rows
    assert len(rows) == 7 + 5
    assert _outcome(result, "state.field_1.missing").observed == pytest.approx(0.75)
    assert result.quality_score == pytest.approx(1 - 9 / len(result.expectations))
    with pytest.raises(DataRejectedError, match=r"row_count.*index\.html"):
        require_validated(sqlite_engine, "requirements", snapshot.data_hash)
    assert result.as_markdown().splitlines()[2].startswith("| fail | critical |")


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"min_rows": 61}, ("row_count",)),
        ({"min_rows": 1, "max_rows": 59}, ("new_rows", "row_count")),
        ({"reward_low": -1.0}, ("reward.minimum",)),
    ],
)
def test_bounds_are_those_of_the_profile(
    sqlite_engine: Engine, tmp_path: Path, changes: dict[str, Any], failed: tuple[str, ...]
) -> None:
    """Prevents: thresholds in code, and a flood of rows that the window hides."""
    result = _validate(sqlite_engine, tmp_path, _collect(sqlite_engine, tmp_path, SyntheticSource()), **changes)
    assert result.failed == failed


def test_a_live_source_that_fell_silent_is_stale_and_an_ended_history_is_not(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    """Prevents: training again and again on last month's data; a simulated or replayed past that is never fresh."""
    last_day = (NOW - timedelta(days=2) - SyntheticSource().as_of(NOW)) + timedelta(days=3)
    ended = _collect(sqlite_engine, tmp_path, SyntheticSource())
    late = NOW + timedelta(days=300)
    assert _validate(sqlite_engine, tmp_path, ended, max_age_hours=24, now=late).passed
    live = _collect(sqlite_engine, tmp_path, SyntheticSource(days=last_day.days, live=True, source_name="live"))
    fresh = _validate(sqlite_engine, tmp_path, live, max_age_hours=72)
    assert fresh.passed
    assert _outcome(fresh, "freshness_hours").observed == pytest.approx(52.888, abs=0.001)
    assert _validate(sqlite_engine, tmp_path, live, max_age_hours=52).failed == ("freshness_hours",)
    assert _validate(sqlite_engine, tmp_path, live, max_age_hours=None, now=late).passed


def test_a_second_verdict_replaces_the_first(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Prevents: a rejected snapshot that stays trainable, or reports that pile up."""
    snapshot = _collect(sqlite_engine, tmp_path, SyntheticSource())
    first = _validate(sqlite_engine, tmp_path, snapshot)
    second = _validate(sqlite_engine, tmp_path, snapshot, min_rows=1_000, now=NOW + timedelta(hours=1))
    assert not first.data_docs.exists()
    assert second.data_docs.is_file()
    with pytest.raises(DataRejectedError, match="row_count"):
        require_validated(sqlite_engine, "requirements", snapshot.data_hash)
    with read_transaction(sqlite_engine) as session:
        assert len(session.scalars(select(ValidationRecord)).all()) == 2
    with pytest.raises(NotReadyError, match="materialise training_experiences"):
        _validate(sqlite_engine, tmp_path, replace(snapshot, data_hash="f" * 64))


def test_quarantined_rows_lower_the_quality_score(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Prevents: a source that loses a tenth of its rows looking as good as one that loses none."""

    def drop_two(day: int, batch: ExperienceBatch) -> ExperienceBatch:
        return replace(batch, experiences=replaced(batch.experiences, "reward", dict.fromkeys((0, 1), float("inf"))))

    result = _validate(sqlite_engine, tmp_path, _collect(sqlite_engine, tmp_path, SyntheticSource(alter=drop_two)))
    assert (result.passed, result.quarantined) == (True, 6)
    assert result.quality_score == pytest.approx(0.9)


def test_new_decisions_are_compared_with_the_previous_snapshot(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Prevents: a shift of a few new rows that drowns in the window, or one verdict for six kinds of shift."""
    _validate(sqlite_engine, tmp_path, _collect(sqlite_engine, tmp_path, SyntheticSource(days=8)))

    def shift(states: np.ndarray) -> None:
        states[:, 0] = 0.5 + (states[:, 0] - 0.5) * 0.1  # a tenth of the spread
        states[:2, 1] = np.nan  # a tenth of the rows

    source = _altered(10, 8, shift)

    def rename(day: int, batch: ExperienceBatch) -> ExperienceBatch:
        batch = source.alter(day, batch)
        table = replaced(batch.experiences, "ui_framework", {3: "solid"})
        table = replaced(table, "reward", {i: 90.0 + i % 7 for i in range(20)})
        return replace(batch, experiences=table)

    snapshot = _collect(sqlite_engine, tmp_path, replace(source, alter=rename))
    previous = snapshot_before(snapshot, paths=ArtifactPaths(tmp_path), engine=sqlite_engine)
    assert previous is not None
    result = _validate(sqlite_engine, tmp_path, snapshot, previous=previous, min_shift_rows=30)
    assert set(result.failed) == {
        "reward.mean_shift",
        "reward.std_ratio",
        "state.field_0.std_ratio",
        "state.field_1.missing_increase",
    }
    assert result.warnings == ("ui_framework.new_categories",)
    assert result.insufficient_data == ()
    shifted = _outcome(result, "reward.mean_shift").details
    assert shifted["sigmas"] > 3
    assert shifted["z_of_mean"] == pytest.approx(shifted["sigmas"] * np.sqrt(40))
    assert _outcome(result, "state.field_0.std_ratio").details["std_ratio"] == pytest.approx(0.1, rel=0.2)
    assert ("0008-00000-3", "ui_framework", "solid") in {
        (row.experience_id, row.column, row.value) for row in result.failing_rows
    }


def test_too_few_rows_are_no_verdict(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Prevents: unknown taken for good, or a handful of new rows rejecting a snapshot."""
    first = _collect(sqlite_engine, tmp_path, SyntheticSource(days=3))
    _validate(sqlite_engine, tmp_path, first)
    snapshot = _collect(sqlite_engine, tmp_path, SyntheticSource(days=4))
    result = _validate(sqlite_engine, tmp_path, snapshot, previous=first, min_shift_rows=21)
    assert result.passed
    assert len(result.insufficient_data) == 4 * 2 + 4 + 4
    outcome = _outcome(result, "reward.mean_shift")
    assert outcome.verdict == "insufficient_data"
    assert outcome.expected == "60 previous and 20 new values; a comparison needs 21 on each side"


def _statistics(rows: int, mean: float, std: float, missing: float = 0.0) -> FrameStatistics:
    columns = ("reward", *(f"state.field_{i}" for i in range(3)))
    return FrameStatistics(
        rows=rows,
        numbers={column: NumberStatistics(rows, missing, mean, std) for column in columns},
        categories=dict.fromkeys(("ui_framework", "browser", "test_type", "action"), ("a",)),
    )


def test_shift_bounds_are_the_written_formula() -> None:
    """Prevents: sigma of the mean for sigma of the values, upward-only spread, or relative for percentage points."""
    rules, undecided = shift_rules(AGENT, policy(), _statistics(5_000, 10.0, 2.0, 0.1), _statistics(2_000, 13.0, 3.0))
    by_name = {rule.name: rule for rule in rules}
    assert undecided == []
    assert by_name["reward.mean_shift"].arguments == {"column": "reward", "min_value": 4.0, "max_value": 16.0}
    assert by_name["reward.mean_shift"].details["sigmas"] == pytest.approx(1.5)
    assert by_name["reward.std_ratio"].arguments == {"column": "reward", "min_value": 1.0, "max_value": 4.0}
    assert by_name["reward.missing_increase"].arguments["min_value"] == pytest.approx(0.85)
    assert by_name["browser.new_categories"].severity == "warning"


def test_a_column_without_spread_gives_no_scale() -> None:
    """Prevents: a division by zero, or any change of a flag that was always off rejecting the data."""
    rules, undecided = shift_rules(AGENT, policy(), _statistics(5_000, 0.0, 0.0), _statistics(5_000, 0.5, 0.5))
    assert {rule.name for rule in rules} >= {"reward.missing_increase", "browser.new_categories"}
    assert len(undecided) == 8
    assert all("no scale" in rule.reason for rule in undecided)
