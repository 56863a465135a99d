"""Whether a version's learner is well: five alarms on its decisions of a window, each for an illness of its own.

Drift says that the world has changed; these say that the learner itself misbehaves: it takes few kinds of action, never takes
one, promises more than comes, is far wrong now and then, or is asked about states it has never seen. Each compares with
the version's own frozen reference, needs an effect beyond the policy's limit and evidence at `alpha` that it is no chance,
with dependence within clusters, and says `insufficient_data` by itself.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import HealthPolicy
from mlops_assets.monitoring.calibration import cluster_error
from mlops_assets.monitoring.design_effect import design_effect
from mlops_assets.monitoring.divergence import chi_square, cramers_v
from mlops_assets.monitoring.health_reference import HealthReference, tail_of
from mlops_assets.monitoring.learner_errors import overestimation, td_errors
from mlops_assets.monitoring.linear_models import Float
from mlops_assets.monitoring.version_decisions import VersionDecisions

Alarm = Literal["action_mix", "dead_action", "overestimation", "td_tail", "unseen_states"]
HealthVerdict = Literal["ok", "alarm", "insufficient_data"]


@dataclass(frozen=True)
class HealthFinding:
    """What one alarm found: its statistic, the limit, and the chance of such evidence in a healthy window (`p_value`)."""

    alarm: Alarm
    verdict: HealthVerdict
    rows: int
    statistic: float | None
    limit: float
    p_value: float | None
    words: str


@dataclass(frozen=True)
class HealthReport:
    """The five findings of one window."""

    findings: tuple[HealthFinding, ...]

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Which ring."""
        return tuple(one.alarm for one in self.findings if one.verdict == "alarm")

    @property
    def verdict(self) -> HealthVerdict:
        """`alarm` if one rings, `insufficient_data` if none could be judged, else `ok`."""
        if self.alarms:
            return "alarm"
        return "ok" if any(one.verdict == "ok" for one in self.findings) else "insufficient_data"

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"verdict": self.verdict, "findings": [asdict(one) for one in self.findings]}


def check_health(
    reference: HealthReference, decisions: VersionDecisions, policy: HealthPolicy, action_names: tuple[str, ...]
) -> HealthReport:
    """Judge one window of the version's decisions.

    Raises:
        InputError: the decisions have another number of actions or state fields than the reference, or than the names.
    """
    fields = (len(reference.counts), len(reference.seen.mean))
    if fields != (decisions.actions, decisions.state.shape[1]) or fields[0] != len(action_names):
        raise InputError(
            f"{decisions.actions} actions ({len(action_names)} names) and {decisions.state.shape[1]} state fields; the "
            f"reference has {fields[0]} and {fields[1]}: take the reference of the same version"
        )
    window = decisions.ordered()
    clusters = np.unique(window.cluster, return_inverse=True)[1].astype(np.int64)
    dead = _dead_actions(reference, window, policy)
    return HealthReport(
        (
            _action_mix(reference, window, clusters, dead, policy),
            _dead_finding(window, dead, policy, action_names),
            _overestimation(reference, window, clusters, policy),
            _td_tail(reference, window, clusters, policy),
            _unseen(reference, window, clusters, policy),
        )
    )


def _action_mix(
    reference: HealthReference,
    window: VersionDecisions,
    clusters: NDArray[np.int64],
    dead: dict[int, float],
    policy: HealthPolicy,
) -> HealthFinding:
    """Shares of the actions that are not dead: Cramér's V against the reference's, and their entropy."""
    limit = policy.max_mix_distance
    if len(window) < policy.min_rows:
        return _too_few("action_mix", len(window), policy.min_rows, limit)
    # A missing action is an illness of its own; the others are compared as they are among each other.
    alive = [action for action in range(window.actions) if action not in dead]
    counts = np.bincount(window.action, minlength=window.actions)[alive]
    before = reference.counts[alive]
    if counts.sum() == 0 or before.sum() == 0:
        return _too_few("action_mix", int(counts.sum()), policy.min_rows, limit)
    effect = design_effect(window.action.astype(np.intp), clusters, window.actions)
    shares, expected = counts / counts.sum(), before / before.sum()
    distance = cramers_v(shares, expected)
    left = entropy(shares) / entropy(expected) if entropy(expected) > 0 else 1.0
    table = np.stack([counts / effect, before / reference.action_effect])
    p_value = chi_square(table[:, table.sum(axis=0) > 0])[1]
    ill = (distance > limit or left < policy.min_entropy_share) and p_value < policy.alpha
    words = f"Cramér's V {distance:.3f} from the reference's mix (limit {limit:g}), entropy {left:.0%} of it"
    return HealthFinding("action_mix", "alarm" if ill else "ok", len(window), distance, limit, p_value, words)


def _dead_actions(reference: HealthReference, window: VersionDecisions, policy: HealthPolicy) -> dict[int, float]:
    """Actions that the reference takes and the window never does, with the chance of that: (1 - share) ^ (independent rows)."""
    if len(window) < policy.min_rows:
        return {}
    shares = reference.counts / reference.counts.sum()
    counts = np.bincount(window.action, minlength=window.actions)
    missing = np.flatnonzero((counts == 0) & (shares > policy.min_action_share))
    chances = {int(one): float((1.0 - shares[one]) ** (len(window) / reference.action_effect)) for one in missing}
    # One of several actions: Bonferroni.
    return {one: chance for one, chance in chances.items() if chance * window.actions < policy.alpha}


