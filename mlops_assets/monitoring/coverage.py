"""Whether estimates without labels keep their promise once labels come: an anytime-valid alarm that switches them off.

Each window is one bet: the realised accuracy lies outside of the interval, or not. The interval promises that this happens
in at most a share of the windows, whatever came before, so that the product of the bets reaches 1 / alpha with a probability
of at most alpha, at any number of looks (Ville). All windows share the error of one calibration: it gets a bound of its own,
for once and all, and only the chance of each window's outcomes may lead out of the rest.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from mlops_assets.evaluation.intervals import normal_quantile
from mlops_assets.experiments.sequential import Batch, Evidence, Limit, Outcomes
from mlops_assets.foundation.policies import EstimatePolicy
from mlops_assets.rollout.harm import evidence_from

if TYPE_CHECKING:
    from mlops_assets.monitoring.estimate import PerformanceEstimate

# How much more often than promised a broken estimate is expected to miss, in points: it sets the bets, not the error rate.
_EXPECTED_MISSES = 0.2
# Coverage may break late: every so many windows, a part of the stake is bet anew.
_WINDOWS_A_PLACING = 8


@dataclass(frozen=True)
class CoverageWatch:
    """Windows looked at so far, how many missed, and the evidence that the promise is broken. A new version starts anew.

    `confidence` is what the intervals promise; `alpha` the chance that a kept promise is ever called broken, half of it for the
    calibration's one error.
    """

    confidence: float
    alpha: float
    evidence: Evidence
    windows: int = 0
    misses: int = 0

    @classmethod
    def start(cls, policy: EstimatePolicy) -> "CoverageWatch":
        """Return the watch before its first window."""
        limit = Limit(ratio=0.0, delta=1.0 - policy.confidence)
        evidence = Evidence(limit, effect=_EXPECTED_MISSES, relative=False).placed_again()
        return cls(policy.confidence, policy.coverage_alpha, evidence)

    @property
    def switched_off(self) -> bool:
        """Whether estimates of this version are refuted."""
        return self.evidence.rejects(self.alpha / 2)

    @property
    def words(self) -> str:
        """Say where the watch stands."""
        seen = f"{self.misses} of {self.windows} windows with labels lay outside of their interval"
        if not self.switched_off:
            return f"{seen}; {1 - self.confidence:.0%} may"
        return (
            f"{seen}, where {1 - self.confidence:.0%} may: what a decision is worth has changed in a way that its inputs do not "
            "show, so the estimate without labels is switched off for this version"
        )

    def after(self, estimate: "PerformanceEstimate", realised: float) -> "CoverageWatch":
        """Return it after the labels of one window came: `realised` accuracy on the very decisions that were estimated.

        A window without an estimate says nothing.
        """
        if estimate.accuracy is None:
            return self
        slack = normal_quantile(1 - self.alpha / 4) * estimate.calibration_errors[0]
        slack += normal_quantile(0.5 + self.confidence / 2) * estimate.noise_errors[0]
        missed = abs(realised - estimate.accuracy.estimate) > slack
        look = Batch(share=1.0, control=Outcomes(), treatment=Outcomes.counted(1, int(missed)))
        evidence, windows = self.evidence.updated(look), self.windows + 1
        if windows % _WINDOWS_A_PLACING == 0:
            evidence = evidence.placed_again()
        return replace(self, evidence=evidence, windows=windows, misses=self.misses + int(missed))

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "CoverageWatch":
        """Read what `document` wrote."""
        return cls(**{**document, "evidence": evidence_from(document["evidence"])})
