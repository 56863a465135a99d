"""A candidate that hangs, fails, or gives what is no number: the champion answers in time, and it counts against it."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.serving.models import ServedModel
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets_tests.programs import wait_for
from mlops_assets_tests.rollout.ledgers import begin, climb
from mlops_assets_tests.rollout.rollouts import rollout
from mlops_assets_tests.serving.fronts import Front, open_front
from mlops_assets_tests.serving.served import served_model

SPEC = AGENTS["execution"]
OLD, GOOD = served_model(SPEC, "1.0.0", seed=0), served_model(SPEC, "1.1.0", seed=1)
KEY = GOOD.key
ARM = {"experiment": "rollout-execution-1.1.0-1", "variant": "treatment"}
Evaluate = Callable[[NDArray[np.float32]], NDArray[np.float32]]
# Of one that was waited for; others say that they were not.
WAITED = "no answer within"
# A machine that does something else stops for that long, now and then.
SLACK_MS = 500.0


@dataclass
class Hanging:
    """A runtime that waits: for ever until `release`, or for `seconds`, then answers as the good one does."""

    seconds: float | None = None
    release: threading.Event = field(default_factory=threading.Event)
    asked: int = 0

    def __call__(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        self.asked += 1
        self.release.wait(self.seconds)
        return GOOD.policy.q_values(states)


def candidate(evaluate: Evaluate) -> ServedModel:
    policy = GreedyPolicy(evaluate, state_size=len(SPEC.state_fields), action_count=len(SPEC.actions), weights="w")
    return replace(GOOD, policy=policy)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    """Everybody has the candidate."""
    with open_front(tmp_path, SPEC, champion=OLD, candidate=GOOD) as made:
        climb(made.engine, begin(made.engine, rollout()), "100_percent")
        made.follow(1.0)
        yield made


@pytest.fixture
def hanging(front: Front) -> Iterator[Hanging]:
    made = Hanging()
    front.serve(champion=OLD, candidate=candidate(made))
    yield made
    made.release.set()


def asked(front: Front, number: int) -> dict[str, Any]:
    """A request with a state of its own, so that no answer comes from the cache."""
    name = SPEC.context[0].name
    low, high = SPEC.context[0].low, SPEC.context[0].high
    context = {one.name: (one.low + one.high) / 2 for one in SPEC.context}
    row = front.ask(user_id=f"u{number}", context={**context, name: low + (high - low) * ((number % 997) / 997)})
    assert row["variant"] == "treatment"
    return row


def assert_the_champion_answered(row: dict[str, Any]) -> None:
    assert (row["model_version"], row["model_alias"], row["fallback"]) == ("1.0.0", "champion", "failed")
    assert np.isfinite(row["q_values"]).all()
    # It was the candidate's user, of a split in which the candidate was there.
    assert (row["treatment_share"], row["arms"]["versions"]["treatment"]) == (1.0, "1.1.0")


def raising(_states: NDArray[np.float32]) -> NDArray[np.float32]:
    raise RuntimeError("no kernel")


def leaving(_states: NDArray[np.float32]) -> NDArray[np.float32]:
    raise SystemExit(1)


def no_number(states: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.full((len(states), len(SPEC.actions)), np.nan, dtype=np.float32)


def infinite(states: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.full((len(states), len(SPEC.actions)), np.inf, dtype=np.float32)


@pytest.mark.parametrize("evaluate", [raising, leaving, no_number, infinite])
def test_the_champion_answers_for_a_candidate_that_fails(front: Front, evaluate: Evaluate) -> None:
    """Its users get an error, or numbers that are none; or its arm looks as if nothing had failed."""
    front.serve(champion=OLD, candidate=candidate(evaluate))
    rows = [asked(front, number) for number in range(20)]
    for row in rows:
        assert_the_champion_answered(row)
    assert np.median([row["latency_ms"] for row in rows]) < front.runtime.policy.treatment_timeout_ms
    assert front.metric("ab_test_errors_total", **ARM) == 20.0
    assert front.runtime.failures == 20
    # It is in time, so it is asked each time, and who is answered again is nobody's loss.
    front.serve(champion=OLD, candidate=GOOD)
    assert asked(front, 20)["model_version"] == "1.1.0"


def test_a_hanging_candidate_costs_one_user_the_wait(
    front: Front, hanging: Hanging, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of its users waits, or each leaves a thread behind that never ends."""
    threads = threading.active_count()
    rows = [asked(front, number) for number in range(100)]
    for row in rows:
        assert_the_champion_answered(row)
    limit = front.runtime.policy.treatment_timeout_ms
    # The wait is in the latency that the guard reads.
    assert limit <= rows[0]["latency_ms"] < limit + SLACK_MS
    assert np.median([row["latency_ms"] for row in rows]) < limit
    # Neither is it asked in the shadow what it was asked already.
    assert (hanging.asked, caplog.text.count(WAITED)) == (1, 1)
    assert threading.active_count() <= threads + 1
    assert front.metric("ab_test_errors_total", **ARM) == 100.0
    # It comes back, and is asked again.
    hanging.release.set()
    wait_for(lambda: asked(front, 101 + hanging.asked)["model_version"] == "1.1.0")


