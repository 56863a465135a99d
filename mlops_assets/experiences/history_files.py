"""Rows of a CSV or parquet file, streamed as cells in an asked order. What they mean is the caller's business."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlops_assets.experiences.execution_rows import excerpt
from mlops_assets.experiences.execution_source import Quarantine
from mlops_assets.foundation.errors import InputError

Cells = tuple[Any, ...]
_PARQUET_MAGIC = b"PAR1"
_BATCH_ROWS = 8_192


@dataclass
class Lines:
    """What a pass over the file put aside; complete when the pass is over.

    `cut`: the last line ends in its middle, so the file does too.
    """

    broken: list[Quarantine] = field(default_factory=list)
    cut: bool = False


class HistoryFile:
    """A CSV (`;` or `,`, UTF-8) or parquet file; column names are compared without case and outer blanks."""

    def __init__(self, path: Path) -> None:
        """Open and read the header.

        Raises:
            InputError: missing, or neither CSV nor parquet.
        """
        self.path = path
        if not path.is_file():
            raise InputError(f"history {path} does not exist; point MLOPS_SOURCE_PATH to a CSV or parquet file")
        with path.open("rb") as stream:
            self._parquet = stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
        header = self._parquet_names() if self._parquet else self._csv_names()
        self.columns = tuple(name.strip().lower() for name in header)

    def rows(self, wanted: tuple[str, ...], lines: Lines) -> Iterator[tuple[int, Cells]]:
        """Yield (line, cells in the order of `wanted`); a column that the file lacks gives None.

        Lines are counted from 1 with the header, parquet rows from 1 without one. A CSV line that has too few or too
        many cells, or bytes that are no UTF-8, goes to `lines.broken`.
        """
        places = [self.columns.index(name) if name in self.columns else None for name in wanted]
        return self._parquet_rows(places) if self._parquet else self._csv_rows(places, lines)

    def _parquet_names(self) -> list[str]:
        try:
            return list(pq.read_schema(self.path).names)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"history {self.path} is no readable parquet file ({error}); write it again") from error

    def _parquet_rows(self, places: list[int | None]) -> Iterator[tuple[int, Cells]]:
        number = 0
        with pq.ParquetFile(self.path) as file:
            names = [None if place is None else file.schema_arrow.names[place] for place in places]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[name for name in names if name]):
                columns = [[None] * batch.num_rows if name is None else batch[name].to_pylist() for name in names]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield number, cells

    def _open(self) -> TextIOWrapper:
        # Bytes that are no UTF-8 become surrogates, so that one bad line does not hide the others.
        return self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")

    def _delimiter(self) -> str:
        with self._open() as stream:
            header = stream.readline()
        return ";" if header.count(";") > header.count(",") else ","

    def _csv_names(self) -> list[str]:
        self._separator = self._delimiter()
        with self._open() as stream:
            try:
                return next(csv.reader(stream, delimiter=self._separator), [])
            except csv.Error as error:
                raise InputError(f"history {self.path} is no CSV ({error}); write it again") from error

    def _csv_rows(self, places: list[int | None], lines: Lines) -> Iterator[tuple[int, Cells]]:
        with self._open() as stream:
            reader = csv.reader(stream, delimiter=self._separator)
            next(reader, None)
            while True:
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    lines.broken.append(Quarantine(reader.line_num, "malformed", excerpt(f"no CSV line: {error}")))
                    continue
                if cells is None:
                    return
                if not cells:
                    continue
                problem = _line_problem(cells, len(self.columns))
                lines.cut = problem is not None
                if problem is None:
                    yield reader.line_num, tuple(None if place is None else cells[place] for place in places)
                else:
                    reason, message = problem
                    shown = excerpt(f"{message}: {','.join(cells)}")
                    lines.broken.append(Quarantine(reader.line_num, reason, shown))


def _line_problem(cells: list[str], columns: int) -> tuple[str, str] | None:
    if len(cells) != columns:
        return "truncated", f"{len(cells)} cells where the header has {columns}"
    text = "".join(cells)
    if not text.isascii() and any("\udc80" <= character <= "\udcff" for character in text):
        return "bad_encoding", "not UTF-8; save the file as UTF-8"
    return None
