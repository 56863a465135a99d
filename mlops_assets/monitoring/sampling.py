"""Which rows a report is drawn from when there are too many: stratified, and the same ones on every machine."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def key_hashes(keys: Sequence[str] | NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash keys (N,) to 64 bits, the same in every process: SipHash with a fixed key (pandas)."""
    values = keys if isinstance(keys, np.ndarray) else np.array(keys, dtype=object)
    return np.asarray(pd.util.hash_array(values, categorize=False), dtype=np.uint64)


def stratified_rows(strata: NDArray[np.int64], hashes: NDArray[np.uint64], size: int) -> NDArray[np.int64]:
    """Choose `size` rows, of each stratum its share of all rows, by their hashes; the row numbers, ascending.

    Shares are rounded by largest remainder (Hamilton), so that exactly `size` rows are chosen; with no more rows than that,
    all are. Within a stratum, the rows with the smallest hashes: a row's hash does not change when others come.

    Args:
        strata: number of each row's stratum (N,).
        hashes: of each row (N,), see `key_hashes`.
        size: how many rows.
    """
    if len(strata) <= size:
        return np.arange(len(strata), dtype=np.int64)
    _, of, counts = np.unique(strata, return_inverse=True, return_counts=True)
    exact = counts * (size / len(strata))
    taken = np.floor(exact).astype(np.int64)
    largest = np.argsort(-(exact - taken), kind="stable")[: size - int(taken.sum())]
    taken[largest] += 1
    order = np.lexsort((hashes, of))
    position = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[position < np.repeat(taken, counts)])
