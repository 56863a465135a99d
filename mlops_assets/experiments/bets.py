"""Fair bets on the users of two arms: what each outcome pays. What comes of a row of bets is `sequential.py`'s.

A user comes into the treatment with a known share w, and has an outcome y in [0, 1]. For a limit
`p_treatment <= ratio * p_control + delta` on the arms' means, a bet pays

    f(control, y) = a_c + b_c y,    f(treatment, y) = a_t + b_t y,

with b_c = -w ratio b_t / (1 - w) and (1 - w) a_c + w a_t + w b_t delta = 1. Its expectation is then
1 + w b_t (p_treatment - ratio p_control - delta): at most 1 while the limit is kept, if b_t >= 0, whatever the two rates
are and however they drift.

Which bet to take is a matter of power only: the likelihood ratio of an expected alternative against the nearest rates
within the limit has this very form (the reverse information projection of Grünwald, de Heide and Koolen, Safe Testing,
2024; for equal rates Turner, Ly and Grünwald, 2024).

A limit of ratio 0 is a fixed rate; the control is not looked at, and everybody may be in the treatment.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlops_assets.foundation.errors import InputError

Float = NDArray[np.float64]
# Rates are kept away from 0 and 1, where a likelihood ratio has no value.
_EDGE = 1e-9
# Newton's steps, guarded by bisection; most take five. After one as small as this, the next would change the last bits.
_MOST_STEPS, _SMALL_STEP = 64, 1e-8
_BISECTIONS = 32


@dataclass(frozen=True)
class Limit:
    """`p_treatment <= ratio * p_control + delta`; with `above`, its other side: `p_treatment >= ...`.

    With a ratio of 0 the limit is the rate `delta`, between 0 and 1.
    """

    ratio: float = 1.0
    delta: float = 0.0
    above: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no limit."""
        low = 0.0 if self.fixed else -1.0
        if not (self.ratio >= 0.0 and low < self.delta < 1.0):
            raise InputError(
                f"a limit of ratio {self.ratio} and delta {self.delta} is none; the ratio is above 0, such as 1.5, and the "
                "delta between -1 and 1, such as 0.02; with a ratio of 0 the delta is the allowed rate, such as 0.05"
            )

    @property
    def fixed(self) -> bool:
        """Whether the limit is a rate by itself, whatever the control has."""
        return self.ratio == 0.0

    def at(self, control: ArrayLike) -> Float:
        """Return the treatment's rate on the limit."""
        on_limit: Float = np.clip(self.ratio * np.asarray(control) + self.delta, _EDGE, 1.0 - _EDGE)
        return on_limit

    def rate_at(self, control: float) -> float:
        """As `at`, of one rate."""
        return _inside(self.ratio * control + self.delta)


Bet = tuple[float, float, float, float]
_NO_BET: Bet = (1.0, 0.0, 1.0, 0.0)


def bet(limit: Limit, share: float, control: float, treatment: float) -> Bet:
    """Return (a_c, b_c, a_t, b_t) for expected rates of the two arms; no bet (1, 0, 1, 0) where these keep the limit.

    Whatever the expected rates are, the result is a fair bet.
    """
    control, treatment = _inside(control), _inside(treatment)
    near_t = limit.rate_at(control if limit.fixed else _nearest(limit, share, control, treatment))
    a_t = (1.0 - treatment) / (1.0 - near_t)
    b_t = treatment / near_t - a_t
    if b_t > 0.0 if limit.above else b_t < 0.0:
        return _NO_BET
    if limit.fixed:
        return 1.0, 0.0, a_t, b_t
    b_c = -share * limit.ratio * b_t / (1.0 - share)
    a_c = (1.0 - share * a_t - share * b_t * limit.delta) / (1.0 - share)
    return (a_c, b_c, a_t, b_t) if min(a_c, a_c + b_c, a_t, a_t + b_t) > 0.0 else _NO_BET


