"""From an experiment's looks to its decision: evidence over time, fixed-sample and Bayesian summaries, and words.

Only the anytime-valid evidence decides. Harm on any metric beyond its limit, by the mean of their e-values, is a
rollback; evidence that the primary metric keeps its limit (and, where the design wants it, that the treatment is
better) is a promotion; everything else goes on, and ends undecided with the control. A broken split comes before all.

Several treatments share the error rates: harm, and what is proven for a promotion, are each held to `alpha` over all of them
by Holm's step-down on 1 / e, which is a p-value at any look: with two, the stronger evidence has to reach 2 / alpha, and then
the other 1 / alpha. The split's error rate is divided among them.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import numpy as np

from mlops_assets.experiments.assignment import TREATMENT
from mlops_assets.experiments.bayes import BayesianComparison, Posterior
from mlops_assets.experiments.bayes import compare_rates as compare_posteriors
from mlops_assets.experiments.cuped import AdjustedComparison, compare_adjusted
from mlops_assets.experiments.evidence import ArmEvidence, History, MetricEvidence, replay
from mlops_assets.experiments.frequentist import MeanComparison, Moments, compare_moments, holm, required_sample_size
from mlops_assets.experiments.odds import odds_in_words
from mlops_assets.experiments.srm import SplitCheck, check_split
from mlops_assets.experiments.units import Look
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import AbTestDesign, MetricLimit

Verdict = Literal["promote", "rollback", "keep_control", "continue", "broken_split"]
# What has to be done first.
_URGENCY: tuple[Verdict, ...] = ("broken_split", "rollback", "promote", "continue", "keep_control")


@dataclass(frozen=True)
class MetricAnalysis:
    """One metric: users and means of both arms, evidence of harm beyond the limit, of its being kept, of better.

    `p_adjusted` is the p-value of `means`, by Holm over all treatments of the experiment. `adjusted`: `means` less what users
    brought along from before, None where nobody did. `log_e_*` are natural logarithms of e-values; `*_over_time` has one for
    each look. `bayes` is None where outcomes are not all 0 or 1.
    """

    name: str
    limit: MetricLimit
    control_users: int
    treatment_users: int
    means: MeanComparison | None
    p_adjusted: float | None
    adjusted: AdjustedComparison | None
    bayes: BayesianComparison | None
    log_e_harm: float
    log_e_kept: float
    log_e_better: float
    harm_over_time: tuple[float, ...]
    kept_over_time: tuple[float, ...]


@dataclass(frozen=True)
class ArmAnalysis:
    """What an experiment says of one treatment. `reasons` are sentences; `log_e_harm` is over all metrics."""

    verdict: Verdict
    reasons: tuple[str, ...]
    control_users: int
    treatment_users: int
    split: SplitCheck
    log_e_harm: float
    metrics: Mapping[str, MetricAnalysis]


@dataclass(frozen=True)
class ExperimentAnalysis:
    """What an experiment says at its newest look: its verdict is that of the treatment `arm`, the most urgent of all."""

    verdict: Verdict
    arm: str
    reasons: tuple[str, ...]
    looks: int
    cutoff: datetime | None
    arms: Mapping[str, ArmAnalysis]

    @property
    def deciding(self) -> ArmAnalysis:
        """The analysis of the treatment that the verdict is on."""
        return self.arms[self.arm]


def analyse(looks: Sequence[Look], design: AbTestDesign, *, started: datetime) -> ExperimentAnalysis:
    """Judge an experiment by all of its looks; the same looks give the same answer."""
    return judge(replay(looks, design), design, started=started)


def judge(
    history: History,
    design: AbTestDesign,
    *,
    started: datetime,
    arms: Sequence[str] = (),
    without_users: Collection[str] = (),
) -> ExperimentAnalysis:
    """Judge an experiment by what its looks have found.

    Args:
        history: of its looks.
        design: of its first look.
        started: when its first decision was taken.
        arms: its treatments; by default those that have users.
        without_users: those that were taken out, whose verdict is nothing to act on any more.
    """
    names = tuple(arms) or tuple(history.arms) or (TREATMENT,)
    found = {arm: history.arms.get(arm, ArmEvidence.begin(design)) for arm in names}
    metrics = _metrics(history, found, design)
    log_e_harm = {
        arm: float(np.logaddexp.reduce([one.log_e_harm for one in of_arm.values()]) - np.log(len(of_arm)))
        for arm, of_arm in metrics.items()
    }
    primary = {arm: of_arm[design.primary_metric] for arm, of_arm in metrics.items()}
    proven = _Proven(
        harm=_proven(log_e_harm, design.alpha),
        kept=_proven({arm: one.log_e_kept for arm, one in primary.items()}, design.alpha),
        better=_proven({arm: one.log_e_better for arm, one in primary.items()}, design.alpha),
    )
    over = history.cutoff is not None and history.cutoff - started >= timedelta(days=design.max_days)
    judged = {}
    for arm, evidence in found.items():
        split = check_split(evidence.assigned, alpha=design.split_alpha / len(names))
        verdict, reasons = _judge(design, arm, split, metrics[arm], log_e_harm[arm], evidence.users, proven, over=over)
        judged[arm] = ArmAnalysis(verdict, reasons, *evidence.users, split, log_e_harm[arm], metrics[arm])
    deciding = _deciding({arm: one for arm, one in judged.items() if arm not in without_users} or judged, design)
    reasons = judged[deciding].reasons
    if len(judged) > 1:
        others = (f"{arm}: {one.verdict.replace('_', ' ')}" for arm, one in judged.items() if arm != deciding)
        reasons = (f"{deciding}: {reasons[0]}", *reasons[1:], *others)
    return ExperimentAnalysis(
        judged[deciding].verdict, deciding, reasons, len(history.over_time), history.cutoff, judged
    )


def planned_users(design: AbTestDesign, baseline: float) -> tuple[int, int]:
    """Return users of (control, treatment) that find the primary metric's harm with the design's power, or that it wants.

    Raises:
        InputError: the baseline and the effect give no rate.
    """
    if not 0.0 < baseline < 1.0:
        raise InputError(f"the baseline is {baseline}; expected the control's mean, between 0 and 1, such as 0.1")
    limit = design.limits[design.primary_metric]
    # From the limit on, not from the control: up to there harm is allowed, and only what is beyond it can be proven.
    allowed = limit.ratio * baseline + limit.delta
    found = required_sample_size(
        allowed, limit.effect / allowed, design.power, design.alpha, treatment_share=design.traffic_share
    )
    more = max(1.0, design.min_samples_per_arm / min(found))
    return math.ceil(more * found[0]), math.ceil(more * found[1])


class _Proven(NamedTuple):
    """Treatments that are proven to harm, and those whose primary metric is proven to keep its limit, or to be better."""

    harm: frozenset[str]
    kept: frozenset[str]
    better: frozenset[str]


def _proven(log_e: Mapping[str, float], alpha: float) -> frozenset[str]:
    """Treatments whose evidence stands when all are asked, by Holm: at most `alpha` of one wrong, ever."""
    found: set[str] = set()
    for arm in sorted(log_e, key=lambda one: -log_e[one]):
        if log_e[arm] < math.log(len(log_e) - len(found)) - math.log(alpha):
            break
        found.add(arm)
    return frozenset(found)


def _deciding(judged: Mapping[str, ArmAnalysis], design: AbTestDesign) -> str:
    """The treatment with the most urgent verdict; of several to promote, the best by its primary metric."""

    def urgency(arm: str) -> tuple[int, float]:
        one = judged[arm]
        means = one.metrics[design.primary_metric].means
        tie = -one.log_e_harm if one.verdict != "promote" or means is None else means.difference
        return _URGENCY.index(one.verdict), tie

    return min(judged, key=urgency)


def _judge(
    design: AbTestDesign,
    arm: str,
    split: SplitCheck,
    metrics: Mapping[str, MetricAnalysis],
    log_e_harm: float,
    users: tuple[int, int],
    proven: _Proven,
    *,
    over: bool,
) -> tuple[Verdict, tuple[str, ...]]:
    if split.alarm:
        leak = (
            f"{split.treatment:,} users came into the treatment where {split.expected_treatment:,.0f} were due: the "
            f"{split.leaks} loses users on the way, so nothing here can be compared; repair the router first"
        )
        return "broken_split", (leak,)
    if arm in proven.harm:
        worst = max(metrics.values(), key=lambda one: one.log_e_harm)
        return "rollback", (f"{_words(worst)}: worse than allowed ({_allowed(worst.limit)})", _evidence(log_e_harm))
    if min(users) < design.min_samples_per_arm:
        return _open(
            over,
            f"{users[0]:,} and {users[1]:,} users of control and treatment; each needs {design.min_samples_per_arm:,}",
        )
    primary = metrics[design.primary_metric]
    wanted = [("keeps its limit", primary.log_e_kept, arm in proven.kept)]
    if design.must_be_better:
        wanted.append(("is better", primary.log_e_better, arm in proven.better))
    lacking = [f"no proof yet that the treatment {what}" for what, _, known in wanted if not known]
    if lacking:
        return _open(over, f"{_words(primary)}: {' and '.join(lacking)} ({_evidence(min(e for _, e, _ in wanted))})")
    return "promote", (
        f"{_words(primary)}: the treatment {' and '.join(what for what, _, _ in wanted)} ({_allowed(primary.limit)})",
        _evidence(min(log_e for _, log_e, _ in wanted)),
    )


def _open(over: bool, reason: str) -> tuple[Verdict, tuple[str, ...]]:  # noqa: FBT001 - one of two words
    if over:
        return "keep_control", (reason, "the planned time is over, and what is not proven is not promoted")
    return "continue", (reason,)


def _words(metric: MetricAnalysis) -> str:
    if metric.means is None:
        return f"{metric.name}: not observed in both arms"
    return f"{metric.name} {metric.means.treatment_mean:.2%} of the treatment against {metric.means.control_mean:.2%}"


def _allowed(limit: MetricLimit) -> str:
    times = "" if limit.ratio == 1.0 else f"{limit.ratio:g} times the control's and "
    return f"allowed: {times}{100 * limit.delta:g} points more"


def _evidence(log_e: float) -> str:
    return f"evidence {odds_in_words(log_e)}"


def _metrics(
    history: History, found: Mapping[str, ArmEvidence], design: AbTestDesign
) -> dict[str, dict[str, MetricAnalysis]]:
    metrics: dict[str, dict[str, MetricAnalysis]] = {
        arm: {name: _metric(name, limit, of_arm.metrics[name], history, arm) for name, limit in design.limits.items()}
        for arm, of_arm in found.items()
    }
    for name in design.limits:
        p_values = {
            arm: means.p_value
            for arm, of_arm in metrics.items()
            if (means := of_arm[name].means) is not None and means.p_value is not None
        }
        for arm, adjusted in zip(p_values, holm(list(p_values.values())), strict=True):
            metrics[arm][name] = replace(metrics[arm][name], p_adjusted=adjusted)
    return metrics


def _metric(name: str, limit: MetricLimit, found: MetricEvidence, history: History, arm: str) -> MetricAnalysis:
    harm_over_time, kept_over_time = history.over_looks(arm, name)
    observed = min(found.control.users, found.treatment.users) > 0
    return MetricAnalysis(
        name=name,
        limit=limit,
        control_users=found.control.users,
        treatment_users=found.treatment.users,
        means=compare_moments(found.control, found.treatment) if observed else None,
        p_adjusted=None,
        adjusted=compare_adjusted(found.control_before, found.treatment_before),
        bayes=_posteriors(found.control, found.treatment) if observed and found.yes_or_no else None,
        log_e_harm=found.harm.log_e,
        log_e_kept=found.kept.log_e,
        log_e_better=found.better.log_e,
        harm_over_time=harm_over_time,
        kept_over_time=kept_over_time,
    )


def _posteriors(control: Moments, treatment: Moments) -> BayesianComparison:
    first, second = (Posterior.of(round(arm.mean * arm.users), arm.users) for arm in (control, treatment))
    found = compare_posteriors(first, second)
    # Metrics are 0 where all is well: the higher rate is the worse.
    return replace(
        found,
        prob_treatment_better=1.0 - found.prob_treatment_better,
        expected_loss_treatment=found.expected_loss_control,
        expected_loss_control=found.expected_loss_treatment,
    )
