import dataclasses
from functools import cache

import numpy as np
import pytest

from mlops_assets.experiences.simulator.behaviour import behaviour_probabilities
from mlops_assets.experiences.simulator.problem import DecisionProblem
from mlops_assets.experiences.simulator.problems import problem_of
from mlops_assets.experiences.simulator.solve import Solution, solve
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.errors import InputError
from mlops_assets_tests.experiences.policy_values import Floats, expected_return, one_hot, visits

EXPLORATION = 0.2


@cache
def solved(agent: str) -> tuple[DecisionProblem, Solution, Floats]:
    problem = problem_of(AGENTS[agent])
    solution = solve(problem)
    return problem, solution, behaviour_probabilities(problem, solution, exploration=EXPLORATION)


def optimal_return(agent: str) -> float:
    problem, solution, _ = solved(agent)
    return expected_return(problem, one_hot(solution.best_actions, problem))


@pytest.mark.parametrize("agent", AGENTS)
def test_chance_earns_at_most_half_of_the_optimum(agent: str) -> None:
    """A problem that chance solves: every trained agent would pass its return gate."""
    problem, _, _ = solved(agent)
    shape = (problem.horizon, *problem.gain.shape)

    chance = expected_return(problem, np.full(shape, 1.0 / shape[-1]))

    assert optimal_return(agent) == pytest.approx(70.0, abs=5.0)
    assert chance <= 0.5 * optimal_return(agent)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_short_sighted_policy_earns_at_most_nine_tenths(agent: str) -> None:
    """A bandit dressed as a sequential problem: the discounted future would not matter."""
    problem, _, _ = solved(agent)

    myopic = expected_return(problem, one_hot(problem.reward.argmax(axis=-1), problem))

    assert myopic <= 0.9 * optimal_return(agent)


@pytest.mark.parametrize("agent", AGENTS)
def test_every_action_is_best_somewhere_and_mostly_by_a_margin(agent: str) -> None:
    """Accuracy without meaning: one action that is nearly always right, or near ties that only noise decides."""
    problem, solution, behaviour = solved(agent)
    weight = visits(problem, behaviour)
    ordered = np.sort(solution.action_values, axis=-1)
    gap = ordered[..., -1] - ordered[..., -2]

    shares = np.array([weight[solution.best_actions == action].sum() for action in range(problem.gain.shape[-1])])

    assert shares.sum() == pytest.approx(1.0)
    assert shares.min() >= 0.05
    assert shares.max() <= 0.6
    # One point is 1.4 % of an episode's return.
    assert weight[gap < 1.0].sum() <= 0.05
    assert weight[gap < 3.0].sum() <= 0.15
    assert weight[gap == 0.0].sum() == 0.0


@pytest.mark.parametrize("agent", AGENTS)
def test_what_is_best_depends_on_what_was_done(agent: str) -> None:
    """Best actions that the item alone decides: budget and coverage would be decoration."""
    problem, solution, behaviour = solved(agent)
    weight = visits(problem, behaviour)
    by_item = np.stack(
        [(weight * (solution.best_actions == action)).sum(axis=(0, 1)) for action in range(problem.gain.shape[-1])]
    )

    known_from_item_alone = by_item.max(axis=0).sum()

    assert known_from_item_alone <= 0.85


@pytest.mark.parametrize("agent", AGENTS)
def test_the_log_shows_every_action_with_a_known_propensity(agent: str) -> None:
    """An action without propensity has no off-policy estimate; a log of the optimal policy teaches no alternatives."""
    problem, solution, behaviour = solved(agent)
    weight = visits(problem, behaviour)

    of_best = (weight[..., None] * behaviour * one_hot(solution.best_actions, problem)).sum()

    assert np.allclose(behaviour.sum(axis=-1), 1.0)
    assert behaviour.min() >= EXPLORATION / problem.gain.shape[-1] - 1e-12
    assert 0.6 <= of_best <= 0.9
    assert 0.5 * optimal_return(agent) < expected_return(problem, behaviour) < 0.95 * optimal_return(agent)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_context_tells_the_item(agent: str) -> None:
    """Two items that look alike in the context: the labelled best action would not be a function of the state."""
    problem, _, _ = solved(agent)
    low = np.stack([np.clip(field.level - field.jitter, 0, 1) for field in problem.item_fields.values()], axis=1)
    high = np.stack([np.clip(field.level + field.jitter, 0, 1) for field in problem.item_fields.values()], axis=1)

    apart = (low[:, None] > high[None]) | (high[:, None] < low[None])

    assert (apart.any(axis=-1) | np.eye(len(low), dtype=bool)).all()


@pytest.mark.parametrize("agent", AGENTS)
def test_the_context_tells_the_state(agent: str) -> None:
    """Two states that look alike in the context but are worth different things: a problem that is not Markov."""
    problem, _, _ = solved(agent)
    shown = np.stack(list(problem.state_fields.values()), axis=1)

    assert len(np.unique(shown, axis=0)) == len(shown) == len(problem.gain)
    assert shown.min() >= 0
    assert shown.max() <= 1


def test_backward_induction_agrees_with_expectimax_on_a_small_problem() -> None:
    """A wrong index or discount in the solver: labels and regret would be wrong, and nobody would see it."""
    random = np.random.default_rng(3)
    template = problem_of(AGENTS["execution"])
    problem = dataclasses.replace(
        template,
        horizon=3,
        discount=0.9,
        start=0,
        item_probability=np.array([0.3, 0.7]),
        next_state=random.integers(0, 3, (3, 2, 2)),
        gain=random.normal(size=(3, 2, 2)),
        cost=random.random((3, 2, 2)),
    )

    def expectimax(step: int, state: int, item: int, action: int) -> float:
        now = float(problem.gain[state, item, action] - problem.cost[state, item, action])
        if step == 2:
            return now
        to = int(problem.next_state[state, item, action])
        future = [max(expectimax(step + 1, to, k, a) for a in range(2)) for k in range(2)]
        return now + 0.9 * (0.3 * future[0] + 0.7 * future[1])

    solution = solve(problem)

    for index in np.ndindex(3, 3, 2, 2):
        assert solution.action_values[index] == pytest.approx(expectimax(*index))
    assert np.array_equal(solution.best_actions, solution.action_values.argmax(axis=-1))


def test_a_catalogue_entry_that_no_problem_fills_is_refused() -> None:
    """A context field added to the catalogue alone: the simulator would log zeros for it without a word."""
    spec = AGENTS["generation"]

    wider = dataclasses.replace(spec, context=(*spec.context, dataclasses.replace(spec.context[0], name="page_age")))
    with pytest.raises(InputError, match=r"missing \['page_age'\]"):
        problem_of(wider)
    with pytest.raises(InputError, match="5 actions, the catalogue 4"):
        problem_of(dataclasses.replace(spec, actions=spec.actions[:-1]))
    with pytest.raises(InputError, match="no simulated problem for agent 'repair'"):
        problem_of(dataclasses.replace(spec, name="repair"))
