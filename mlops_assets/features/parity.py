"""Proofs on samples: training and serving see the same values, and no decision sees a value newer than itself."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.experiences.snapshots import Snapshot
from mlops_assets.features.offline import read_rows
from mlops_assets.features.point_in_time import microseconds
from mlops_assets.features.store import FeatureStoreAdapter
from mlops_assets.features.views import CREATED_TIMESTAMP, EVENT_TIMESTAMP, VIEWS, ViewSpec
from mlops_assets.foundation.paths import ArtifactPaths

_LISTED = 20
_ENTITY_COLUMNS = ("test_id", "agent_id", "event_time")


@dataclass(frozen=True)
class Mismatch:
    """One value that is not what it should be."""

    column: str
    entity: str
    expected: Any
    found: Any
    path: str


@dataclass(frozen=True)
class ParityReport:
    """Outcome of `check_parity`: `values` compared per path, `present` of them not missing; the first mismatches."""

    entities: int
    values: int
    present: int
    mismatches: int
    listed: tuple[Mismatch, ...]

    @property
    def passed(self) -> bool:
        """No value differs."""
        return self.mismatches == 0


@dataclass(frozen=True)
class FutureReport:
    """Outcome of `check_no_future`: features joined to a sample of decisions, and the age of the oldest and newest."""

    decisions: int
    joined: int
    newest_age: timedelta | None
    oldest_age: timedelta | None
    violations: int
    listed: tuple[Mismatch, ...]

    @property
    def passed(self) -> bool:
        """No decision sees a row that is newer than itself, expired, or not the newest of its valid ones."""
        return self.violations == 0


def sample_decisions(snapshot: Snapshot, size: int, seed: int) -> pa.Table:
    """Draw at most `size` decisions: their `test_id`, `agent_id` and `event_time`, in order of time."""
    decisions = snapshot.experiences(columns=_ENTITY_COLUMNS)
    chosen = np.random.default_rng(seed).choice(
        decisions.num_rows, size=min(size, decisions.num_rows), replace=False, shuffle=False
    )
    return decisions.take(pa.array(np.sort(chosen)))


def check_parity(store: FeatureStoreAdapter, sample: pa.Table, as_of: datetime) -> ParityReport:
    """Compare three ways to the same values, at `as_of`, for the entities of `sample`.

    Feast's historical retrieval is the reference; the online store (path `online`) and the bulk join of the training
    set (path `bulk`) have to give the same values, and to miss what it misses.

    Raises:
        NotReadyError: the store was never set up.
    """
    entities = sample.select(["test_id", "agent_id"]).group_by(["test_id", "agent_id"], use_threads=False).aggregate([])
    moment = pa.array([as_of] * entities.num_rows, pa.timestamp("us", "UTC"))
    entities = entities.append_column("event_time", moment)
    expected = store.historical_by_feast(entities)
    found = {"online": store.online(entities, as_of), "bulk": store.historical(entities)}
    mismatches = [
        mismatch
        for path, table in found.items()
        for view in VIEWS
        for feature in view.features
        for mismatch in _differences(view.column(feature.name), entities[view.key], expected, table, path)
    ]
    return ParityReport(
        entities=entities.num_rows,
        values=expected.num_rows * expected.num_columns,
        present=sum(len(column) - column.null_count for column in expected.columns),
        mismatches=len(mismatches),
        listed=tuple(mismatches[:_LISTED]),
    )


def check_no_future(store: FeatureStoreAdapter, sample: pa.Table, *, paths: ArtifactPaths) -> FutureReport:
    """Check the join of the training set on a sample of decisions, row by row, by a plain scan of the offline rows."""
    joined = store.historical(sample)
    times = microseconds(sample["event_time"])
    ages: list[int] = []
    violations: list[Mismatch] = []
    for view in VIEWS:
        rows = read_rows(paths, view)
        rows = rows.filter(pc.is_in(rows[view.key], value_set=pc.unique(sample[view.key])))
        found = joined[view.timestamp_column].cast(pa.int64()).to_pylist()
        for decision, (key, time) in enumerate(zip(sample[view.key].to_pylist(), times.tolist(), strict=True)):
            expected = _newest_valid(view, rows, key, time)
            seen = {name: joined[view.column(name)][decision].as_py() for name in (f.name for f in view.features)}
            if found[decision] is not None:
                ages.append(time - found[decision])
            if (found[decision], seen) != expected:
                violations.append(Mismatch(view.name, f"{key} at {time} us", expected, (found[decision], seen), "bulk"))
    return FutureReport(
        decisions=sample.num_rows,
        joined=len(ages),
        newest_age=timedelta(microseconds=min(ages)) if ages else None,
        oldest_age=timedelta(microseconds=max(ages)) if ages else None,
        violations=len(violations),
        listed=tuple(violations[:_LISTED]),
    )


def _differences(column: str, keys: pa.ChunkedArray, expected: pa.Table, found: pa.Table, path: str) -> list[Mismatch]:
    pairs = zip(keys.to_pylist(), expected[column].to_pylist(), found[column].to_pylist(), strict=True)
    return [Mismatch(column, key, wanted, got, path) for key, wanted, got in pairs if wanted != got]


def _newest_valid(view: ViewSpec, rows: pa.Table, key: str, time: int) -> tuple[int | None, dict[str, Any]]:
    """Event time and features of the row that a decision may see, found by looking at every row."""
    stamps = microseconds(rows[EVENT_TIMESTAMP])
    own = np.asarray(pc.equal(rows[view.key], key).to_numpy(), dtype=np.bool_)
    valid = np.flatnonzero(own & (stamps <= time) & (time - stamps <= view.ttl // timedelta(microseconds=1)))
    if not len(valid):
        return None, {feature.name: None for feature in view.features}
    created = microseconds(rows[CREATED_TIMESTAMP])
    newest = max(valid.tolist(), key=lambda row: (stamps[row], created[row]))
    return int(stamps[newest]), {feature.name: rows[feature.name][newest].as_py() for feature in view.features}
