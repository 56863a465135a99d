"""Exact Bayesian comparison of two rates: no sampling, so the same counts give the same figures to the last digit.

Posteriors are Beta(prior + successes, prior + failures). Integrals over one posterior are taken on the logit scale, where
its density is smooth and falls off exponentially on both sides, so that the trapezoidal rule converges faster than any
power of its step (Trefethen and Weideman, The exponentially convergent trapezoidal rule, SIAM Review 2014).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from mlops_assets.foundation.errors import InputError

Float = NDArray[np.float64]
_NODES = 400
# Mass outside is below it: nothing beside the error of 1e-8 that is promised.
_TAIL = 1e-15


@dataclass(frozen=True)
class Posterior:
    """Beta(a, b): what is believed of a rate after `successes` of `trials`."""

    a: float
    b: float

    @classmethod
    def of(cls, successes: float, trials: float, *, prior: tuple[float, float] = (1.0, 1.0)) -> "Posterior":
        """Update a Beta prior by counts.

        Raises:
            InputError: more successes than trials, or counts below 0.
        """
        if not 0 <= successes <= trials:
            raise InputError(f"{successes} successes of {trials} trials cannot be; expected 0 <= successes <= trials")
        return cls(prior[0] + successes, prior[1] + trials - successes)

    @property
    def mean(self) -> float:
        """Expected rate."""
        return self.a / (self.a + self.b)

    @property
    def spread(self) -> float:
        """Standard deviation."""
        total = self.a + self.b
        return float(np.sqrt(self.a * self.b / (total * total * (total + 1.0))))

    def expect(self, function: Callable[[Float], Float]) -> float:
        """Return E[function(rate)] for a smooth function of the rate."""
        low, high = (
            special.logit(special.betaincinv(self.a, self.b, _TAIL)),
            -special.logit(special.betaincinv(self.b, self.a, _TAIL)),
        )
        nodes = np.linspace(low, high, _NODES)
        log_density = self.a * nodes - (self.a + self.b) * np.logaddexp(0.0, nodes) - special.betaln(self.a, self.b)
        density = np.exp(log_density)
        return float(np.dot(density, function(special.expit(nodes))) / density.sum())


@dataclass(frozen=True)
class BayesianComparison:
    """Treatment against control. `lift` is relative: treatment rate over control rate, less 1; its interval has 95 %.

    `expected_loss_*` is what is lost, in points of the rate, by taking that arm if the other one is better.
    """

    control_mean: float
    treatment_mean: float
    prob_treatment_better: float
    expected_loss_treatment: float
    expected_loss_control: float
    lift: float
    lift_low: float
    lift_high: float


def prob_greater(first: Posterior, second: Posterior) -> float:
    """Return P(first rate > second rate), error below 1e-8."""
    # Over the narrower density: the other one's distribution function is smooth at its scale.
    if first.spread <= second.spread:
        return _unit(first.expect(lambda rate: special.betainc(second.a, second.b, rate)))
    return _unit(1.0 - second.expect(lambda rate: special.betainc(first.a, first.b, rate)))


def expected_excess(first: Posterior, second: Posterior) -> float:
    """Return E[max(first rate - second rate, 0)]: the expected loss of taking the second where the first is better."""
    above = first.mean * prob_greater(Posterior(first.a + 1.0, first.b), second)
    return max(0.0, above - second.mean * prob_greater(first, Posterior(second.a + 1.0, second.b)))


def lift_quantile(control: Posterior, treatment: Posterior, share: float) -> float:
    """Return the relative lift below which `share` of the posterior lies."""

    def below(log_ratio: float) -> float:
        """P(treatment <= ratio * control) less the share."""
        ratio = float(np.exp(log_ratio))
        if control.spread / control.mean <= treatment.spread / treatment.mean:
            found = control.expect(
                lambda rate: special.betainc(treatment.a, treatment.b, np.minimum(1.0, ratio * rate))
            )
        else:
            found = 1.0 - treatment.expect(
                lambda rate: special.betainc(control.a, control.b, np.minimum(1.0, rate / ratio))
            )
        return found - share

    from scipy import optimize  # it takes longer to import than all else here

    bounds = [
        np.log(special.betaincinv(one.a, one.b, _TAIL)) - np.log(special.betainccinv(other.a, other.b, _TAIL))
        for one, other in ((treatment, control), (control, treatment))
    ]
    return float(np.expm1(optimize.brentq(below, bounds[0] - 1.0, -bounds[1] + 1.0, xtol=1e-10)))


def compare_rates(control: Posterior, treatment: Posterior, *, level: float = 0.95) -> BayesianComparison:
    """Compare two posteriors; the lift's interval is the central one of `level`."""
    outside = (1.0 - level) / 2.0
    return BayesianComparison(
        control_mean=control.mean,
        treatment_mean=treatment.mean,
        prob_treatment_better=prob_greater(treatment, control),
        expected_loss_treatment=expected_excess(control, treatment),
        expected_loss_control=expected_excess(treatment, control),
        lift=treatment.mean / control.mean - 1.0,
        lift_low=lift_quantile(control, treatment, outside),
        lift_high=lift_quantile(control, treatment, 1.0 - outside),
    )


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))
