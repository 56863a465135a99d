"""Returns of a policy in its environment."""

import dataclasses

import numpy as np
import pytest

from mlops_assets.evaluation.returns import Returns, measure_returns
from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.foundation.errors import InputError
from mlops_assets_tests.evaluation.tables import ACTIONS, SPEC, Always, FieldEnvironment, FirstFields, decision_table


def run(table: DecisionTable, policy: FirstFields | Always) -> Returns:
    found = measure_returns(
        policy, lambda names: FieldEnvironment(table, names), table, SPEC, samples=200, confidence=0.95, seed=0
    )
    assert found is not None
    return found


def test_the_optimal_policy_earns_the_optimum() -> None:
    """Its share is exactly 1, on every episode, so the interval has no width."""
    found = run(decision_table(60, 5), FirstFields())
    assert found.policy == found.optimal
    assert found.share_of_optimal is not None
    assert found.share_of_optimal.estimate == pytest.approx(1.0)
    assert found.share_of_optimal.low == pytest.approx(1.0)
    assert found.episodes == 60


def test_known_returns() -> None:
    """The mean of the largest of four uniform numbers is 4/5, of any one of them 1/2."""
    found = run(decision_table(2000, 5, seed=1), Always(2))
    assert found.optimal.estimate == pytest.approx(5 * 0.8, abs=0.03)
    assert found.policy.estimate == pytest.approx(5 * 0.5, abs=0.05)
    assert found.random.estimate == pytest.approx(5 * 0.5, abs=0.03)
    share = found.share_of_optimal
    assert share is not None
    assert share.low is not None
    assert share.high is not None
    assert share.low < 0.625 < share.high


def test_the_policy_sees_the_context_that_follows_from_its_own_actions() -> None:
    """With the logged context it would be judged on a world in which it never acted."""
    table = decision_table(20, 4)
    seen: list[np.ndarray] = []

    class Recorder(Always):
        def q_values(self, states: np.ndarray) -> np.ndarray:
            seen.append(states.copy())
            return super().q_values(states)

    run(table, Recorder(3))
    assert len(seen) == 4
    assert np.all(seen[0][:, ACTIONS] == 0.0)
    assert np.all(seen[1][:, ACTIONS] == 3.0)
    first_steps = table.state[table.step == 0]
    assert np.array_equal(seen[0][:, len(SPEC.context) :], first_steps[:, len(SPEC.context) :])


def test_episodes_of_different_lengths() -> None:
    """A finished episode earns nothing more, and asks the policy nothing more."""
    table = decision_table(4, 5)
    short = (table.episode_id == "e00001") & (table.step >= 2)
    found = run(table.take(~short), FirstFields())
    assert found.episodes == 4
    by_hand = sum(table.state[i, :ACTIONS].max() for i in np.flatnonzero(~short)) / 4
    # The environment puts the last action into a field behind the ones that pay.
    assert found.policy.estimate == pytest.approx(by_hand, rel=1e-5)


def test_incomplete_episodes_are_left_out_and_counted() -> None:
    """Without a state for every step the policy cannot play the episode to its end."""
    table = decision_table(10, 4)
    cut = table.take(~((table.episode_id == "e00003") & (table.step == 3)))
    found = measure_returns(
        FirstFields(), lambda names: FieldEnvironment(table, names), cut, SPEC, samples=100, confidence=0.9, seed=0
    )
    assert found is not None
    assert (found.episodes, found.skipped_episodes) == (9, 1)
    missing_middle = table.take(~((table.episode_id == "e00003") & (table.step == 1)))
    again = measure_returns(
        FirstFields(),
        lambda names: FieldEnvironment(table, names),
        missing_middle,
        SPEC,
        samples=100,
        confidence=0.9,
        seed=0,
    )
    assert again == found


def test_nothing_to_play() -> None:
    """No complete episode is no return."""
    table = decision_table(3, 4)
    torn = table.take(table.step == 2)
    found = measure_returns(
        FirstFields(), lambda names: FieldEnvironment(table, names), torn, SPEC, samples=100, confidence=0.9, seed=0
    )
    assert found is None
    empty = table.take(slice(0, 0))
    assert (
        measure_returns(
            FirstFields(),
            lambda names: FieldEnvironment(table, names),
            empty,
            SPEC,
            samples=100,
            confidence=0.9,
            seed=0,
        )
        is None
    )


def test_without_an_environment_nothing_is_measured() -> None:
    """Served decisions cannot be played otherwise: that is no return, and no crash of the evaluation."""
    table = decision_table(10, 3)
    asked: list[list[str]] = []

    def no_environment(names: list[str]) -> None:
        asked.append(names)

    found = measure_returns(FirstFields(), no_environment, table, SPEC, samples=100, confidence=0.9, seed=0)
    assert found is None
    assert [len(names) for names in asked] == [10]


def test_a_worthless_optimum_has_no_share() -> None:
    """A share of nothing says nothing."""
    table = decision_table(10, 3)
    worthless = dataclasses.replace(table, state=np.zeros_like(table.state))
    found = run(worthless, Always(0))
    assert found.share_of_optimal is None
    assert found.optimal.estimate == 0.0


def test_same_seed_same_returns() -> None:
    """A report that changes by itself cannot be evidence."""
    table = decision_table(30, 4)
    assert run(table, Always(1)) == run(table, Always(1))


def test_an_environment_of_other_episodes_is_refused() -> None:
    """Returns of the wrong episodes look just as good."""
    table = decision_table(10, 3)
    with pytest.raises(InputError, match="gives 9 episodes for 10"):
        measure_returns(
            FirstFields(),
            lambda names: FieldEnvironment(table, names[1:]),
            table,
            SPEC,
            samples=100,
            confidence=0.9,
            seed=0,
        )
