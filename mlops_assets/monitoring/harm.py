"""Does it hurt: what a version loses of reward in a day, from what was realised where that is known, else estimated.

Retraining under `retrain_when: hurts` trains when the lower bound, times the days a training has to pay for itself, exceeds
its cost. A benign drift leaves every term where the reference had it: the loss is about 0, and its interval holds 0.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlops_assets.evaluation.intervals import Interval, cluster_bootstrap, cluster_sums, normal_quantile, ratio
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import EstimatePolicy
from mlops_assets.monitoring.calibration import TARGETS, CalibrationReference
from mlops_assets.monitoring.coverage import CoverageWatch
from mlops_assets.monitoring.estimate import PerformanceEstimate, estimate_performance
from mlops_assets.monitoring.version_decisions import VersionDecisions

Source = Literal["labels", "outcomes", "estimate", "none"]


@dataclass(frozen=True)
class Loss:
    """Reward that a decision loses on average, beyond what it lost in the reference; None where nothing can be said.

    `source`: `labels` (value lost by greedy actions that were not the best), `outcomes` (reward below what the calibration
    expects of these decisions), `estimate` (neither is known yet), or `none`.
    """

    source: Source
    per_decision: Interval | None
    words: str


def loss_of(
    reference: CalibrationReference,
    decisions: VersionDecisions,
    policy: EstimatePolicy,
    *,
    coverage: CoverageWatch | None = None,
    estimate: PerformanceEstimate | None = None,
    seed: int = 0,
) -> Loss:
    """Return what a decision of the window loses.

    Labels and outcomes each count from `min_realised` on. Where both do, each has half of the error, and the larger lower
    bound counts: labels see a better action that was missed, outcomes see a world that pays less before any label comes.
    Without either it is the estimate, unless `coverage` has switched it off. Labels of decisions that are too young for most
    to have theirs (`VersionDecisions.old_enough`) should be taken off before. `estimate`: that of these decisions,
    with `coverage`, where it is made already.
    """
    known = int(np.isfinite(decisions.regret).sum()), int(np.isfinite(decisions.reward).sum())
    halved = min(known) >= policy.min_realised
    used = policy.model_copy(update={"confidence": 0.5 + policy.confidence / 2}) if halved else policy
    found: list[tuple[Source, Interval]] = []
    if known[0] >= policy.min_realised:
        realised = _of_labels(reference, decisions, used, seed)
        found += [("labels", realised)] if realised is not None else []
    if known[1] >= policy.min_realised:
        shortfall = _of_outcomes(reference, decisions, used, estimate)
        found += [("outcomes", shortfall)] if shortfall is not None else []
    if not found:
        if estimate is None:
            estimate = estimate_performance(reference, decisions, policy, coverage=coverage)
        lost = estimate.at(policy.confidence).loss
        if lost is None:
            return Loss("none", None, estimate.words)
        found = [("estimate", lost)]
    source, loss = max(found, key=lambda one: -np.inf if one[1].low is None else one[1].low)
    return Loss(
        source, loss, f"a decision loses {loss.estimate:.3g} of reward ({loss.low:.3g} to {loss.high:.3g}), by {source}"
    )


def loss_per_day(loss: Interval, decisions_per_day: float) -> Interval:
    """Return the loss of a day's traffic from that of a decision.

    Raises:
        InputError: the traffic is negative or not finite.
    """
    if not (np.isfinite(decisions_per_day) and decisions_per_day >= 0):
        raise InputError(f"decisions_per_day is {decisions_per_day}; expected 0 or more")
    low, high = (None if end is None else end * decisions_per_day for end in (loss.low, loss.high))
    return Interval(loss.estimate * decisions_per_day, low, high, loss.confidence)


def _of_labels(
    reference: CalibrationReference, decisions: VersionDecisions, policy: EstimatePolicy, seed: int
) -> Interval | None:
    """Mean value lost by the greedy action, less the reference's; the two intervals meet as in MOVER (Zou & Donner 2008)."""
    labelled = decisions.take(np.isfinite(decisions.regret))
    place = TARGETS.index("loss")
    before, error = float(reference.means[place]), float(reference.mean_errors[place])
    clusters = np.unique(labelled.cluster, return_inverse=True)[1].astype(np.int64)
    now = cluster_bootstrap(
        cluster_sums(np.stack([labelled.regret, np.ones(len(labelled))], axis=1), clusters),
        ratio,
        samples=policy.bootstrap_samples,
        confidence=policy.confidence,
        seed=seed,
    )
    if now.low is None or now.high is None or not np.isfinite(before + error):
        return None
    half = normal_quantile(0.5 + policy.confidence / 2) * error
    return Interval(
        now.estimate - before,
        now.estimate - before - float(np.hypot(now.estimate - now.low, half)),
        now.estimate - before + float(np.hypot(now.high - now.estimate, half)),
        policy.confidence,
    )


def _of_outcomes(
    reference: CalibrationReference,
    decisions: VersionDecisions,
    policy: EstimatePolicy,
    estimate: PerformanceEstimate | None,
) -> Interval | None:
    """Reward that the calibration expects of the decisions with an outcome, less the one that came."""
    told = decisions.take(np.isfinite(decisions.reward))
    if estimate is None or estimate.verdict != "estimated" or len(told) < len(decisions):
        estimate = estimate_performance(reference, told, policy)
    expected = estimate.at(policy.confidence).reward
    if expected is None or expected.low is None or expected.high is None:
        return None
    came = float(told.reward.astype(np.float64).mean())
    return Interval(expected.estimate - came, expected.low - came, expected.high - came, policy.confidence)
