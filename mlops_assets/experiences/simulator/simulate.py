"""The simulator as an experience source: a stochastic policy, logged day by day with propensities and late exact labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_assets.experiences.environment import ExperienceBatch
from mlops_assets.experiences.schema import REQUIREMENT_TEXTS, TIMESTAMP, experience_schema, label_schema
from mlops_assets.experiences.simulator.config import EPOCH, SimulatorConfig
from mlops_assets.experiences.simulator.drift import break_schema
from mlops_assets.experiences.simulator.environment import SimulatedEnvironment
from mlops_assets.experiences.simulator.fleet import APPS, app_name, build_fleet
from mlops_assets.experiences.simulator.ids import episode_ids, experience_ids
from mlops_assets.experiences.simulator.problem import Floats, Integers
from mlops_assets.experiences.simulator.world import FRAMEWORK_NAMES, Day, Regime, World, world_key
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError

_DAY_MICROSECONDS = 86_400_000_000


@dataclass(frozen=True)
class _Log:
    """What the logging policy did on a day, (E, T) each."""

    state: Integers
    action: Integers
    reward: Floats
    propensity: Floats


class Simulator:
    """A fleet of web apps and three agents at work (an `ExperienceSource`); a batch is a day, its number the cursor."""

    def __init__(self, config: SimulatorConfig) -> None:
        """Build the fleet of `config`.

        Raises:
            InputError: the config's user stories cannot be read.
        """
        self.config = config
        self._fleet = build_fleet(config)
        self._worlds: dict[str, World] = {}

    @property
    def name(self) -> str:
        """`simulator-` and the short name of the world."""
        return f"simulator-{world_key(self.config, self._fleet)}"

    def as_of(self, now: datetime) -> datetime:
        """Return the end of simulated time, whatever `now` is: the world ends there."""
        del now
        return self.config.end

    def batches(self, spec: AgentSpec, cursor: str | None) -> Iterator[ExperienceBatch]:
        """Yield one batch a day after `cursor`.

        Raises:
            InputError: the cursor is not a day's number, or the agent has no simulated problem.
        """
        first = 0 if cursor is None else _day_of(cursor) + 1
        world = self._world(spec)
        for day in range(first, self.config.total_days):
            yield self._batch(world, day)

    def environment(self, spec: AgentSpec, episode_ids: Sequence[str]) -> SimulatedEnvironment:
        """Return the named episodes, to be replayed by any policy.

        Raises:
            InputError: an id is not one of this simulation's.
        """
        return SimulatedEnvironment(self._world(spec), episode_ids)

    def _world(self, spec: AgentSpec) -> World:
        if spec.name not in self._worlds:
            self._worlds[spec.name] = World(self.config, self._fleet, spec)
        return self._worlds[spec.name]

    def _batch(self, world: World, day: int) -> ExperienceBatch:
        regime, drawn = world.regime(day), world.day(day)
        log = _roll_out(regime, drawn, self.config.reward_noise)
        midnight = _microseconds(EPOCH + timedelta(days=day))
        event_time = (midnight + drawn.seconds.ravel() * 1e6).astype(np.int64)
        experiences = _experiences(world, day, drawn, log, event_time, regime)
        return ExperienceBatch(
            experiences=break_schema(experiences, regime.drift),
            labels=self._labels(world, regime, drawn, log, event_time, experiences["experience_id"]),
            requirement_texts=_requirement_texts(world, drawn),
            cursor=str(day),
        )

    def _labels(
        self, world: World, regime: Regime, drawn: Day, log: _Log, event_time: Integers, ids: pa.ChunkedArray
    ) -> pa.Table:
        labelled = np.flatnonzero(drawn.label_draw.ravel() < self.config.label_share)
        step = np.broadcast_to(np.arange(world.horizon), log.state.shape).ravel()[labelled]
        at = (step, log.state.ravel()[labelled], drawn.item.ravel()[labelled])
        delay = (drawn.label_delay.ravel()[labelled] * _DAY_MICROSECONDS).astype(np.int64)
        return pa.table(
            [
                ids.take(pa.array(labelled)),
                pa.array(regime.solution.best_actions[at].astype(np.int32)),
                _fixed_lists(regime.solution.action_values[at].astype(np.float32)),
                _timestamps(event_time[labelled]),
                _timestamps(event_time[labelled] + delay),
            ],
            schema=label_schema(world.spec),
        )


def _roll_out(regime: Regime, drawn: Day, noise_share: float) -> _Log:
    """Let the logging policy act; an action is drawn by inverting the propensities' cumulative sum."""
    shape = drawn.item.shape
    states, actions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    propensities = np.zeros(shape)
    episodes = np.arange(shape[0])
    state = np.full(shape[0], regime.problem.start)
    for step in range(shape[1]):
        item = drawn.item[:, step]
        propensity = regime.propensities[step, state, item]
        action = (np.cumsum(propensity, axis=1)[:, :-1] < drawn.action_draw[:, step, None]).sum(axis=1)
        states[:, step], actions[:, step] = state, action
        propensities[:, step] = propensity[episodes, action]
        state = regime.problem.next_state[state, item, action]
    at = (states, drawn.item, actions)
    reward = regime.problem.gain[at] * (1.0 + noise_share * drawn.gain_noise) - regime.problem.cost[at]
    return _Log(state=states, action=actions, reward=reward, propensity=propensities)


