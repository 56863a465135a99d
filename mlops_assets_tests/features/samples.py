"""Small executions, feature rows and snapshots for the tests of this room."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
from sqlalchemy import Engine

from mlops_assets.experiences.schema import EXECUTIONS
from mlops_assets.experiences.snapshots import Snapshot, collect_snapshot
from mlops_assets.features.views import CREATED_TIMESTAMP, EVENT_TIMESTAMP, ViewSpec
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets_tests.experiences.synthetic import NOW, SyntheticSource, policy

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass(frozen=True)
class Run:
    """One execution: `days` after Monday 2026-01-05 00:00 UTC."""

    days: float
    status: str = "passed"
    test: str = "t1"
    duration_ms: float = 1000.0
    retries: int = 0
    flaky: bool = False


def executions(runs: Sequence[Run]) -> pa.Table:
    """The runs in the canonical schema, in order of time."""
    ordered = sorted(runs, key=lambda run: run.days)
    started = [MONDAY + timedelta(days=run.days) for run in ordered]
    columns = {
        "execution_id": [f"{run.test}/{run.days}/{n}" for n, run in enumerate(ordered)],
        "test_id": [run.test for run in ordered],
        "test_name": [run.test for run in ordered],
        "status": [run.status for run in ordered],
        "started_at": started,
        "cycle_started_at": started,
        "duration_ms": [run.duration_ms for run in ordered],
        "retries": [run.retries for run in ordered],
        "flaky": [run.flaky for run in ordered],
    }
    rest = {name: ["x"] * len(ordered) for name in EXECUTIONS.names if name not in columns}
    return pa.table(
        {name: pa.array({**columns, **rest}[name], EXECUTIONS.field(name).type) for name in EXECUTIONS.names}
    )


def day(offset: int) -> date:
    """The day `offset` days after Monday."""
    return (MONDAY + timedelta(days=offset)).date()


def rows_of(view: ViewSpec, rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """Feature rows: `at` days after Monday, `key`, and values; what is not given is null, `created` the event time."""
    times = [MONDAY + timedelta(days=float(str(row["at"]))) for row in rows]
    columns: dict[str, list[object]] = {
        view.key: [row["key"] for row in rows],
        EVENT_TIMESTAMP: list(times),
        CREATED_TIMESTAMP: [row.get(CREATED_TIMESTAMP, time) for row, time in zip(rows, times, strict=True)],
    }
    columns |= {feature.name: [row.get(feature.name) for row in rows] for feature in view.features}
    return pa.table({name: pa.array(columns[name], view.schema.field(name).type) for name in view.schema.names})


def entities(decisions: Sequence[tuple[str, str, float]]) -> pa.Table:
    """Decisions `(test_id, agent_id, days after Monday)`."""
    return pa.table(
        {
            "test_id": [test for test, _, _ in decisions],
            "agent_id": [agent for _, agent, _ in decisions],
            "event_time": pa.array(
                [MONDAY + timedelta(days=days) for _, _, days in decisions], pa.timestamp("us", "UTC")
            ),
        }
    )


def snapshot_of(source: SyntheticSource, paths: ArtifactPaths, engine: Engine, **changes: object) -> Snapshot:
    """Collect a real snapshot."""
    return collect_snapshot(
        source, source.spec, paths=paths, engine=engine, policy=policy(**changes), now=NOW, versions=None
    )
