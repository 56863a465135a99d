"""How far two distributions are apart: statistics of shares and of sorted samples, with their sampling errors. Pure.

`p` are the reference's shares, `q` the current ones; `n` and `m` the independent rows behind them.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
# Smallest share: the logarithm of an empty cell is not finite.
_LEAST_SHARE = 1e-4
# Cells with fewer expected rows are pooled: Cochran's rule for chi-square.
_LEAST_EXPECTED = 5.0


def clipped(shares: Float) -> Float:
    """Raise shares to at least 0.0001, and make them sum to 1 again."""
    raised = np.maximum(shares, _LEAST_SHARE)
    return raised / raised.sum()


def psi(p: Float, q: Float) -> float:
    """Population stability index: sum of (q - p) ln(q / p) over cells (K,) that are used on either side."""
    used = (p > 0) | (q > 0)
    p, q = clipped(p[used]), clipped(q[used])
    return float(np.sum((q - p) * np.log(q / p)))


def psi_bias(p: Float, q: Float, n: float, m: float) -> float:
    """What the index is on average where nothing changed: (K - 1)(1/n + 1/m), K cells in use (Yurdakul 2018)."""
    return max(0, int(np.count_nonzero((p > 0) | (q > 0))) - 1) * (1 / n + 1 / m)


def psi_error(p: Float, q: Float, n: float, m: float) -> float:
    """Standard error of the index by the delta method; an empty cell counts as one row."""
    used = (p > 0) | (q > 0)
    p, q = np.maximum(p[used], 1 / n), np.maximum(q[used], 1 / m)
    by_q, by_p = np.log(q / p) + 1 - p / q, np.log(p / q) + 1 - q / p
    return math.sqrt(_variance(by_q, q) / m + _variance(by_p, p) / n)


def _variance(values: Float, shares: Float) -> float:
    weights = shares / shares.sum()
    return float(np.sum(weights * values**2) - np.sum(weights * values) ** 2)


def jensen_shannon(p: Float, q: Float) -> float:
    """Jensen-Shannon distance, the root of the divergence in bits: 0 (equal) .. 1 (nothing in common)."""
    middle = (p + q) / 2
    divergence = 0.0
    for side in (p, q):
        there = side > 0
        divergence += float(np.sum(side[there] * np.log2(side[there] / middle[there]))) / 2
    return math.sqrt(max(0.0, divergence))


def pooled_table(p: Float, q: Float, n: float, m: float) -> Float:
    """Counts (2, K') of both sides: unused cells dropped, cells with fewer than 5 expected rows pooled into the last."""
    table = np.stack([p * n, q * m])
    table = table[:, table.sum(axis=0) > 0]
    expected = table.sum(axis=0) * (min(n, m) / (n + m))
    small = expected < _LEAST_EXPECTED
    if small.sum() < 1:
        return table
    rest = table[:, small].sum(axis=1, keepdims=True)
    table = np.concatenate([table[:, ~small], rest], axis=1)
    if rest.sum() * (min(n, m) / (n + m)) < _LEAST_EXPECTED and table.shape[1] > 2:  # noqa: PLR2004
        # Still too few together: they join the smallest of the others.
        smallest = int(np.argmin(table[:, :-1].sum(axis=0)))
        table[:, smallest] += table[:, -1]
        table = table[:, :-1]
    return table


def chi_square(table: Float) -> tuple[float, float]:
    """Chi-square statistic of a table (2, K) and its p-value with K - 1 degrees of freedom, without correction."""
    from scipy.special import chdtrc

    freedom = table.shape[1] - 1
    if freedom < 1:
        return 0.0, 1.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    statistic = float(np.sum((table - expected) ** 2 / expected))
    return statistic, float(chdtrc(freedom, statistic))


def new_cells_p(p: Float, q: Float, n: float, m: float) -> float:
    """Chance that all rows of the cells that the reference has not fell on the current side: (m / (n + m)) ** rows.

    Chi-square pools such cells where the reference is much larger, and would not see them.
    """
    return float((m / (n + m)) ** (float(q[p == 0].sum()) * m))


def cramers_v(p: Float, q: Float) -> float:
    """Cramér's V of a table of two equal sides: it does not fall with the size of one side, as that of counts does."""
    used = (p + q) > 0
    p, q = p[used], q[used]
    return math.sqrt(float(np.sum((p - q) ** 2 / (p + q))) / 2)


def cramers_v_bound(p: Float, q: Float, n: float, m: float, z: float) -> float:
    """Lower bound of V: its bias taken off, and `z` standard errors of at most 1 / (2 sqrt(h)), h = n m / (n + m)."""
    half = n * m / (n + m)
    freedom = max(0, int(np.count_nonzero((p + q) > 0)) - 1)
    unbiased = math.sqrt(max(0.0, cramers_v(p, q) ** 2 - freedom / (4 * half)))
    return max(0.0, unbiased - z / (2 * math.sqrt(half)))


def kolmogorov_smirnov(sample: NDArray[np.floating[Any]], values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """D between two ascending arrays, and the variance of one row at its place: of F there, and G, each F(1 - F).

    Between two neighbours of `sample` its F is constant, so that D is found beside them.

    Returns:
        D, and the larger of both variances.
    """
    knots, first = np.unique(sample, return_index=True)
    after = np.append(first[1:], len(sample)) / len(sample)
    before = first / len(sample)
    other_after = np.searchsorted(values, knots, side="right") / len(values)
    other_before = np.searchsorted(values, knots, side="left") / len(values)
    gaps = np.concatenate([np.abs(after - other_after), np.abs(before - other_before)])
    place = int(np.argmax(gaps))
    ours, theirs = np.concatenate([after, before])[place], np.concatenate([other_after, other_before])[place]
    return float(gaps[place]), float(max(ours * (1 - ours), theirs * (1 - theirs)))


def kolmogorov_p(distance: float, n: float, m: float) -> float:
    """Asymptotic p-value of D (Smirnov 1948); conservative where values repeat."""
    from scipy.special import kolmogorov

    return float(kolmogorov(distance * math.sqrt(n * m / (n + m))))


def wasserstein(sample: NDArray[np.floating[Any]], values: NDArray[np.floating[Any]]) -> float:
    """First Wasserstein distance of two ascending arrays: the mean gap of their quantiles at 10,000 places."""
    places = (np.arange(max(len(sample), min(len(values), 10_000))) + 0.5) / max(len(sample), min(len(values), 10_000))
    ours = sample[(places * len(sample)).astype(np.intp)].astype(np.float64)
    theirs = values[(places * len(values)).astype(np.intp)].astype(np.float64)
    both = np.isfinite(ours) & np.isfinite(theirs)
    return float(np.mean(np.abs(ours[both] - theirs[both]))) if both.any() else float("nan")


def benjamini_hochberg(p_values: Float) -> Float:
    """Adjusted p-values in the given order (Benjamini & Hochberg 1995)."""
    count = len(p_values)
    order = np.argsort(p_values)
    scaled = p_values[order] * count / np.arange(1, count + 1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted
