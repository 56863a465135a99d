"""Which logged rows may enter the store: schema by schema, row by row. What is wrong with a row is said, not repaired.

Bounds that a whole snapshot has to keep (counts, rates, shifts) are checked by `validation.py`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_assets.experiences.schema import REQUIREMENT_TEXTS, experience_schema, label_schema
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError

_VALUE_LENGTH = 60
_MISSING_TIME = np.iinfo(np.int64).min

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class BadRow:
    """One row that was kept out: its position in the batch's table, why, and what it looked like."""

    line: int
    reason: str
    excerpt: str


@dataclass(frozen=True)
class CheckedRows:
    """The rows that may go on, in the canonical schema, and those that may not."""

    table: pa.Table
    bad: tuple[BadRow, ...]


def check_experiences(table: pa.Table, spec: AgentSpec, *, as_of: datetime) -> CheckedRows:
    """Split logged decisions into good and bad rows.

    Bad: a null, a state of the wrong length or with an infinite entry, an action or a propensity out of range, a reward
    that is not finite, a time later than `as_of`, an id or a step of an episode that came before in the same table.
    NaN in a state is a missing value, which validation counts.

    Raises:
        InputError: columns are missing, unknown or of another type; the message names them.
    """
    schema = experience_schema(spec)
    require_schema(table, schema, what=f"experiences of {spec.name}")

    def findings(checker: "_Checker") -> None:
        checker.check_list("state", len(spec.context), finite=False)
        checker.check_range("action", 0, len(spec.actions) - 1)
        checker.check_range("step", 0, np.iinfo(np.int32).max)
        checker.check_finite("reward")
        propensity = checker.numbers("propensity").astype(np.float32)
        checker.reject((propensity > 0) & (propensity <= 1), "propensity outside (0, 1]")
        checker.check_time("event_time", as_of)
        checker.check_unique("experience_id")
        checker.check_unique("episode_id", "step")

    return _check(table, schema, findings)


def check_labels(table: pa.Table, spec: AgentSpec) -> CheckedRows:
    """Split labels into good and bad rows.

    Bad: a null, a best action out of range, action values that are not finite, a label known before its decision.

    Raises:
        InputError: columns are missing, unknown or of another type; the message names them.
    """
    schema = label_schema(spec)
    require_schema(table, schema, what=f"labels of {spec.name}")

    def findings(checker: "_Checker") -> None:
        checker.check_list("action_values", len(spec.actions), finite=True)
        checker.check_range("best_action", 0, len(spec.actions) - 1)
        checker.reject(checker.times("label_time") >= checker.times("event_time"), "label known before its decision")
        checker.check_unique("experience_id", "label_time")

    return _check(table, schema, findings)


def check_requirement_texts(table: pa.Table) -> CheckedRows:
    """Split requirement texts into good and bad rows: nulls, an empty id.

    Raises:
        InputError: columns are missing, unknown or of another type; the message names them.
    """
    require_schema(table, REQUIREMENT_TEXTS, what="requirement texts")

    def findings(checker: "_Checker") -> None:
        filled = pc.fill_null(pc.not_equal(table["requirement_id"], ""), fill_value=False)
        checker.reject(filled.to_numpy(), "requirement_id is empty")

    return _check(table, REQUIREMENT_TEXTS, findings)


def require_schema(table: pa.Table, schema: pa.Schema, *, what: str) -> None:
    """Refuse a table whose columns differ from `schema`; other widths of numbers, strings and times are let through.

    Raises:
        InputError: names the missing, the unknown and the changed columns.
    """
    duplicated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    missing = [name for name in schema.names if name not in table.column_names]
    unknown = [name for name in table.column_names if name not in schema.names]
    changed = []
    for field in schema:
        if field.name in table.column_names and not duplicated:
            change = _type_change(table[field.name], field.type)
            changed += [f"{field.name} ({change})"] if change else []
    problems = {"missing": missing, "unknown": unknown, "duplicated": duplicated, "of another type": changed}
    found = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
    if found:
        raise InputError(
            f"the schema of the {what} changed: columns {found}. Correct the source, "
            "or change experiences/schema.py and the agent catalogue, and start a new store"
        )


def _type_change(column: pa.ChunkedArray, expected: pa.DataType) -> str | None:
    actual = column.type
    if pa.types.is_fixed_size_list(expected):
        return _list_change(column, expected)
    kinds: tuple[Callable[[pa.DataType], bool], ...] = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        lambda type_: pa.types.is_timestamp(type_) and type_.tz is not None,
        lambda type_: pa.types.is_string(_plain(type_)) or pa.types.is_large_string(_plain(type_)),
    )
    same = any(kind(actual) and kind(expected) for kind in kinds)
    return None if same else f"expected {expected}, got {actual}"


