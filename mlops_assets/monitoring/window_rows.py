"""How decisions come out of the database fast: chunks below the ORM, each column turned into an array as it arrives.

What the rows mean is `window.py`'s business.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv
from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Integer,
    Select,
    Text,
    and_,
    cast,
    func,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.sql import ColumnElement

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.tables import OutcomeRecord, PredictionRecord

_FLOAT32: Final = np.dtype("<f4")
# SQLite takes 32,766 values in one statement.
_KEYS_A_QUERY: Final = 5_000
# More of them alive at once reach the oldest generation of the garbage collector: half as fast.
_ROWS_AT_ONCE: Final = 500
_PAGE_ROWS: Final = 50_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NO_TIME: Final = np.iinfo(np.int64).min

_INTEGERS: Final = ("action", "explored", "step", "done", "best_action")
_NUMBERS: Final = ("propensity", "confidence", "latency_ms", "reward")
_TEXTS: Final = (
    "model_version", "status", "fallback", "episode_id", "user_hash", "browser", "ui_framework", "test_type",
    "missing_features",
)  # fmt: skip
_VECTORS: Final = ("q_values", "action_values")
_TIMES: Final = ("event_time", "received_at")
_COLUMNS: Final = ("prediction_id", "state", *_TIMES, *_INTEGERS, *_NUMBERS, *_TEXTS, *_VECTORS)
_ORDER: Final = (PredictionRecord.event_time, PredictionRecord.prediction_id)
_OF_OUTCOME: Final = frozenset({"received_at", "done", "best_action", "reward", "action_values"})


class WindowRows:
    """The rows that were read, a list of chunks for each column."""

    def __init__(self, spec: AgentSpec) -> None:
        self._spec = spec
        self._parts: dict[str, list[Any]] = {name: [] for name in _COLUMNS if name != "prediction_id"}

    def append(self, values: dict[str, list[Any]]) -> None:
        """Take a chunk: each column's values as the driver gave them."""
        width, actions = len(self._spec.state_fields), len(self._spec.actions)
        for name, found in values.items():
            if name == "prediction_id":
                continue
            if name == "state":
                made: Any = _states(found, width)
            elif name in _VECTORS:
                made = _vectors(found, actions)
            elif name in _TIMES:
                made = _times(found)
            elif name in _TEXTS:
                made = pa.array(found, pa.string()).dictionary_encode()
            else:
                made = pa.array(found, pa.float64() if name in _NUMBERS else None)
            self._parts[name].append(made)

    def states(self) -> NDArray[np.float32]:
        """State vectors (N, D)."""
        empty = np.empty((0, len(self._spec.state_fields)), dtype=np.float32)
        return np.concatenate([empty, *self._parts["state"]])

    def vectors(self, name: str) -> NDArray[np.float32]:
        """One value of each action (N, A), NaN where there are none."""
        empty = np.empty((0, len(self._spec.actions)), dtype=np.float32)
        return np.concatenate([empty, *self._parts[name]])

    def times(self, name: str) -> NDArray[np.datetime64]:
        """Instants (N,) in UTC, datetime64[us], NaT where there is none."""
        return np.concatenate([np.empty(0, dtype="datetime64[us]"), *self._parts[name]])

    def integers(self, name: str, *, absent: int = 0) -> NDArray[np.int64]:
        """Whole numbers (N,)."""
        arrays = [part.cast(pa.int64()).fill_null(absent).to_numpy() for part in self._parts[name]]
        return np.concatenate([np.empty(0, dtype=np.int64), *arrays])

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Numbers (N,), NaN where there is none."""
        arrays = [part.to_numpy(zero_copy_only=False) for part in self._parts[name]]
        return np.concatenate([np.empty(0), *arrays]).astype(np.float64)

    def texts(self, name: str) -> NDArray[np.str_]:
        """Texts (N,), empty where there is none."""
        codes, words = self._encoded(name)
        return np.array(["", *words], dtype=np.str_)[codes + 1]

    def codes(self, name: str) -> NDArray[np.int64]:
        """Numbers of equal texts (N,), by first appearance; -1 where there is none."""
        return self._encoded(name)[0]

    def missing(self) -> NDArray[np.bool_]:
        """Entries of the state for which a default stood (N, D)."""
        codes, lists = self._encoded("missing_features")
        position = {name: index for index, name in enumerate(self._spec.state_fields)}
        masks = np.zeros((len(lists) + 1, len(position)), dtype=np.bool_)
        for row, text in enumerate(lists):
            masks[row + 1, [position[name] for name in json.loads(text) if name in position]] = True
        return masks[codes + 1]

    def _encoded(self, name: str) -> tuple[NDArray[np.int64], list[str]]:
        whole = pa.chunked_array(self._parts[name] or [pa.array([], pa.string()).dictionary_encode()])
        # As one array its chunks have one dictionary.
        one = whole.unify_dictionaries().combine_chunks()
        if isinstance(one, pa.ChunkedArray):
            one = one.chunk(0)
        codes = one.indices.cast(pa.int64()).fill_null(-1).to_numpy()
        return codes, one.dictionary.to_pylist()


def read_rows(
    connection: Connection,
    spec: AgentSpec,
    where: Sequence[ColumnElement[bool]],
    *,
    as_of: datetime | None,
    keys: Sequence[str] | None,
) -> WindowRows:
    """Read decisions in the order of time, with what came of them by `as_of`; those of `keys` if they are given."""
    told = [OutcomeRecord.prediction_id == PredictionRecord.prediction_id]
    if as_of is not None:
        told.append(OutcomeRecord.received_at <= as_of)
    query = select(*(_selected(connection, name) for name in _COLUMNS)).outerjoin(OutcomeRecord, and_(*told))
    rows = WindowRows(spec)
    if keys is None:
        for chunk in _pages(connection, query.where(*where), _COLUMNS):
            rows.append(chunk)
        return rows
    for first in range(0, len(keys), _KEYS_A_QUERY):
        wanted = PredictionRecord.prediction_id.in_(keys[first : first + _KEYS_A_QUERY])
        # The ids are in the order of time, and so are the queries.
        rows.append(_fetched(connection, query.where(wanted).order_by(*_ORDER), _COLUMNS))
    return rows


def read_keys(
    connection: Connection, where: Sequence[ColumnElement[bool]]
) -> tuple[list[str], NDArray[np.datetime64], NDArray[np.int64]]:
    """Read ids, times and actions of decisions, in the order of time."""
    names = ("prediction_id", "event_time", "action")
    query = select(*(_selected(connection, name) for name in names)).where(*where)
    ids: list[str] = []
    times, actions = [], []
    for chunk in _pages(connection, query, names):
        ids += chunk["prediction_id"]
        times.append(_times(chunk["event_time"]))
        actions.append(np.array(chunk["action"], dtype=np.int64))
    return ids, np.concatenate(times), np.concatenate(actions)


def microseconds(instant: datetime) -> int:
    """Microseconds since 1970 of an aware instant, exactly."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def _selected(connection: Connection, name: str) -> Any:
    """A column as its driver reads it fastest; SQLAlchemy's own conversion of times and JSON is a call for each value."""
    table: Any = OutcomeRecord if name in _OF_OUTCOME else PredictionRecord
    column = getattr(table, name)
    if name in _TIMES:
        if connection.dialect.name == "postgresql":
            return cast(func.extract("epoch", column) * 1_000_000, BigInteger)
        return type_coerce(column, Text)
    if name in _VECTORS or name == "missing_features":
        return cast(column, Text)
    return type_coerce(column, Integer) if isinstance(column.type, Boolean) else column


