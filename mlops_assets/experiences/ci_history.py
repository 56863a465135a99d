"""A CI system's memory as a source of executions: RETECS-like CSV or parquet, or a list of end-to-end runs.

RETECS columns (any order and case): `Name`, `Duration`, `LastRun`, `Verdict` (1 = failed), `Cycle`.
`LastRun` is when THIS row's run began. `LastResults` is left alone: within a cycle it holds verdicts of the same cycle,
and what was known before a cycle follows from the earlier rows.

End-to-end columns: `run`, `test`, `status`, `start_ms`, `duration_ms`, and if present `suite`, `retries`, `flaky` and
`params` (the browser).

Rows keep their order, and a test that ran several times in a cycle is several executions. A file that was cut loses its
last cycle, which nobody can know the rest of: its rows wait for the whole file.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from mlops_assets.experiences.execution_rows import (
    Row,
    RowError,
    excerpt,
    executions_table,
    padded,
    parse_count,
    parse_duration_ms,
    parse_status,
    parse_time,
)
from mlops_assets.experiences.execution_source import Quarantine, SourceBatch
from mlops_assets.experiences.history_files import Cells, HistoryFile, Lines
from mlops_assets.experiences.identity import SEPARATOR, IdentityRules, TestIdentity, clean
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import sha256_file

DurationUnit = Literal["auto", "ms", "s"]

_RETECS = ("name", "duration", "lastrun", "verdict", "cycle")
_RUNS = ("run", "test", "status", "start_ms", "duration_ms")
_RUN_EXTRAS = ("suite", "retries", "flaky", "params")
_VERDICTS = {"0": "passed", "1": "failed"}
_SECOND_MS = 1_000.0
# The rows of a file are stored together, some 300 bytes each in memory.
MAX_HISTORY_BYTES = 1024 * 1024 * 1024


class CiHistoryFile:
    """One file of a CI system's history; its cycles are named after it, so that two histories never mix.

    `name` (default: the file's name without ending) begins the cycle ids and, for RETECS, is the suite of the tests.
    `duration_unit`: `auto` reads RETECS durations as seconds when one of them has a fraction, else as milliseconds.
    """

    kind = "ci_history"

    def __init__(
        self,
        path: Path,
        rules: IdentityRules,
        *,
        name: str | None = None,
        duration_unit: DurationUnit = "auto",
        max_bytes: int = MAX_HISTORY_BYTES,
    ) -> None:
        """Only remember where to look; nothing is opened before `batches`."""
        self._path = path
        self._rules = rules
        self._name = clean(name or path.stem)
        self._unit = duration_unit
        self._max_bytes = max_bytes

    def as_of(self, now: datetime) -> datetime:
        """Return the history's last start, for it is over, whenever it is read; `now` when that is earlier.

        Raises:
            InputError: the file cannot be read.
        """
        file = self._file()
        column = "lastrun" if _is_retecs(file) else "start_ms"
        last: datetime | None = None
        for _, (value,) in file.rows((column,), Lines()):
            try:
                started_at = parse_time(value)
            except RowError:
                # Put aside, with its line, when the rows are read.
                continue
            if started_at is not None and (last is None or started_at > last):
                last = started_at
        return now if last is None else min(last, now)

    def batches(self, known: Container[str]) -> Iterator[SourceBatch]:
        """Yield the file's executions, unless it is known.

        Raises:
            InputError: missing, too large, unreadable, or without the columns of either kind.
        """
        file = self._file()
        source_hash = sha256_file(self._path)
        if source_hash in known:
            return
        rows, problems = self._rows(file)
        table = executions_table(rows, source_file=self._path.name, source_hash=source_hash)
        yield SourceBatch(self._path.name, source_hash, table, tuple(problems))

    def _file(self) -> HistoryFile:
        file = HistoryFile(self._path)
        size = self._path.stat().st_size
        if size > self._max_bytes:
            raise InputError(
                f"CI history {self._path} has {size / 2**20:.0f} MiB, more than the {self._max_bytes / 2**20:.0f} MiB "
                "that are read at once: split it by cycle"
            )
        if not _is_retecs(file) and not set(_RUNS) <= set(file.columns):
            raise InputError(
                f"CI history {self._path} has the columns {', '.join(file.columns) or '(none)'}; "
                f"needed are {', '.join(_RETECS)} (RETECS) or {', '.join(_RUNS)} (end-to-end runs)"
            )
        return file

    def _rows(self, file: HistoryFile) -> tuple[list[Row], list[Quarantine]]:
        read, columns = self._reader(file)
        lines = Lines()
        rows: list[Row] = []
        numbers: list[int] = []
        problems: list[Quarantine] = []
        for number, cells in file.rows(columns, lines):
            try:
                rows.append(read(cells))
            except RowError as error:
                problems.append(error.quarantine(number, f"line {number}"))
            else:
                numbers.append(number)
        problems += lines.broken
        if lines.cut and rows:
            rows, incomplete = _without_last_cycle(rows, numbers)
            problems += incomplete
        if not rows:
            problems.append(Quarantine(None, "no_rows", "the history holds no usable row"))
        return rows, problems

    def _reader(self, file: HistoryFile) -> tuple[Callable[[Cells], Row], tuple[str, ...]]:
        places: Counter[str] = Counter()
        if not _is_retecs(file):
            return lambda cells: self._run(cells, places), (*_RUNS, *_RUN_EXTRAS)
        unit_ms = self._unit_ms(file)
        names: dict[str, TestIdentity] = {}
        return lambda cells: self._retecs(cells, places, names, unit_ms), _RETECS

    def _unit_ms(self, file: HistoryFile) -> float:
        if self._unit != "auto":
            return _SECOND_MS if self._unit == "s" else 1.0
        return _SECOND_MS if any(_has_fraction(value) for _, (value,) in file.rows(("duration",), Lines())) else 1.0

    def _retecs(self, cells: Cells, places: Counter[str], names: dict[str, TestIdentity], unit_ms: float) -> Row:
        name, duration, last_run, verdict, cycle = cells
        status = _VERDICTS.get(str(verdict).strip())
        if status is None:
            raise RowError("unknown_status", f"Verdict {verdict!r} is neither 0 (passed) nor 1 (failed)")
        return _row(
            self._named(name, names),
            framework="ci",
            status=status,
            started_at=_required_time(last_run, "LastRun"),
            duration_ms=parse_duration_ms(duration, unit_ms=unit_ms),
            cycle_id=self._cycle(cycle),
            places=places,
        )

    def _named(self, value: object, names: dict[str, TestIdentity]) -> TestIdentity:
        """Names of this kind are ids of the CI system: nothing random is in them, and their numbers tell them apart."""
        name = clean(_text(value))
        if name not in names:
            if not name:
                raise RowError("no_test", "the row names no test")
            names[name] = TestIdentity(f"{self._name}{SEPARATOR}{name}", self._name, name, "")
        return names[name]

    def _run(self, cells: Cells, places: Counter[str]) -> Row:
        run, test, status_word, start_ms, duration_ms, suite, retries, flaky_word, params = cells
        status, flaky = parse_status(status_word)
        title = clean(_text(test))
        if not title:
            raise RowError("no_test", "the row names no test")
        return _row(
            self._rules.identity(_text(suite), title, _text(params)),
            title=title,
            framework="e2e",
            status=status,
            started_at=_required_time(start_ms, "start_ms"),
            duration_ms=parse_duration_ms(duration_ms, unit_ms=1.0),
            cycle_id=self._cycle(run),
            places=places,
            retries=parse_count(retries, "retries"),
            flaky=flaky or _text(flaky_word).strip().lower() in {"1", "true"},
        )

    def _cycle(self, value: object) -> str:
        cycle = _text(value)
        if not cycle.strip():
            raise RowError("no_cycle", "the row names no cycle")
        return f"{self._name}-{padded(cycle)}"


def _is_retecs(file: HistoryFile) -> bool:
    return set(_RETECS) <= set(file.columns)


def _row(
    identity: TestIdentity,
    *,
    cycle_id: str,
    places: Counter[str],
    title: str = "",
    retries: int = 0,
    flaky: bool = False,
    **values: Any,
) -> Row:
    """Make the row and give it its place in its cycle."""
    places[cycle_id] += 1
    return Row(
        identity=identity,
        test_name=title or identity.name,
        cycle_id=cycle_id,
        ordinal=places[cycle_id] - 1,
        retries=retries,
        flaky=flaky,
        **values,
    )


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)


def _required_time(value: object, column: str) -> datetime:
    time = parse_time(value)
    if time is None:
        raise RowError("no_timestamp", f"{column} is empty")
    return time


def _has_fraction(value: object) -> bool:
    return not value.is_integer() if isinstance(value, float) else "." in _text(value)


def _without_last_cycle(rows: list[Row], numbers: list[int]) -> tuple[list[Row], list[Quarantine]]:
    last = rows[-1].cycle_id
    incomplete = [
        Quarantine(number, "incomplete_cycle", excerpt(f"cycle {last} is cut with its file: {row.identity.test_id}"))
        for row, number in zip(rows, numbers, strict=True)
        if row.cycle_id == last
    ]
    return [row for row in rows if row.cycle_id != last], incomplete
