"""The rows that batch scoring takes: which columns, of which types, and which rows are refused. No file, no model.

`agent_id`, `test_id` where the agent has features of tests, and the decision context: either a list column `state` in
catalogue order or one column for each context field. Optional: `request_id`, `requirement_text` where the agent reads
texts, and `event_time`. The same ranges hold as for a request in real time; a row outside them is not guessed at.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_assets.experiences.schema import TIMESTAMP
from mlops_assets.features.views import TEST_EXECUTION_FEATURES
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError

REQUEST_ID, AGENT_ID, TEST_ID, TEXT, EVENT_TIME, STATE = (
    "request_id", "agent_id", "test_id", "requirement_text", "event_time", "state",
)  # fmt: skip
# What a time of this product can be, in microseconds: from 1970 to 2200, exclusive.
_TIME_RANGE = (0, 7_258_118_400_000_000)


@dataclass(frozen=True)
class Rows:
    """N rows from number `first_row` of the input on, of which M can be scored.

    `reasons` (N,) says why a row cannot, null where it can; `usable` (N,) marks the M rows that `context` (M, C), `keys`
    (M rows: `agent_id`, `test_id` and, where the input has it, `event_time`) and `text_codes` (M,) are about. Text i of a
    row is `texts[text_codes[i]]`: a requirement comes back in many rows and is embedded once.
    """

    first_row: int
    request_ids: pa.Array
    reasons: pa.Array
    usable: NDArray[np.bool_]
    context: NDArray[np.float32]
    keys: pa.Table
    texts: tuple[str, ...]
    text_codes: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of rows, refused ones included."""
        return len(self.usable)


def row_types(spec: AgentSpec) -> dict[str, pa.DataType]:
    """Columns that the agent's input may have, with the types that they are read as."""
    types = {REQUEST_ID: pa.string(), AGENT_ID: pa.string(), TEST_ID: pa.string(), EVENT_TIME: TIMESTAMP}
    if spec.text_dimensions:
        types[TEXT] = pa.string()
    return {**types, STATE: pa.list_(pa.float64()), **{field.name: pa.float64() for field in spec.context}}


def check_columns(schema: pa.Schema, spec: AgentSpec, where: str) -> tuple[str, ...]:
    """Return the names of the columns, in the order in which they are read.

    Raises:
        InputError: a column is missing, unknown or of another type, or the context is there twice; all are named.
    """
    types = row_types(spec)
    context = [field.name for field in spec.context]
    given = [name for name in types if name in schema.names]
    needed = [AGENT_ID, *([TEST_ID] if reads_tests(spec) else [])]
    has_fields = any(name in given for name in context)
    if STATE not in given:
        needed += context if has_fields else [f"{STATE} (or {', '.join(context)})"]
    missing = [name for name in needed if name not in given]
    problems = [f"without {name}" for name in missing]
    problems += [f"unknown {name}" for name in schema.names if name not in types]
    problems += [f"twice {name}" for name in given if schema.names.count(name) > 1]
    if STATE in given and has_fields:
        problems.append(f"both {STATE} and {', '.join(name for name in context if name in given)}")
    if not problems:
        problems = [f"mistyped {problem}" for problem in _mistyped(schema, given, spec)]
    if problems:
        optional = [name for name in (REQUEST_ID, TEST_ID, TEXT, EVENT_TIME) if name in types and name not in needed]
        raise InputError(
            f"{where} is no batch of agent {spec.name!r}: {'; '.join(problems)}. Needed are {AGENT_ID}"
            f"{', ' + TEST_ID if reads_tests(spec) else ''} and either {STATE} (a list of {len(context)} numbers) or "
            f"the columns {', '.join(context)}; optional are {', '.join(optional)}. Select these columns, and no others"
        )
    return tuple(given)


def reads_tests(spec: AgentSpec) -> bool:
    """Whether the agent's state has features of tests."""
    return any(field.view == TEST_EXECUTION_FEATURES.name for field in spec.features)


def read_as(batch: pa.RecordBatch, spec: AgentSpec) -> pa.RecordBatch:
    """Cast checked columns to the types of `row_types`.

    Raises:
        pa.ArrowInvalid: a time does not fit into microseconds.
    """
    types = row_types(spec)
    return pa.RecordBatch.from_arrays(
        [_cast(batch[name], types[name]) for name in batch.schema.names], names=batch.schema.names
    )


