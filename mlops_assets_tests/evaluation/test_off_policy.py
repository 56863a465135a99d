"""Off-policy estimates, on a Markov decision process whose values are known exactly."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from mlops_assets.evaluation.off_policy import OffPolicyEstimate, OffPolicyReport, off_policy_value
from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.foundation.errors import InputError
from mlops_assets_tests.evaluation.tables import decision_table

# Two states, two actions, three steps: P[s, a] is the chance to go to state 1, R[s, a] the mean reward.
MOVE = np.array([[0.2, 0.7], [0.5, 0.9]])
REWARD = np.array([[1.0, 0.0], [0.0, 3.0]])
HORIZON = 3
# The policy to evaluate, by state: not the optimal one.
TARGET = np.array([1, 1])
Q_GUESS = np.array([[0.0, 1.0], [0.5, 2.0]], dtype=np.float32)


def true_values() -> tuple[float, NDArray[np.float64]]:
    """Exact mean return of TARGET from state 0, and its Q by step, by backward induction.

    The other actions' values are lowered below it, so that TARGET is the greedy policy of this Q.
    """
    value = np.zeros(2)
    q_by_step: list[NDArray[np.float64]] = []
    for _ in range(HORIZON):
        q = REWARD + MOVE * value[1] + (1 - MOVE) * value[0]
        value = q[np.arange(2), TARGET]
        q[np.arange(2), 1 - TARGET] = value - 1.0
        q_by_step.insert(0, q)
    return float(value[0]), np.array(q_by_step)


def logged(episodes: int, *, seed: int, exploration: float = 0.5) -> DecisionTable:
    """Episodes of a policy that takes TARGET but for a share of random actions."""
    random = np.random.default_rng(seed)
    state = np.zeros(episodes, dtype=np.int64)
    columns: dict[str, list[NDArray[np.generic]]] = {name: [] for name in ("state", "action", "reward", "propensity")}
    for _ in range(HORIZON):
        explored = random.random(episodes) < exploration
        action = np.where(explored, random.integers(0, 2, size=episodes), TARGET[state])
        chance = np.where(action == TARGET[state], 1 - exploration / 2, exploration / 2)
        columns["state"].append(state)
        columns["action"].append(action)
        columns["reward"].append(REWARD[state, action] + random.normal(0, 0.5, size=episodes))
        columns["propensity"].append(chance)
        state = (random.random(episodes) < MOVE[state, action]).astype(np.int64)
    base = decision_table(episodes, HORIZON)
    flat = {name: np.stack(parts, axis=1).ravel() for name, parts in columns.items()}
    return dataclasses.replace(
        base,
        state=np.stack([flat["state"], np.tile(np.arange(HORIZON), episodes)], axis=1).astype(np.float32),
        action=flat["action"].astype(np.int64),
        reward=flat["reward"].astype(np.float32),
        propensity=flat["propensity"].astype(np.float32),
    )


def estimate(table: DecisionTable, q: NDArray[np.float64] | None = None, *, least: float = 50.0) -> OffPolicyReport:
    """Evaluate TARGET; without `q` the control variate is a bad guess with the right greedy actions."""
    state, step = table.state[:, 0].astype(int), table.state[:, 1].astype(int)
    values = Q_GUESS[state] if q is None else q[step, state].astype(np.float32)
    found = off_policy_value(table, values, min_effective_sample_size=least, samples=200, confidence=0.95, seed=0)
    assert found is not None
    return found


def test_every_estimator_finds_the_known_value() -> None:
    """An estimator with a wrong weight is wrong by a factor, and nobody can see it from the data alone."""
    truth, _ = true_values()
    found = estimate(logged(20_000, seed=1))
    assert len(found.estimates) == 3
    for one in found.estimates:
        assert one.value.estimate == pytest.approx(truth, abs=0.08), one.method
        assert one.sufficient
        assert one.corrected_steps == HORIZON


def test_the_logged_policys_own_return_is_another_number() -> None:
    """If the estimate were only the logs' average, this difference would be missing."""
    table = logged(20_000, seed=1)
    truth, _ = true_values()
    found = estimate(table)
    by_episode = table.reward.reshape(-1, HORIZON).sum(axis=1)
    assert found.logged_return.estimate == pytest.approx(by_episode.mean(), rel=1e-6)
    assert truth - found.logged_return.estimate > 0.3


