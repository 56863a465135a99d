"""The statistics of one column against its frozen reference: how far, and how sure. Pure; one column at a time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_assets.monitoring import divergence
from mlops_assets.monitoring.column_values import Kind, SortedNumbers, sort_numbers
from mlops_assets.monitoring.design_effect import INDEPENDENT, Dependence
from mlops_assets.monitoring.reference_columns import (
    CategoricalReference,
    ColumnReference,
    NumericReference,
    magnitude,
)
from mlops_assets.monitoring.units import unit_factor

# New categories that are kept by name; a column of ids has as many as rows.
_MOST_UNSEEN = 20


@dataclass(frozen=True)
class ColumnStatistics:
    """One column of `rows` rows, worth `effective_rows` independent ones, against `reference_effective_rows`.

    `psi` as measured, `psi_bias` of it where nothing changed, and its standard error. `cramers_v` is of the cells,
    `chi_square` of the table of independent rows with small cells pooled, `jensen_shannon` a distance 0..1, `new_cells_p`
    of rows where the reference has none; `p_value` is that of all tests of the column together.

    Of numbers only: `ks` (D) with its p-value and `ks_error`, `wasserstein_sigmas` with its error, and `mean`, `sigma`,
    `scale` as the reference has them; None: nothing is there to compare. `rescaled_ks`: D in the unit that the numbers seem to
    be in (`units.py`), where that is another: near 0 if it is. Of categories only: `unseen`, rows of the
    commonest that the reference has not, and how many such categories and rows there are in all.
    """

    name: str
    kind: Kind
    rows: int
    missing_rate: float
    effective_rows: float
    reference_effective_rows: float
    psi: float
    psi_bias: float
    psi_error: float
    cramers_v: float
    jensen_shannon: float
    chi_square: float
    chi_square_p: float
    new_cells_p: float
    p_value: float
    reference_shares: tuple[float, ...]
    shares: tuple[float, ...]
    ks: float | None = None
    ks_p: float | None = None
    ks_error: float | None = None
    wasserstein_sigmas: float | None = None
    wasserstein_error: float | None = None
    mean: float | None = None
    sigma: float | None = None
    scale: float | None = None
    rescaled_ks: float | None = None
    unseen: Mapping[str, int] | None = None
    unseen_categories: int = 0
    unseen_rows: int = 0


def column_statistics(
    name: str,
    reference: ColumnReference,
    values: NDArray[Any],
    *,
    dependence: Dependence = INDEPENDENT,
    effective_rows: float | None = None,
) -> ColumnStatistics:
    """Compare a column (rows,) with its reference.

    Args:
        name: of the column.
        reference: the frozen column, of the same kind.
        values: at least one row.
        dependence: of rows on each other; without draws they depend no less than the reference's do.
        effective_rows: independent rows that they are worth at most.
    """
    rows = len(values)
    # Draws are known exactly; what else depends, as days do, shows in the reference alone.
    effect = reference.design_effect if dependence.draws is None else 1.0
    if dependence is not INDEPENDENT:
        effect = max(effect, dependence.effect(reference.cells(values), len(reference.shares)))
    effective = max(1.0, min(rows / effect, rows if effective_rows is None else effective_rows))
    if isinstance(reference, NumericReference):
        return _numbers(name, reference, sort_numbers(values, reference.edges.dtype), effective)
    counts, unseen = reference.counts(values)
    commonest = sorted(unseen, key=lambda category: (-unseen[category], category))[:_MOST_UNSEEN]
    more = {
        "unseen": {category: unseen[category] for category in commonest},
        "unseen_categories": len(unseen),
        "unseen_rows": sum(unseen.values()),
    }
    return _of_cells(name, reference, counts, effective, more)


def _numbers(name: str, reference: NumericReference, numbers: SortedNumbers, effective: float) -> ColumnStatistics:
    counts = numbers.counts(reference.edges)
    if not len(reference.sample) or not len(numbers.values):
        return _of_cells(name, reference, counts, effective, {})
    n = max(1.0, reference.present_rows / reference.design_effect)
    m = max(1.0, effective * len(numbers.values) / numbers.rows)
    distance, variance = divergence.kolmogorov_smirnov(reference.sample, numbers.values)
    mean, sigma = numbers.moments()
    more: dict[str, Any] = {
        "ks": distance,
        "ks_p": divergence.kolmogorov_p(distance, n, m),
        "ks_error": math.sqrt(variance * (1 / n + 1 / m)),
        "mean": mean,
        "sigma": sigma,
        "scale": magnitude(numbers.sample()),
    }
    factor = unit_factor(more["scale"] / reference.scale) if reference.scale > 0 else None
    if factor is not None:
        more["rescaled_ks"] = divergence.kolmogorov_smirnov(reference.sample, numbers.values / factor)[0]
    if reference.sigma > 0:
        more["wasserstein_sigmas"] = divergence.wasserstein(reference.sample, numbers.values) / reference.sigma
        more["wasserstein_error"] = math.sqrt(1 / n + (sigma / reference.sigma) ** 2 / m)
    return _of_cells(name, reference, counts, effective, {key: _known(value) for key, value in more.items()})


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _of_cells(
    name: str,
    reference: NumericReference | CategoricalReference,
    counts: NDArray[np.int64],
    effective: float,
    more: dict[str, Any],
) -> ColumnStatistics:
    rows = int(counts.sum())
    p, q = reference.shares, counts / rows
    n = max(1.0, reference.rows / reference.design_effect)
    statistic, chi_p = divergence.chi_square(divergence.pooled_table(p, q, n, effective))
    new_p = divergence.new_cells_p(p, q, n, effective)
    tests = [chi_p, new_p, *([more["ks_p"]] if more.get("ks_p") is not None else [])]
    return ColumnStatistics(
        name=name,
        kind=reference.kind,
        rows=rows,
        missing_rate=float(q[-1]),
        effective_rows=effective,
        reference_effective_rows=n,
        psi=divergence.psi(p, q),
        psi_bias=divergence.psi_bias(p, q, n, effective),
        psi_error=divergence.psi_error(p, q, n, effective),
        cramers_v=divergence.cramers_v(p, q),
        jensen_shannon=divergence.jensen_shannon(p, q),
        chi_square=statistic,
        chi_square_p=chi_p,
        new_cells_p=new_p,
        # Several tests of one column: Bonferroni.
        p_value=min(1.0, len(tests) * min(tests)),
        reference_shares=tuple(p.tolist()),
        shares=tuple(q.tolist()),
        **more,
    )
