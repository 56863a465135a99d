"""Prediction drift: the combined score of a version's confidence. Pure."""

import math
from dataclasses import dataclass
from typing import Literal

from mlops_assets.foundation.policies import DriftPolicy
from mlops_assets.monitoring.drift_bands import Verdict, combined_limits
from mlops_assets.monitoring.drift_statistics import ColumnStatistics
from mlops_assets.monitoring.reference_columns import NumericReference

_STATISTICAL, _PERFORMANCE, _DISTRIBUTION = 0.4, 0.3, 0.3


@dataclass(frozen=True)
class CombinedScore:
    """0.4 statistical + 0.3 performance + 0.3 distribution, each 0..1; None while `status` is collecting.

    `statistical`: Kolmogorov-Smirnov's D of the confidence. `performance`: its fall, as a share of the reference's mean.
    `distribution`: half the shift of the mean in standard deviations, plus half the logarithm of the ratio of variances.
    """

    status: Literal["collecting", "active"]
    score: float | None
    statistical: float | None
    performance: float | None
    distribution: float | None
    verdict: Verdict


COLLECTING = CombinedScore("collecting", None, None, None, None, "insufficient_data")


def combined_score(
    reference: NumericReference, statistics: ColumnStatistics, policy: DriftPolicy, *, significant: bool
) -> CombinedScore:
    """Score the confidence column; a difference that is not significant has its score, and the verdict ok."""
    enough = min(reference.rows, statistics.rows) >= policy.min_rows
    if not enough or statistics.ks is None or statistics.mean is None or statistics.sigma is None:
        return COLLECTING
    performance = unit_share((reference.mean - statistics.mean) / reference.mean) if reference.mean > 0 else 0.0
    distribution = moment_shift(reference.mean, reference.sigma, statistics.mean, statistics.sigma)
    statistical = unit_share(statistics.ks)
    score = _STATISTICAL * statistical + _PERFORMANCE * performance + _DISTRIBUTION * distribution
    verdict = combined_limits(policy).band(score) if significant else "ok"
    return CombinedScore("active", score, statistical, performance, distribution, verdict)


def moment_shift(mean: float, sigma: float, other_mean: float, other_sigma: float) -> float:
    """min(1, 1/2 |difference of means| / sigma + 1/2 |ln of the ratio of variances|); 1 where only one is constant."""
    if sigma == 0 or other_sigma == 0:
        return 0.0 if (mean, sigma) == (other_mean, other_sigma) else 1.0
    shift = abs(other_mean - mean) / sigma
    spread = abs(2 * math.log(other_sigma / sigma))
    return unit_share(shift / 2 + spread / 2)


def unit_share(value: float) -> float:
    """Clip to 0..1."""
    return min(1.0, max(0.0, value))
