"""What a policy earns on held-out episodes in their environment, beside chance and the optimum."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops_assets.evaluation.intervals import Interval, cluster_bootstrap, ratio
from mlops_assets.evaluation.metrics import QFunction, greedy, q_values
from mlops_assets.experiences.environment import DecisionEnvironment
from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.features.vector import replace_context
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError

# Random policies whose returns are averaged, so that chance is a figure and not a draw.
_RANDOM_RUNS = 5

Chooser = Callable[[DecisionEnvironment, int], NDArray[np.int64]]


@dataclass(frozen=True)
class Returns:
    """Mean undiscounted return of one held-out episode under each policy, and the policy's share of the optimum.

    `share_of_optimal` is None when the optimal policy earns nothing: a share of nothing says nothing.
    """

    episodes: int
    skipped_episodes: int
    policy: Interval
    random: Interval
    optimal: Interval
    share_of_optimal: Interval | None


def measure_returns(
    policy: QFunction,
    make_environment: Callable[[list[str]], DecisionEnvironment | None],
    table: DecisionTable,
    spec: AgentSpec,
    *,
    samples: int,
    confidence: float,
    seed: int,
) -> Returns | None:
    """Run policy, chance and optimum on the same held-out episodes and compare their returns.

    The environment gives the context, which answers to what was done; the rest of the state (text, features) does not
    depend on the actions and is taken from the held-out row of the same episode and step.

    Args:
        policy: the policy under test.
        make_environment: gives the environment of the named episodes, None where they cannot be played otherwise.
        table: held-out decisions.
        spec: the agent.
        samples: bootstrap resamples of episodes.
        confidence: coverage of the intervals.
        seed: of the random policy and the bootstrap.

    Returns:
        None when no held-out episode is complete, or there is no environment: not measured.

    Raises:
        InputError: the environment does not know an episode.
    """
    names, rows = _rows_by_step(table)
    if not names:
        return None
    environment = make_environment(names)
    if environment is None:
        return None
    known = _matching(environment, rows)
    if not known.any():
        return None
    chosen = {
        "policy": _returns(environment, _greedy_chooser(policy, table, rows, spec)),
        "optimal": _returns(environment, lambda env, _step: env.best_actions()),
        "random": _random_returns(environment, len(spec.actions), seed),
    }
    kept = {name: values[known] for name, values in chosen.items()}

    def mean(values: NDArray[np.float64]) -> Interval:
        pairs = np.stack([values, np.ones(len(values))], axis=1)
        return cluster_bootstrap(pairs, ratio, samples=samples, confidence=confidence, seed=seed)

    share = None
    if kept["optimal"].sum() > 0:
        pairs = np.stack([kept["policy"], kept["optimal"]], axis=1)
        share = cluster_bootstrap(pairs, ratio, samples=samples, confidence=confidence, seed=seed)
    return Returns(
        episodes=int(known.sum()),
        skipped_episodes=int((~known).sum()),
        policy=mean(kept["policy"]),
        random=mean(kept["random"]),
        optimal=mean(kept["optimal"]),
        share_of_optimal=share,
    )


def _returns(environment: DecisionEnvironment, choose: Chooser) -> NDArray[np.float64]:
    environment.reset()
    total = np.zeros(len(environment.episode_ids))
    for step in range(int(environment.lengths.max())):
        total += environment.step(choose(environment, step))
    return total


def _random_returns(environment: DecisionEnvironment, actions: int, seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)

    def choose(env: DecisionEnvironment, _step: int) -> NDArray[np.int64]:
        return random.integers(0, actions, size=len(env.episode_ids))

    return np.mean([_returns(environment, choose) for _ in range(_RANDOM_RUNS)], axis=0)


def _greedy_chooser(policy: QFunction, table: DecisionTable, rows: NDArray[np.int64], spec: AgentSpec) -> Chooser:
    def choose(environment: DecisionEnvironment, step: int) -> NDArray[np.int64]:
        actions = np.zeros(len(environment.episode_ids), dtype=np.int64)
        # Where the held-out rows end early there is no state; such episodes are left out of the result anyway.
        row = rows[:, step] if step < rows.shape[1] else np.full(len(actions), -1)
        here = environment.active() & (row >= 0)
        if here.any():
            states = replace_context(spec, table.state[row[here]], environment.context()[here])
            actions[here] = greedy(q_values(policy, states))
        return actions

    return choose


def _rows_by_step(table: DecisionTable) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the held-out episodes and their row numbers (E, T), -1 where there is no row."""
    names, episode = np.unique(table.episode_id, return_inverse=True)
    if not len(names):
        return [], np.empty((0, 0), dtype=np.int64)
    rows = np.full((len(names), int(table.step.max()) + 1), -1, dtype=np.int64)
    rows[episode, table.step] = np.arange(len(episode))
    return [str(name) for name in names], rows


def _matching(environment: DecisionEnvironment, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Episodes whose every step has a held-out row, and no more."""
    if len(environment.lengths) != len(rows):
        raise InputError(
            f"the environment gives {len(environment.lengths)} episodes for {len(rows)} held-out ones; "
            "use the source that they came from"
        )
    present = (rows >= 0).sum(axis=1)
    return (present == environment.lengths) & (environment.lengths > 0)
