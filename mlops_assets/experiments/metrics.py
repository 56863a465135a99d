"""Metrics of users, from 0 (good) to 1: means over the decisions of their windows. Which users count is `units.py`'s."""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiments.assignment import TREATMENT

if TYPE_CHECKING:
    import pandas as pd

Rates = TypeVar("Rates", float, "pd.Series[float]", "NDArray[np.float64]")
SLOWER, WORSE = "slower", "worse"
_USER = ["user_hash", "treatment_share"]
_PERCENTILE = 0.95
# A percentile is of so many observations at most, and none of fewer.
EARLIER, FEWEST_EARLIER = 1000, 40


@dataclass(frozen=True)
class Pair:
    """Two versions that were asked the same requests in the shadow, where nobody is left whom the first one answers.

    An answer is slow beyond `slow_ratio` times the first one's 95th percentile of shortly before (see `percentiles_before`).
    `accuracy_kept`: share of the first one's accuracy that the second one should keep. `earlier_ms`: what the first one's
    newest answers before these decisions took, the newest last.
    """

    model_name: str
    first: str
    second: str
    slow_ratio: float
    accuracy_kept: float
    earlier_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class MetricScale:
    """What metrics are measured by: the reward's bounds, and from how many ms on a request is slow, by metric.

    `slices` are columns of the prediction log: for each of their values, wrong decisions there are a metric of its own,
    such as `wrong[browser=webkit]`. With a `pair`, decisions of which both versions are known have its metrics too.
    """

    reward_low: float
    reward_high: float
    slow: Mapping[str, float]
    slices: tuple[str, ...] = ()
    pair: Pair | None = None


def excess(second: Rates, first: Rates, kept: float) -> Rates:
    """Return `second - kept * first`, both from 0 to 1, on a scale from 0 to 1; of a limit of it, with `first` 0."""
    return (second - kept * first + kept) / (1.0 + kept)


def percentiles_before(ms: Sequence[float], earlier_ms: Sequence[float]) -> NDArray[np.float64]:
    """Return, for each of `ms`, the 95th percentile of the observations before it; NaN where there are too few.

    A machine gets faster and slower, so it is that of shortly before. What is compared is not in it: of few observations
    the largest would rarely be beyond their own percentile, and another version's, no slower, would be more often.

    Args:
        ms: observations, in their order.
        earlier_ms: those before them, the newest last.
    """
    import pandas as pd

    earlier = list(earlier_ms)[-EARLIER:]
    known = pd.Series([*earlier, *ms], dtype=np.float64)
    percentiles = known.rolling(EARLIER, min_periods=FEWEST_EARLIER).quantile(_PERCENTILE).shift(1)
    return percentiles.to_numpy()[len(earlier) :]


def first_windows(
    found: "pd.DataFrame", cutoff: datetime, window: timedelta, scale: MetricScale
) -> Iterator[tuple[str, str, dict[str, float], dict[str, float]]]:
    """Give (user, arm, traffic shares, metrics) of the windows that began up to the cutoff, in the order of their begin.

    A metric without an observation is left out, not zero.

    Args:
        found: decisions in their order of time, with the columns that `observed` takes, `user_hash`, `treatment_share`,
            `event_time`, `variant`, `arms` and the scale's slices.
        cutoff: latest begin of a window.
        window: its length.
        scale: what metrics are measured by.
    """
    first = found.groupby(_USER, sort=False)[["event_time", "variant"]].transform("first")
    inside = (first["event_time"] <= cutoff) & (found["event_time"] < first["event_time"] + window)
    rows = found[inside & (found["variant"] == first["variant"])]
    metrics = observed(rows, scale)
    means = metrics.groupby([rows[name] for name in _USER], sort=False).mean()
    sliced = _sliced(rows, metrics["wrong"], scale.slices)
    firsts = rows.groupby(_USER, sort=False)[["variant", "arms"]].first()
    for (user, share), variant, arms, values in zip(
        means.index, firsts["variant"], firsts["arms"], means.to_dict("records"), strict=True
    ):
        shares = arms["shares"] if isinstance(arms, dict) else {TREATMENT: float(share)}
        yield str(user), str(variant), shares, {**_known(values), **sliced.get((user, share), {})}


def user_means(rows: "pd.DataFrame", scale: MetricScale) -> dict[str, dict[str, float]]:
    """Return each user's metrics over all of these decisions, without those that were not observed."""
    means = observed(rows, scale).groupby(rows["user_hash"]).mean()
    return {str(user): _known(values) for user, values in zip(means.index, means.to_dict("records"), strict=True)}


def observed(rows: "pd.DataFrame", scale: MetricScale) -> "pd.DataFrame":
    """Return the metrics of each decision; NaN without an observation.

    Args:
        rows: with the columns `fallback`, `latency_ms`, `action`, `best_action` and `reward`; with a pair, those of
            `decisions.decisions` for it.
        scale: what they are measured by.
    """
    import pandas as pd

    lost = (scale.reward_high - rows["reward"]) / (scale.reward_high - scale.reward_low)
    return pd.DataFrame(
        {
            "failed": (rows["fallback"] == "failed").astype(float),
            **{metric: (rows["latency_ms"] > limit).astype(float) for metric, limit in scale.slow.items()},
            "wrong": (rows["best_action"] != rows["action"]).astype(float).where(rows["best_action"].notna()),
            "loss": lost.astype(float).clip(0.0, 1.0),
            **({} if scale.pair is None else _paired(rows, scale.pair)),
        }
    )


def _paired(rows: "pd.DataFrame", pair: Pair) -> dict[str, "pd.Series[float]"]:
    """How much more often the second version is slow, and wrong, than the first on the same request: see `excess`."""
    import pandas as pd

    first_ms, second_ms = (rows[column].astype(float) for column in ("first_ms", "second_ms"))
    asked = first_ms.notna() & second_ms.notna()
    # Requests that were asked in one pass have its time in common, and are one observation of it.
    timed = asked & ~first_ms.duplicated() & ~second_ms.duplicated()
    slow_ms = pd.Series(np.nan, index=rows.index)
    slow_ms[timed] = pair.slow_ratio * percentiles_before(first_ms[timed].tolist(), pair.earlier_ms)
    slow = [(ms > slow_ms).astype(float) for ms in (first_ms, second_ms)]
    wrong = [(rows[column] != rows["best_action"]).astype(float) for column in ("first_action", "second_action")]
    return {
        SLOWER: excess(slow[1], slow[0], 1.0).where(slow_ms.notna()),
        WORSE: excess(wrong[1], wrong[0], pair.accuracy_kept).where(asked & rows["best_action"].notna()),
    }


def _sliced(
    rows: "pd.DataFrame", wrong: "pd.Series[float]", slices: tuple[str, ...]
) -> dict[tuple[str, float], dict[str, float]]:
    """By user and traffic share: the mean of wrong in each slice with a labelled decision."""
    found: dict[tuple[str, float], dict[str, float]] = {}
    labelled = wrong.notna()
    for column in slices:
        keys = [rows.loc[labelled, name] for name in (*_USER, column)]
        means = wrong[labelled].groupby(keys, sort=False).mean()
        for (user, share, value), mean in zip(means.index, means, strict=True):
            found.setdefault((user, share), {})[f"wrong[{column}={value}]"] = float(mean)
    return found


def _known(values: Mapping[Hashable, float]) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items() if not math.isnan(value)}
