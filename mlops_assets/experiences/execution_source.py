"""What every source of test executions offers and hands over; the sources themselves live in their own modules."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True)
class Quarantine:
    """One row, or a whole file when `line` is None, that was kept out or is only half trusted, and why.

    `reason` is a short fixed word (`truncated`, `negative_duration`, ...); `excerpt` shows the value and the advice.
    """

    line: int | None
    reason: str
    excerpt: str


@dataclass(frozen=True)
class SourceBatch:
    """What one file (or extract) of a source holds.

    `executions` has the schema `EXECUTIONS`, possibly without rows. `source_hash` is the sha256 of the content, so that
    the same content is read once, wherever it lies.
    """

    source_file: str
    source_hash: str
    executions: pa.Table
    quarantined: tuple[Quarantine, ...] = ()


class ExecutionSource(Protocol):
    """A place that test executions come from."""

    kind: str

    def batches(self, known: Container[str]) -> Iterator[SourceBatch]:
        """Yield every batch whose `source_hash` is not in `known`; a known one is skipped without parsing.

        Raises:
            InputError: the place itself cannot be read (missing folder, unknown columns).
        """
        ...

    def as_of(self, now: datetime) -> datetime:
        """Return the instant that "now" means for this source: no honest row is later than it."""
        ...


class NoNewExecutions:
    """The source of a live system that brings no test reports: what is known already stays, nothing is added."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def batches(self, known: Container[str]) -> Iterator[SourceBatch]:
        """Yield nothing."""
        del known
        return iter(())

    def as_of(self, now: datetime) -> datetime:
        """Return `now`: the days without executions pass all the same."""
        return now