def _experiences(world: World, day: int, drawn: Day, log: _Log, event_time: Integers, regime: Regime) -> pa.Table:
    episodes, horizon = log.state.shape
    step = pa.array(np.tile(np.arange(horizon, dtype=np.int32), episodes))
    episode = np.repeat(np.arange(episodes), horizon)
    episode_id = episode_ids(world, day).take(pa.array(episode))
    context = drawn.context + regime.state_context[log.state]
    done = np.zeros((episodes, horizon), dtype=bool)
    done[:, -1] = True
    fleet, test = world.fleet, drawn.test.ravel()
    columns = {
        "experience_id": experience_ids(episode_id, step),
        "agent_id": _pick([f"{world.spec.name}-{app_name(app)}" for app in range(APPS)], drawn.app[episode]),
        "test_id": _pick(fleet.test_id, test),
        "requirement_id": _pick([*(item.requirement_id for item in fleet.requirements), ""], drawn.requirement.ravel()),
        "episode_id": episode_id,
        "step": step,
        "event_time": _timestamps(event_time),
        "state": _fixed_lists(context.reshape(-1, context.shape[-1])),
        "action": pa.array(log.action.ravel().astype(np.int32)),
        "reward": pa.array(log.reward.ravel().astype(np.float32)),
        "done": pa.array(done.ravel()),
        "propensity": pa.array(log.propensity.ravel().astype(np.float32)),
        "ui_framework": _pick(FRAMEWORK_NAMES, drawn.framework[episode]),
        "browser": _pick(fleet.browser, test),
        "test_type": _pick(fleet.test_type, test),
    }
    schema = experience_schema(world.spec)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _requirement_texts(world: World, drawn: Day) -> pa.Table:
    seen = np.unique(drawn.requirement)
    rows = [world.fleet.requirements[index] for index in seen[seen >= 0]]
    columns = ([row.requirement_id for row in rows], [row.text for row in rows], [row.area for row in rows])
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=REQUIREMENT_TEXTS)


def _pick(names: Sequence[str], index: Integers) -> pa.Array:
    """Return `names[index]`; -1 is the last one, as in numpy."""
    return pa.array(names, pa.string()).take(pa.array(np.where(index < 0, len(names) + index, index)))


def _fixed_lists(values: NDArray[np.float32]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _timestamps(microseconds: Integers) -> pa.Array:
    return pa.array(microseconds).cast(TIMESTAMP)


def _microseconds(moment: datetime) -> int:
    return int(pc.cast(pa.scalar(moment, TIMESTAMP), pa.int64()).as_py())


def _day_of(cursor: str) -> int:
    if not cursor.isdecimal():
        raise InputError(f"cursor {cursor!r} is not one of the simulator's, a day's number; start without a cursor")
    return int(cursor)
