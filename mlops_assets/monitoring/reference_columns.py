"""What is kept of one column of the reference: cells with their shares, and a bounded sample of numbers."""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.policies import DriftPolicy
from mlops_assets.monitoring.column_values import (
    Kind,
    category_name,
    count_categories,
    is_missing,
    needed_dtype,
    sort_numbers,
)
from mlops_assets.monitoring.design_effect import INDEPENDENT, Dependence

# A column with more categories is open: names, ids. A new one is nothing new there.
_MOST_KNOWN = 1000


@dataclass(frozen=True)
class NumericReference:
    """A numeric column. Cell i < E holds what is at most `edges[i]`, cell E what is above all, cell E+1 the missing.

    `edges` (E,) and `sample` (at most 10,000, ascending) have the precision in which values are compared; `shares` (E+2,)
    sum to 1. `mean` and `sigma` are of the finite values, `scale` is the median magnitude of those that are not 0; NaN
    where there are none. `design_effect`: rows per independent row.
    """

    rows: int
    design_effect: float
    edges: NDArray[np.floating[Any]]
    shares: NDArray[np.float64]
    sample: NDArray[np.floating[Any]]
    mean: float
    sigma: float
    scale: float

    @property
    def kind(self) -> Kind:
        """Always a number."""
        return "number"

    @property
    def missing_rate(self) -> float:
        """Share of rows without a value."""
        return float(self.shares[-1])

    @property
    def present_rows(self) -> int:
        """Rows with a value."""
        return self.rows - round(self.missing_rate * self.rows)

    def cells(self, values: NDArray[np.generic]) -> NDArray[np.intp]:
        """Cell of each row (N,)."""
        numbers = values.astype(self.edges.dtype)
        cells = np.searchsorted(self.edges, numbers, side="left")
        cells[np.isnan(numbers)] = len(self.edges) + 1
        return cells


@dataclass(frozen=True)
class CategoricalReference:
    """A column of categories. Cells: each of `categories`, then other known ones, unseen ones, the missing.

    `categories` are the commonest, `others` the rest that are known, each in descending order of rows. `is_open`: there
    were too many to know them all, and an unseen one counts as one of the others.
    """

    rows: int
    design_effect: float
    kind: Kind
    categories: tuple[str, ...]
    others: tuple[str, ...]
    is_open: bool
    shares: NDArray[np.float64]

    @property
    def missing_rate(self) -> float:
        """Share of rows without a category."""
        return float(self.shares[-1])

    def cell_of(self) -> dict[str, int]:
        """Cell of each known category."""
        kept = len(self.categories)
        return {name: cell for cell, name in enumerate(self.categories)} | dict.fromkeys(self.others, kept)

    def unseen_cell(self) -> int:
        """Cell of a category that is not known."""
        return len(self.categories) + (0 if self.is_open else 1)

    def cells(self, values: NDArray[np.generic]) -> NDArray[np.intp]:
        """Cell of each row (N,)."""
        known, unseen, missing = self.cell_of(), self.unseen_cell(), len(self.categories) + 2
        # Objects of several kinds have no order.
        found, codes = np.unique(values.astype(str) if values.dtype.kind == "O" else values, return_inverse=True)
        cells = np.array([known.get(category_name(name), unseen) for name in found.tolist()], dtype=np.intp)[codes]
        if values.dtype.kind in "Of":
            cells[np.fromiter(map(is_missing, values.tolist()), dtype=bool, count=len(values))] = missing
        return cells

    def counts(self, values: NDArray[np.generic]) -> tuple[NDArray[np.int64], dict[str, int]]:
        """Rows of each cell, and rows of each category that is not known (none where the column is open)."""
        counted, missing = count_categories(values)
        known, unseen = self.cell_of(), self.unseen_cell()
        counts = np.zeros(len(self.categories) + 3, dtype=np.int64)
        for name, count in counted.items():
            counts[known.get(name, unseen)] += count
        counts[-1] = missing
        return counts, {} if self.is_open else {name: n for name, n in counted.items() if name not in known}


ColumnReference = NumericReference | CategoricalReference
_C = TypeVar("_C", NumericReference, CategoricalReference)


def freeze_numbers(values: NDArray[np.generic], policy: DriftPolicy, dependence: Dependence) -> NumericReference:
    """Keep what comparisons need of a numeric column."""
    dtype = needed_dtype(values)
    numbers = sort_numbers(values, dtype)
    edges = _edges(numbers.values, policy)
    mean, sigma = numbers.moments()
    column = NumericReference(
        rows=numbers.rows,
        design_effect=1.0,
        edges=edges,
        shares=numbers.counts(edges) / numbers.rows,
        sample=numbers.sample().copy(),
        mean=mean,
        sigma=sigma,
        scale=magnitude(numbers.sample()),
    )
    return _with_effect(column, values, dependence)


def freeze_categories(
    values: NDArray[np.generic], kind: Kind, policy: DriftPolicy, dependence: Dependence
) -> CategoricalReference:
    """Keep what comparisons need of a column of categories."""
    counted, missing = count_categories(values)
    ordered = sorted(counted, key=lambda name: (-counted[name], name))
    is_open = len(ordered) > _MOST_KNOWN
    categories = tuple(ordered[: policy.max_categories])
    others = () if is_open else tuple(ordered[policy.max_categories :])
    rest = len(values) - missing - sum(counted[name] for name in categories)
    counts = [*(counted[name] for name in categories), rest, 0, missing]
    shares = np.array(counts, dtype=np.float64) / len(values)
    column = CategoricalReference(len(values), 1.0, kind, categories, others, is_open, shares)
    return _with_effect(column, values, dependence)


def magnitude(sample: NDArray[np.floating[Any]]) -> float:
    """Median magnitude of the finite values that are not 0; NaN without any."""
    finite = np.abs(sample[np.isfinite(sample) & (sample != 0)])
    return float(np.median(finite)) if len(finite) else float("nan")


def _with_effect(column: _C, values: NDArray[np.generic], dependence: Dependence) -> _C:
    if dependence is INDEPENDENT:
        return column
    return replace(column, design_effect=dependence.effect(column.cells(values), len(column.shares)))


def _edges(values: NDArray[np.floating[Any]], policy: DriftPolicy) -> NDArray[np.floating[Any]]:
    """Inner edges, each once; a quantile with a bin's share of rows gets a bin of its own.

    Its lower edge is the next number below it, so that what falls under a constant or a heap of zeros is seen.
    """
    count, bins = len(values), policy.psi_bins
    finite = values[np.isfinite(values)]
    if not len(finite):
        return values[:0].copy()
    if policy.psi_binning == "equal_width" and finite[0] < finite[-1]:
        return np.unique(np.linspace(finite[0], finite[-1], bins + 1, dtype=values.dtype)[1:-1])
    inner = np.unique(values[np.ceil(np.arange(1, bins) * count / bins).astype(np.intp) - 1])
    share = np.searchsorted(values, inner, side="right") - np.searchsorted(values, inner, side="left")
    heaps = inner[share * bins >= count]
    return np.unique(np.concatenate([inner, np.nextafter(heaps, np.array(-np.inf, dtype=values.dtype))]))
