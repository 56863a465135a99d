"""The decision of a rollout, as a pure function of its state, what was observed, the time and the policy.

Evidence of harm takes a candidate back, whatever else holds; a stage is passed on evidence that every limit is kept, after
its time, on enough users, when the calendar allows; all else holds. Nothing is ever passed, or taken back, for want of data.
"""

import math
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from mlops_assets.experiments.odds import odds_in_words
from mlops_assets.foundation.policies import RolloutPolicy, ShadowGate, StageName
from mlops_assets.rollout.calendar import closed
from mlops_assets.rollout.state import Rate, RolloutState

Action = Literal["hold", "advance", "promote", "rollback", "abort", "supersede"]


@dataclass(frozen=True)
class Criterion:
    """One limit of the present stage: evidence that it is kept, in words and as the logarithm of an e-value."""

    name: str
    words: str
    log_e_kept: float


@dataclass(frozen=True)
class StageFindings:
    """What users of the present stage have shown so far.

    `log_e_harm` is over all limits, slices and servers' guard; `harm` says what is worst. `split`: why the arms cannot be
    compared, None while the split is right. `baseline`: the champion's rate of failed requests.
    """

    control_users: int = 0
    treatment_users: int = 0
    log_e_harm: float = 0.0
    harm: str = ""
    criteria: tuple[Criterion, ...] = ()
    split: str | None = None
    baseline: Rate | None = None


@dataclass(frozen=True)
class ShadowFindings:
    """What the candidate answered to the champion's requests.

    `answered`: requests with an answer of the candidate. Latencies are 95th percentiles, in ms: `request_ms` of whole requests
    to the champion; `champion_ms` and `candidate_ms` of evaluation alone, of both in the shadow, on the same requests.
    `labelled`: answered requests whose best action became known; accuracies are shares of them. `accuracy_gain` is candidate
    less champion, `value_gain` that of the reward as a share of its range (None where no action's reward is known), each with
    one-sided bounds.
    """

    requests: int = 0
    answered: int = 0
    agreement: float | None = None
    illegal: int = 0
    request_ms: float | None = None
    champion_ms: float | None = None
    candidate_ms: float | None = None
    labelled: int = 0
    champion_accuracy: float | None = None
    candidate_accuracy: float | None = None
    accuracy_gain_lower: float | None = None
    accuracy_gain_upper: float | None = None
    value_gain_lower: float | None = None
    value_gain_upper: float | None = None


@dataclass(frozen=True)
class Observation:
    """The world as a rollout sees it.

    `champion`: who is champion now. `withdrawn`: why the candidate may not go on (its approval is void, or it left its
    stage). `newer`: an approved newer candidate. `platform`: why nothing can be trusted at the moment, and all is held.
    """

    champion: str | None
    withdrawn: str | None = None
    newer: str | None = None
    platform: str | None = None
    shadow: ShadowFindings = field(default_factory=ShadowFindings)
    stage: StageFindings = field(default_factory=StageFindings)


@dataclass(frozen=True)
class Decision:
    """What to do, where to, and why, in sentences. `stalled`: a hold that has lasted longer than it should."""

    action: Action
    reasons: tuple[str, ...]
    to: StageName | None = None
    slow_ms: float | None = None
    baseline: Rate | None = None
    stalled: bool = False


@dataclass(frozen=True)
class _Check:
    """One limit of the shadow, in words; `passed` is None while nobody can tell."""

    words: str
    passed: bool | None


def advance(state: RolloutState, seen: Observation, now: datetime, policy: RolloutPolicy) -> Decision:
    """Decide on the next step of a running or paused rollout.

    Order: harm, then whether candidate and champion are still the ones, then time, users, evidence and calendar.
    """
    before_evidence = (
        _harm(seen.stage, policy),
        Decision("hold", ("its promotion is under way",)) if state.status == "promoting" else None,
        _ended(state, seen, policy),
        Decision("hold", (seen.platform,), stalled=_stalled(state, now, policy)) if seen.platform is not None else None,
        Decision("hold", (f"it is {state.status}",)) if state.status != "running" else None,
        _illegal(seen.shadow) if state.stage == "shadow" else None,
    )
    return next((one for one in before_evidence if one is not None), None) or _judged(state, seen, now, policy)