def _plain(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _list_change(column: pa.ChunkedArray, expected: pa.DataType) -> str | None:
    actual = column.type
    if not (pa.types.is_fixed_size_list(actual) or pa.types.is_list(actual) or pa.types.is_large_list(actual)):
        return f"expected {expected}, got {actual}"
    if not (pa.types.is_floating(actual.value_type) or pa.types.is_integer(actual.value_type)):
        return f"expected {expected}, got {actual}"
    # Every row of one other length is a changed schema; some rows of another length are bad rows.
    lengths = pc.unique(pc.drop_null(pc.list_value_length(column))).to_pylist()
    if pa.types.is_fixed_size_list(actual):
        lengths = [actual.list_size]
    if len(lengths) == 1 and lengths[0] != expected.list_size:
        return f"expected {expected.list_size} numbers a row, got {lengths[0]}"
    return None


def _check(table: pa.Table, schema: pa.Schema, findings: Callable[["_Checker"], None]) -> CheckedRows:
    table = table.select(schema.names).combine_chunks()
    checker = _Checker(table)
    for name in schema.names:
        checker.reject(table[name].is_valid().to_numpy(), f"{name} is null")
    findings(checker)
    good = checker.good()
    kept = table if good.all() else table.filter(pa.array(good))
    columns = [_canonical_column(kept[field.name], field.type) for field in schema]
    return CheckedRows(table=pa.Table.from_arrays(columns, schema=schema), bad=checker.bad_rows())


def _canonical_column(column: pa.ChunkedArray, expected: pa.DataType) -> pa.ChunkedArray:
    if column.type == expected and not _has_null_values(column):
        return column
    if not pa.types.is_fixed_size_list(expected):
        return column.cast(expected, safe=False)
    values = [_list_values(chunk) for chunk in column.chunks]
    return pa.chunked_array(
        [pa.FixedSizeListArray.from_arrays(pa.array(v, pa.float32()), expected.list_size) for v in values],
        type=expected,
    )


def _has_null_values(column: pa.ChunkedArray) -> bool:
    return pa.types.is_fixed_size_list(column.type) and any(chunk.flatten().null_count for chunk in column.chunks)


def _list_values(chunk: pa.Array) -> NDArray[np.float32]:
    """All values of a list array in one row, null entries as NaN."""
    return np.asarray(chunk.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False), dtype=np.float32)


class _Checker:
    """Collects, for every row of one table, the first reason against it."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._reasons: list[str] = []
        self._reason_of = np.full(table.num_rows, -1, dtype=np.int32)

    def reject(self, good: Mask, reason: str) -> None:
        """Reject the rows where `good` is false."""
        new = ~good & (self._reason_of < 0)
        if new.any():
            self._reason_of[new] = len(self._reasons)
            self._reasons.append(reason)

    def good(self) -> Mask:
        return self._reason_of < 0

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a numeric column as float64, nulls as NaN."""
        return np.asarray(self._table[name].cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)

    def times(self, name: str) -> NDArray[np.int64]:
        """Return a timestamp column as microseconds since 1970, nulls as the smallest integer."""
        column = self._table[name].cast(pa.timestamp("us", tz="UTC"), safe=False).cast(pa.int64())
        return np.asarray(pc.fill_null(column, int(_MISSING_TIME)).to_numpy(), dtype=np.int64)

    def check_range(self, name: str, low: int, high: int) -> None:
        values = self.numbers(name)
        self.reject((values >= low) & (values <= high), f"{name} outside {low}..{high}")

    def check_finite(self, name: str) -> None:
        # As stored: 1e300 is finite, but not as float32.
        with np.errstate(over="ignore"):
            values = self.numbers(name).astype(np.float32)
        self.reject(np.isfinite(values), f"{name} is not finite")

    def check_time(self, name: str, as_of: datetime) -> None:
        limit = int(as_of.timestamp() * 1_000_000)
        self.reject(self.times(name) <= limit, f"{name} in the future")

    def check_list(self, name: str, length: int, *, finite: bool) -> None:
        """Check the length of every list, and that no entry is infinite (`finite`: nor NaN)."""
        column = self._table[name]
        if not pa.types.is_fixed_size_list(column.type):
            lengths = pc.fill_null(pc.list_value_length(column), length).to_numpy()
            self.reject(lengths == length, f"{name} has not {length} numbers")
        good = self._reason_of < 0
        kept = column if good.all() else column.filter(pa.array(good))
        values = np.concatenate([_list_values(chunk) for chunk in kept.chunks] or [np.empty(0, np.float32)])
        entries = np.isfinite(values) if finite else ~np.isinf(values)
        sound = np.ones(len(good), dtype=np.bool_)
        sound[good] = entries.reshape(-1, length).all(axis=1)
        self.reject(sound, f"{name} has an entry that is not finite" if finite else f"{name} has an infinite entry")

    def check_unique(self, *names: str) -> None:
        """Reject every row whose key stood in an earlier row that is good so far."""
        good = np.flatnonzero(self._reason_of < 0)
        keys = np.zeros(len(good), dtype=np.int64)
        for name in names:
            column = self._table[name].take(pa.array(good))
            codes = pc.dictionary_encode(column.combine_chunks()).indices.to_numpy().astype(np.int64)
            keys = keys * (int(codes.max(initial=0)) + 1) + codes
        _, first = np.unique(keys, return_index=True)
        unique = np.ones(len(self._reason_of), dtype=np.bool_)
        unique[good] = False
        unique[good[first]] = True
        self.reject(unique, f"{' and '.join(names)} repeated")

    def bad_rows(self) -> tuple[BadRow, ...]:
        lines = np.flatnonzero(self._reason_of >= 0)
        rows = self._table.take(pa.array(lines)).to_pylist()
        return tuple(
            BadRow(line=int(line), reason=self._reasons[self._reason_of[line]], excerpt=_excerpt(row))
            for line, row in zip(lines, rows, strict=True)
        )


def _excerpt(row: Mapping[str, object]) -> str:
    short = {
        name: value if len(str(value)) <= _VALUE_LENGTH else str(value)[:_VALUE_LENGTH] for name, value in row.items()
    }
    return json.dumps(short, default=str, ensure_ascii=False)
