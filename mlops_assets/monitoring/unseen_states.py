"""Whether a state is unlike all that a reference holds: distance to the nearest of a few centres, and every field's range.

Linear in the number of states, whatever the reference's size. What a share of such states means is `health.py`'s.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mlops_assets.monitoring.linear_models import Float

_CENTRES, _ROUNDS = 64, 8
_FITTED_ROWS = 16_384
_BLOCK_ROWS = 16_384
# Directions with less than this share of the largest variance are noise of other fields, not information.
_MIN_VARIANCE_SHARE = 1e-4
# A field may go a little beyond the range of a finite reference: share of that range.
_RANGE_SLACK = 0.1
_MIN_SPREAD = 1e-6


@dataclass(frozen=True)
class SeenStates:
    """Frozen form: `whitening` (D, K) maps centred states to uncorrelated directions of variance 1; `centres` (64, K).

    `low`, `high` (D,): range of each field, with slack. `distance`: quantile of the distances of reference states that the
    centres were not fitted on. `share`: of those states that count as unseen.
    """

    mean: Float
    whitening: Float
    centres: Float
    low: Float
    high: Float
    distance: float
    share: float
    rows: int

    @classmethod
    def of(cls, state: NDArray[np.float32], clusters: NDArray[np.int64], quantile: float, seed: int) -> "SeenStates":
        """Fit on half of the clusters of states (N, D), and take the distance's quantile from the other half."""
        random = np.random.default_rng(seed)
        half = random.random(int(clusters.max()) + 1)[clusters] < 0.5  # noqa: PLR2004 - half
        fitted = state[half].astype(np.float64)
        if len(fitted) > _FITTED_ROWS:
            fitted = fitted[np.sort(random.permutation(len(fitted))[:_FITTED_ROWS])]
        mean = fitted.mean(axis=0)
        whitening = _whitening(fitted - mean)
        slack = _RANGE_SLACK * (fitted.max(axis=0) - fitted.min(axis=0)) + _MIN_SPREAD
        start = cls(
            mean=mean,
            whitening=whitening,
            centres=_centres((fitted - mean) @ whitening, random),
            low=fitted.min(axis=0) - slack,
            high=fitted.max(axis=0) + slack,
            distance=np.inf,
            share=0.0,
            rows=int((~half).sum()),
        )
        distances = start.distances(state[~half])
        limited = replace(start, distance=float(np.quantile(distances, quantile)))
        return replace(limited, share=float(limited.unseen(state[~half]).mean()))

    def unseen(self, state: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether each state (N, D) is farther off than the reference's quantile, or has a field out of range, (N,)."""
        outside = ((state < self.low) | (state > self.high)).any(axis=1)
        return outside | (self.distances(state) > self.distance)

    def distances(self, state: NDArray[np.float32]) -> Float:
        """Distance (N,) to the nearest centre, in whitened directions."""
        found = np.empty(len(state))
        for start in range(0, len(state), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            found[rows] = np.sqrt(_squared((state[rows] - self.mean) @ self.whitening, self.centres).min(axis=1))
        return found


def _whitening(centred: Float) -> Float:
    """Principal directions (D, K) of the standardised fields, each divided by its standard deviation."""
    spread = centred.std(axis=0)
    scale = np.where(spread > _MIN_SPREAD, 1.0 / np.maximum(spread, _MIN_SPREAD), 0.0)
    correlation = np.cov(centred * scale, rowvar=False, bias=True).reshape(len(scale), len(scale))
    values, vectors = np.linalg.eigh(correlation)
    kept = values > _MIN_VARIANCE_SHARE * values[-1]
    return scale[:, None] * vectors[:, kept] / np.sqrt(values[kept])


def _centres(points: Float, random: np.random.Generator) -> Float:
    """k-means (Lloyd 1982) from random points; a centre that loses all its points stays where it is."""
    centres = points[random.permutation(len(points))[:_CENTRES]]
    for _ in range(_ROUNDS):
        nearest = _squared(points, centres).argmin(axis=1)
        counts = np.bincount(nearest, minlength=len(centres))
        sums = np.stack([np.bincount(nearest, weights=column, minlength=len(centres)) for column in points.T], axis=1)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
    return centres


def _squared(points: Float, centres: Float) -> Float:
    """Squared distances (N, C); rounding below 0 is cut off."""
    squares = (points**2).sum(axis=1)[:, None] - 2.0 * points @ centres.T + (centres**2).sum(axis=1)
    return np.maximum(squares, 0.0)
