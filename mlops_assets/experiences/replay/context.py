"""What the execution agent sees of a replayed cycle: each test's honest history and what was decided so far.

Not here: outcomes. Nothing in this module reads a verdict or a real duration of the cycle.
"""

from collections import Counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiences.napfd import BUDGET_SHARE
from mlops_assets.experiences.replay.history import CycleHistory
from mlops_assets.experiences.replay.rewards import PriorityClass
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError

_RUNS_HALF_KNOWN: Final = 10.0
_RECENCY_DAYS: Final = 7.0
_PROGRESS_FIELDS: Final = ("budget_left", "steps_left", "queued_ahead", "suite_saturation")


def require_priority_actions(spec: AgentSpec) -> None:
    """Refuse an agent that does not hand out priority classes.

    Raises:
        InputError: the agent's actions are not the priority classes.
    """
    expected = tuple(priority.name.lower() for priority in PriorityClass)
    if spec.actions != expected:
        raise InputError(
            f"a CI history holds no decisions of agent {spec.name!r} (actions {', '.join(spec.actions)}); "
            f"only an agent with the actions {', '.join(expected)} can be replayed from it: use the simulator"
        )


def opening_contexts(spec: AgentSpec, cycle: CycleHistory) -> NDArray[np.float32]:
    """Return the context of every test of the cycle as if it were the first one decided.

    Fields that a CI history does not know (page complexity, coverage, an earlier agent's confidence) keep the default.

    Returns:
        (n, C), in row order and catalogue order.
    """
    longest = float(cycle.expected_durations.max(initial=0.0))
    columns: dict[str, NDArray[np.float64] | float] = {
        "budget_left": 1.0,
        "steps_left": 1.0,
        "failure_rate_recent": cycle.failure_rate_recent,
        "failure_rate_total": cycle.failure_rate_total,
        "last_failed": cycle.last_failed,
        "last_four_failures": cycle.last_four_failures,
        "runs_seen": cycle.runs_seen / (cycle.runs_seen + _RUNS_HALF_KNOWN),
        "recency": 1.0 - np.exp(-cycle.days_since_run / _RECENCY_DAYS),
        "duration_share": cycle.expected_durations / longest if longest else 0.0,
        "flakiness": cycle.flakiness,
        "suite_failure_rate": cycle.suite_failure_rate,
    }
    contexts = np.empty((len(cycle.test_ids), len(spec.context)), dtype=np.float32)
    for index, field in enumerate(spec.context):
        contexts[:, index] = columns.get(field.name, field.default)
    return contexts


class CycleProgress:
    """The part of the context that the agent's own decisions change, kept up to date decision by decision.

    Time is counted in expected durations, as the real ones are known only after the cycle.
    """

    def __init__(self, spec: AgentSpec, cycle: CycleHistory) -> None:
        names = [field.name for field in spec.context]
        self.columns = [names.index(name) for name in _PROGRESS_FIELDS]
        total = float(cycle.expected_durations.sum()) * BUDGET_SHARE
        self._shares: list[float] = (cycle.expected_durations / total if total else cycle.expected_durations).tolist()
        self._suites = cycle.suites
        self._suite_sizes = Counter(cycle.suites)
        self._suite_queued: Counter[str] = Counter()
        self._steps_left = len(cycle.suites)
        self._spent = 0.0
        self._queued = 0.0

    def fields(self, row: int) -> tuple[float, float, float, float]:
        """Return the values for `columns` when the test in `row` is decided next."""
        suite = self._suites[row]
        return (
            max(0.0, 1.0 - self._spent),
            self._steps_left / len(self._suites),
            min(1.0, self._queued),
            self._suite_queued[suite] / self._suite_sizes[suite],
        )

    def assign(self, row: int, action: int) -> None:
        """Take note of a decision."""
        self._steps_left -= 1
        if action != PriorityClass.SKIP:
            self._spent += self._shares[row]
        if action >= PriorityClass.NORMAL:
            self._queued += self._shares[row]
            self._suite_queued[self._suites[row]] += 1