def _dead_finding(
    window: VersionDecisions, dead: dict[int, float], policy: HealthPolicy, names: tuple[str, ...]
) -> HealthFinding:
    if len(window) < policy.min_rows:
        return _too_few("dead_action", len(window), policy.min_rows, 0.0)
    if not dead:
        return HealthFinding("dead_action", "ok", len(window), 0.0, 0.0, None, "no action is missing")
    listed = ", ".join(names[one] for one in dead)
    words = f"never taken in {len(window)} decisions, though the reference does: {listed}"
    worst = min(1.0, min(dead.values()) * window.actions)
    return HealthFinding("dead_action", "alarm", len(window), float(len(dead)), 0.0, worst, words)


def _overestimation(
    reference: HealthReference, window: VersionDecisions, clusters: NDArray[np.int64], policy: HealthPolicy
) -> HealthFinding:
    """Mean of Q less the realised return, beyond the reference's own, in its standard deviations."""
    limit = policy.max_overestimation_sds
    found = overestimation(window, reference.discount)
    known = np.isfinite(found)
    episodes = len(np.unique(window.episode[known]))
    if min(episodes, reference.episodes) < policy.min_episodes:
        return _too_few(
            "overestimation", min(episodes, reference.episodes), policy.min_episodes, limit, "whole episodes"
        )
    beyond = float(found[known].mean()) - reference.overestimation
    effect = beyond / max(reference.overestimation_spread, np.finfo(float).tiny)
    p_value = _upper(beyond, float(np.hypot(cluster_error(found, clusters), reference.overestimation_error)))
    ill = effect > limit and p_value < policy.alpha
    words = (
        f"Q values are {beyond:+.3g} above the realised return beyond the reference's own {reference.overestimation:+.3g}: "
        f"{effect:+.2f} of its standard deviations (limit {limit:g})"
    )
    return HealthFinding("overestimation", "alarm" if ill else "ok", int(known.sum()), effect, limit, p_value, words)


def _td_tail(
    reference: HealthReference, window: VersionDecisions, clusters: NDArray[np.int64], policy: HealthPolicy
) -> HealthFinding:
    """Ratio of the tail quantiles of the TD error, and how many decisions exceed the reference's."""
    limit = policy.max_tail_ratio
    errors = td_errors(window, reference.discount)
    known = np.isfinite(errors)
    rows = int(known.sum())
    if min(rows, reference.td_rows) < policy.min_rows or not reference.tail > 0.0:
        return _too_few(
            "td_tail", min(rows, reference.td_rows), policy.min_rows, limit, "decisions with what came of them"
        )
    ratio = tail_of(errors[known], reference.tail_quantile) / reference.tail
    above = np.where(known, np.abs(errors - np.median(errors[known])) > reference.tail, np.nan)
    p_value = _share_above(above, clusters, 1.0 - reference.tail_quantile, reference.td_rows)
    ill = ratio > limit and p_value < policy.alpha
    words = (
        f"the TD error's {reference.tail_quantile:.0%} quantile is {ratio:.2f} times the reference's {reference.tail:.3g} "
        f"(limit {limit:g})"
    )
    return HealthFinding("td_tail", "alarm" if ill else "ok", rows, ratio, limit, p_value, words)


def _unseen(
    reference: HealthReference, window: VersionDecisions, clusters: NDArray[np.int64], policy: HealthPolicy
) -> HealthFinding:
    """Share of the states that are farther off than almost all of the reference's."""
    limit = policy.max_unseen_share
    if len(window) < policy.min_rows:
        return _too_few("unseen_states", len(window), policy.min_rows, limit)
    unseen = reference.seen.unseen(window.state).astype(np.float64)
    share = float(unseen.mean())
    p_value = _share_above(unseen, clusters, reference.seen.share, reference.seen.rows)
    ill = share > limit and p_value < policy.alpha
    words = f"{share:.2%} of the states are unlike the reference's, where {reference.seen.share:.2%} are (limit {limit:.0%})"
    return HealthFinding("unseen_states", "alarm" if ill else "ok", len(window), share, limit, p_value, words)


def entropy(shares: Float) -> float:
    """Shannon entropy of shares (A,), in nats."""
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def _share_above(hits: Float, clusters: NDArray[np.int64], expected: float, reference_rows: int) -> float:
    """One-sided chance of the share of hits (N,) (NaN: not known) if `expected` is the reference's, which has an error too."""
    rows = np.isfinite(hits).sum()
    # Few hits happen to fall into few clusters: no less than what independent rows would have at the expected share.
    least = np.sqrt(expected * (1.0 - expected) / rows)
    own = max(cluster_error(hits, clusters), float(least))
    other = np.sqrt(expected * (1.0 - expected) / max(reference_rows, 1))
    return _upper(float(np.nanmean(hits)) - expected, float(np.hypot(own, other)))


def _upper(difference: float, error: float) -> float:
    from scipy.special import ndtr

    if error <= 0.0:
        return 1.0 if difference <= 0.0 else 0.0
    return float(ndtr(-difference / error))


def _too_few(alarm: Alarm, have: int, wanted: int, limit: float, what: str = "decisions") -> HealthFinding:
    return HealthFinding(alarm, "insufficient_data", have, None, limit, None, f"{have} {what}; {wanted} are needed")