def _nearest(limit: Limit, share: float, control: float, treatment: float) -> float:
    """The control rate of the point on the limit that is nearest, in relative entropy, to the expected rates.

    Between the two rates, the distance's slope has one root; times the (positive) denominators it is a cubic polynomial.
    """
    ratio, delta = limit.ratio, limit.delta
    if ratio == 1.0 and delta == 0.0:
        return (1.0 - share) * control + share * treatment
    low, high = max(_EDGE, (_EDGE - delta) / ratio), min(1.0 - _EDGE, (1.0 - _EDGE - delta) / ratio)
    control_end, treatment_end = (min(high, max(low, one)) for one in (control, (treatment - delta) / ratio))
    below, above = min(control_end, treatment_end), max(control_end, treatment_end)
    rest, part = 1.0 - share, share * ratio
    middle = rest * control_end + share * treatment_end
    for _ in range(_MOST_STEPS):
        on_limit = ratio * middle + delta
        off_c, off_t = middle - control, on_limit - treatment
        spread_c, spread_t = middle * (1.0 - middle), on_limit * (1.0 - on_limit)
        slope = rest * off_c * spread_t + part * off_t * spread_c
        below, above = (middle, above) if slope < 0.0 else (below, middle)
        steepness = rest * (spread_t + off_c * ratio * (1.0 - 2.0 * on_limit)) + part * (
            ratio * spread_c + off_t * (1.0 - 2.0 * middle)
        )
        step = slope / steepness if steepness > 0.0 else math.inf
        if abs(step) <= _SMALL_STEP * middle:
            return min(high, max(low, middle - step))
        middle = middle - step if below < middle - step < above else (below + above) / 2.0
    return middle


def _inside(rate: float) -> float:
    return min(1.0 - _EDGE, max(_EDGE, rate))


def bets(limit: Limit, share: ArrayLike, control: ArrayLike, treatment: ArrayLike) -> tuple[Float, Float, Float, Float]:
    """As `bet`, for the many runs of a simulation at once: (a_c, b_c, a_t, b_t); all arguments broadcast."""
    part, rate_c, rate_t = (np.asarray(one, dtype=np.float64) for one in np.broadcast_arrays(share, control, treatment))
    rate_c, rate_t = (np.clip(rate, _EDGE, 1.0 - _EDGE) for rate in (rate_c, rate_t))
    near_t = limit.at(rate_c if limit.fixed else _all_nearest(limit, part, rate_c, rate_t))
    a_t = (1.0 - rate_t) / (1.0 - near_t)
    b_t = rate_t / near_t - a_t
    if limit.fixed:
        better = b_t <= 0.0 if limit.above else b_t >= 0.0
        one, none = np.ones_like(a_t), np.zeros_like(b_t)
        return one, none, np.where(better, a_t, 1.0), np.where(better, b_t, 0.0)
    b_c = -part * limit.ratio * b_t / (1.0 - part)
    a_c = (1.0 - part * a_t - part * b_t * limit.delta) / (1.0 - part)
    sides = (a_c, a_c + b_c, a_t, a_t + b_t)
    fair = (b_t <= 0.0 if limit.above else b_t >= 0.0) & np.all([side > 0.0 for side in sides], axis=0)
    return np.where(fair, a_c, 1.0), np.where(fair, b_c, 0.0), np.where(fair, a_t, 1.0), np.where(fair, b_t, 0.0)


def _all_nearest(limit: Limit, share: Float, control: Float, treatment: Float) -> Float:
    low = np.maximum(_EDGE, (-limit.delta + _EDGE) / limit.ratio)
    high = np.minimum(1.0 - _EDGE, (1.0 - _EDGE - limit.delta) / limit.ratio)
    other = np.clip((treatment - limit.delta) / limit.ratio, low, high)
    below, above = np.clip(np.minimum(control, other), low, high), np.clip(np.maximum(control, other), low, high)
    for _ in range(_BISECTIONS):
        middle = (below + above) / 2.0
        on_limit = limit.at(middle)
        slope = (1.0 - share) * (middle - control) / (middle * (1.0 - middle))
        slope = slope + share * limit.ratio * (on_limit - treatment) / (on_limit * (1.0 - on_limit))
        below, above = np.where(slope < 0.0, middle, below), np.where(slope < 0.0, above, middle)
    return (below + above) / 2.0
