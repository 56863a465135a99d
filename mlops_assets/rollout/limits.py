"""The limits of a stage, as the tests of `experiments.sequential` take them: linear in the rates of the two arms.

- errors: share of requests that the candidate failed on, at most `max_error_ratio` times the champion's and `error_floor`;
- latency: share of requests slower than `max_latency_ratio` times the champion's 95th percentile, at most that of the
  champion's own and `max_slow_points`: while the machine is as it was, a 95th percentile above its limit is just that;
- accuracy: wrong decisions, at most those at which accuracy is a share `max_accuracy_drop` below the champion's;
- floor: wrong decisions, at most 1 - `min_accuracy`.

In the last stage nobody has the champion any more: rates are held against those that it had before.
"""

from collections.abc import Mapping
from typing import Literal

from mlops_assets.experiments.sequential import Limit
from mlops_assets.foundation.profiles import STAGE_SHARES, RolloutPolicy, StageLimits, StageName
from mlops_assets.rollout.state import Baseline, Rate

Name = Literal["errors", "latency", "accuracy", "floor"]
NAMES: tuple[Name, ...] = ("errors", "latency", "accuracy", "floor")
FAILED, WRONG = "failed", "wrong"
STAGE_OF: Mapping[float, StageName] = {share: stage for stage, share in STAGE_SHARES.items()}
_HIGHEST = 0.999


def slow_metric(ratio: float) -> str:
    """Name the metric of requests slower than `ratio` times the champion's 95th percentile."""
    return f"slow@{ratio:g}"


def slow_thresholds(policy: RolloutPolicy, champion_ms: float) -> dict[str, float]:
    """Return the latency in ms from which on a request is slow, by metric, for every stage."""
    return {
        slow_metric(stage.max_latency_ratio): stage.max_latency_ratio * champion_ms for stage in policy.stages.values()
    }


def metric_of(name: Name, limits: StageLimits) -> str:
    """Name the users' metric that a limit is on."""
    if name == "latency":
        return slow_metric(limits.max_latency_ratio)
    return FAILED if name == "errors" else WRONG


def limit_of(
    name: Name, limits: StageLimits, policy: RolloutPolicy, baseline: Baseline | None, *, above: bool = False
) -> Limit:
    """Return a stage's limit; with a baseline, as a rate by itself.

    Harm allows for what is not known of the champion's rates; the proof that a limit is kept (`above`) does not.
    """
    if name == "floor":
        return Limit(0.0, 1.0 - limits.min_accuracy, above)
    ratio, delta = {
        "errors": (limits.max_error_ratio, policy.error_floor),
        "latency": (1.0, policy.max_slow_points),
        "accuracy": (1.0 - policy.max_accuracy_drop, policy.max_accuracy_drop),
    }[name]
    if baseline is None:
        return Limit(ratio, delta, above)
    rate = rate_of(name, baseline)
    return Limit(0.0, min(_HIGHEST, ratio * (rate.mean if above else rate.upper) + delta), above)


def rate_of(name: Name, baseline: Baseline) -> Rate:
    """Return the champion's rate that a limit compares with."""
    return {"errors": baseline.failed, "latency": baseline.slow}.get(name, baseline.wrong)


def in_words(
    name: Name, limits: StageLimits, policy: RolloutPolicy, treated: float | None, control: float | None
) -> str:
    """Say the rates of both arms (None: unknown) and what is allowed."""
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
    return f"{what} {_percent(treated)} against the champion's {_percent(control)} (allowed: {allowed})"


def _percent(rate: float | None) -> str:
    return "unknown" if rate is None else f"{rate:.2%}"
