"""Which stored rows make a snapshot: the newest whole episodes, each decision once, and the labels known by the cutoff.

Works part by part on the columns it needs; rows are copied only where a part is not taken as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from operator import attrgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_assets.experiences.collection import StoreFolders
from mlops_assets.experiences.parts import Part, list_parts, read_part
from mlops_assets.experiences.schema import REQUIREMENT_TEXTS
from mlops_assets.foundation.errors import InputError

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Taken:
    """A stored part that goes into the snapshot: as it is (`rows` is None), or only the rows given."""

    part: Part
    rows: pa.Table | None
    count: int


@dataclass(frozen=True)
class Window:
    """The content of a snapshot, in day order. Times are those of the first and the last decision."""

    decisions: tuple[Taken, ...]
    labels: tuple[Taken, ...]
    requirement_texts: pa.Table
    rows: int
    first_event: datetime
    last_event: datetime


def select_window(folders: StoreFolders, *, max_rows: int, max_days: int | None, as_of: datetime) -> Window | None:
    """Choose the newest whole episodes of at most `max_rows` decisions and `max_days` days before `as_of`.

    Labels are those known at `as_of`. None when no decision is in the window.

    Raises:
        InputError: the newest episode alone has more than `max_rows` decisions, or a part is damaged.
    """
    earliest = None if max_days is None else as_of - timedelta(days=max_days)
    stored = list_parts(folders.decisions)
    parts, columns = _newest(stored, max_rows, earliest)
    if not parts:
        return None
    keep = _first_of_each_id(columns)
    complete = len(parts) == len(stored)
    on_first_day = earliest is not None and parts[0].day == earliest.astimezone(UTC).date()
    if not complete or on_first_day or sum(int(mask.sum()) for mask in keep) > max_rows:
        kept = _kept_episodes(columns, keep, max_rows, earliest, complete=complete)
        keep = [mask & _in(table["episode_id"], kept) for mask, table in zip(keep, columns, strict=True)]
    times = [
        table["event_time"].filter(pa.array(mask)) for table, mask in zip(columns, keep, strict=True) if mask.any()
    ]
    if not times:
        return None
    decisions = tuple(_take(part, mask) for part, mask in zip(parts, keep, strict=True) if mask.any())
    first_event = min(pc.min(column).as_py() for column in times).astimezone(UTC)
    return Window(
        decisions=decisions,
        labels=_known_labels(folders, first_event, as_of),
        requirement_texts=_referenced_texts(folders, decisions),
        rows=sum(taken.count for taken in decisions),
        first_event=first_event,
        last_event=max(pc.max(column).as_py() for column in times).astimezone(UTC),
    )


def _newest(parts: Sequence[Part], max_rows: int, earliest: datetime | None) -> tuple[list[Part], list[pa.Table]]:
    """The parts of the newest days that hold `max_rows` decisions of whole episodes, and the columns to choose by."""
    first_day = date.min if earliest is None else earliest.astimezone(UTC).date()
    chosen: list[Part] = []
    columns: list[pa.Table] = []
    for day, same_day in groupby(reversed(parts), key=attrgetter("day")):
        if day < first_day or _whole_rows(columns, max_rows) >= max_rows:
            break
        for part in same_day:
            chosen.insert(0, part)
            columns.insert(0, read_part(part, ("experience_id", "episode_id", "step", "event_time")))
    return chosen, columns


def _whole_rows(columns: Sequence[pa.Table], max_rows: int) -> int:
    """Count the decisions of episodes whose first step was read: the others began earlier, so they are older."""
    if sum(table.num_rows for table in columns) < max_rows:
        return 0
    rows = pa.concat_tables(table.select(["episode_id", "step"]) for table in columns)
    begun = pc.unique(rows["episode_id"].filter(pc.equal(rows["step"], 0)))
    return int(_in(rows["episode_id"], begun).sum())


def _first_of_each_id(tables: Sequence[pa.Table]) -> list[Mask]:
    """Mark each decision where it stands first: one delivered twice, with two times, lies in the parts of two days."""
    import pandas as pd

    # Strings of a million ids are compared as 64-bit hashes; the chance that two of them collide is 3e-8.
    hashes = [
        pd.util.hash_array(table["experience_id"].to_numpy(), categorize=False)
        if table.num_rows
        else np.empty(0, np.uint64)
        for table in tables
    ]
    sizes = [len(part) for part in hashes]
    _, first = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]), return_index=True)
    unique = np.zeros(sum(sizes), dtype=np.bool_)
    unique[first] = True
    return np.split(unique, np.cumsum(sizes)[:-1])


def _kept_episodes(
    tables: Sequence[pa.Table], keep: Sequence[Mask], max_rows: int, earliest: datetime | None, *, complete: bool
) -> pa.Array:
    """Ids of the newest whole episodes that fit, by the time of their first decision."""
    rows = pa.concat_tables(
        table.select(["episode_id", "step", "event_time"]).filter(pa.array(mask))
        for table, mask in zip(tables, keep, strict=True)
    )
    episodes = rows.group_by("episode_id").aggregate([("event_time", "min"), ("step", "min"), ("step", "count")])
    if earliest is not None:
        episodes = episodes.filter(pc.greater_equal(episodes["event_time_min"], pa.scalar(earliest)))
    if not complete:
        # Older parts were not read: an episode without its first step began in one of them.
        episodes = episodes.filter(pc.equal(episodes["step_min"], 0))
    order = [("event_time_min", "descending"), ("episode_id", "descending")]
    newest_first = episodes.take(pc.sort_indices(episodes, sort_keys=order))
    fitting = int((np.cumsum(newest_first["step_count"].to_numpy()) <= max_rows).sum())
    if newest_first.num_rows and not fitting:
        raise InputError(
            f"episode {newest_first['episode_id'][0].as_py()!r} has {newest_first['step_count'][0].as_py()} decisions, "
            f"more than the window of {max_rows}: raise window_rows in the policy profile, or make shorter episodes"
        )
    return newest_first["episode_id"].slice(0, fitting).combine_chunks()


def _in(column: pa.ChunkedArray, values: pa.Array) -> Mask:
    return np.asarray(pc.is_in(column, value_set=values).to_numpy(), dtype=np.bool_)


def _take(part: Part, mask: Mask) -> Taken:
    count = int(mask.sum())
    return Taken(part, None if mask.all() else read_part(part).filter(pa.array(mask)), count)


def _known_labels(folders: StoreFolders, first_event: datetime, as_of: datetime) -> tuple[Taken, ...]:
    """Labels known at `as_of`; none of a decision in the window became known before the window's first decision."""
    taken = []
    for part in list_parts(folders.labels, start=first_event.date(), end=as_of.astimezone(UTC).date()):
        known = pc.less_equal(read_part(part, ("label_time",))["label_time"], pa.scalar(as_of)).to_numpy()
        if known.any():
            taken.append(_take(part, known))
    return tuple(taken)


def _referenced_texts(folders: StoreFolders, decisions: Sequence[Taken]) -> pa.Table:
    """The newest text of each requirement that a decision refers to, by requirement id."""
    stored = list_parts(folders.requirement_texts)
    if not stored:
        return REQUIREMENT_TEXTS.empty_table()
    ids = [
        pc.unique((read_part(taken.part, ("requirement_id",)) if taken.rows is None else taken.rows)["requirement_id"])
        for taken in decisions
    ]
    texts = pa.concat_tables(read_part(part) for part in stored)
    texts = texts.filter(pc.is_in(texts["requirement_id"], value_set=pa.concat_arrays(ids)))
    newest = dict(zip(texts["requirement_id"].to_pylist(), range(texts.num_rows), strict=True))
    return texts.take(pa.array([newest[name] for name in sorted(newest)], pa.int64()))
