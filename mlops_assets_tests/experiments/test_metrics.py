"""Metrics of users are means over their own decisions, of what was observed, where it was observed."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from mlops_assets.experiments.metrics import (
    EARLIER,
    FEWEST_EARLIER,
    MetricScale,
    Pair,
    excess,
    first_windows,
    percentiles_before,
    user_means,
)
from mlops_assets_tests.experiences.served import SERVED_AT

SCALE = MetricScale(-50.0, 150.0, {"slow@1.5": 150.0, "slow@1.1": 110.0}, ("browser", "test_type"))


def decision(minute: float, user: str, **changes: object) -> dict[str, object]:
    return {
        "user_hash": user,
        "treatment_share": 0.2,
        "event_time": SERVED_AT + timedelta(minutes=minute),
        "variant": "treatment",
        "arms": None,
        "action": 1,
        "best_action": None,
        "fallback": None,
        "latency_ms": 120.0,
        "reward": None,
        "browser": "webkit",
        "test_type": "e2e",
        **changes,
    }


def windows(*rows: dict[str, object], scale: MetricScale = SCALE) -> dict[str, dict[str, float]]:
    """Metrics by user of the windows of ten minutes that began in the first hour."""
    found = first_windows(
        pd.DataFrame(list(rows)), SERVED_AT + timedelta(minutes=60), timedelta(minutes=10), scale
    )  # fmt: skip
    return {user: metrics for user, _, _, metrics in found}


def test_wrong_decisions_of_a_slice_are_those_within_it() -> None:
    """A user of two browsers is wrong in both where one was, or right where nobody knows what would have been."""
    found = windows(
        decision(0, "ann", best_action=1),
        decision(1, "ann", best_action=0),
        decision(2, "bob", browser="firefox", test_type="unit"),
        decision(3, "ann", best_action=0, browser="firefox"),
        decision(4, "ann", browser="chromium"),
        decision(5, "cid", best_action=1, browser="firefox", test_type="unit"),
        decision(11, "ann", best_action=1, browser="edge"),
    )
    sliced = {user: {name: mean for name, mean in one.items() if "[" in name} for user, one in found.items()}
    assert sliced == {
        "ann": {
            "wrong[browser=webkit]": 0.5,
            "wrong[browser=firefox]": 1.0,
            "wrong[test_type=e2e]": pytest.approx(2 / 3),
        },
        "bob": {},
        "cid": {"wrong[browser=firefox]": 0.0, "wrong[test_type=unit]": 0.0},
    }
    assert found["ann"]["wrong"] == pytest.approx(2 / 3)
    assert "wrong" not in found["bob"]


def test_a_user_at_two_shares_has_slices_at_each() -> None:
    """Of one who comes back at 20 %, the browser of the first time is held against the second."""
    rows = pd.DataFrame(
        [
            decision(0, "ann", best_action=0, treatment_share=0.05, variant="control"),
            decision(20, "ann", best_action=1, browser="firefox"),
        ]
    )
    first, second = first_windows(rows, SERVED_AT + timedelta(minutes=60), timedelta(minutes=10), SCALE)
    assert (first[1], first[2]) == ("control", {"treatment": 0.05})
    assert {name for name in first[3] if "browser" in name} == {"wrong[browser=webkit]"}
    assert second[3]["wrong[browser=firefox]"] == 0.0
    assert "wrong[browser=webkit]" not in second[3]


def test_slow_is_measured_by_every_limit() -> None:
    """120 ms are within the limit of one stage, and beyond that of the next."""
    found = windows(decision(0, "ann"), decision(1, "ann", latency_ms=180.0), decision(2, "ann", latency_ms=90.0))
    assert found["ann"] == pytest.approx({"failed": 0.0, "slow@1.5": 1 / 3, "slow@1.1": 2 / 3})
    unknown = windows(decision(0, "ann"), scale=MetricScale(-50.0, 150.0, {}))
    assert unknown["ann"] == {"failed": 0.0}


def paired(earlier_ms: Sequence[float]) -> MetricScale:
    return MetricScale(
        -50.0, 150.0, {}, pair=Pair("execution-agent-dqn", "1.0.0", "1.1.0", 1.5, 0.9, tuple(earlier_ms))
    )


def asked(
    number: int, user: str, first_ms: float | None, second_ms: float | None, **changes: object
) -> dict[str, object]:
    return decision(
        0.01 * number,
        user,
        **{"first_ms": first_ms, "second_ms": second_ms, "first_action": 1, "second_action": 1, **changes},
    )


@pytest.mark.parametrize("machine", [1.0, 10.0])
def test_a_pair_is_compared_on_the_same_requests(machine: float) -> None:
    """A slower day looks like a slower version, and where one of both was not asked, the other has won."""
    # Before them, 10 ms: slow is above 15 ms, for both.
    rows = [
        asked(1, "ann", 10.1, 16.0, best_action=1, second_action=2),
        asked(2, "ann", 10.2, 14.0, best_action=1),
        asked(3, "bob", 99.0, 10.3, best_action=2, second_action=2),
        asked(4, "cid", 10.4, None, best_action=1, second_action=None),
        asked(5, "dan", 10.5, 10.5),
    ]
    for row in rows:
        row.update({name: row[name] and machine * row[name] for name in ("first_ms", "second_ms")})  # type: ignore[operator]
    found = windows(*rows, scale=paired([machine * 10.0] * 100))
    assert found["ann"]["slower"] == pytest.approx((excess(1.0, 0.0, 1.0) + excess(0.0, 0.0, 1.0)) / 2.0)
    assert found["ann"]["worse"] == pytest.approx((excess(1.0, 0.0, 0.9) + excess(0.0, 0.0, 0.9)) / 2.0)
    assert (found["bob"]["slower"], found["bob"]["worse"]) == (0.0, 0.0)
    assert {"slower", "worse"} & set(found["cid"]) == set()
    assert (found["dan"]["slower"], "worse" in found["dan"]) == (0.5, False)


def test_versions_that_are_alike_are_so_in_a_look_of_three_requests() -> None:
    """Held against the percentile of its own few answers, the first version is hardly ever slow, and the second is."""
    random = np.random.default_rng(3)
    first_ms, second_ms = np.exp(0.5 * random.standard_normal((2, 900)))
    found, earlier = [], list(np.exp(0.5 * random.standard_normal(100)))
    for begin in range(0, 900, 3):
        ms = zip(first_ms[begin : begin + 3], second_ms[begin : begin + 3], strict=True)
        rows = [asked(number, f"user-{number}", *one) for number, one in enumerate(ms)]
        found += [metrics["slower"] for metrics in windows(*rows, scale=paired(earlier)).values()]
        earlier += first_ms[begin : begin + 3].tolist()
    assert len(found) == 900
    assert np.mean(found) == pytest.approx(0.5, abs=3.0 * np.std(found) / 900**0.5)


def test_a_pass_is_one_observation_of_its_time() -> None:
    """A version that stood still in one pass of fifty requests is slow to fifty users, who have not met it apart."""
    rows = [asked(number, f"user-{number}", 2.0, 9.0, best_action=2) for number in range(50)]
    found = windows(*rows, asked(51, "ann", 2.1, 9.1), scale=paired([2.0] * 100))
    assert sorted(user for user, metrics in found.items() if "slower" in metrics) == ["ann", "user-0"]
    assert sum("worse" in metrics for metrics in found.values()) == 50


def test_a_percentile_of_too_few_answers_is_none() -> None:
    """The first request of the last stage is slow for whichever version was slower."""
    assert np.isnan(percentiles_before([1.0, 2.0, 3.0], [1.0] * (FEWEST_EARLIER - 2))).tolist() == [True, True, False]
    rows = [asked(number, f"user-{number}", 1.0 + number / 100.0, 2.0 + number / 100.0) for number in range(50)]
    found = windows(*rows, scale=paired([]))
    assert sum("slower" in metrics for metrics in found.values()) == 50 - FEWEST_EARLIER


def test_a_percentile_is_of_the_newest_answers_before() -> None:
    """A machine that was slow an hour ago lets pass what is slow now."""
    ms = np.random.default_rng(4).exponential(size=2500)
    found = percentiles_before(ms[1500:].tolist(), ms[:1500].tolist())
    assert found == pytest.approx([np.quantile(ms[at - EARLIER : at], 0.95) for at in range(1500, 2500)])


@pytest.mark.parametrize("kept", [1.0, 0.95])
def test_an_excess_is_on_a_scale_from_nought_to_one(kept: float) -> None:
    """What is bet on has to be within it, whatever the two rates are."""
    assert excess(1.0, 0.0, kept) == 1.0
    assert excess(0.0, 1.0, kept) == pytest.approx(0.0)
    assert excess(kept * 0.3, 0.3, kept) == excess(0.0, 0.0, kept)


def test_metrics_over_all_decisions_leave_out_the_unknown() -> None:
    """Nobody's reward is a loss of nothing."""
    rows = pd.DataFrame([decision(0, "ann", reward=100.0, fallback="failed"), decision(1, "bob"), decision(2, "ann")])
    assert user_means(rows, SCALE) == {
        "ann": {"failed": 0.5, "slow@1.5": 0.0, "slow@1.1": 1.0, "loss": 0.25},
        "bob": {"failed": 0.0, "slow@1.5": 0.0, "slow@1.1": 1.0},
    }
