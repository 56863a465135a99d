"""What a version's traffic is compared with: frozen columns as bytes that are the same wherever they are made."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import DriftPolicy
from mlops_assets.monitoring.column_values import kind_of
from mlops_assets.monitoring.design_effect import Dependence, cluster_codes
from mlops_assets.monitoring.reference_columns import (
    CategoricalReference,
    ColumnReference,
    NumericReference,
    freeze_categories,
    freeze_numbers,
)

_MAGIC = b"drift-reference-1\n"
_ARRAYS = ("edges", "shares", "sample")
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Reference:
    """The frozen columns of `rows` decisions, by name in sorted order."""

    rows: int
    columns: Mapping[str, ColumnReference]

    @classmethod
    def freeze(
        cls,
        columns: Mapping[str, NDArray[Any]],
        policy: DriftPolicy,
        *,
        clusters: NDArray[Any] | None = None,
        shared: Mapping[str, NDArray[np.int64]] = MappingProxyType({}),
        categorical: Collection[str] = (),
    ) -> "Reference":
        """Keep what later checks need of some columns of shape (rows,); one column is held at a time.

        Args:
            columns: numbers, texts or booleans; NaN and None are missing.
            policy: bins and categories.
            clusters: for each row what it depends on with others (an episode, a user; a day, where days differ).
            shared: of columns whose values many rows share, the number of each row's draw (`shared_draws`).
            categorical: names of numeric columns whose numbers are names, such as actions.

        Raises:
            InputError: no columns or no rows, columns of different length, of no known kind, or `categorical` has a name
                that is no column.
        """
        rows = column_rows(columns)
        if unknown := sorted(set(categorical) - set(columns)):
            raise InputError(f"categorical names {unknown}, which are no columns; there are {sorted(columns)}")
        codes = None if clusters is None else cluster_codes(clusters, rows)
        frozen: dict[str, ColumnReference] = {}
        for name in sorted(columns):
            values = columns[name]
            kind = kind_of(name, values)
            dependence = Dependence(codes, shared.get(name))
            if kind == "number" and name not in categorical:
                frozen[name] = freeze_numbers(values, policy, dependence)
            else:
                frozen[name] = freeze_categories(values, kind, policy, dependence)
        return cls(rows, frozen)

    def to_bytes(self) -> bytes:
        """Serialise: a line that names the format, the length of a JSON header, the header, little-endian arrays."""
        described, arrays = [], []
        for name, column in self.columns.items():
            entry: dict[str, Any] = {"name": name, "numeric": isinstance(column, NumericReference)}
            for field, value in vars(column).items():
                if field in _ARRAYS:
                    array = value.astype(value.dtype.newbyteorder("<"))
                    entry[field] = [array.dtype.str, len(array)]
                    arrays.append(array.tobytes())
                else:
                    entry[field] = value
            described.append(entry)
        header = json.dumps({"rows": self.rows, "columns": described}, sort_keys=True).encode()
        return b"".join([_MAGIC, len(header).to_bytes(_LENGTH_BYTES, "little"), header, *arrays])

    @classmethod
    def from_bytes(cls, data: bytes) -> "Reference":
        """Read what `to_bytes` wrote.

        Raises:
            InputError: it did not, or a part of it is lost.
        """
        if not data.startswith(_MAGIC):
            raise InputError(f"these {len(data)} bytes are no drift reference: they start with {data[:20]!r}")
        start = len(_MAGIC) + _LENGTH_BYTES
        length = int.from_bytes(data[len(_MAGIC) : start], "little")
        try:
            header = json.loads(data[start : start + length])
            position, columns = start + length, {}
            for entry in header["columns"]:
                name = entry.pop("name")
                columns[name], position = _read_column(entry, data, position)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"the drift reference of {len(data)} bytes is damaged: {error}; freeze it again"
            ) from error
        if position != len(data):
            raise InputError(f"the drift reference has {len(data)} bytes, expected {position}; freeze it again")
        return cls(header["rows"], columns)

    @property
    def content_hash(self) -> str:
        """SHA-256 of the bytes, in hexadecimal digits."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def column_rows(columns: Mapping[str, NDArray[Any]]) -> int:
    """Return the number of rows that all columns have.

    Raises:
        InputError: no columns, no rows, or columns of different length.
    """
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"columns have to be there and of one length, got rows by column: {lengths}")
    rows = next(iter(lengths.values()))
    if rows == 0:
        raise InputError(f"columns {sorted(columns)} have no rows; there is nothing to compare")
    return rows


def _read_column(entry: dict[str, Any], data: bytes, position: int) -> tuple[ColumnReference, int]:
    fields: dict[str, Any] = {}
    numeric = entry.pop("numeric")
    # In the order in which they were written: that of the class's fields.
    for field in ("edges", "shares", "sample") if numeric else ("shares",):
        dtype, count = entry.pop(field)
        array = np.frombuffer(data, dtype=np.dtype(dtype), count=count, offset=position)
        fields[field], position = array.astype(array.dtype.newbyteorder("=")), position + array.nbytes
    if numeric:
        return NumericReference(**entry, **fields), position
    for field in ("categories", "others"):
        entry[field] = tuple(entry[field])
    return CategoricalReference(**entry, **fields), position
