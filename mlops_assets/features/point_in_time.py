"""The point-in-time join: for every decision the newest feature row that was valid then. No file, no Feast."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_assets.features.daily import encode
from mlops_assets.features.views import CREATED_TIMESTAMP, EVENT_TIMESTAMP, ViewSpec

NO_ROW = -1


def point_in_time_rows(
    view: ViewSpec, rows: pa.Table, keys: pa.ChunkedArray, times: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find, for each of N decisions, the row of `rows` that the view shows at that time.

    That is the row of the same key with the newest event time not after the decision and not older than the view's time
    to live (an age equal to it still counts); of rows with the same key and event time, the one created last.

    It is what Feast's `get_historical_features` returns on DuckDB, and a test holds the two equal. Feast joins all rows
    of a key before it filters: measured with Feast 0.67 on 2 cores, 1,000,000 decisions against both views took 190 s
    and 20.5 GB with 50 to 4,000 rows a key, 7.6 s and 2.7 GB with one row per key and day. A search in sorted rows
    depends on no such shape.

    Args:
        view: the view.
        rows: its offline rows, in `view.schema`, in any order.
        keys: the decisions' keys (N,).
        times: the decisions' times (N,), microseconds since 1970 in UTC.

    Returns:
        Row numbers in `rows` (N,), `NO_ROW` where nothing was valid.
    """
    if rows.num_rows == 0 or len(times) == 0:
        return np.full(len(times), NO_ROW, dtype=np.int64)
    known_keys = pc.unique(rows[view.key])
    row_keys = _codes(rows[view.key], known_keys)
    decision_keys = _codes(keys, known_keys)
    row_times = microseconds(rows[EVENT_TIMESTAMP])
    # Ranks instead of times keep key and time together in one exact 64-bit integer, whatever the span of the history.
    distinct_times = np.unique(row_times)
    row_ranks = np.searchsorted(distinct_times, row_times)
    decision_ranks = np.searchsorted(distinct_times, times, side="right") - 1
    span = len(distinct_times) + 1
    order = np.lexsort((microseconds(rows[CREATED_TIMESTAMP]), row_ranks, row_keys))
    sorted_positions = (row_keys * span + row_ranks)[order]
    found = np.searchsorted(sorted_positions, decision_keys * span + decision_ranks, side="right") - 1
    candidate = order[np.maximum(found, 0)]
    age = times - row_times[candidate]
    valid = (
        (decision_keys >= 0)
        & (found >= 0)
        & (row_keys[candidate] == decision_keys)
        & (age >= 0)
        & (age <= view.ttl // timedelta(microseconds=1))
    )
    return np.where(valid, candidate, NO_ROW)


def take_rows(view: ViewSpec, rows: pa.Table, positions: NDArray[np.int64]) -> pa.Table:
    """Gather the view's features and event time at `positions`, null at `NO_ROW`, under their full names."""
    indices = pa.array(positions, mask=positions == NO_ROW)
    columns = {view.timestamp_column: rows[EVENT_TIMESTAMP].combine_chunks().take(indices)}
    for feature in view.features:
        columns[view.column(feature.name)] = rows[feature.name].combine_chunks().take(indices)
    return pa.table(columns)


def newest_rows(view: ViewSpec, rows: pa.Table) -> pa.Table:
    """Keep each key's newest row; of rows with the same event time, the one created last."""
    keys, _ = encode(rows[view.key])
    order = np.lexsort((microseconds(rows[CREATED_TIMESTAMP]), microseconds(rows[EVENT_TIMESTAMP]), keys))
    last: NDArray[np.bool_] = np.append(np.diff(keys[order]) != 0, len(order) > 0)[: len(order)]
    return rows.take(pa.array(order[last]))


def microseconds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Timestamps as microseconds since 1970 in UTC."""
    return np.asarray(column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy(), dtype=np.int64)


def _codes(keys: pa.ChunkedArray, known: pa.Array) -> NDArray[np.int64]:
    found = pc.fill_null(pc.index_in(keys, value_set=known), NO_ROW)
    return np.asarray(found.to_numpy(), dtype=np.int64)
