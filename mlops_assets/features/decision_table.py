"""The decisions that training and evaluation read, as arrays, and their parquet file; `training_set.py` makes them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlops_assets.experiences.schema import TIMESTAMP
from mlops_assets.features.point_in_time import microseconds
from mlops_assets.foundation.errors import InputError

UNLABELLED = -1
_ROW_GROUP_ROWS = 128 * 1024
_TEXT_COLUMNS = ("experience_id", "episode_id", "ui_framework", "browser", "test_type")
_NUMBERS: Mapping[str, tuple[pa.DataType, type[np.generic]]] = {
    "action": (pa.int32(), np.int64),
    "reward": (pa.float32(), np.float32),
    "done": (pa.bool_(), np.bool_),
    "propensity": (pa.float32(), np.float32),
    "best_action": (pa.int32(), np.int64),
    "step": (pa.int32(), np.int64),
}


@dataclass(frozen=True)
class DecisionTable:
    """N decisions of whole episodes, each episode's steps in a row, episodes by the time of their first decision.

    `state`, `next_state` (N, D) and `action_values` (N, A) are float32; a done decision's next state is zeros.
    `best_action` is -1 and `action_values` are NaN where no label was known. `event_time` is datetime64[us] in UTC.
    """

    state: NDArray[np.float32]
    next_state: NDArray[np.float32]
    action: NDArray[np.int64]
    reward: NDArray[np.float32]
    done: NDArray[np.bool_]
    propensity: NDArray[np.float32]
    best_action: NDArray[np.int64]
    action_values: NDArray[np.float32]
    event_time: NDArray[np.datetime64]
    experience_id: NDArray[np.object_]
    episode_id: NDArray[np.object_]
    step: NDArray[np.int64]
    ui_framework: NDArray[np.object_]
    browser: NDArray[np.object_]
    test_type: NDArray[np.object_]

    def __len__(self) -> int:
        """Number of decisions."""
        return len(self.action)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "DecisionTable":
        """Return some of the decisions, by number, mask or slice."""
        return DecisionTable(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def following_states(state: NDArray[np.float32], done: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Next states (N, D) of decisions that lie in order of episode and step: the next row's state, zeros when done."""
    following = np.zeros_like(state)
    following[:-1] = state[1:]
    following[done] = 0.0
    return following


def write_decisions(path: Path, columns: pa.Table) -> None:
    """Write decisions in `decision_schema`; next states are left out, since they are the following rows' states."""
    pq.write_table(
        columns,
        path,
        compression="zstd",
        compression_level=1,
        # Floats hardly ever repeat: their dictionary would be built, given up and paid for.
        use_dictionary=["episode_id", "ui_framework", "browser", "test_type"],
        row_group_size=_ROW_GROUP_ROWS,
    )


def decision_schema(width: int, actions: int) -> pa.Schema:
    """Schema of a decisions file: states of `width` numbers, values of `actions` actions."""
    return pa.schema(
        [
            pa.field("experience_id", pa.string(), nullable=False),
            pa.field("episode_id", pa.string(), nullable=False),
            pa.field("event_time", TIMESTAMP, nullable=False),
            pa.field("state", pa.list_(pa.float32(), width), nullable=False),
            pa.field("action_values", pa.list_(pa.float32(), actions), nullable=False),
            *(pa.field(name, kind, nullable=False) for name, (kind, _) in _NUMBERS.items()),
            *(pa.field(name, pa.string(), nullable=False) for name in ("ui_framework", "browser", "test_type")),
        ]
    )


def read_decisions(path: Path) -> DecisionTable:
    """Read what `write_decisions` wrote; all arrays are writable.

    Raises:
        InputError: the file is missing or not such a file.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{path} cannot be read ({error}); delete its folder and materialise training_set again"
        ) from error
    numbers: dict[str, Any] = {name: table[name].to_numpy().astype(kind) for name, (_, kind) in _NUMBERS.items()}
    texts: dict[str, Any] = {name: _texts(table[name]) for name in _TEXT_COLUMNS}
    state = matrix(table["state"])
    return DecisionTable(
        state=state,
        next_state=following_states(state, numbers["done"]),
        action_values=matrix(table["action_values"]),
        event_time=microseconds(table["event_time"]).astype("datetime64[us]"),
        **numbers,
        **texts,
    )


def matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Fixed-size lists as a writable (N, width) float32 array."""
    rows = np.empty((len(column), column.type.list_size), dtype=np.float32)
    begin = 0
    for chunk in column.chunks:
        rows[begin : begin + len(chunk)] = (
            chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), rows.shape[1])
        )
        begin += len(chunk)
    return rows


def fixed_lists(rows: NDArray[np.float32]) -> pa.Array:
    """The inverse of `matrix`."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).reshape(-1)), rows.shape[1])


def _texts(column: pa.ChunkedArray) -> NDArray[np.object_]:
    """Texts as objects; equal texts share one object where they repeat."""
    encoded = column.combine_chunks().dictionary_encode()
    names = np.asarray(encoded.dictionary.to_numpy(zero_copy_only=False), dtype=object)
    return names[encoded.indices.to_numpy(zero_copy_only=False)]
