"""Decisions of a really trained small agent in the project's own simulator, healthy or in a world that has changed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mlops_assets.evaluation.metrics import QFunction
from mlops_assets.experiences.simulator.config import EPOCH, Drift, SimulatorConfig
from mlops_assets.experiences.simulator.fleet import build_fleet
from mlops_assets.experiences.simulator.world import Regime, World
from mlops_assets.features.decision_table import DecisionTable, following_states
from mlops_assets.foundation.agents import AgentSpec, agent_spec
from mlops_assets.monitoring.version_decisions import VersionDecisions
from mlops_assets.training.config import DqnConfig
from mlops_assets.training.learner import train
from mlops_assets.training.policy import GreedyPolicy

Fault = Callable[[NDArray[np.float32], NDArray[np.int64], np.random.Generator], NDArray[np.int64]]
DAY = 86_400_000_000
# Episodes of one user follow each other: a user's decisions are one cluster.
EPISODES_A_USER = 2
LEARNED_DAYS, DRIFT_DAY = 10, 60


def context_only(name: str) -> AgentSpec:
    """The agent without text and features: half the width, the same problem."""
    return replace(agent_spec(name), text_dimensions=0, features=())


@cache
def world_of(spec: AgentSpec, *, drift: Drift | None = None, rows_per_day: int = 3000) -> World:
    """A world that is as ever until day 60, and then as `drift` says."""
    config = SimulatorConfig(
        rows=rows_per_day * 10, days=10, extra_days=400, drifts=() if drift is None else (replace(drift, start_day=60),)
    )
    return World(config, build_fleet(config), spec)


@dataclass(frozen=True)
class Agent:
    """A trained agent: its policy and the world that it was trained in."""

    spec: AgentSpec
    policy: GreedyPolicy


def play(
    world: World,
    days: range,
    policy: QFunction | None,
    *,
    exploration: float = 0.05,
    label_share: float = 1.0,
    fault: Fault | None = None,
) -> VersionDecisions:
    """Let a policy decide, explored uniformly in a share of the decisions; without policy, let the logging one.

    A `fault` makes other actions (E,) of Q values (E, A) and the actions that would have been taken.
    """
    return joined([_day(world, day, policy, exploration, label_share, fault) for day in days])


def joined(parts: list[VersionDecisions]) -> VersionDecisions:
    """Windows one after the other; episodes and users of different parts stay apart."""
    offsets = np.cumsum([0, *(int(part.episode.max()) + 1 for part in parts)])
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in VersionDecisions.__annotations__
    }
    shift = np.repeat(offsets[:-1], [len(part) for part in parts])
    return VersionDecisions(**{**columns, "episode": columns["episode"] + shift, "cluster": columns["cluster"] + shift})


def _day(
    world: World,
    day: int,
    policy: QFunction | None,
    exploration: float,
    label_share: float,
    fault: Fault | None,
) -> VersionDecisions:
    regime, drawn = world.regime(day), world.day(day)
    random = np.random.default_rng([day, 77])
    episodes, horizon = drawn.item.shape
    actions = len(world.spec.actions)
    state = np.full(episodes, regime.problem.start)
    columns: dict[str, list[NDArray[np.generic]]] = {}
    for step in range(horizon):
        item = drawn.item[:, step]
        context = drawn.context[:, step] + regime.state_context[state]
        q_values = np.zeros((episodes, actions), np.float32) if policy is None else policy.q_values(context)
        if policy is None:
            action = _logged(regime, step, state, item, drawn.action_draw[:, step])
        else:
            explored = drawn.action_draw[:, step] < exploration
            action = np.where(explored, random.integers(0, actions, episodes), q_values.argmax(axis=1))
        if fault is not None:
            action = fault(q_values, action, random)
        gain = regime.problem.gain[state, item, action] * (1 + world.config.reward_noise * drawn.gain_noise[:, step])
        known = drawn.label_draw[:, step] < label_share
        values = regime.solution.action_values[step, state, item]
        row = {
            "state": context,
            "q_values": q_values,
            "action": action,
            "reward": (gain - regime.problem.cost[state, item, action]).astype(np.float32),
            "done": np.full(episodes, step == horizon - 1),
            "episode": np.arange(episodes),
            "step": np.full(episodes, step),
            "cluster": np.arange(episodes) // EPISODES_A_USER,
            "best_action": np.where(known, values.argmax(axis=1), -1),
            "action_values": np.where(known[:, None], values, np.nan).astype(np.float32),
            "event_time": int(EPOCH.timestamp()) * 1_000_000
            + day * DAY
            + (drawn.seconds[:, step] * 1e6).astype(np.int64),
        }
        for name, values_of_step in row.items():
            columns.setdefault(name, []).append(values_of_step)
        state = regime.problem.next_state[state, item, action]
    # Rows of an episode follow each other.
    return VersionDecisions(
        **{
            name: np.stack(steps, axis=1).reshape(episodes * horizon, *steps[0].shape[1:])
            for name, steps in columns.items()
        }  # type: ignore[arg-type]
    )


def _logged(
    regime: Regime, step: int, state: NDArray[np.int64], item: NDArray[np.int64], draw: NDArray[np.float64]
) -> NDArray[np.int64]:
    propensity = regime.propensities[step, state, item]
    return (np.cumsum(propensity, axis=1)[:, :-1] < draw[:, None]).sum(axis=1)


@cache
def agent(name: str = "generation", updates: int = 1500) -> Agent:
    """Train on the first ten days' log."""
    spec = context_only(name)
    log = play(world_of(spec), range(LEARNED_DAYS), None, exploration=0.2)
    config = DqnConfig(hidden_sizes=(64, 64), updates=updates, report_every=updates)
    trained = train(_table(log), spec, config, device="cpu", seed=7)
    return Agent(spec, GreedyPolicy.from_network(trained.network))


def scored(log: VersionDecisions, policy: GreedyPolicy) -> VersionDecisions:
    """The same decisions with this policy's Q values: what an evaluation holds of held-out decisions of another policy."""
    return replace(log, q_values=policy.q_values(log.state))


def _table(log: VersionDecisions) -> DecisionTable:
    rows = len(log)
    text = np.full(rows, "x", dtype=object)
    return DecisionTable(
        state=log.state,
        next_state=following_states(log.state, log.done),
        action=log.action,
        reward=log.reward,
        done=log.done,
        propensity=np.ones(rows, np.float32),
        best_action=log.best_action,
        action_values=log.action_values,
        event_time=log.event_time.astype("datetime64[us]"),
        experience_id=text,
        episode_id=log.episode.astype(str).astype(object),
        step=log.step,
        ui_framework=text,
        browser=text,
        test_type=text,
    )
