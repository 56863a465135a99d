"""The prediction log: every answer once in the operational database, off the path of the request.

An answer is appended in memory, written to a journal file after at most `log_flush_ms` (from then on it survives
`kill -9`), and inserted into the database behind it, however long that is away: the disk is the queue. Inserting is
idempotent by prediction id, so a journal may be read twice. With `log_queue_rows` answers not yet in the journal (the
disk is full or stands still) `append` refuses, and the caller must not answer: what is answered is logged.

Versions in the shadow are asked here, in batches, from the same queue: behind the answer and never in front of it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.errors import InputError, StorageError, TransientError
from mlops_assets.serving.journal import JournalFolder, abandoned_journals
from mlops_assets.serving.models import ServedModel
from mlops_assets.serving.prediction_rows import PREDICTION, SHADOW, decode_entry, encode_entry, insert_entries

_INSERT_ROWS = 1000
_TAKE_OVER_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 5.0
_STOP_SECONDS = 10.0
_log = logging.getLogger(__name__)


class LogFull(TransientError):  # noqa: N818 - a state of the log, not a fault of the caller
    """Too many answers wait for the disk: no further request may be answered now."""


@dataclass(frozen=True)
class ShadowRequest:
    """One answered request that a version in the shadow is to be asked as well."""

    prediction_id: str
    event_time: datetime
    vector: NDArray[np.float32]
    model: ServedModel


class PredictionLog:
    """The log of one server process.

    Args:
        engine: operational database.
        root: folder of the journals of all processes.
        flush_ms: longest time that an answer is in memory only.
        queue_rows: most answers in memory.
        on_failure: called with the error whenever the database or a shadow version refuses.
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
        self._rows: deque[tuple[str, Mapping[str, Any]]] = deque()
        self._batch: list[tuple[str, Mapping[str, Any]]] = []
        self._shadows: deque[ShadowRequest] = deque()
        self._unshipped: dict[str, Mapping[str, Any]] = {}
        self._arrived, self._written, self._stopping = threading.Event(), threading.Event(), threading.Event()
        self._journal = JournalFolder.create(root)
        self._writer = threading.Thread(target=self._write_forever, name="prediction-journal", daemon=True)
        self._shipper = threading.Thread(target=self._ship_forever, name="prediction-shipper", daemon=True)
        self.shadow_dropped = 0

    def start(self) -> None:
        """Start writing."""
        self._writer.start()
        self._shipper.start()

    def append(self, row: Mapping[str, Any], shadows: Sequence[ShadowRequest] = ()) -> None:
        """Log one answer before it is given.

        Raises:
            LogFull: the journal does not keep up; do not answer.
        """
        self.require_room()
        self._unshipped[row["prediction_id"]] = row
        self._rows.append((PREDICTION, row))
        if len(self._shadows) + len(shadows) <= self._queue_rows:
            self._shadows.extend(shadows)
        else:
            self.shadow_dropped += len(shadows)
        self._arrived.set()

    def require_room(self) -> None:
        """Raise LogFull when no further answer can be logged now."""
        if len(self._rows) >= self._queue_rows:
            raise LogFull(
                f"{len(self._rows)} answers wait for the disk below {self._root}; check that it can be written"
            )

    def find(self, prediction_id: str) -> Mapping[str, Any] | None:
        """Return an answer of this process that is not in the database yet."""
        return self._unshipped.get(prediction_id)

    @property
    def unshipped(self) -> int:
        """Answers of this process that are not in the database yet."""
        return len(self._unshipped)

    @property
    def in_memory(self) -> int:
        """Answers that a `kill -9` would lose now."""
        return len(self._rows) + len(self._batch)

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
        if not self._shipper.is_alive():
            self._journal.close(remove=not self._unshipped and not self.in_memory)

    def _write_forever(self) -> None:
        while not (self._stopping.is_set() and not self.in_memory and not self._shadows):
            self._arrived.wait()
            # Collects what comes in the meantime: one write for all of it.
            if not self._stopping.wait(self._flush_seconds):
                self._arrived.clear()
            try:
                self._write_rows()
                self._ask_shadows()
            except StorageError as error:
                self._on_failure("journal")
                _log.error("the prediction journal cannot be written: %s", error)
                if self._stopping.wait(self._flush_seconds):
                    return
                self._arrived.set()

    def _write_rows(self) -> None:
        # What could not be written stays in the batch, in front of what came since.
        for _ in range(len(self._rows)):
            self._batch.append(self._rows.popleft())
        if self._batch:
            self._journal.append("".join(encode_entry(*entry) for entry in self._batch))
            self._batch.clear()
            self._written.set()

    def _ask_shadows(self) -> None:
        waiting = [self._shadows.popleft() for _ in range(len(self._shadows))]
        by_model: dict[tuple[str, str], list[ShadowRequest]] = {}
        for request in waiting:
            by_model.setdefault(request.model.key, []).append(request)
        for requests in by_model.values():
            try:
                rows = _shadow_rows(requests)
            except Exception:  # noqa: BLE001 - a candidate may fail in any way, and must not take the log with it
                self._on_failure("shadow")
                _log.exception("shadow version %s failed", requests[0].model.key)
                continue
            self._journal.append("".join(encode_entry(SHADOW, row) for row in rows))
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
                pause = 0.0
            except (StorageError, SQLAlchemyError) as error:
                self._on_failure("database")
                pause = min(_LONGEST_PAUSE_SECONDS, max(0.1, 2 * pause))
                _log.warning(
                    "predictions wait in the journal, next try in %.1f s: %s", pause, str(error).splitlines()[0]
                )
                shipped = 0
            if stopping and (pause or not shipped):
                return
            if pause:
                self._stopping.wait(pause)
            elif not shipped:
                self._written.wait(_TAKE_OVER_SECONDS)
                self._written.clear()

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
        for kind, row in entries:
            if kind == PREDICTION:
                self._unshipped.pop(row["prediction_id"], None)
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
        _log.error("a log row is set aside in %s: %s", path, reason.splitlines()[0])
        with path.open("a", encoding="utf-8") as file:
            file.write(line)


def _shadow_rows(requests: Sequence[ShadowRequest]) -> list[dict[str, Any]]:
    model = requests[0].model
    started = time.perf_counter()
    values = model.policy.q_values(np.stack([request.vector for request in requests]))
    each_ms = (time.perf_counter() - started) * 1000.0 / len(requests)
    return [
        {
            "prediction_id": request.prediction_id,
            "model_name": model.spec.registered_model,
            "model_version": model.semver,
            "q_values": row.tolist(),
            "action": int(row.argmax()),
            "latency_ms": each_ms,
            "event_time": request.event_time,
        }
        for request, row in zip(requests, values, strict=True)
    ]


def _may_pass(error: Exception) -> bool:
    """Whether the next try of the same insert may succeed: the database is away, and the row is not to blame."""
    from sqlalchemy.exc import DataError, IntegrityError, StatementError

    if isinstance(error, DataError | IntegrityError | ValueError | TypeError):
        return False
    return not (isinstance(error, StatementError) and isinstance(error.orig, ValueError | TypeError))