def guard_decision(log_e_harm: float, harm: str, policy: RolloutPolicy) -> Decision | None:
    """Decide on harm alone, as the servers' guard does; None without proof of it."""
    return _harm(StageFindings(log_e_harm=log_e_harm, harm=harm), policy)


def needed(alpha: float) -> float:
    """Natural logarithm of the e-value that refutes at level alpha."""
    return -math.log(alpha)


def odds(log_e: float) -> str:
    """Say an e-value: 20 to 1 refutes at 5 %."""
    return f"evidence {odds_in_words(log_e)}"


def _judged(state: RolloutState, seen: Observation, now: datetime, policy: RolloutPolicy) -> Decision:
    """Decide on a stage that nothing ends before its time."""
    over_at = _over_at(state, policy)
    if now < over_at:
        return Decision("hold", (f"{state.stage} goes on for {_left(over_at - now)}",))
    decided = _shadow(seen.shadow, policy) if state.stage == "shadow" else _stage(state, seen.stage, policy)
    if decided.action == "hold":
        return replace(decided, stalled=_stalled(state, now, policy))
    if decided.action == "abort":
        return decided
    reason = closed(policy.calendar, now)
    if reason is not None:
        return Decision("hold", (f"{state.stage} is passed", reason))
    return _next(state, seen, decided)


def _over_at(state: RolloutState, policy: RolloutPolicy) -> datetime:
    hours = policy.shadow.hours if state.stage == "shadow" else policy.stages[state.stage].hours
    return state.since + timedelta(hours=hours)


def _stalled(state: RolloutState, now: datetime, policy: RolloutPolicy) -> bool:
    """Whether people should look why a running rollout does not go on."""
    return state.status == "running" and now - _over_at(state, policy) > timedelta(hours=policy.stall_hours)


def _harm(stage: StageFindings, policy: RolloutPolicy) -> Decision | None:
    if stage.log_e_harm < needed(policy.alpha_harm):
        return None
    return Decision("rollback", (stage.harm, odds(stage.log_e_harm)))


def _ended(state: RolloutState, seen: Observation, policy: RolloutPolicy) -> Decision | None:
    if seen.champion != state.champion:
        found = "there is no champion" if seen.champion is None else f"{seen.champion} is champion"
        return Decision("abort", (f"{found} where {state.champion} was when the rollout started",))
    if seen.withdrawn is not None:
        return Decision("abort", (seen.withdrawn,))
    if seen.stage.split is not None:
        return Decision("abort", (seen.stage.split,))
    if seen.newer is not None and policy.when_newer == "supersede":
        return Decision("supersede", (f"{seen.newer} is newer and approved, and the policy lets it take over",))
    return None


def _illegal(shadow: ShadowFindings) -> Decision | None:
    if not shadow.illegal:
        return None
    return Decision("rollback", (f"{shadow.illegal} of {shadow.answered} answers in the shadow were no legal actions",))


def _shadow(shadow: ShadowFindings, policy: RolloutPolicy) -> Decision:
    gate = policy.shadow
    if shadow.requests < gate.min_requests:
        return Decision("hold", (f"{shadow.requests:,} requests in the shadow; {gate.min_requests:,} are needed",))
    checks = (*_answer_checks(shadow, gate), *_gain_checks(shadow, gate))
    failed = tuple(f"refused in the shadow: {one.words}" for one in checks if one.passed is False)
    if failed:
        return Decision("abort", failed)
    lacking = tuple(f"not proven yet: {one.words}" for one in checks if one.passed is None)
    return Decision("hold", lacking) if lacking else Decision("advance", tuple(one.words for one in checks))


