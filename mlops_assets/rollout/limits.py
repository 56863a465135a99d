"""The limits of a stage, as the tests of `experiments.sequential` take them: linear in the rates of the two arms.

- errors: share of requests that the candidate failed on, at most `max_error_ratio` times the champion's and `error_floor`;
- latency: share of requests slower than `max_latency_ratio` times the champion's 95th percentile, at most that of the
  champion's own and `max_slow_points`: while the machine is as it was, a 95th percentile above its limit is just that;
- accuracy: wrong decisions, at most those at which accuracy is a share `max_accuracy_drop` below the champion's;
- floor: wrong decisions, at most 1 - `min_accuracy`.

In the last stage nobody has the champion any more. Failures are held against the rate that it had before. Latency and
accuracy would be held against another day's machine and users, so the champion is asked the same requests in the shadow:

- slower: how much more often the candidate's evaluation is slow than the champion's, at most `max_slow_points`;
- worse: the candidate's wrong decisions less the champion's, as accuracy allows them.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from mlops_assets.experiments.metrics import SLOWER, WORSE, Pair, excess
from mlops_assets.experiments.sequential import Evidence, Limit
from mlops_assets.foundation.policies import STAGE_SHARES, RolloutPolicy, StageLimits, StageName
from mlops_assets.rollout.state import Rate, RolloutState

Name = Literal["errors", "latency", "accuracy", "floor", "slower", "worse"]
NAMES: tuple[Name, ...] = ("errors", "latency", "accuracy", "floor", "slower", "worse")
_BESIDE: tuple[Name, ...] = ("errors", "latency", "accuracy", "floor")
_LAST: tuple[Name, ...] = ("errors", "slower", "worse", "floor")
_PAIRED: frozenset[Name] = frozenset({"slower", "worse"})
FAILED, WRONG = "failed", "wrong"
STAGE_OF: Mapping[float, StageName] = {share: stage for stage, share in STAGE_SHARES.items()}
_HIGHEST = 0.999
_SMALLEST_DISTANCE = 1e-4
# The candidate as good as the champion, half as far within the limit, and half as far again beyond.
_KEPT_SIZES, _KEPT_WEIGHTS = (1.0, 0.5, 1.5), (0.7, 0.15, 0.15)
# On the same requests two versions are mostly the same: differences vary less than rates around a half do, by how much
# nobody knows before, and the less they vary, the larger the bets may be.
_PAIRED_KEPT_SIZES, _PAIRED_KEPT_WEIGHTS = (8.0, 3.0, 1.0), (0.4, 0.3, 0.3)
_HARM_SIZES, _PAIRED_HARM_SIZES = (1.0, 2.0, 4.0), (1.0, 4.0, 16.0)


def slow_metric(ratio: float) -> str:
    """Name the metric of requests slower than `ratio` times the champion's 95th percentile."""
    return f"slow@{ratio:g}"


def slow_thresholds(policy: RolloutPolicy, champion_ms: float) -> dict[str, float]:
    """Return the latency in ms from which on a request is slow, by metric, for every stage with both arms."""
    ratios = [limits.max_latency_ratio for stage, limits in policy.stages.items() if "latency" in names_of(stage)]
    return {slow_metric(ratio): ratio * champion_ms for ratio in ratios}


def metric_of(name: Name, limits: StageLimits) -> str:
    """Name the users' metric that a limit is on."""
    if name == "latency":
        return slow_metric(limits.max_latency_ratio)
    return {"errors": FAILED, "slower": SLOWER, "worse": WORSE}.get(name, WRONG)


def names_of(stage: StageName) -> tuple[Name, ...]:
    """Name the limits of a stage with users of the candidate."""
    return _LAST if stage == "100_percent" else _BESIDE


def pair_of(state: RolloutState, policy: RolloutPolicy, earlier_ms: Sequence[float] = ()) -> Pair:
    """Return the versions that are compared in the last stage, and how; `earlier_ms` as `Pair` takes it."""
    return Pair(
        state.model_name,
        state.champion,
        state.candidate,
        policy.stages["100_percent"].max_latency_ratio,
        1.0 - policy.max_accuracy_drop,
        tuple(earlier_ms),
    )