def test_the_breaker_opens_for_a_late_candidate_and_closes_again(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    """A candidate that always takes a little too long stops the event loop, for the champion's users as well."""
    limit, failures = front.runtime.policy.treatment_timeout_ms, front.runtime.policy.breaker_failures
    slow = Hanging(seconds=2.0 * limit / 1000.0)
    front.serve(champion=OLD, candidate=candidate(slow))
    rows = []
    for number in range(failures):
        rows.append(asked(front, number))
        time.sleep(2.0 * limit / 1000.0)
    assert min(row["latency_ms"] for row in rows) >= limit
    assert front.metric("ml_treatment_breaker_open", model=KEY[0], model_version=KEY[1]) == 1.0
    before, deadline = slow.asked, time.monotonic() + 1.5 * front.runtime.policy.breaker_open_seconds
    while time.monotonic() < deadline:
        rows.append(asked(front, len(rows)))
    # Nobody waits any more, also not for the probe that finds it as slow as before.
    assert caplog.text.count(WAITED) == failures
    assert np.median([row["latency_ms"] for row in rows[failures:]]) < limit
    assert 1 <= slow.asked - before <= 2
    for row in rows:
        assert_the_champion_answered(row)
    slow.release.set()
    wait_for(lambda: asked(front, len(rows) + slow.asked)["model_version"] == "1.1.0")
    assert front.metric("ml_treatment_breaker_open", model=KEY[0], model_version=KEY[1]) == 0.0


def test_the_next_candidate_is_asked_although_one_hangs(front: Front, hanging: Hanging) -> None:
    """The thread of a version that was taken back is the one that the next rollout needs."""
    assert_the_champion_answered(asked(front, 1))
    other = replace(GOOD, semver="1.2.0")
    # Behind the alias of an experiment, which is bounded in the same way.
    split = replace(front.runtime.experiments["execution"], treatment_alias="challenger", treatment_version=None)
    front.runtime.database_poll.stop()
    front.runtime.experiments = {"execution": split}
    front.serve(champion=OLD, challenger=other)
    row = asked(front, 2)
    assert (row["model_version"], row["fallback"]) == ("1.2.0", None)
    assert hanging.asked == 1


def test_the_champion_is_waited_for(front: Front) -> None:
    """Behind the champion there is nobody: to give it up after 50 ms would be no answer at all."""
    slow = Hanging(seconds=0.15)
    front.serve(champion=replace(candidate(slow), semver="1.0.0"))
    row = front.ask()
    assert (row["model_version"], row["fallback"]) == ("1.0.0", "absent")
    assert row["latency_ms"] >= 150.0


def test_the_bound_costs_little(front: Front) -> None:
    """A hop to another thread that takes milliseconds makes every candidate look slower than the champion."""
    calls, evaluate = front.runtime.treatments, GOOD.policy.q_values
    states = np.zeros((1, len(SPEC.state_fields)), dtype=np.float32)

    def median_ms(ask: Callable[[], object]) -> float:
        times = []
        for _ in range(500):
            begun = time.perf_counter()
            ask()
            times.append((time.perf_counter() - begun) * 1000.0)
        return float(np.median(times))

    bounded = median_ms(lambda: calls.call(KEY, lambda: evaluate(states)))
    assert bounded - median_ms(lambda: evaluate(states)) < 0.3
