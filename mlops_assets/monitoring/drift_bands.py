"""Bands of drift: how bad a number is, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

from mlops_assets.foundation.policies import DriftPolicy

Verdict = Literal["insufficient_data", "ok", "monitor", "warning", "critical"]
# Unknown is below everything known: one column with too few rows does not hide another's drift.
ORDER: tuple[Verdict, ...] = ("insufficient_data", "ok", "monitor", "warning", "critical")


@dataclass(frozen=True)
class Limits:
    """Above each of these (never at it) a value is in the next band."""

    monitor: float
    warning: float
    critical: float

    def band(self, value: float) -> Verdict:
        """Return the band of a value; NaN is `insufficient_data`."""
        if value != value:  # noqa: PLR0124 - NaN, without an import
            return "insufficient_data"
        if value > self.critical:
            return "critical"
        if value > self.warning:
            return "warning"
        return "monitor" if value > self.monitor else "ok"


def psi_limits(policy: DriftPolicy) -> Limits:
    """Of a column's population stability index."""
    return Limits(policy.psi_monitor, policy.psi_warning, policy.psi_critical)


def ks_limits(policy: DriftPolicy) -> Limits:
    """Of Kolmogorov-Smirnov's D."""
    return Limits(policy.ks_monitor, policy.ks_warning, policy.ks_critical)


def wasserstein_limits(policy: DriftPolicy) -> Limits:
    """Of the Wasserstein distance in standard deviations of the reference."""
    return Limits(
        policy.wasserstein_monitor_sigmas, policy.wasserstein_warning_sigmas, policy.wasserstein_critical_sigmas
    )


def cramers_v_limits(policy: DriftPolicy) -> Limits:
    """Of Cramér's V."""
    return Limits(policy.cramers_v_monitor, policy.cramers_v_warning, policy.cramers_v_critical)


def combined_limits(policy: DriftPolicy) -> Limits:
    """Of the combined score of the predictions."""
    return Limits(policy.combined_monitor, policy.combined_warning, policy.combined_critical)


def accuracy_drop_limits(policy: DriftPolicy) -> Limits:
    """Of the drop of accuracy, as a share of the version's own."""
    return Limits(policy.accuracy_drop_monitor_rel, policy.accuracy_drop_warning_rel, policy.accuracy_drop_critical_rel)


def worst(*verdicts: Verdict) -> Verdict:
    """Return the worst of some verdicts; of none it is `insufficient_data`."""
    return max(verdicts, key=ORDER.index, default="insufficient_data")


def recommendation(verdict: Verdict, policy: DriftPolicy) -> str:
    """What a verdict asks for, in words."""
    return {
        "insufficient_data": "Wait for more decisions: there are too few to tell.",
        "ok": "Nothing to do.",
        "monitor": "Check more often.",
        "warning": f"Schedule a retraining within {policy.retrain_within_hours} hours.",
        "critical": "Retrain now.",
    }[verdict]