def limit_of(
    name: Name, limits: StageLimits, policy: RolloutPolicy, baseline: Rate | None, *, above: bool = False
) -> Limit:
    """Return a stage's limit; that of errors, with a baseline, as a rate by itself.

    Harm allows for what is not known of the champion's rate; the proof that a limit is kept (`above`) does not.
    """
    if name == "floor":
        return Limit(0.0, 1.0 - limits.min_accuracy, above)
    if name in _PAIRED:
        return Limit(0.0, excess(_allowed(name, policy), 0.0, _kept(name, policy)), above)
    ratio, delta = {
        "errors": (limits.max_error_ratio, policy.error_floor),
        "latency": (1.0, policy.max_slow_points),
        "accuracy": (1.0 - policy.max_accuracy_drop, policy.max_accuracy_drop),
    }[name]
    if name != "errors" or baseline is None:
        return Limit(ratio, delta, above)
    return Limit(0.0, min(_HIGHEST, ratio * (baseline.mean if above else baseline.upper) + delta), above)


def harm_test(name: Name, policy: RolloutPolicy) -> Evidence:
    """Return the test of harm beyond a limit that is set before its first users."""
    effect = {
        "errors": policy.error_effect,
        "latency": policy.slow_effect,
        "slower": policy.slow_effect / 2.0,
        "worse": policy.accuracy_effect / (1.0 + _kept(name, policy)),
    }.get(name, policy.accuracy_effect)
    sizes = _PAIRED_HARM_SIZES if name in _PAIRED else _HARM_SIZES
    return Evidence(Limit(), effect, relative=False, sizes=sizes)


def kept_test(name: Name, limits: StageLimits, policy: RolloutPolicy, baseline: Rate | None) -> Evidence:
    """Return the test that refutes the opposite of a limit: how far from it the candidate is expected, if it is as good."""
    limit = limit_of(name, limits, policy, baseline, above=True)
    if name in _PAIRED:
        wrong = 1.0 - limits.min_accuracy if name == "worse" else 0.0
        distance = max(limit.delta - excess(wrong, wrong, _kept(name, policy)), _SMALLEST_DISTANCE)
        return Evidence(limit, distance, relative=False, sizes=_PAIRED_KEPT_SIZES, weights=_PAIRED_KEPT_WEIGHTS)
    effect = policy.accuracy_effect if limit.fixed else None
    if name == "errors" and baseline is not None:
        effect = max(limit.delta - baseline.mean, _SMALLEST_DISTANCE)
    return Evidence(limit, effect, relative=False, sizes=_KEPT_SIZES, weights=_KEPT_WEIGHTS)


def in_words(
    name: Name, limits: StageLimits, policy: RolloutPolicy, treated: float | None, control: float | None
) -> str:
    """Say the rates of both arms (None: unknown) and what is allowed."""
    if name in _PAIRED:
        return _pair_in_words(name, limits, policy, treated)
    what = {
        "errors": "failed requests",
        "latency": f"requests slower than {limits.max_latency_ratio:g} times the champion's 95th percentile",
    }.get(name, "wrong decisions")
    allowed = {
        "errors": f"{limits.max_error_ratio:g} times the champion's and {100 * policy.error_floor:g} points",
        "latency": f"the champion's and {100 * policy.max_slow_points:g} points",
        "accuracy": f"an accuracy {policy.max_accuracy_drop:.0%} below the champion's",
        "floor": f"{1 - limits.min_accuracy:.0%}",
    }[name]
    against = "" if control is None or name == "floor" else f" against the champion's {_percent(control)}"
    return f"{what} {_percent(treated)}{against} (allowed: {allowed})"


def _pair_in_words(name: Name, limits: StageLimits, policy: RolloutPolicy, treated: float | None) -> str:
    kept = _kept(name, policy)
    points = "unknown" if treated is None else f"{100.0 * (treated * (1.0 + kept) - kept):+.2f} points"
    what = {
        "slower": f"evaluations slower than {limits.max_latency_ratio:g} times the former champion's 95th percentile on the "
        f"same requests {points} against its own",
        "worse": f"wrong decisions on the same requests {points} against {kept:g} times the former champion's",
    }[name]
    return f"{what} (allowed: {100.0 * _allowed(name, policy):g} points)"


def _allowed(name: Name, policy: RolloutPolicy) -> float:
    return policy.max_slow_points if name == "slower" else policy.max_accuracy_drop


def _kept(name: Name, policy: RolloutPolicy) -> float:
    """By which part of the champion's rate an excess is over."""
    return 1.0 - policy.max_accuracy_drop if name == "worse" else 1.0


def _percent(rate: float | None) -> str:
    return "unknown" if rate is None else f"{rate:.2%}"
