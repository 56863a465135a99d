"""Outcomes of a cycle that was served and run: the same prices as a replayed one, and the order that they price."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlops_assets.experiences.napfd import napfd
from mlops_assets.experiences.replay.history import CycleHistory, cycle_histories
from mlops_assets.experiences.replay.outcomes import DecisionOutcomes, cycle_outcomes, run_order
from mlops_assets.experiences.replay.rewards import CycleOutcome, best_class
from mlops_assets.experiences.replay.source import HistoryReplay, ReplayConfig
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.errors import InputError
from mlops_assets_tests.experiences.histories import Run, executions, random_executions

SPEC = agent_spec("execution")


def outcomes_of(cycle: CycleHistory, order: NDArray[np.int64], actions: NDArray[np.int64]) -> DecisionOutcomes:
    """The cycle as a client knows it: in the order in which it asked."""
    return cycle_outcomes(
        actions,
        cycle.failed[order],
        cycle.durations[order],
        failure_rate_recent=cycle.failure_rate_recent[order],
        expected_durations=cycle.expected_durations[order],
    )


def test_numbers_by_hand() -> None:
    """Four tests of 1 s under a budget of 2 s: only two run, and a failure on rank r of 4 earns (4 - r + 1/2) / 4."""
    rates, durations = np.array([0.5, 0.25, 0.0, 1.0]), np.full(4, 1000.0)
    actions, failed = np.array([3, 1, 2, 0]), np.array([False, True, False, False])
    assert run_order(actions, rates, durations).tolist() == [0, 2, 1]
    found = cycle_outcomes(actions, failed, durations, failure_rate_recent=rates, expected_durations=durations)
    # The failing test comes third: no time is left for it, whatever its class was worth when it was decided.
    assert found.rewards.tolist() == pytest.approx([0.0, 62.5, -62.5, 0.0])
    # First there is nobody ahead of the failing test but the one decided before.
    assert found.action_values[1].tolist() == pytest.approx([0.0, 62.5, 62.5, 62.5])
    assert found.best_actions.tolist() == [1, 1, 1, 1]
    other = cycle_outcomes(
        np.array([0, 3, 0, 0]), failed, durations, failure_rate_recent=rates, expected_durations=rates
    )
    assert other.rewards.tolist() == pytest.approx([0.0, 87.5, 0.0, 0.0])


@pytest.mark.parametrize("seed", range(6))
def test_a_served_cycle_is_priced_like_a_replayed_one(seed: int) -> None:
    """With other prices, an agent trained on a history would be retrained for another aim once it serves."""
    generator = np.random.default_rng(seed)
    # Every test takes its own time: ties go by row, which a client that asks in another order does not have.
    runs: list[Run] = [(f"t{test}", bool(test % 3), 1000.0 + test) for test in range(9)]
    history = [[(name, bool(generator.random() < 0.4), ms) for name, _, ms in runs] for _ in range(8)]
    source = HistoryReplay(executions([runs, *history]), ReplayConfig(passes=2, seed=seed))
    checked = 0
    for batch in source.batches(SPEC, None):
        rows, labels = batch.experiences.to_pylist(), batch.labels.to_pylist()
        for episode in dict.fromkeys(row["episode_id"] for row in rows):
            mine = [index for index, row in enumerate(rows) if row["episode_id"] == episode]
            cycle, order = source.cycle_of(episode), source.presentation(episode)
            if cycle is source.cycles[0]:
                continue
            actions = np.array([rows[index]["action"] for index in mine])
            found = outcomes_of(cycle, order, actions)
            assert found.rewards == pytest.approx([rows[index]["reward"] for index in mine], abs=1e-4)
            assert found.best_actions.tolist() == [labels[index]["best_action"] for index in mine]
            logged = np.array([labels[index]["action_values"] for index in mine])
            assert found.action_values == pytest.approx(logged, abs=1e-4)
            checked += 1
    assert checked > 10


@given(st.integers(0, 2**32 - 1))
def test_rewards_add_up_to_the_napfd_of_the_order_that_ran(seed: int) -> None:
    """A client that runs another order than the one priced is paid for what did not happen."""
    generator = np.random.default_rng(seed)
    tests = int(generator.integers(1, 12))
    actions = generator.integers(0, 4, tests)
    failed = generator.random(tests) < 0.4
    failed[generator.integers(tests)] = True
    durations = generator.integers(0, 5, tests) * 250.0
    rates, expected = generator.integers(0, 3, tests) / 2.0, generator.integers(0, 3, tests).astype(float)
    order = run_order(actions, rates, expected)
    found = cycle_outcomes(actions, failed, durations, failure_rate_recent=rates, expected_durations=expected)
    assert found.rewards.sum() == pytest.approx(100.0 * napfd(order, durations, failed), abs=1e-9)
    assert found.action_values.shape == (tests, 4)
    assert found.best_actions.tolist() == best_class(found.action_values).tolist()
    assert np.isfinite(found.rewards).all()


@given(st.integers(0, 2**32 - 1))
def test_the_run_order_is_by_class_and_seat(seed: int) -> None:
    """Classes in the wrong order, or a skipped test that runs, undo what the agent decided."""
    generator = np.random.default_rng(seed)
    actions = generator.integers(0, 4, 10)
    rates, expected = generator.integers(0, 3, 10) / 2.0, generator.integers(0, 3, 10).astype(float)
    order = run_order(actions, rates, expected).tolist()
    assert order == sorted(
        np.flatnonzero(actions > 0).tolist(), key=lambda test: (-actions[test], -rates[test], expected[test], test)
    )
    everything = run_order(np.full(10, 3), rates, expected).tolist()
    cycle = cycle_histories(random_executions(generator, cycles=3, tests=6))[-1]
    same = run_order(np.full(len(cycle.failed), 1), cycle.failure_rate_recent, cycle.expected_durations)
    assert same.tolist() == CycleOutcome(cycle).seat_order.tolist()
    assert [test for test in everything if actions[test] == 3] == order[: int((actions == 3).sum())]


def test_the_unit_of_expected_durations_does_not_count() -> None:
    """A client sends shares in the context and may not keep milliseconds."""
    rates, expected = np.zeros(4), np.array([4000.0, 1000.0, 3000.0, 2000.0])
    assert run_order(np.full(4, 2), rates, expected).tolist() == [1, 3, 2, 0]
    assert run_order(np.full(4, 2), rates, expected / 4000.0).tolist() == [1, 3, 2, 0]


def test_a_green_cycle_earns_nothing() -> None:
    """NAPFD divides by the number of failures."""
    found = cycle_outcomes(
        np.array([3, 0]),
        np.array([False, False]),
        np.array([1.0, 2.0]),
        failure_rate_recent=np.zeros(2),
        expected_durations=np.ones(2),
    )
    assert found.rewards.tolist() == [0.0, 0.0]
    assert found.action_values.tolist() == [[0.0] * 4] * 2
    assert found.best_actions.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": np.array([1, 4])}, "action 4 is no priority class; expected one of 0 skip, 1 low"),
        ({"actions": np.array([-1, 1])}, "action -1"),
        ({"actions": np.array([], dtype=np.int64)}, "one whole number per test"),
        ({"actions": np.array([1.5, 2.0])}, "float64"),
        ({"failed": np.array([True])}, "failed has shape"),
        ({"failed": np.array([1, 0])}, "of bool"),
        ({"durations": np.array([1.0, -1.0])}, "durations holds -1.0"),
        ({"durations": np.array([1.0, np.nan])}, "durations holds nan"),
        ({"failure_rate_recent": np.zeros(3)}, "failure_rate_recent has shape"),
        ({"expected_durations": np.array([np.inf, 1.0])}, "expected_durations holds inf"),
    ],
)
def test_what_is_no_cycle_is_refused(changes: dict[str, np.ndarray], message: str) -> None:
    """Verdicts of another cycle, one test short, would shift every reward to its neighbour."""
    arguments = {
        "actions": np.array([1, 2]),
        "failed": np.array([True, False]),
        "durations": np.ones(2),
        "failure_rate_recent": np.zeros(2),
        "expected_durations": np.ones(2),
    }
    with pytest.raises(InputError, match=message):
        cycle_outcomes(**{**arguments, **changes})
