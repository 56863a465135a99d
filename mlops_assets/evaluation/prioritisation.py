"""How early a Q function finds the failures of replayed CI cycles, beside the trivial rules on the same cycles.

The metric is in `experiences/napfd.py`, the rules in `experiences/replay/baselines.py`. Returns of class-wise decisions
are in `returns.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from mlops_assets.evaluation.intervals import Interval, cluster_bootstrap, ratio
from mlops_assets.evaluation.metrics import QFunction, q_values
from mlops_assets.experiences.napfd import napfd, order_by
from mlops_assets.experiences.replay.baselines import RULES, rule_napfd
from mlops_assets.experiences.replay.context import opening_contexts
from mlops_assets.experiences.replay.history import CycleHistory
from mlops_assets.experiences.replay.rewards import PriorityClass
from mlops_assets.experiences.replay.source import HistoryReplay
from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.features.vector import replace_context
from mlops_assets.foundation.agents import AgentSpec

AGENT: Final = "agent"
_RANDOM_ORDERS: Final = 20
"""Random orders a cycle is run in, so that chance is a figure and not a draw."""


@dataclass(frozen=True)
class CycleRanking:
    """NAPFD of one cycle under each method: the agent and the rules."""

    cycle_id: str
    started_at: str
    tests: int
    failures: int
    held_out: bool
    napfd: Mapping[str, float]


@dataclass(frozen=True)
class RankingSummary:
    """Mean NAPFD over cycles, and how much the agent is above each rule on the same cycles (paired, over cycles)."""

    cycles: int
    mean_napfd: Mapping[str, float]
    agent_above: Mapping[str, Interval]

    def above(self, rule: str) -> bool | None:
        """Whether the agent beats the rule with the whole interval; None when the cycles are too few for one."""
        low = self.agent_above[rule].low
        return None if low is None else low > 0.0


@dataclass(frozen=True)
class Prioritisation:
    """Ranking of held-out cycles, which is the verdict, and of the whole stream, whose older cycles were trained on."""

    held_out: RankingSummary
    whole_stream: RankingSummary
    cycles: tuple[CycleRanking, ...]
    skipped_cycles: int

    def to_json(self) -> dict[str, JsonValue]:
        """Return the figures for the validation report."""
        return {
            "metric": "NAPFD with half of the cycle's total duration as budget",
            "held_out": _summary_json(self.held_out),
            "whole_stream": _summary_json(self.whole_stream),
            "skipped_cycles": self.skipped_cycles,
            "cycles": [asdict(cycle) for cycle in self.cycles],
        }


def measure_prioritisation(
    policy: QFunction,
    history: HistoryReplay,
    spec: AgentSpec,
    *,
    held_out: DecisionTable,
    training: DecisionTable | None,
    samples: int,
    confidence: float,
    seed: int,
) -> Prioritisation | None:
    """Rank every replayed cycle by the policy and by the rules.

    Args:
        policy: the policy under test; its priority of a test is Q(high) - Q(skip) as if the test were decided first.
        history: the source that the decisions came from.
        spec: the agent.
        held_out: held-out decisions.
        training: training decisions, for the whole stream; None leaves only the held-out cycles.
        samples: bootstrap resamples of cycles.
        confidence: coverage of the intervals.
        seed: of the random orders and the bootstrap.

    Returns:
        None when no held-out cycle is complete. Cycles of which a step is missing are skipped and counted.

    Raises:
        InputError: an episode is not one of the history's.
    """
    rankings: dict[str, CycleRanking] = {}
    skipped: set[str] = set()
    for table, is_held_out in ((training, False), (held_out, True)):
        if table is None:
            continue
        for episode_id, rows in _episodes(table):
            cycle = history.cycle_of(episode_id)
            if cycle.key in rankings:
                continue
            if len(rows) != len(cycle.test_ids):
                skipped.add(cycle.key)
                continue
            order = history.presentation(episode_id)
            contexts = opening_contexts(spec, cycle)[order]
            states = replace_context(spec, table.state[rows], contexts)
            scores = np.empty(len(order))
            scores[order] = priority_scores(policy, states)
            rankings[cycle.key] = _rank(cycle, scores, held_out=is_held_out, seed=seed)
    cycles = tuple(sorted(rankings.values(), key=lambda ranking: (ranking.started_at, ranking.cycle_id)))
    tested = [ranking for ranking in cycles if ranking.held_out]
    if not tested:
        return None
    return Prioritisation(
        held_out=_summary(tested, samples=samples, confidence=confidence, seed=seed),
        whole_stream=_summary(cycles, samples=samples, confidence=confidence, seed=seed),
        cycles=cycles,
        skipped_cycles=len(skipped - set(rankings)),
    )


def priority_scores(policy: QFunction, states: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return continuous priorities (N,) of states (N, D): what running a test first is worth over not running it."""
    values = q_values(policy, states).astype(np.float64)
    return values[:, PriorityClass.HIGH] - values[:, PriorityClass.SKIP]


def _episodes(table: DecisionTable) -> list[tuple[str, NDArray[np.int64]]]:
    """Episodes of a table with their row numbers by step, in order of their names: the first pass of a cycle first."""
    names, first, episode = np.unique(table.episode_id.astype(str), return_index=True, return_inverse=True)
    by_step = np.lexsort([table.step, episode])
    groups = np.split(by_step, np.flatnonzero(np.diff(episode[by_step])) + 1) if len(first) else []
    return [(str(name), rows) for name, rows in zip(names, groups, strict=True)]


def _rank(cycle: CycleHistory, scores: NDArray[np.float64], *, held_out: bool, seed: int) -> CycleRanking:
    order = order_by(scores, cycle.failure_rate_recent, -cycle.expected_durations)
    figures = {AGENT: napfd(order, cycle.durations, cycle.failed)}
    return CycleRanking(
        cycle_id=cycle.cycle_id,
        started_at=f"{np.datetime_as_string(cycle.started_at, unit='s')}Z",
        tests=len(cycle.test_ids),
        failures=int(cycle.failed.sum()),
        held_out=held_out,
        napfd=figures | rule_napfd(cycle, random_orders=_RANDOM_ORDERS, seed=seed),
    )


def _summary(cycles: Sequence[CycleRanking], *, samples: int, confidence: float, seed: int) -> RankingSummary:
    figures = {name: np.array([cycle.napfd[name] for cycle in cycles]) for name in (AGENT, *RULES)}

    def above(rule: str) -> Interval:
        pairs = np.stack([figures[AGENT] - figures[rule], np.ones(len(cycles))], axis=1)
        return cluster_bootstrap(pairs, ratio, samples=samples, confidence=confidence, seed=seed)

    return RankingSummary(
        cycles=len(cycles),
        mean_napfd={name: float(values.mean()) for name, values in figures.items()},
        agent_above={rule: above(rule) for rule in RULES if rule != "oracle"},
    )


def _summary_json(summary: RankingSummary) -> dict[str, JsonValue]:
    verdicts = {True: "pass", False: "fail", None: "insufficient_data"}
    return {
        "cycles": summary.cycles,
        "mean_napfd": dict(summary.mean_napfd),
        "agent_above": {rule: asdict(interval) for rule, interval in summary.agent_above.items()},
        "verdict_above_random": verdicts[summary.above("random")],
    }
