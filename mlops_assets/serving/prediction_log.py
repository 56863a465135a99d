"""The prediction log: every answer once in the operational database, off the path of the request.

An answer is appended in memory, written to a journal file after at most `log_flush_ms` (from then on it survives
`kill -9`), and inserted into the database behind it, however long that is away: the disk is the queue. Inserting is
idempotent by prediction id, so a journal may be read twice. With `log_queue_rows` answers not yet in the journal (the
disk is full or stands still) `append` refuses, and the caller must not answer: what is answered is logged.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.errors import InputError, StorageError, TransientError
from mlops_assets.serving.journal import JournalFolder, abandoned_journals
from mlops_assets.serving.prediction_rows import PREDICTION, SHADOW, decode_entry, encode_entry, insert_entries

_INSERT_ROWS = 1000
_SHIP_SECONDS = 0.2
_TAKE_OVER_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 5.0
_STOP_SECONDS = 10.0
_log = logging.getLogger(__name__)

Entry = tuple[str, Mapping[str, Any]]


class LogFull(TransientError):  # noqa: N818 - a state of the log, not a fault of the caller
    """Too many answers wait for the disk: no further request may be answered now."""


class PredictionLog:
    """The log of one server process.

    Args:
        engine: operational database.
        root: folder of the journals of all processes.
        flush_ms: longest time that an answer is in memory only.
        queue_rows: most answers in memory; as many of the newest can be found before they are in the database.
        on_failure: called with what refused: journal, database, rejected (a row that is set aside), or shadow_row (one
            that found no room in memory while the disk refuses, and is dropped).
    """

    def __init__(
        self,
        engine: Engine,
        root: Path,
        *,
        flush_ms: float,
        queue_rows: int,
        on_failure: Callable[[str], None] = lambda _what: None,
    ) -> None:
        self._engine = engine
        self._root = root
        self._flush_seconds = flush_ms / 1000.0
        self._queue_rows = queue_rows
        self._on_failure = on_failure
        self._rows: deque[Entry] = deque()
        self._shadow_rows: deque[Entry] = deque()
        self._batch: list[Entry] = []
        self._shadow_batch: list[Entry] = []
        self._recent: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._appended = self._shipped = 0
        self._journal_problem: str | None = None
        self._database_problem: str | None = None
        self._arrived, self._written, self._stopping = threading.Event(), threading.Event(), threading.Event()
        self._journal = JournalFolder.create(root)
        self._writer = threading.Thread(target=self._write_forever, name="prediction-journal", daemon=True)
        self._shipper = threading.Thread(target=self._ship_forever, name="prediction-shipper", daemon=True)

    def start(self) -> None:
        """Start writing."""
        self._writer.start()
        self._shipper.start()

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log answers before they are given, all of them or none.

        Raises:
            LogFull: the journal does not keep up; do not answer.
        """
        self.require_room(len(rows))
        self._appended += len(rows)
        for row in rows:
            self._recent[row["prediction_id"]] = row
            self._rows.append((PREDICTION, row))
        while len(self._recent) > self._queue_rows:
            self._recent.popitem(last=False)
        self._arrived.set()

    def append_shadows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log what shadows would have answered; with as many in memory as answers may be, drop it and count it."""
        if self._shadows_in_memory + len(rows) > self._queue_rows:
            for _ in rows:
                self._on_failure("shadow_row")
            return
        self._shadow_rows.extend((SHADOW, row) for row in rows)
        self._arrived.set()

    def require_room(self, rows: int = 1) -> None:
        """Raise LogFull when so many further answers cannot be logged now."""
        if self.in_memory + rows > self._queue_rows:
            raise LogFull(
                f"{self.in_memory} answers wait for the disk below {self._root}; check that it can be written"
            )
        if self._writer.ident is not None and not self._writer.is_alive():
            raise LogFull("the prediction journal has ended; start the server again")

    def find(self, prediction_id: str) -> Mapping[str, Any] | None:
        """Return an answer of this process that is not in the database yet."""
        return self._recent.get(prediction_id)

    @property
    def unshipped(self) -> int:
        """Answers of this process that are not in the database yet."""
        return self._appended - self._shipped

    @property
    def in_memory(self) -> int:
        """Answers that a `kill -9` would lose now."""
        return len(self._rows) + len(self._batch)

    @property
    def _shadows_in_memory(self) -> int:
        return len(self._shadow_rows) + len(self._shadow_batch)

    @property
    def problem(self) -> str | None:
        """Why answers are not written, or not shipped; None when all is well."""
        for thread in (self._writer, self._shipper):
            if thread.ident is not None and not thread.is_alive() and not self._stopping.is_set():
                return f"the thread {thread.name} has ended"
        return self._journal_problem or self._database_problem

    def stop(self) -> None:
        """Write and ship what is there, within a bound; what the database does not take stays in the journal."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._arrived.set()
        self._written.set()
        for thread in (self._writer, self._shipper):
            if thread.ident is not None:
                thread.join(_STOP_SECONDS)
            self._written.set()
        if self._shipper.is_alive():
            return
        self._insert_unwritten()
        self._journal.close(remove=not self.in_memory and not self._journal.read(1))

    def _insert_unwritten(self) -> None:
        """With the disk refusing to the last, the database may still take what is in memory."""
        for rows, batch in self._queues():
            left = [*batch, *rows]
            if not left:
                continue
            try:
                self._insert(left)
            except (StorageError, SQLAlchemyError):
                _log.exception("%d log rows could be written neither to the journal nor to the database", len(left))
            else:
                batch.clear()
                rows.clear()

    def _queues(self) -> tuple[tuple[deque[Entry], list[Entry]], ...]:
        """What waits for the disk, and of it what was tried already: answers, which must not wait for shadows, first."""
        return (self._rows, self._batch), (self._shadow_rows, self._shadow_batch)

    def _write_forever(self) -> None:
        while not (self._stopping.is_set() and not self.in_memory and not self._shadows_in_memory):
            self._arrived.wait()
            # Collects what comes in the meantime: one write for all of it.
            if not self._stopping.wait(self._flush_seconds):
                self._arrived.clear()
            try:
                self._write_rows()
                self._journal_problem = None
            except (StorageError, OSError) as error:
                self._on_failure("journal")
                if self._journal_problem is None:
                    _log.error("the prediction journal cannot be written: %s", error)
                self._journal_problem = str(error)
                if self._stopping.is_set():
                    return
                self._arrived.set()

    def _write_rows(self) -> None:
        for rows, batch in self._queues():
            # What could not be written stays in the batch, in front of what came since.
            for _ in range(len(rows)):
                batch.append(rows.popleft())
            if batch:
                self._journal.append("".join(encode_entry(*entry) for entry in batch))
                batch.clear()
                self._written.set()

    def _ship_forever(self) -> None:
        next_look, pause = 0.0, 0.0
        while True:
            stopping = self._stopping.is_set() and not self._writer.is_alive()
            try:
                if time.monotonic() >= next_look:
                    self._take_over()
                    next_look = time.monotonic() + _TAKE_OVER_SECONDS
                shipped = self._ship(self._journal)
                pause, self._database_problem = 0.0, None
            except (StorageError, SQLAlchemyError, OSError) as error:
                self._on_failure("database")
                pause = min(_LONGEST_PAUSE_SECONDS, max(0.1, 2 * pause))
                self._database_problem = str(error)
                _log.warning(
                    "predictions wait in the journal, next try in %.1f s: %s", pause, str(error).partition("\n")[0]
                )
                shipped = 0
            if stopping and (pause or not shipped):
                return
            if pause:
                self._stopping.wait(pause)
            elif shipped < _INSERT_ROWS and not stopping:
                # Few and larger transactions: each takes turns with decisions for the interpreter.
                self._written.wait(_TAKE_OVER_SECONDS)
                self._written.clear()
                self._stopping.wait(_SHIP_SECONDS)

    def _take_over(self) -> None:
        for journal in abandoned_journals(self._root):
            _log.info("taking over %s, whose process is dead", journal.folder)
            whole = False
            try:
                while self._ship(journal):
                    pass
                whole = True
            finally:
                journal.close(remove=whole)

    def _ship(self, journal: JournalFolder) -> int:
        """Insert the journal's next lines and return how many there were."""
        lines = journal.read(_INSERT_ROWS)
        if not lines:
            return 0
        entries = [entry for entry in map(self._decoded, lines) if entry is not None]
        try:
            self._insert(entries)
        except (ValueError, TypeError, SQLAlchemyError) as error:
            if _may_pass(error):
                raise
            # One row that the database never takes must not hold up all the others.
            for entry in entries:
                self._insert_or_set_aside(entry)
        journal.done(lines)
        if journal is self._journal:
            ids = [row["prediction_id"] for kind, row in entries if kind == PREDICTION]
            self._shipped += len(ids)
            for prediction_id in ids:
                self._recent.pop(prediction_id, None)
        return len(lines)

    def _insert(self, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        with transaction(self._engine) as session:
            insert_entries(session, entries)

    def _insert_or_set_aside(self, entry: tuple[str, Mapping[str, Any]]) -> None:
        try:
            self._insert([entry])
        except (ValueError, TypeError, SQLAlchemyError) as error:
            if _may_pass(error):
                raise
            self._set_aside(encode_entry(*entry), str(error))

    def _decoded(self, line: str) -> tuple[str, dict[str, Any]] | None:
        try:
            return decode_entry(line)
        except InputError as error:
            self._set_aside(line, str(error))
            return None

    def _set_aside(self, line: str, reason: str) -> None:
        self._on_failure("rejected")
        path = self._root / "rejected.jsonl"
        _log.error("a log row is set aside in %s: %s", path, reason.partition("\n")[0])
        with path.open("a", encoding="utf-8") as file:
            file.write(line)


def _may_pass(error: Exception) -> bool:
    """Whether the next try of the same insert may succeed: the database is away, and the row is not to blame."""
    from sqlalchemy.exc import DataError, IntegrityError, StatementError

    if isinstance(error, DataError | IntegrityError | ValueError | TypeError):
        return False
    return not (isinstance(error, StatementError) and isinstance(error.orig, ValueError | TypeError))
