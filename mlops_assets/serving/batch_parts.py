"""The folder of a batch's decisions: parts that are written whole or not at all, and the manifest that comes last.

<key>/predictions/part-00000.parquet ...    one row for each row of the input, in its order
<key>/manifest.json                         what was scored, by what, and every part with its hash
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_assets.experiences.snapshot_files import remove_leftovers
from mlops_assets.foundation.files import atomic_write, canonical_json, sha256_file, storage_errors

PREDICTIONS = Path("predictions")
MANIFEST = Path("manifest.json")


@dataclass(frozen=True)
class Tally:
    """Counts of rows: all, refused, answered with a missing feature; answered by action, and by missing feature."""

    rows: int = 0
    refused: int = 0
    incomplete: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "Tally") -> "Tally":
        """Count both."""
        return Tally(
            rows=self.rows + other.rows,
            refused=self.refused + other.refused,
            incomplete=self.incomplete + other.incomplete,
            actions=self.actions + other.actions,
            missing=self.missing + other.missing,
        )

    @property
    def answered(self) -> int:
        """Rows that got a decision."""
        return self.rows - self.refused


def part_schema() -> pa.Schema:
    """Schema of a part; a refused row has a `reason`, and nothing from `action` to `missing_features`.

    `row` counts the input's rows from 0. `confidence` is the softmax margin, as in real time. `missing_features` names
    the features for which the default stood. `q_values` are no fixed-size lists, since Arrow (25) does not read a null one
    back from parquet.
    """
    return pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("request_id", pa.string()),
            pa.field("agent", pa.string(), nullable=False),
            pa.field("action", pa.int32()),
            pa.field("action_name", pa.string()),
            pa.field("q_values", pa.list_(pa.float32())),
            pa.field("confidence", pa.float64()),
            pa.field("missing_features", pa.list_(pa.string())),
            pa.field("reason", pa.string()),
            pa.field("model_version", pa.string(), nullable=False),
        ]
    )


def encode_part(table: pa.Table) -> bytes:
    """Encode a part as parquet; equal rows give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=1,
        # Values hardly ever repeat: their dictionary would be built, given up and paid for.
        use_dictionary=["agent", "action_name", "missing_features.list.element", "reason", "model_version"],
        # So that a damaged part is found when it is read.
        write_page_checksum=True,
    )
    return sink.getvalue().to_pybytes()


def tally_of(part: pa.Table) -> Tally:
    """Count a part's rows."""
    answered = part["action"].is_valid()
    missing = part["missing_features"].filter(answered)
    incomplete = int(pc.sum(pc.greater(pc.list_value_length(missing), 0)).as_py() or 0)
    return Tally(
        rows=part.num_rows,
        refused=part["action"].null_count,
        incomplete=incomplete,
        actions=_counts(part["action_name"].filter(answered)),
        missing=_counts(pc.list_flatten(missing)),
    )


class PartFolder:
    """The folder of one batch of `rows` rows; only its lock's holder uses it."""

    def __init__(self, folder: Path, *, rows: int, chunk_rows: int) -> None:
        self.folder = folder
        self.numbers = range(-(-rows // chunk_rows))
        self._schema = part_schema()
        self._rows = {number: min(chunk_rows, rows - number * chunk_rows) for number in self.numbers}

    def published(self) -> Tally | None:
        """Count a finished batch's rows; None when it is not finished, or not as it was published."""
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        for part in manifest["parts"]:
            file = self.folder / part["path"]
            if not file.is_file() or sha256_file(file) != part["sha256"]:
                return None
        counted = manifest["counts"]
        return Tally(
            **{**counted, "actions": Counter(counted["actions"]), "missing": Counter(counted["missing"])},
        )

    def whole_parts(self) -> dict[int, Tally]:
        """Take the batch up again: remove what a killed writer left half done, and count the parts that are whole."""
        with storage_errors(self.folder):
            (self.folder / MANIFEST).unlink(missing_ok=True)
            remove_leftovers(self.folder)
        return {number: tally for number in self.numbers if (tally := self._whole(number)) is not None}

    def write(self, number: int, content: bytes) -> None:
        """Write one part.

        Raises:
            StorageError: the disk is full or read-only.
        """
        with atomic_write(self._path(number)) as temporary:
            temporary.write_bytes(content)

    def discard(self) -> None:
        """Remove every part."""
        with storage_errors(self.folder):
            if (self.folder / PREDICTIONS).exists():
                shutil.rmtree(self.folder / PREDICTIONS)

    def publish(self, facts: Mapping[str, Any], tally: Tally) -> None:
        """Write the manifest: from now on the batch is finished.

        Raises:
            StorageError: the disk is full or read-only.
        """
        parts = [
            {
                "path": self._path(number).relative_to(self.folder).as_posix(),
                "sha256": sha256_file(self._path(number)),
                "rows": rows,
            }
            for number, rows in self._rows.items()
        ]
        counts = {
            "rows": tally.rows,
            "refused": tally.refused,
            "incomplete": tally.incomplete,
            "actions": dict(tally.actions),
            "missing": dict(tally.missing),
        }
        with atomic_write(self.folder / MANIFEST) as temporary:
            temporary.write_text(canonical_json({**facts, "counts": counts, "parts": parts}), encoding="utf-8")

    def _path(self, number: int) -> Path:
        return self.folder / PREDICTIONS / f"part-{number:05d}.parquet"

    def _whole(self, number: int) -> Tally | None:
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                part = file.read()
        except (pa.ArrowInvalid, OSError):
            # Damaged since it was written: scored again, and so mended.
            return None
        return tally_of(part) if part.schema == self._schema and part.num_rows == self._rows[number] else None


def _counts(values: pa.ChunkedArray) -> Counter[str]:
    found = values.value_counts()
    names, counts = found.field("values").to_pylist(), np.asarray(found.field("counts")).tolist()
    return Counter(dict(zip(names, counts, strict=True)))
