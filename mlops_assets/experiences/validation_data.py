"""What validation looks at: a snapshot as a frame of scalar columns, its statistics, and the rows that break a rule.

Great Expectations is slow on lists, so a state becomes one column a context field. No rule and no vendor here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_assets.experiences.snapshots import Snapshot
from mlops_assets.foundation.agents import AgentSpec

if TYPE_CHECKING:
    import pandas as pd

CATEGORIES = ("ui_framework", "browser", "test_type")
_PLAIN = ("experience_id", "action", "reward", "propensity", *CATEGORIES)
_SAMPLE = 20


@dataclass(frozen=True)
class NumberStatistics:
    """Of one numeric column: rows, share of missing values (0..1), mean and standard deviation of the others."""

    rows: int
    missing_share: float
    mean: float
    std: float


@dataclass(frozen=True)
class FrameStatistics:
    """Of one frame: its numeric columns, and the values that occur in its categorical ones."""

    rows: int
    numbers: Mapping[str, NumberStatistics]
    categories: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class FailingRow:
    """One row that breaks a rule."""

    experience_id: str
    column: str
    value: str


def state_column(field: str) -> str:
    """Name of the frame's column of one context field."""
    return f"state.{field}"


def snapshot_frame(snapshot: Snapshot, spec: AgentSpec, *, after: datetime | None = None) -> "pd.DataFrame":
    """Read a snapshot (or its decisions later than `after`) as scalar columns: the plain ones, and one a context field.

    `state_length` is the number of entries of each state, NaN where the state is null.
    """
    import pandas as pd

    table = snapshot.experiences([*_PLAIN, "state", *(["event_time"] if after is not None else [])])
    if after is not None:
        table = table.filter(pc.greater(table["event_time"], pa.scalar(after)))
    states = _matrix(table["state"], len(spec.context))
    columns: dict[str, NDArray[Any]] = {name: _values(table[name]) for name in _PLAIN}
    columns["state_length"] = _values(pc.list_value_length(table["state"]))
    columns |= {state_column(field.name): states[:, i] for i, field in enumerate(spec.context)}
    return pd.DataFrame(columns)


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_string(column.type):
        # By dictionary: equal strings share one object, which is memory and time saved on a million rows.
        encoded = column.combine_chunks().dictionary_encode()
        return np.asarray(encoded.dictionary.to_numpy(zero_copy_only=False)[encoded.indices.to_numpy()])
    return np.asarray(column.to_numpy())


def _matrix(column: pa.ChunkedArray, width: int) -> NDArray[np.float32]:
    """Return states as (N, width) float32."""
    blocks = [np.asarray(chunk.flatten().to_numpy(zero_copy_only=False)).reshape(-1, width) for chunk in column.chunks]
    return np.concatenate([np.empty((0, width), np.float32), *blocks])


def number_columns(spec: AgentSpec) -> tuple[str, ...]:
    """Columns whose distribution is watched: the reward and every context field."""
    return ("reward", *(state_column(field.name) for field in spec.context))


def frame_statistics(frame: "pd.DataFrame", spec: AgentSpec) -> FrameStatistics:
    """Describe a frame; statistics of an empty column are NaN."""
    return FrameStatistics(
        rows=len(frame),
        numbers={name: _describe(frame[name].to_numpy()) for name in number_columns(spec)},
        categories={name: tuple(sorted(frame[name].unique().tolist())) for name in (*CATEGORIES, "action")},
    )


def _describe(values: NDArray[np.float32]) -> NumberStatistics:
    present = values[~np.isnan(values)].astype(np.float64)
    if not len(present):
        return NumberStatistics(rows=len(values), missing_share=1.0, mean=float("nan"), std=float("nan"))
    missing = 1 - len(present) / len(values)
    return NumberStatistics(len(values), missing, mean=float(present.mean()), std=float(present.std()))


def rows_outside(frame: "pd.DataFrame", column: str, low: float, high: float) -> list[FailingRow]:
    """Sample the rows whose value lies outside `low`..`high`; a missing value is not outside."""
    values = frame[column].to_numpy()
    return _sample(frame, column, np.flatnonzero((values < low) | (values > high)))


def rows_missing(frame: "pd.DataFrame", column: str) -> list[FailingRow]:
    """Sample the rows without a value."""
    return _sample(frame, column, np.flatnonzero(frame[column].isna().to_numpy()))


def rows_repeated(frame: "pd.DataFrame", column: str) -> list[FailingRow]:
    """Sample the rows whose value stood in an earlier row."""
    return _sample(frame, column, np.flatnonzero(frame[column].duplicated().to_numpy()))


def rows_not_in(frame: "pd.DataFrame", column: str, allowed: Sequence[Any]) -> list[FailingRow]:
    """Sample the rows whose value is none of `allowed`."""
    return _sample(frame, column, np.flatnonzero(~frame[column].isin(list(allowed)).to_numpy()))


def _sample(frame: "pd.DataFrame", column: str, rows: NDArray[np.int64]) -> list[FailingRow]:
    chosen = frame.iloc[rows[:_SAMPLE]]
    return [
        FailingRow(experience_id=str(name), column=column, value=str(value))
        for name, value in zip(chosen["experience_id"], chosen[column], strict=True)
    ]
