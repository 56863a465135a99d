"""Immutable parquet parts by day, named by their content: `event_date=YYYY-MM-DD/part-<first 12 of sha256>.parquet`.

The mechanics that executions, experiences, labels and snapshots share: write a part once and atomically, list parts,
read them. What a part means, and which rows may be in it, is the business of the modules that call this one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import atomic_write, sha256_file

DAY_PREFIX = "event_date="
_HASH_LENGTH = 12
# Readers stream a part by row group; 128 Ki rows of a 64-float state are 32 MiB.
_ROW_GROUP_ROWS = 128 * 1024


@dataclass(frozen=True, order=True)
class Part:
    """One immutable parquet file: `path` is `<folder>/event_date=<day>/part-<hash>.parquet`; `prefix` is that hash."""

    day: date
    path: Path

    @property
    def prefix(self) -> str:
        """First 12 hex digits of the sha256 of the file's bytes, as its name says."""
        return self.path.stem.removeprefix("part-")

    @property
    def rows(self) -> int:
        """Number of rows, from the parquet footer."""
        return int(pq.read_metadata(self.path).num_rows)

    def verified_sha256(self) -> str:
        """Hash the file's bytes.

        Raises:
            InputError: the bytes are not those the name was made from.
        """
        digest = sha256_file(self.path)
        if not digest.startswith(self.prefix):
            raise InputError(
                f"{self.path} is damaged: the sha256 of its content starts with {digest[:_HASH_LENGTH]}, its name says "
                f"{self.prefix}; restore the file from the data versions or delete it and collect again"
            )
        return digest


def part_path(folder: Path, day: date, content_sha256: str) -> Path:
    """Return where the part of `day` with this content lies below `folder`."""
    return folder / f"{DAY_PREFIX}{day.isoformat()}" / f"part-{content_sha256[:_HASH_LENGTH]}.parquet"


def part_bytes(table: pa.Table) -> pa.Buffer:
    """Encode a table as parquet; equal rows in equal order give equal bytes, however the table was chunked."""
    # Schema metadata (pandas indices, say) and chunk borders would change the bytes, and so the name, of equal rows.
    canonical = table.replace_schema_metadata(None).combine_chunks()
    text = [field.name for field in canonical.schema if pa.types.is_string(field.type)]
    sink = pa.BufferOutputStream()
    pq.write_table(
        canonical,
        sink,
        compression="zstd",
        compression_level=1,
        # A dictionary of floats that hardly ever repeat is built, given up and paid for.
        use_dictionary=text or False,
        row_group_size=_ROW_GROUP_ROWS,
    )
    return sink.getvalue()


def write_part(folder: Path, day: date, table: pa.Table) -> Part:
    """Write `table` as one part of `day` below `folder`; a part that is there already is left as it is.

    The caller orders the rows: the order is part of the content.

    Raises:
        StorageError: the disk is full or read-only.
    """
    content = part_bytes(table)
    path = part_path(folder, day, sha256(content).hexdigest())
    if not path.exists():
        with atomic_write(path) as temporary, temporary.open("wb") as stream:
            stream.write(content)
    return Part(day=day, path=path)


def write_daily_parts(folder: Path, table: pa.Table, *, time_column: str) -> list[Part]:
    """Split `table` by the UTC day of `time_column` and write one part a day, in day order; row order is kept."""
    return [write_part(folder, day, rows) for day, rows in split_by_day(table, time_column)]


def split_by_day(table: pa.Table, time_column: str) -> Iterator[tuple[date, pa.Table]]:
    """Yield `(day, rows)` in day order; rows keep their order within a day."""
    if table.num_rows == 0:
        return
    microseconds = table[time_column].cast(pa.int64()).to_numpy()
    days = microseconds // 86_400_000_000
    for day in np.unique(days):
        inside = days == day
        rows = table if inside.all() else table.filter(pa.array(inside))
        yield datetime.fromtimestamp(int(day) * 86_400, tz=UTC).date(), rows


def list_parts(folder: Path, *, start: date | None = None, end: date | None = None) -> list[Part]:
    """All parts below `folder` from day `start` to day `end`, both inclusive, by day and name; no folder, no parts."""
    parts = [
        Part(day=date.fromisoformat(path.parent.name.removeprefix(DAY_PREFIX)), path=path)
        for path in folder.glob(f"{DAY_PREFIX}*/part-*.parquet")
    ]
    return sorted(p for p in parts if (start is None or p.day >= start) and (end is None or p.day <= end))


def read_part(part: Part | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one part, or only some of its columns.

    Raises:
        InputError: the file is not a readable parquet file.
    """
    path = part if isinstance(part, Path) else part.path
    try:
        # ParquetFile, not read_table: the latter would add the folder name `event_date=...` as a column.
        with pq.ParquetFile(path) as file:
            return file.read(columns=None if columns is None else list(columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{path} cannot be read as parquet ({error}); "
            "restore it from the data versions or delete it and collect again"
        ) from error


def sorted_rows(table: pa.Table, order: Sequence[str]) -> pa.Table:
    """Sort ascending by the columns of `order`; a table that is sorted already is returned as it is."""
    indices = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in order])
    in_order = np.array_equal(indices.to_numpy(), np.arange(table.num_rows, dtype=np.uint64))
    return table if in_order else table.take(indices)


def row_keys(table: pa.Table, columns: Sequence[str]) -> pa.Array:
    """One string a row that identifies it: the column itself, or several columns joined."""
    parts = [table[name].combine_chunks() for name in columns]
    texts = [part if pa.types.is_string(part.type) else part.cast(pa.int64()).cast(pa.string()) for part in parts]
    return texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, "\x1f")


def first_by_key(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Keep the first row of each key; order is kept."""
    codes = pc.dictionary_encode(row_keys(table, columns)).indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    return table if len(first) == table.num_rows else table.take(pa.array(np.sort(first)))
