"""Uncertainty: cluster bootstrap, Wilson interval, McNemar's test, sample size. No metric is defined here.

Decisions of one episode depend on each other, so whole episodes are resampled (cluster bootstrap, Field & Welsh 2007).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError

# Resampled weights are held a block at a time: 8 bytes x this many entries.
_BLOCK_ENTRIES = 4_000_000

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Interval:
    """A point estimate with its two-sided interval; `low` and `high` are None when the data allow no interval."""

    estimate: float
    low: float | None
    high: float | None
    confidence: float


def wilson(successes: int, trials: int, confidence: float) -> Interval:
    """Score interval of a proportion (Wilson 1927); honest at 0 and 1, unlike the normal one.

    Raises:
        InputError: no trials, or successes outside 0..trials.
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise InputError(f"{successes} successes of {trials} trials give no proportion")
    z = normal_quantile(0.5 + confidence / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Interval(share, low, high, confidence)


def cluster_sums(values: NDArray[np.float64] | NDArray[np.bool_], clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum per-decision values (N,) or (N, K) by cluster number (N,), 0..C-1, into (C, K)."""
    columns = np.asarray(values, dtype=np.float64).reshape(len(clusters), -1)
    count = int(clusters.max()) + 1 if len(clusters) else 0
    return np.stack([np.bincount(clusters, weights=column, minlength=count) for column in columns.T], axis=1)


def cluster_numbers(names: NDArray[np.str_] | NDArray[np.object_]) -> NDArray[np.int64]:
    """Number cluster names 0..C-1, in sorted order of the names."""
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Statistic "mean per decision": column 0 over column 1 of the summed contributions; NaN where column 1 is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


def cluster_bootstrap(
    contributions: NDArray[np.float64],
    statistic: Statistic,
    *,
    samples: int,
    confidence: float,
    seed: int,
    method: Literal["bca", "percentile"] = "bca",
) -> Interval:
    """Bootstrap a statistic of summed contributions by resampling whole clusters.

    Any metric that is a function of sums over decisions (a rate, a ratio of means, a macro F1 from confusion counts)
    fits.

    Args:
        contributions: (C, K), the sums of each cluster.
        statistic: maps summed contributions (..., K) to values (...); NaN where it is undefined.
        samples: bootstrap resamples.
        confidence: two-sided coverage, such as 0.95.
        seed: of the resampling.
        method: BCa (Efron 1987: corrected for bias and skewness) or the plain percentile interval.

    Returns:
        The estimate on all data; without an interval when there are fewer than two clusters, or when the statistic is
        undefined in some resample.

    Raises:
        InputError: no clusters.
    """
    count = len(contributions)
    if count == 0:
        raise InputError("no clusters to resample: there is not one episode to evaluate")
    total = contributions.sum(axis=0)
    estimate = float(statistic(total))
    if count == 1:
        return Interval(estimate, None, None, confidence)
    replicates = _replicates(contributions, statistic, samples, seed)
    if not np.isfinite(replicates).all() or not math.isfinite(estimate):
        return Interval(estimate, None, None, confidence)
    tail = (1 - confidence) / 2
    levels = np.array([tail, 1 - tail])
    if method == "bca":
        levels = _bca_levels(levels, replicates, estimate, statistic(total - contributions))
    low, high = np.quantile(replicates, levels)
    return Interval(estimate, float(low), float(high), confidence)


def _replicates(
    contributions: NDArray[np.float64], statistic: Statistic, samples: int, seed: int
) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    count = len(contributions)
    block = max(1, _BLOCK_ENTRIES // count)
    parts = []
    for start in range(0, samples, block):
        size = min(block, samples - start)
        drawn = random.integers(0, count, size=(size, count))
        offsets = np.arange(size)[:, None] * count
        weights = np.bincount((drawn + offsets).ravel(), minlength=size * count).reshape(size, count)
        parts.append(statistic(weights.astype(np.float64) @ contributions))
    return np.concatenate(parts)


def _bca_levels(
    levels: NDArray[np.float64], replicates: NDArray[np.float64], estimate: float, jackknife: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shift the percentile levels by bias z0 and acceleration a (Efron & Tibshirani 1993, eq. 14.10-14.15)."""
    from scipy.special import ndtr, ndtri

    # Ties count half: a statistic on few decisions takes few values, and "below" alone would be biased.
    below = (np.sum(replicates < estimate) + 0.5 * np.sum(replicates == estimate)) / len(replicates)
    if not 0 < below < 1 or not np.isfinite(jackknife).all():
        return levels
    bias = ndtri(below)
    deviations = jackknife.mean() - jackknife
    spread = float(np.sum(deviations**2))
    acceleration = float(np.sum(deviations**3)) / (6 * spread**1.5) if spread > 0 else 0.0
    shifted = bias + ndtri(levels)
    return np.asarray(ndtr(bias + shifted / (1 - acceleration * shifted)))


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided exact p-value that two policies are right equally often, from the decisions where only one is right.

    McNemar 1947 with the exact binomial distribution; 1.0 when they never differ. It takes decisions as independent,
    so it stands beside the cluster bootstrap and does not decide.
    """
    from scipy.stats import binomtest

    differing = first_only + second_only
    return 1.0 if differing == 0 else float(binomtest(first_only, differing, 0.5).pvalue)


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(probability))


def proportion_sample_size(control: float, treatment: float, *, confidence: float, power: float) -> int:
    """Users per group that a two-sided test needs to tell two success rates apart.

    n = 2 ((z_alpha/2 + z_beta) / h)^2 with Cohen's h = 2 asin(sqrt(p2)) - 2 asin(sqrt(p1)); the 2 is for two groups.

    Raises:
        InputError: a rate outside 0..1, or equal rates.
    """
    if not (0 <= control <= 1 and 0 <= treatment <= 1):
        raise InputError(f"success rates {control} and {treatment} must lie within 0..1")
    effect = 2 * math.asin(math.sqrt(treatment)) - 2 * math.asin(math.sqrt(control))
    if effect == 0:
        raise InputError(f"the rates are equal ({control}): no sample is large enough to tell them apart")
    z = normal_quantile(0.5 + confidence / 2) + normal_quantile(power)
    return math.ceil(2 * (z / effect) ** 2)
