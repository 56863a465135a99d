"""From loose values of a source to rows of `EXECUTIONS`: statuses, times, durations, ids. No file format here."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256

import numpy as np
import pyarrow as pa

from mlops_assets.experiences.execution_source import Quarantine
from mlops_assets.experiences.identity import TestIdentity, clean
from mlops_assets.experiences.schema import EXECUTIONS

_STATUSES = {
    "passed": "passed pass success successful ok expected flaky",
    "failed": "failed fail failure error errored broken unexpected timedout timed_out timeout interrupted crashed",
    "skipped": "skipped skip pending other ignored disabled todo unknown cancelled canceled",
}
_STATUS_OF = {word: status for status, words in _STATUSES.items() for word in words.split()}
# Earlier than any JUnit; a smaller number is a clock that was never set, or seconds since boot.
_EARLIEST = datetime(1995, 1, 1, tzinfo=UTC)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)
# No test runs longer than a day; what does is a stopwatch that was never stopped.
_MAX_DURATION_MS = 24 * 3_600_000.0
_MAX_RETRIES = 1_000
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_EPOCH_TEXT = re.compile(r"\d{9,20}(?:\.\d{1,9})?")
_EXCERPT_LENGTH = 300
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Below each limit, so many a second: 1e11 s is the year 5138, 1e11 ms is 1973.
_EPOCH_UNITS = ((1e11, 1), (1e14, 1e3), (1e17, 1e6), (math.inf, 1e9))


class RowError(Exception):
    """One row cannot be used; becomes a `Quarantine` with `reason`, the others of its file go on."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def quarantine(self, line: int | None, row: str) -> Quarantine:
        """Say which row it was."""
        return Quarantine(line, self.reason, excerpt(f"{row}: {self}"))


def excerpt(text: str) -> str:
    """At most 300 characters that any store takes."""
    text = clean(text)
    return text if len(text) <= _EXCERPT_LENGTH else text[: _EXCERPT_LENGTH - 1] + "…"


def parse_status(value: object) -> tuple[str, bool]:
    """Return (passed | failed | skipped, flaky) for what any runner calls it; `flaky` itself is passed and flaky.

    failure, error, broken, unexpected, timedOut, interrupted are failed; pending, other, unknown are skipped.

    Raises:
        RowError: a word that no known runner writes.
    """
    word = str(value).strip().lower()
    status = _STATUS_OF.get(word)
    if status is None:
        raise RowError("unknown_status", f"status {value!r} is none of {', '.join(sorted(_STATUS_OF))}")
    return status, word == "flaky"


def parse_duration_ms(value: object, *, unit_ms: float) -> float:
    """Return milliseconds from a number or text in units of `unit_ms`; None and "" (not reported) are 0.

    `1,234.5` is read with thousands commas, `0,5` with a decimal comma.

    Raises:
        RowError: no number, negative, or longer than 24 hours.
    """
    if value is None or value == "":
        return 0.0
    number = _number(value)
    if number is None or math.isnan(number):
        raise RowError("bad_duration", f"duration {value!r} is no number")
    if number < 0:
        raise RowError("negative_duration", f"duration {value!r} is negative")
    duration = number * unit_ms
    if duration > _MAX_DURATION_MS:
        raise RowError("absurd_duration", f"duration {value!r} ({duration / 3_600_000:.3g} h) is longer than 24 h")
    return duration


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _as_float(value)
    text = str(value).strip()
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    elif _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    return _as_float(text)


def _as_float(value: float | str) -> float | None:
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def parse_count(value: object, what: str) -> int:
    """Return a count of retries from a number or text; None and "" (not reported) are 0.

    Raises:
        RowError: no whole number from 0 to 1,000.
    """
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str("" if value is None else value)
    text = text.strip() or "0"
    if not (text.isascii() and text.isdigit() and float(text) <= _MAX_RETRIES):
        raise RowError("bad_count", f"{what} {text[:_EXCERPT_LENGTH]!r} is no whole number from 0 to {_MAX_RETRIES}")
    return int(text)


def parse_time(value: object) -> datetime | None:
    """Return an aware UTC datetime from ISO text, a datetime or a number since 1970; None and "" stay None.

    A number's unit is told by its magnitude: seconds below 1e11, then milli-, micro- and nanoseconds. Times without a
    zone are read as UTC.

    Raises:
        RowError: neither, or before 1995 or after 2200.
    """
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        return _plausible(value, value)
    if isinstance(value, str):
        return _parse_time_text(value)
    number = _number(value)
    if number is None or not math.isfinite(number):
        raise RowError("bad_timestamp", f"time {value!r} is no time")
    return _from_epoch(number, value)


@lru_cache(maxsize=4_096)
def _parse_time_text(text: str) -> datetime:
    stripped = text.strip()
    # First the numbers: `1654080190159` is also the basic form of an ISO time in the year 1654.
    if _EPOCH_TEXT.fullmatch(stripped):
        return _from_epoch(float(stripped), text)
    try:
        return _plausible(datetime.fromisoformat(stripped), text)
    except ValueError:
        raise RowError("bad_timestamp", f"time {text!r} is no ISO 8601 time and no number since 1970") from None


def _from_epoch(number: float, value: object) -> datetime:
    per_second = next(scale for limit, scale in _EPOCH_UNITS if abs(number) < limit)
    try:
        return _plausible(_EPOCH + timedelta(seconds=number / per_second), value)
    except OverflowError:
        raise RowError("bad_timestamp", f"time {value!r} is outside of the calendar") from None


def _plausible(time: datetime, value: object) -> datetime:
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    if not _EARLIEST <= time <= _LATEST:
        raise RowError("absurd_timestamp", f"time {value!r} lies before 1995 or after 2200")
    return time


@dataclass(frozen=True, slots=True)
class Row:
    """One execution before it becomes a row of the table.

    `ordinal` tells rows of one (cycle, test) apart and orders rows that start together: the row's place in its cycle,
    or the occurrence of the test in it.
    """

    identity: TestIdentity
    test_name: str
    framework: str
    status: str
    started_at: datetime
    duration_ms: float
    retries: int
    flaky: bool
    cycle_id: str
    ordinal: int


def padded(run_id: str) -> str:
    """A run id whose text order is its number's order: `17` is `0000000017`."""
    run_id = clean(run_id)
    return run_id.zfill(10) if run_id.isascii() and run_id.isdigit() else run_id


def execution_id(cycle_id: str, ordinal: int, test_id: str) -> str:
    """Id of an execution, from what happened and not from the file that tells it.

    A history that has grown, and a second report of the same run, give the ids that are stored already. Within a cycle
    the ids sort by `ordinal`.
    """
    return f"{_short_hash(cycle_id)}-{ordinal:06d}-{_short_hash(test_id)}"


@lru_cache(maxsize=65_536)
def _short_hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def executions_table(
    rows: Iterable[Row], *, source_file: str, source_hash: str, cycle_starts: dict[str, int] | None = None
) -> pa.Table:
    """Build the `EXECUTIONS` table; a cycle starts with its first row's start.

    `cycle_starts` (microseconds by cycle) carries the starts from one call to the next, where cycles span several.
    """
    rows = list(rows)
    started = np.array([_microseconds(row.started_at) for row in rows], dtype=np.int64)
    cycles = [row.cycle_id for row in rows]
    starts = {} if cycle_starts is None else cycle_starts
    for cycle, start in zip(cycles, started.tolist(), strict=True):
        starts[cycle] = min(start, starts.get(cycle, start))
    columns = {
        "execution_id": [execution_id(r.cycle_id, r.ordinal, r.identity.test_id) for r in rows],
        "test_id": [r.identity.test_id for r in rows],
        "test_name": [r.test_name for r in rows],
        "suite": [r.identity.suite for r in rows],
        "project": [r.identity.project for r in rows],
        "framework": [r.framework for r in rows],
        "status": [r.status for r in rows],
        "started_at": started,
        "duration_ms": [r.duration_ms for r in rows],
        "retries": [r.retries for r in rows],
        "flaky": [r.flaky for r in rows],
        "cycle_id": cycles,
        "cycle_started_at": np.array([starts[cycle] for cycle in cycles], dtype=np.int64),
        "source_file": [source_file] * len(rows),
        "source_hash": [source_hash] * len(rows),
    }
    arrays = [_array(columns[field.name], field.type) for field in EXECUTIONS]
    return pa.Table.from_arrays(arrays, schema=EXECUTIONS)


def _array(values: object, kind: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.int64()).cast(kind)
    return pa.array(values, kind)


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)