def prepare_rows(table: pa.Table, spec: AgentSpec, first_row: int) -> Rows:
    """Sort rows out: those that can be scored, and why the others cannot. The columns are as `read_as` gives them."""
    table = table.combine_chunks()
    context, reasons = _context(table, spec)
    _refuse_absent(table, [AGENT_ID, *([TEST_ID] if reads_tests(spec) else [])], reasons)
    if REQUEST_ID in table.column_names:
        _refuse_absent(table, [REQUEST_ID], reasons)
        request_ids = _array(table, REQUEST_ID)
    else:
        request_ids = pa.array(np.arange(first_row, first_row + table.num_rows)).cast(pa.string())
    if EVENT_TIME in table.column_names:
        _refuse_times(_array(table, EVENT_TIME), reasons)
    shown = pa.array(["; ".join(found) if found else None for found in _by_row(reasons, table.num_rows)], pa.string())
    usable = np.asarray(shown.is_null().to_numpy(zero_copy_only=False), dtype=np.bool_)
    kept = table.filter(pa.array(usable)).combine_chunks()
    texts, codes = _texts(kept)
    return Rows(
        first_row=first_row,
        request_ids=request_ids,
        reasons=shown,
        usable=usable,
        context=context[usable].astype(np.float32),
        keys=kept.select([name for name in (AGENT_ID, TEST_ID, EVENT_TIME) if name in kept.column_names]),
        texts=texts,
        text_codes=codes,
    )


Reasons = dict[int, list[str]]


def _mistyped(schema: pa.Schema, given: Iterable[str], spec: AgentSpec) -> list[str]:
    problems = []
    for name in given:
        kind = schema.field(name).type
        if name == STATE:
            expected, fits = f"a list of {len(spec.context)} numbers", _is_numbers(kind, len(spec.context))
        elif name == EVENT_TIME:
            expected, fits = "a timestamp", pa.types.is_timestamp(kind)
        elif name == REQUEST_ID:
            expected, fits = "a text or a whole number", _is_text(kind) or pa.types.is_integer(kind)
        elif name in {AGENT_ID, TEST_ID, TEXT}:
            expected, fits = "a text", _is_text(kind)
        else:
            expected, fits = "a number", _is_number(kind)
        if not fits and not pa.types.is_null(kind):
            problems.append(f"{name}: {kind}, expected {expected}")
    return problems


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    )


def _is_numbers(kind: pa.DataType, width: int) -> bool:
    if pa.types.is_fixed_size_list(kind):
        return kind.list_size == width and _is_number(kind.value_type)
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_number(kind.value_type)


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    # Nanoseconds are cut to microseconds, and whole numbers beyond 2**53 are out of every range anyway; a time that does
    # not fit is an error.
    exact = pa.types.is_timestamp(array.type) and array.type.unit != "ns"
    return array.cast(kind, safe=exact)


def _array(table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else pa.array([], column.type)


def _context(table: pa.Table, spec: AgentSpec) -> tuple[NDArray[np.float64], Reasons]:
    """Return contexts (N, C), NaN where there is none, and what is wrong with them by row."""
    reasons: Reasons = {}
    width = len(spec.context)
    context = np.full((table.num_rows, width), np.nan)
    if STATE in table.column_names:
        lists = _array(table, STATE)
        lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
        whole = lengths == width
        flat = lists.filter(pa.array(whole)).flatten()
        context[whole] = pc.fill_null(flat, np.nan).to_numpy(zero_copy_only=False).reshape(-1, width)
        for row in np.flatnonzero(~whole).tolist():
            length = lengths[row]
            reasons[row] = [f"{STATE} is missing" if length < 0 else f"{STATE} has {length} numbers, expected {width}"]
    else:
        whole = np.ones(table.num_rows, dtype=np.bool_)
        for position, field in enumerate(spec.context):
            numbers = pc.fill_null(_array(table, field.name), np.nan)
            context[:, position] = numbers.to_numpy(zero_copy_only=False)
    low, high = (np.array([getattr(field, end) for field in spec.context]) for end in ("low", "high"))
    wrong = ~((context >= low) & (context <= high)) & whole[:, None]
    for row, column in zip(*(index.tolist() for index in np.nonzero(wrong)), strict=True):
        field, value = spec.context[column], float(context[row, column])
        reasons.setdefault(row, []).append(
            f"{field.name} is missing"
            if np.isnan(value)
            else f"{field.name}={value!r} is not within {field.low:g}..{field.high:g}"
        )
    return context, reasons


def _refuse_absent(table: pa.Table, names: Iterable[str], reasons: Reasons) -> None:
    for name in names:
        absent = pc.equal(pc.fill_null(pc.utf8_trim_whitespace(_array(table, name)), ""), "")
        for row in np.flatnonzero(absent.to_numpy(zero_copy_only=False)).tolist():
            reasons.setdefault(row, []).append(f"{name} is missing")


def _refuse_times(times: pa.Array, reasons: Reasons) -> None:
    first, end = _TIME_RANGE
    stamps = pc.fill_null(times.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero((stamps < first) | (stamps >= end)).tolist():
        known = times[row].is_valid
        reasons.setdefault(row, []).append(
            f"{EVENT_TIME} is not within 1970..2199" if known else f"{EVENT_TIME} is missing"
        )


def _by_row(reasons: Reasons, rows: int) -> list[list[str] | None]:
    return [reasons.get(row) for row in range(rows)] if reasons else [None] * rows


def _texts(table: pa.Table) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    if TEXT not in table.column_names:
        return ("",), np.zeros(table.num_rows, dtype=np.int64)
    encoded = pc.fill_null(_array(table, TEXT), "").dictionary_encode()
    return tuple(encoded.dictionary.to_pylist()), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
