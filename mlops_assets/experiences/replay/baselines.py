"""Trivial rules that a learned prioritiser has to beat, as orders of one cycle's tests.

All know only history, but the oracle. Ties end with the shortest test first, by its real duration, which an honest rule
would have to guess: the comparison is never unfair to the rules.
"""

import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiences.napfd import napfd, order_by
from mlops_assets.experiences.replay.history import CycleHistory

RULES: Final = ("random", "sorting", "recency_rate", "oracle")


def sorting_order(cycle: CycleHistory) -> NDArray[np.int64]:
    """RETECS Sorting: the last four verdicts, newest first, then the longest time not run (Spieker et al. 2017)."""
    return order_by(cycle.sorting_priority, cycle.days_since_run, -cycle.durations)


def recency_rate_order(cycle: CycleHistory) -> NDArray[np.int64]:
    """By recency-weighted failure rate, `sum(a^k v_k) / sum(a^k)` with a = 0.5 and k = 0 the newest verdict."""
    return order_by(cycle.failure_rate_recent, -cycle.durations)


def oracle_order(cycle: CycleHistory) -> NDArray[np.int64]:
    """Failing tests first, short ones first: the bound that needs the verdicts."""
    return order_by(cycle.failed.astype(np.float64), -cycle.durations)


def rule_napfd(cycle: CycleHistory, *, random_orders: int, seed: int) -> dict[str, float]:
    """Return the NAPFD of every rule in `RULES` on one cycle; random is the mean over `random_orders` orders."""
    generator = np.random.default_rng([seed, zlib.crc32(cycle.key.encode())])
    tests = len(cycle.failed)
    chance = [napfd(generator.permutation(tests), cycle.durations, cycle.failed) for _ in range(random_orders)]
    return {
        "random": float(np.mean(chance)),
        "sorting": napfd(sorting_order(cycle), cycle.durations, cycle.failed),
        "recency_rate": napfd(recency_rate_order(cycle), cycle.durations, cycle.failed),
        "oracle": napfd(oracle_order(cycle), cycle.durations, cycle.failed),
    }
