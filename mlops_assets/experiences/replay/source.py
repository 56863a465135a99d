"""CI histories as an experience source: an episode is one CI cycle, a decision gives one of its tests a priority class.

A cycle without a failure gives no episode: NAPFD is undefined there, no decision is better than another. Its verdicts
are history of the cycles after it. Not here: features, the metric, and how rewards are computed.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlops_assets.experiences.environment import DecisionEnvironment, ExperienceBatch
from mlops_assets.experiences.replay.context import CycleProgress, opening_contexts, require_priority_actions
from mlops_assets.experiences.replay.environment import ReplayEnvironment, ReplayEpisode
from mlops_assets.experiences.replay.history import CycleHistory, cycle_histories
from mlops_assets.experiences.replay.rewards import CycleOutcome, PriorityClass, best_class
from mlops_assets.experiences.schema import REQUIREMENT_TEXTS, experience_schema, label_schema
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError

_HIGH_FROM: Final = 0.5
_NORMAL_FROM: Final = 0.125
_UNKNOWN: Final = "unknown"


@dataclass(frozen=True)
class ReplayConfig:
    """How a history is replayed.

    Each cycle is gone through `passes` times, each time in another random order of its tests and with other actions of
    the behaviour policy: with probability `1 - epsilon` the class that the recency-weighted failure rate suggests (from
    0.5 on high, from 0.125 on normal, else low), otherwise any class. `project` names the history: two histories in one
    home have snapshots, cursors and agent features of their own.
    """

    passes: int = 4
    epsilon: float = 0.5
    seed: int = 20251027
    project: str = "ci"

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise InputError(f"passes is {self.passes}; a cycle has to be replayed at least once")
        if not 0.0 < self.epsilon <= 1.0:
            raise InputError(f"epsilon is {self.epsilon}; expected 0 < epsilon <= 1: every class needs a chance")


class HistoryReplay:
    """Experience source over one project's executions (`experiences/schema.py`), the whole history so far.

    The cursor is the last cycle's start and id; a later cycle is new, an earlier one that arrives late is history only.
    """

    def __init__(self, executions: pa.Table, config: ReplayConfig | None = None) -> None:
        self.config = config or ReplayConfig()
        self.cycles = cycle_histories(executions)
        self._by_key = {cycle.key: cycle for cycle in self.cycles}

    @property
    def name(self) -> str:
        """`history-replay-` and the project."""
        return f"history-replay-{self.config.project}"

    def as_of(self, now: datetime) -> datetime:
        """Return when the last verdict was known; `now` while the history is empty."""
        return max((_aware(cycle.known_at) for cycle in self.cycles), default=now)

    def batches(self, spec: AgentSpec, cursor: str | None) -> Iterator[ExperienceBatch]:
        """Yield the episodes of one day of cycles at a time.

        Raises:
            InputError: the cursor is not one of this source's, or the agent has other actions.
        """
        require_priority_actions(spec)
        after = _parse_cursor(cursor)
        new = [cycle for cycle in self.cycles if cycle.has_failure and _position(cycle) > after]
        for _, day in groupby(new, key=lambda cycle: cycle.started_at.astype("datetime64[D]")):
            yield self._batch(spec, list(day))

    def environment(self, spec: AgentSpec, episode_ids: Sequence[str]) -> DecisionEnvironment:
        """Return the named passes as an environment; the tests come in the order of the logged pass.

        Raises:
            InputError: an episode id is unknown, or the agent has other actions.
        """
        require_priority_actions(spec)
        episodes = []
        for episode_id in episode_ids:
            cycle = self.cycle_of(episode_id)
            episodes.append(ReplayEpisode(episode_id, spec, cycle, self.presentation(episode_id)))
        return ReplayEnvironment(episodes, contexts=len(spec.context))

    def cycle_of(self, episode_id: str) -> CycleHistory:
        """Return the cycle that an episode replays.

        Raises:
            InputError: the episode is not one of this history's.
        """
        key, _, number = episode_id.rpartition("#")
        if key not in self._by_key or not number.isdecimal():
            raise InputError(f"episode {episode_id!r} is not one of this CI history; take ids from its experiences")
        return self._by_key[key]

    def presentation(self, episode_id: str) -> NDArray[np.int64]:
        """Return the rows of the episode's cycle, (n,), in the order in which its steps present them."""
        return self._generator(episode_id).permutation(len(self.cycle_of(episode_id).test_ids))

    def _generator(self, episode_id: str) -> np.random.Generator:
        digest = hashlib.sha256(episode_id.encode()).digest()
        return np.random.default_rng([self.config.seed, int.from_bytes(digest[:8], "big")])

    def _batch(self, spec: AgentSpec, cycles: list[CycleHistory]) -> ExperienceBatch:
        experiences, labels = [], []
        for cycle in cycles:
            outcome = CycleOutcome(cycle)
            for number in range(self.config.passes):
                decisions = self._pass(spec, cycle, outcome, f"{cycle.key}#{number}")
                experiences.append(decisions[0])
                labels.append(decisions[1])
        return ExperienceBatch(
            experiences=pa.concat_tables(experiences),
            labels=pa.concat_tables(labels),
            requirement_texts=REQUIREMENT_TEXTS.empty_table(),
            cursor=_cursor(cycles[-1]),
        )

    def _pass(
        self, spec: AgentSpec, cycle: CycleHistory, outcome: CycleOutcome, episode_id: str
    ) -> tuple[pa.Table, pa.Table]:
        tests = len(cycle.test_ids)
        generator = self._generator(episode_id)
        order = generator.permutation(tests)
        propensities = self._behaviour(cycle)[order]
        uniform = generator.random((tests, 1))
        actions = (uniform > np.cumsum(propensities, axis=1)[:, :-1]).sum(axis=1)
        rewards, values = outcome.replay(order, actions)
        steps = np.arange(tests)
        ids = [f"{episode_id}:{step:05d}" for step in range(tests)]
        at = pa.array(np.full(tests, cycle.started_at)).cast(label_schema(spec).field("event_time").type)
        known = pa.array(np.full(tests, cycle.known_at)).cast(at.type)
        experiences = {
            "experience_id": ids,
            "agent_id": [f"execution-{self.config.project}"] * tests,
            "test_id": [cycle.test_ids[row] for row in order],
            "requirement_id": [""] * tests,
            "episode_id": [episode_id] * tests,
            "step": steps.astype(np.int32),
            "event_time": at,
            "state": _fixed(self._contexts(spec, cycle, order, actions)),
            "action": actions.astype(np.int32),
            "reward": rewards.astype(np.float32),
            "done": steps == tests - 1,
            "propensity": propensities[steps, actions].astype(np.float32),
            "ui_framework": [_UNKNOWN] * tests,
            "browser": [cycle.projects[row] or _UNKNOWN for row in order],
            "test_type": [cycle.frameworks[row] for row in order],
        }
        labels = {
            "experience_id": ids,
            "best_action": best_class(values).astype(np.int32),
            "action_values": _fixed(values.astype(np.float32)),
            "event_time": at,
            "label_time": known,
        }
        return pa.table(experiences, schema=experience_schema(spec)), pa.table(labels, schema=label_schema(spec))

    def _behaviour(self, cycle: CycleHistory) -> NDArray[np.float64]:
        """Return the behaviour policy's probabilities, (n, 4)."""
        rate = cycle.failure_rate_recent
        suggested = np.where(
            rate >= _HIGH_FROM,
            PriorityClass.HIGH,
            np.where(rate >= _NORMAL_FROM, PriorityClass.NORMAL, PriorityClass.LOW),
        )
        greedy = np.eye(len(PriorityClass))[suggested]
        return greedy * (1.0 - self.config.epsilon) + self.config.epsilon / len(PriorityClass)

    @staticmethod
    def _contexts(
        spec: AgentSpec, cycle: CycleHistory, order: NDArray[np.int64], actions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        contexts = opening_contexts(spec, cycle)[order]
        progress = CycleProgress(spec, cycle)
        fields = np.empty((len(order), len(progress.columns)))
        for step, (row, action) in enumerate(zip(order.tolist(), actions.tolist(), strict=True)):
            fields[step] = progress.fields(row)
            progress.assign(row, action)
        contexts[:, progress.columns] = fields
        return contexts


def _fixed(rows: NDArray[np.float32]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def _aware(time: np.datetime64) -> datetime:
    moment: datetime = time.astype("datetime64[us]").item()
    return moment.replace(tzinfo=UTC)


def _position(cycle: CycleHistory) -> tuple[int, str]:
    return int(cycle.started_at.astype(np.int64)), cycle.cycle_id


def _cursor(cycle: CycleHistory) -> str:
    started_at_us, cycle_id = _position(cycle)
    return json.dumps({"started_at_us": started_at_us, "cycle_id": cycle_id})


def _parse_cursor(cursor: str | None) -> tuple[int, str]:
    if cursor is None:
        return -(2**63), ""
    try:
        position = json.loads(cursor)
        return int(position["started_at_us"]), str(position["cycle_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{cursor!r} is no cursor of a history replay (started_at_us, cycle_id); read from the beginning instead"
        ) from error
