"""How many independent rows some dependent ones are worth."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError

# With fewer clusters their variance says nothing: each then counts as one row.
_FEWEST_CLUSTERS = 5


def design_effect(cells: NDArray[np.intp], clusters: NDArray[np.int64], cell_count: int) -> float:
    """Variance of the shares of cells, over what it would be if rows were independent; at least 1.

    Rows of one cluster (an episode, a user, a day) depend on each other. The largest of Rao & Scott's (1981) generalised
    design effects: the largest ratio over every combination of cells, so that whatever statistic of the cells is tested,
    `rows / design_effect` independent rows are a safe reading.

    Args:
        cells: (N,), the cell of each row, 0..cell_count-1.
        clusters: (N,), the cluster of each row, 0..C-1.
        cell_count: number of cells K.
    """
    rows = len(cells)
    count = int(clusters.max()) + 1 if rows else 0
    if rows in {0, count}:
        return 1.0
    if count < _FEWEST_CLUSTERS:
        return rows / count
    table = np.bincount(clusters * cell_count + cells, minlength=count * cell_count).reshape(count, cell_count)
    sizes, totals = table.sum(axis=1), table.sum(axis=0)
    used = totals > 0
    if used.sum() < 2:  # noqa: PLR2004 - one cell has no variance
        return 1.0
    shares = totals[used] / rows
    residuals = (table[:, used] - sizes[:, None] * shares) / np.sqrt(shares)
    covariance = residuals.T @ residuals * (count / (count - 1) / rows)
    return max(1.0, float(np.linalg.eigvalsh(covariance)[-1]))


@dataclass(frozen=True)
class Dependence:
    """By what rows (N,) depend on each other, numbered 0..C-1: clusters, such as users, and draws that they share.

    All rows of a draw have the same value, such as an agent's feature of a day (`shared_values.py`).
    """

    clusters: NDArray[np.int64] | None = None
    draws: NDArray[np.int64] | None = None

    def effect(self, cells: NDArray[np.intp], cell_count: int) -> float:
        """Return rows per independent row, at least 1: there are no more independent rows than draws, whatever cells show.

        Where all rows are in one cell, cells show nothing.
        """
        known = [one for one in (self.clusters, self.draws) if one is not None]
        effects = [design_effect(cells, one, cell_count) for one in known]
        if self.draws is not None and len(self.draws):
            effects.append(len(self.draws) / (int(self.draws.max()) + 1))
        return max(effects, default=1.0)


INDEPENDENT = Dependence()


def cluster_codes(names: NDArray[np.generic], rows: int) -> NDArray[np.int64]:
    """Number the clusters of `rows` rows 0..C-1.

    Raises:
        InputError: not one cluster for each row.
    """
    if names.shape != (rows,):
        raise InputError(f"clusters have shape {names.shape}, but there are {rows} rows; give one cluster for each row")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