def _pages(connection: Connection, query: Select[Any], names: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Read in the order of time, each page from after the last row of the page before: memory follows the page."""
    page = query.order_by(*_ORDER).limit(_PAGE_ROWS)
    after = page
    while True:
        found = _fetched(connection, after, names)
        count = len(found["event_time"])
        if count:
            yield found
        if count < _PAGE_ROWS:
            return
        last = _EPOCH + timedelta(microseconds=int(_times(found["event_time"][-1:]).astype(np.int64)[0]))
        time, key = PredictionRecord.event_time, PredictionRecord.prediction_id
        after = page.where(time >= last, or_(time > last, key > found["prediction_id"][-1]))


def _fetched(connection: Connection, query: Select[Any], names: Sequence[str]) -> dict[str, list[Any]]:
    """Read a query's columns from the driver's own tuples: a Row around each takes a fifth of the time."""
    columns: dict[str, list[Any]] = {name: [] for name in names}
    result = connection.execute(query)
    cursor: Any = result.cursor
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        for column, values in zip(columns.values(), zip(*rows, strict=True), strict=True):
            column.extend(values)
    result.close()
    return columns


def _states(found: Sequence[bytes], width: int) -> NDArray[np.float32]:
    size = width * _FLOAT32.itemsize
    if sum(map(len, found)) == size * len(found) and all(len(state) == size for state in found):
        return np.frombuffer(b"".join(found), dtype=_FLOAT32).reshape(-1, width).astype(np.float32)
    blank = np.full(width, np.nan, dtype=_FLOAT32).tobytes()
    whole = b"".join(bytes(state) if len(state) == size else blank for state in found)
    return np.frombuffer(whole, dtype=_FLOAT32).reshape(-1, width).astype(np.float32)


def _vectors(found: Sequence[str | None], width: int) -> NDArray[np.float32]:
    """Parse JSON lists of numbers; a row without one, or of another length, is NaN."""
    vectors = np.full((len(found), width), np.nan, dtype=np.float32)
    rows = np.array([row for row, text in enumerate(found) if text is not None], dtype=np.int64)
    texts = [text for text in found if text is not None]
    if not texts:
        return vectors
    if all(text.count(",") == width - 1 for text in texts):
        vectors[rows] = _table(texts, width)
        return vectors
    for row, text in zip(rows, texts, strict=True):
        values = json.loads(text)
        if values is not None and len(values) == width:
            vectors[row] = values
    return vectors


def _table(texts: Sequence[str], width: int) -> NDArray[np.float32]:
    """Parse JSON lists of one length as the table that they are, several times as fast as a JSON parser."""
    lines = "\n".join(texts).encode().translate(None, b"[] ")
    names = [str(column) for column in range(width)]
    table = csv.read_csv(
        pa.py_buffer(lines),
        read_options=csv.ReadOptions(column_names=names),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.float64()), null_values=["null", "NaN"], strings_can_be_null=True
        ),
    )
    return np.stack([column.to_numpy() for column in table.columns], axis=1).astype(np.float32)


def _times(found: Sequence[str | int | None]) -> NDArray[np.datetime64]:
    """Parse instants: SQLite has texts, PostgreSQL gave microseconds."""
    if any(isinstance(value, str) for value in found):
        array = pa.array(found, pa.string()).cast(pa.timestamp("us")).cast(pa.int64())
    else:
        array = pa.array(found, pa.int64())
    return array.fill_null(_NO_TIME).to_numpy().view("datetime64[us]")
