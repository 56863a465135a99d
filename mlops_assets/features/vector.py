"""The one state vector: `[context | requirement-text embedding | Feast features]` in the order of the agent catalogue.

Training, batch, stream and the server call this and nothing else: the order and the defaults for what is missing agree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlops_assets.foundation.agents import AgentSpec, FeatureField
from mlops_assets.foundation.errors import InputError

STATUS_VALUES: Mapping[str, float] = {"passed": 0.0, "skipped": 0.5, "failed": 1.0}


@dataclass(frozen=True)
class FeatureBlock:
    """Feature values (N, F) in catalogue order, and where the default stands for a missing or expired value."""

    values: NDArray[np.float32]
    missing: NDArray[np.bool_]


@dataclass(frozen=True)
class StateVectors:
    """State vectors (N, D), D = len(spec.state_fields), and the missing flags of their Feast features (N, F)."""

    values: NDArray[np.float32]
    missing: NDArray[np.bool_]


def feature_arrays(table: pa.Table, spec: AgentSpec) -> dict[str, NDArray[Any]]:
    """Take the agent's feature columns out of a joined table: numbers with NaN for null, texts as objects with None.

    Raises:
        InputError: the table lacks one of them.
    """
    return {name: _to_numpy(_column(table, name), name) for name in map(column_name, spec.features)}


def column_name(field: FeatureField) -> str:
    """Name of a feature field in a joined table and in the state vector."""
    return f"{field.view}__{field.name}"


def feature_block(spec: AgentSpec, features: Mapping[str, NDArray[Any]], rows: int) -> FeatureBlock:
    """Order the features of `rows` decisions as declared; a missing value becomes its default, and is flagged.

    Args:
        spec: the agent.
        features: per `"view__name"` an array (N,): numbers with NaN, or run statuses with None, where missing.
        rows: N.

    Raises:
        InputError: a feature is absent or has another length.
    """
    values = np.empty((rows, len(spec.features)), dtype=np.float32)
    for position, field in enumerate(spec.features):
        name = column_name(field)
        if name not in features:
            raise InputError(
                f"{spec.name}: feature {name} is absent; expected {', '.join(map(column_name, spec.features))}"
            )
        array = features[name]
        if array.shape != (rows,):
            raise InputError(f"{spec.name}: feature {name} has shape {array.shape}, expected ({rows},)")
        values[:, position] = _numbers(array)
    missing = ~np.isfinite(values)
    defaults = np.array([field.default for field in spec.features], dtype=np.float32)
    return FeatureBlock(values=np.where(missing, defaults, values), missing=missing)


def state_vector(
    spec: AgentSpec,
    context: NDArray[np.float32],
    text: NDArray[np.float32],
    features: Mapping[str, NDArray[Any]],
) -> StateVectors:
    """Build the state vectors of N decisions.

    Args:
        spec: the agent.
        context: logged decision context (N, C); NaN takes the field's default.
        text: embedding of the requirement's text (N, T); T may be 0.
        features: as `feature_block` takes them.

    Raises:
        InputError: a shape is not what the catalogue says.
    """
    rows = len(context)
    _check_shape(spec, "context", context, (rows, len(spec.context)))
    _check_shape(spec, "text embedding", text, (rows, spec.text_dimensions))
    block = feature_block(spec, features, rows)
    defaults = np.array([field.default for field in spec.context], dtype=np.float32)
    values = np.empty((rows, len(spec.state_fields)), dtype=np.float32)
    width = len(spec.context)
    values[:, :width] = np.where(np.isnan(context), defaults, context)
    values[:, width : width + spec.text_dimensions] = text
    values[:, width + spec.text_dimensions :] = block.values
    return StateVectors(values=values, missing=block.missing)


def replace_context(spec: AgentSpec, states: NDArray[np.float32], context: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the states (N, D) with another context (N, C), as after actions other than the logged ones.

    Raises:
        InputError: a shape is not what the catalogue says.
    """
    _check_shape(spec, "state", states, (len(context), len(spec.state_fields)))
    _check_shape(spec, "context", context, (len(context), len(spec.context)))
    replaced = states.astype(np.float32, copy=True)
    replaced[:, : len(spec.context)] = context
    return replaced


def _check_shape(spec: AgentSpec, what: str, array: NDArray[np.float32], expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise InputError(f"{spec.name}: {what} has shape {array.shape}, expected {expected}")


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise InputError(f"feature {name} is not in the joined table; it has {', '.join(table.column_names)}")
    return table[name]


def _to_numpy(column: pa.ChunkedArray, name: str) -> NDArray[Any]:
    if pa.types.is_string(column.type):
        return np.asarray(column.to_numpy(), dtype=object)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
    raise InputError(f"feature {name} has the type {column.type}, expected a number or a run status")


def _numbers(array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype.kind not in "OU":
        return array.astype(np.float32)
    numbers = np.full(array.shape, np.nan, dtype=np.float32)
    for status, value in STATUS_VALUES.items():
        numbers[array == status] = value
    return numbers
