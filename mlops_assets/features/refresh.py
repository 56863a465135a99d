"""Which days of a feature table are due, and their computation into the offline store; no formula, no Feast.

What was computed from what is remembered in one small JSON file a view and group, written after the rows: a refresh
that was killed in between computes the same rows again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
from sqlalchemy import Engine

from mlops_assets.experiences.executions import read_executions
from mlops_assets.experiences.parts import list_parts
from mlops_assets.experiences.snapshots import Snapshot
from mlops_assets.features.offline import midnight, view_folder
from mlops_assets.features.store import TEST_GROUP, FeatureStoreAdapter, Materialization
from mlops_assets.features.tables import (
    AGENT_WINDOW,
    EXECUTION_COLUMNS,
    EXECUTION_LOOKBACK,
    compute_agent_features,
    compute_test_features,
)
from mlops_assets.features.views import AGENT_CONTEXT_FEATURES, TEST_EXECUTION_FEATURES, ViewSpec
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.file_lock import file_lock
from mlops_assets.foundation.files import atomic_write, canonical_json, digest
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.tables import FeatureViewRecord

_DAY = timedelta(days=1)
# A month of executions and the 60 days that its windows reach back: memory does not grow with the history.
_BLOCK = timedelta(days=31)

PartsByDay = Mapping[date, str]


@dataclass(frozen=True)
class FeatureRefresh:
    """What one refresh wrote: rows of the days from `first_day` to `through_day`; None and 0 when nothing was due."""

    view: str
    group: str
    first_day: date | None
    through_day: date | None
    rows: int


def refresh_test_features(store: FeatureStoreAdapter, *, paths: ArtifactPaths, as_of: datetime) -> FeatureRefresh:
    """Compute the test features of every complete day up to `as_of` whose executions are new or came late.

    From the first day with other execution parts than last time on, all later days are computed: their windows may
    reach back to it. Days after the last refresh are due in any case, since old runs leave the windows.

    Raises:
        StorageError: the disk is full or read-only; the next call starts over.
    """
    view = TEST_EXECUTION_FEATURES
    state_path = _state_path(paths, view, TEST_GROUP)
    with file_lock(state_path.with_suffix(".lock")):
        state = _read_state(state_path)
        known = {date.fromisoformat(day): parts for day, parts in state.get("parts", {}).items()}
        done_through = date.fromisoformat(state["through_day"]) if state else date.min
        parts = _execution_parts(paths)
        # Never before the last refresh: a closed history that ends long ago must not drop the rows of a live one.
        through = max(as_of.astimezone(UTC).date() - _DAY, done_through)
        due = [day for day in parts.keys() | known.keys() if parts.get(day) != known.get(day)]
        first = min([*due, done_through + _DAY] if state else due, default=date.max)
        refresh = FeatureRefresh(view.name, TEST_GROUP, None, None, 0)
        if first <= through:
            blocks = _test_feature_blocks(paths, sorted(parts), first, through)
            rows = pa.concat_tables([view.schema.empty_table(), *blocks])
            store.write_test_features(rows, start=midnight(first + _DAY))
            refresh = FeatureRefresh(view.name, TEST_GROUP, first, through, rows.num_rows)
        computed = {day.isoformat(): names for day, names in parts.items()}
        _write_state(state_path, {"parts": computed, "through_day": through.isoformat()})
    return refresh


def refresh_agent_features(
    spec: AgentSpec, snapshot: Snapshot, store: FeatureStoreAdapter, *, paths: ArtifactPaths
) -> FeatureRefresh:
    """Compute the agent's features of every day of the snapshot; a snapshot that was done last time is not done again.

    Where the window of newest decisions has moved on since the last refresh, days whose own window is not whole in this
    snapshot keep the rows that an earlier one gave. Another source starts over, unless it goes on where the last one
    ended: decisions served from a model of that one saw its rows, so those of the days before it stay for good.

    Raises:
        InputError: an agent id of the snapshot belongs to another agent.
        StorageError: the disk is full or read-only; the next call starts over.
    """
    view = AGENT_CONTEXT_FEATURES
    state_path = _state_path(paths, view, spec.name)
    with file_lock(state_path.with_suffix(".lock")):
        state = _read_state(state_path)
        if state.get("data_hash") == snapshot.data_hash:
            return FeatureRefresh(view.name, spec.name, None, None, 0)
        follows = _last_day_before(state, snapshot)
        kept_before = _kept_before(state, snapshot)
        first_day = kept_before or snapshot.first_event.date()
        rows = compute_agent_features(spec, snapshot, first_day=first_day)
        start = None if kept_before is None and follows is None else midnight(first_day + _DAY)
        store.write_agent_features(spec.name, rows, start=start)
        first_done = snapshot.first_event.date().isoformat() if kept_before is None else state["first_day"]
        last_day = snapshot.last_event.date()
        _write_state(
            state_path,
            {
                "data_hash": snapshot.data_hash,
                "source": snapshot.source,
                "first_day": first_done,
                "last_day": last_day.isoformat(),
                "follows": None if follows is None else follows.isoformat(),
            },
        )
    return FeatureRefresh(view.name, spec.name, first_day, last_day, rows.num_rows)


def record_materialization(engine: Engine, done: Sequence[Materialization], now: datetime) -> None:
    """Write down, per view, how many rows it has, how new they are, and when they went online.

    Raises:
        StorageError: the database cannot be written.
    """
    with transaction(engine) as session:
        for one in done:
            record = session.get(FeatureViewRecord, one.view) or FeatureViewRecord(view=one.view)
            record.source_rows = one.source_rows
            record.last_event_time = one.last_event_time
            record.last_materialized_at = now
            session.add(record)


def _test_feature_blocks(paths: ArtifactPaths, days: Sequence[date], first: date, through: date) -> Iterator[pa.Table]:
    begin = first
    while begin <= through:
        end = min(begin + _BLOCK - _DAY, through)
        if any(begin - EXECUTION_LOOKBACK <= day <= end for day in days):
            executions = read_executions(
                paths, start=midnight(begin - EXECUTION_LOOKBACK), end=midnight(end + _DAY), columns=EXECUTION_COLUMNS
            )
            yield compute_test_features(executions, end, first_day=begin)
        begin = end + _DAY


def _execution_parts(paths: ArtifactPaths) -> PartsByDay:
    """A fingerprint of each day's stored executions."""
    by_day = groupby(list_parts(paths.executions), key=attrgetter("day"))
    return {day: digest([part.prefix for part in parts]) for day, parts in by_day}


def _kept_before(state: Mapping[str, Any], snapshot: Snapshot) -> date | None:
    """First day to compute when days of the snapshot keep the rows that an earlier one gave; None when none does."""
    if state.get("source") != snapshot.source:
        return None
    whole_from = snapshot.first_event.date() + AGENT_WINDOW
    moved_on = date.fromisoformat(state["first_day"]) < snapshot.first_event.date()
    return whole_from if moved_on and date.fromisoformat(state["last_day"]) >= whole_from else None


def _last_day_before(state: Mapping[str, Any], snapshot: Snapshot) -> date | None:
    """Last day of the source before the snapshot's, whose rows stay; None when there is none, or the two overlap."""
    known = state.get("follows") if state.get("source") == snapshot.source else state.get("last_day")
    if known is None:
        return None
    last_day = date.fromisoformat(known)
    return last_day if last_day <= snapshot.first_event.date() else None


def _state_path(paths: ArtifactPaths, view: ViewSpec, group: str) -> Path:
    # Beside the rows, so that who deletes those has them computed again; Feast's readers pass hidden files by.
    return view_folder(paths, view) / f".{group}.json"


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return state


def _write_state(path: Path, state: Mapping[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(canonical_json(state), encoding="utf-8")