def _answer_checks(shadow: ShadowFindings, gate: ShadowGate) -> tuple[_Check, ...]:
    answered, agreement = shadow.answered / shadow.requests, shadow.agreement or 0.0
    return (
        _Check(
            f"it answered {answered:.1%} of the requests (at least {gate.min_answered:.1%})",
            answered >= gate.min_answered,
        ),
        _Check(f"it agrees in {agreement:.1%} (at least {gate.min_agreement:.1%})", agreement >= gate.min_agreement),
        _latency_check(shadow, gate),
    )


def _latency_check(shadow: ShadowFindings, gate: ShadowGate) -> _Check:
    if shadow.candidate_ms is None or not shadow.champion_ms:
        return _Check("the champion was not asked beside it, so that nobody knows how slow it is", None)
    slow = shadow.candidate_ms / shadow.champion_ms
    return _Check(
        f"its 95th percentile is {slow:.2f} times the champion's latency (at most {gate.max_latency_ratio:g})",
        slow <= gate.max_latency_ratio,
    )


def _gain_checks(shadow: ShadowFindings, gate: ShadowGate) -> tuple[_Check, ...]:
    if shadow.labelled < gate.min_labelled:
        words = f"of {shadow.labelled:,} requests the best action is known; {gate.min_labelled:,} are needed"
        return (_Check(words, None),)
    if shadow.accuracy_gain_lower is None:
        return (_Check("the users in the shadow are too few for a bound of the accuracy's gain", None),)
    mine, champion = shadow.candidate_accuracy or 0.0, shadow.champion_accuracy or 0.0
    what = f"its accuracy is {mine:.1%}, the champion's {champion:.1%}, the gain"
    lowest = -gate.max_accuracy_drop * champion
    return (
        _gain_check(what, shadow.accuracy_gain_lower, shadow.accuracy_gain_upper, lowest),
        _Check("its reward was not observed: of no request the reward of every action is known", passed=True)
        if shadow.value_gain_lower is None
        else _gain_check(
            "its gain of reward, of the range, is",
            shadow.value_gain_lower,
            shadow.value_gain_upper,
            -gate.max_value_drop,
        ),
    )


def _gain_check(what: str, lower: float, upper: float | None, lowest: float) -> _Check:
    """Whether a gain is proven to keep its limit, proven to miss it, or neither."""
    if upper is not None and upper < lowest:
        return _Check(f"{what} at most {upper:+.1%} (at least {lowest:+.1%})", passed=False)
    return _Check(f"{what} at least {lower:+.1%} (at least {lowest:+.1%})", True if lower >= lowest else None)


def _stage(state: RolloutState, found: StageFindings, policy: RolloutPolicy) -> Decision:
    limits = policy.stages[state.stage]
    # In the last stage there is no champion left to compare with.
    fewest = found.treatment_users if state.share == 1.0 else min(found.control_users, found.treatment_users)
    if fewest < limits.min_users_per_arm:
        words = f"{found.control_users:,} users of the champion and {found.treatment_users:,} of the candidate counted so far"
        return Decision("hold", (f"{words}; {limits.min_users_per_arm:,} are needed",))
    enough = needed(policy.alpha_pass)
    lacking = [one for one in found.criteria if one.log_e_kept < enough]
    if lacking or not found.criteria:
        return Decision("hold", tuple(f"not proven yet: {one.words} ({odds(one.log_e_kept)})" for one in lacking))
    return Decision("advance", tuple(f"{one.words} ({odds(one.log_e_kept)})" for one in found.criteria))


def _next(state: RolloutState, seen: Observation, passed: Decision) -> Decision:
    to = state.next_stage
    if to is None:
        return Decision("promote", passed.reasons)
    return Decision(
        "advance",
        passed.reasons,
        to=to,
        slow_ms=seen.shadow.request_ms if state.stage == "shadow" else None,
        baseline=seen.stage.baseline if to == "100_percent" else None,
    )


def _left(rest: timedelta) -> str:
    hours = rest.total_seconds() / 3600.0
    return f"{hours:.1f} h more" if hours >= 1.0 else f"{math.ceil(hours * 60.0)} min more"