def test_intervals_cover_the_truth() -> None:
    """An interval that misses is worse than none: decisions rest on it."""
    truth, _ = true_values()
    hits = {"importance_sampling": 0, "weighted_importance_sampling": 0, "doubly_robust": 0}
    for seed in range(60):
        for one in estimate(logged(400, seed=seed)).estimates:
            assert one.value.low is not None
            assert one.value.high is not None
            hits[one.method] += one.value.low <= truth <= one.value.high
    assert all(count >= 51 for count in hits.values()), hits


def test_a_good_control_variate_narrows_the_interval() -> None:
    """This is what the doubly robust estimate is for; its centre must not move."""
    truth, exact = true_values()
    table = logged(4_000, seed=3)
    plain, _, guessed = estimate(table).estimates
    robust = estimate(table, exact).estimates[2]

    def width(one: OffPolicyEstimate) -> float:
        return (one.value.high or 0.0) - (one.value.low or 0.0)

    assert width(robust) < 0.7 * width(plain)
    assert width(robust) < width(guessed)
    assert robust.value.estimate == pytest.approx(truth, abs=0.1)


def test_a_wrong_control_variate_does_no_harm() -> None:
    """The model's own Q is too optimistic; the correction has to take that back."""
    truth, exact = true_values()
    robust = estimate(logged(20_000, seed=4), exact + 5.0).estimates[2]
    assert robust.value.estimate == pytest.approx(truth, abs=0.15)


def test_too_few_agreeing_episodes_are_said_so() -> None:
    """Three episodes that happen to agree with the policy must not decide about it."""
    found = estimate(logged(300, seed=5, exploration=1.0), least=50.0)
    robust = found.estimates[2]
    assert not robust.sufficient
    assert 0 < robust.corrected_steps < HORIZON
    assert found.best() is None
    assert all(not one.sufficient for one in found.estimates)
    enough = estimate(logged(2_000, seed=5, exploration=1.0), least=50.0)
    assert enough.best() is not None


def test_effective_sample_size() -> None:
    """With equal weights it is their number: the agreeing episodes'."""
    table = logged(400, seed=6, exploration=1.0)
    agrees = (table.action == TARGET[table.state[:, 0].astype(int)]).reshape(-1, HORIZON).all(axis=1)
    found = estimate(table, least=1.0)
    assert found.estimates[0].effective_sample_size == pytest.approx(agrees.sum())


def test_no_agreement_at_all() -> None:
    """When no episode ever took the policy's action, there is no estimate, and no division by zero."""
    table = logged(50, seed=7)
    never = dataclasses.replace(table, action=1 - TARGET[table.state[:, 0].astype(int)])
    found = estimate(never)
    assert [one.method for one in found.estimates] == ["importance_sampling", "doubly_robust"]
    assert found.estimates[1].corrected_steps == 0
    assert not any(one.sufficient for one in found.estimates)
    assert found.best() is None


def test_incomplete_episodes_are_left_out_and_counted() -> None:
    """An episode without its middle has a return that nobody earned."""
    table = logged(100, seed=8)
    keep = np.ones(len(table.action), dtype=bool)
    keep[[1, 5]] = False  # the middle of the first episode, the end of the second
    found = estimate(table.take(keep), least=1.0)
    assert (found.episodes, found.incomplete_episodes) == (98, 2)
    whole = estimate(table.take(slice(6, None)), least=1.0)
    assert found.estimates == whole.estimates


def test_order_of_rows_does_not_matter() -> None:
    """Rows come in order of time, and episodes overlap."""
    table = logged(200, seed=9)
    shuffled = table.take(np.random.default_rng(0).permutation(len(table.action)))
    assert estimate(shuffled, least=1.0) == estimate(table, least=1.0)


def test_nothing_to_estimate_from() -> None:
    """No complete episode is no estimate."""
    table = logged(3, seed=0).take(np.array([1, 4, 7]))
    values = Q_GUESS[table.state[:, 0].astype(int)]
    assert off_policy_value(table, values, min_effective_sample_size=1, samples=100, confidence=0.9, seed=0) is None


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.5, np.nan])
def test_impossible_propensities_are_refused(bad: float) -> None:
    """A propensity of 0 divides by zero, and one above 1 quietly shrinks every weight."""
    table = logged(5, seed=0)
    table.propensity[3] = bad
    with pytest.raises(InputError, match="propensities"):
        estimate(table)
