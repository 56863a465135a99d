"""From an experiment's looks to its decision: evidence over time, fixed-sample and Bayesian summaries, and words.

Only the anytime-valid evidence decides. Harm on any metric beyond its limit, by the mean of their e-values, is a
rollback; evidence that the primary metric keeps its limit (and, where the design wants it, that the treatment is
better) is a promotion; everything else goes on, and ends undecided with the control. A broken split comes before all.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from mlops_assets.experiments.bayes import BayesianComparison, Posterior
from mlops_assets.experiments.bayes import compare_rates as compare_posteriors
from mlops_assets.experiments.frequentist import MeanComparison, compare_means, required_sample_size
from mlops_assets.experiments.sequential import Batch, Evidence, Limit, Outcomes
from mlops_assets.experiments.srm import Assigned, SplitCheck, check_split
from mlops_assets.experiments.units import Look, Unit
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.profiles import AbTestDesign, MetricLimit, MetricName

# Nothing is known of the rates of the first batch, so nothing is bet on it: it should not be a whole day.
_SMALLEST_BATCH = 50
_BATCHES_A_LOOK = 20
Verdict = Literal["promote", "rollback", "keep_control", "continue", "broken_split"]


@dataclass(frozen=True)
class MetricAnalysis:
    """One metric: users and means of both arms, evidence of harm beyond the limit, of its being kept, of better.

    `log_e_*` are natural logarithms of e-values; `*_over_time` has one for each look. `bayes` is None where outcomes
    are not all 0 or 1.
    """

    name: str
    limit: MetricLimit
    control_users: int
    treatment_users: int
    means: MeanComparison | None
    bayes: BayesianComparison | None
    log_e_harm: float
    log_e_kept: float
    log_e_better: float
    harm_over_time: tuple[float, ...]
    kept_over_time: tuple[float, ...]


@dataclass(frozen=True)
class ExperimentAnalysis:
    """What an experiment says at its newest look. `reasons` are sentences; `log_e_harm` is over all metrics."""

    verdict: Verdict
    reasons: tuple[str, ...]
    looks: int
    cutoff: datetime | None
    control_users: int
    treatment_users: int
    split: SplitCheck
    log_e_harm: float
    metrics: Mapping[str, MetricAnalysis]


def analyse(looks: Sequence[Look], design: AbTestDesign, *, started: datetime) -> ExperimentAnalysis:
    """Judge an experiment by all of its looks; the same looks give the same answer."""
    units = [unit for look in looks for unit in look.units]
    metrics: dict[str, MetricAnalysis] = {name: _metric(name, limit, looks) for name, limit in design.limits.items()}
    log_e_harm = float(np.logaddexp.reduce([one.log_e_harm for one in metrics.values()]) - np.log(len(metrics)))
    split = check_split(_assigned(units), alpha=design.split_alpha)
    cutoff = looks[-1].cutoff if looks else None
    treated = sum(unit.treatment for unit in units)
    verdict, reasons = _judge(
        design,
        split,
        metrics,
        log_e_harm,
        (len(units) - treated, treated),
        over=cutoff is not None and cutoff - started >= timedelta(days=design.max_days),
    )
    return ExperimentAnalysis(
        verdict, reasons, len(looks), cutoff, len(units) - treated, treated, split, log_e_harm, metrics
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


def _judge(
    design: AbTestDesign,
    split: SplitCheck,
    metrics: Mapping[str, MetricAnalysis],
    log_e_harm: float,
    users: tuple[int, int],
    *,
    over: bool,
) -> tuple[Verdict, tuple[str, ...]]:
    needed = -np.log(design.alpha)
    if split.alarm:
        leak = (
            f"{split.treatment:,} users came into the treatment where {split.expected_treatment:,.0f} were due: the "
            f"{split.leaks} loses users on the way, so nothing here can be compared; repair the router first"
        )
        return "broken_split", (leak,)
    if log_e_harm >= needed:
        worst = max(metrics.values(), key=lambda one: one.log_e_harm)
        return "rollback", (f"{_words(worst)}: worse than allowed ({_allowed(worst.limit)})", _evidence(log_e_harm))
    if min(users) < design.min_samples_per_arm:
        return _open(
            over,
            f"{users[0]:,} and {users[1]:,} users of control and treatment; each needs {design.min_samples_per_arm:,}",
        )
    primary = metrics[design.primary_metric]
    wanted = [("keeps its limit", primary.log_e_kept)]
    if design.must_be_better:
        wanted.append(("is better", primary.log_e_better))
    lacking = [f"no proof yet that the treatment {what}" for what, log_e in wanted if log_e < needed]
    if lacking:
        return _open(over, f"{_words(primary)}: {' and '.join(lacking)} ({_evidence(min(e for _, e in wanted))})")
    return "promote", (
        f"{_words(primary)}: the treatment {' and '.join(what for what, _ in wanted)} ({_allowed(primary.limit)})",
        _evidence(min(log_e for _, log_e in wanted)),
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
    return f"evidence {np.exp(min(log_e, 700.0)):,.3g} to 1"


def _assigned(units: Sequence[Unit]) -> list[Assigned]:
    counts: dict[float, list[int]] = {}
    for unit in units:
        counts.setdefault(unit.share, [0, 0])[unit.treatment] += 1
    return [Assigned(share, *arms) for share, arms in counts.items()]


def _metric(name: MetricName, limit: MetricLimit, looks: Sequence[Look]) -> MetricAnalysis:
    kept_to = Limit(limit.ratio, limit.delta)
    harm = Evidence(kept_to, limit.effect, relative=False)
    kept = Evidence(
        Limit(limit.ratio, limit.delta, above=True), limit.delta if limit.delta > 0 else limit.effect, relative=False
    )
    better = Evidence(Limit(above=True), limit.effect, relative=False)
    harm_over_time, kept_over_time = [], []
    for look in looks:
        for batch in _batches(name, look):
            harm, kept, better = harm.updated(batch), kept.updated(batch), better.updated(batch)
        harm_over_time.append(harm.log_e)
        kept_over_time.append(kept.log_e)
    arms = [
        np.array(
            [u.outcomes[name] for look in looks for u in look.units if name in u.outcomes and u.treatment == treated]
        )
        for treated in (False, True)
    ]
    observed = min(map(len, arms)) > 0
    return MetricAnalysis(
        name=name,
        limit=limit,
        control_users=len(arms[0]),
        treatment_users=len(arms[1]),
        means=compare_means(*arms) if observed else None,
        bayes=_posteriors(*arms) if observed else None,
        log_e_harm=harm.log_e,
        log_e_kept=kept.log_e,
        log_e_better=better.log_e,
        harm_over_time=tuple(harm_over_time),
        kept_over_time=tuple(kept_over_time),
    )


def _batches(name: MetricName, look: Look) -> Iterator[Batch]:
    """The look's users in a few batches, so that bets on the later ones know the earlier; in an order that knows nothing.

    Apart by the probability with which they were treated, on which bets depend, and by traffic share, the smaller first:
    that a user is there again says that he was in the control before, so nothing may be bet on before with that known.
    """
    size = max(_SMALLEST_BATCH, math.ceil(len(look.units) / _BATCHES_A_LOOK))
    for begin in range(0, len(look.units), size):
        values: dict[tuple[float, float], tuple[list[float], list[float]]] = {}
        for unit in look.units[begin : begin + size]:
            if name in unit.outcomes:
                drawn = unit.treatment_share, unit.share
                values.setdefault(drawn, ([], []))[unit.treatment].append(unit.outcomes[name])
        for (_, share), (control, treatment) in sorted(values.items()):
            if 0.0 < share < 1.0:
                yield Batch(share, Outcomes.of(control), Outcomes.of(treatment))


def _posteriors(control: np.ndarray, treatment: np.ndarray) -> BayesianComparison | None:
    if not np.isin(np.concatenate([control, treatment]), (0.0, 1.0)).all():
        return None
    first, second = (Posterior.of(float(arm.sum()), len(arm)) for arm in (control, treatment))
    found = compare_posteriors(first, second)
    # Metrics are 0 where all is well: the higher rate is the worse.
    return replace(
        found,
        prob_treatment_better=1.0 - found.prob_treatment_better,
        expected_loss_treatment=found.expected_loss_control,
        expected_loss_control=found.expected_loss_treatment,
    )
