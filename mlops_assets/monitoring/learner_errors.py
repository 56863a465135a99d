"""What a Q function promised against what came: over-estimation of the return, and one-step TD errors. No limits here."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mlops_assets.monitoring.linear_models import Float
from mlops_assets.monitoring.version_decisions import VersionDecisions


def overestimation(decisions: VersionDecisions, discount: float) -> Float:
    """Q value of the taken action less the realised discounted return from there on, (N,); NaN where that is not known.

    A Q value promises what comes of acting greedily afterwards. So the return is the realised one up to the end of the
    episode or to the first later action that was not greedy, whose state counts with its largest Q value (Watkins 1989): an
    exploring step makes no promise false. Leaving such episodes out instead would choose those in which luck made the
    greedy action be taken.

    Args:
        decisions: sorted by episode and step (`VersionDecisions.ordered`).
        discount: per decision.
    """
    rows = np.arange(len(decisions))
    greedy, best = decisions.greedy == decisions.action, decisions.q_values.max(axis=1)
    followed = _followed(decisions)
    returns = np.where(decisions.done, decisions.reward, np.nan).astype(np.float64)
    # Backwards: each round, the rows one decision farther from the end of their episode.
    from_end = _from_end(decisions)
    order = np.argsort(from_end, kind="stable")
    bounds = np.searchsorted(from_end[order], np.arange(1, int(from_end.max(initial=0)) + 2))
    for begin, end in pairwise(bounds):
        here = order[begin:end]
        here = here[followed[here] & ~decisions.done[here]]
        later = np.where(greedy[here + 1], returns[here + 1], best[here + 1])
        returns[here] = decisions.reward[here] + discount * later
    return decisions.q_values[rows, decisions.action].astype(np.float64) - returns


def td_errors(decisions: VersionDecisions, discount: float) -> Float:
    """One-step errors r + discount * max Q(s', .) - Q(s, a), (N,), of decisions sorted as above.

    NaN where the reward or the next state is not known.
    """
    rows = np.arange(len(decisions))
    best = decisions.q_values.max(axis=1).astype(np.float64)
    future = np.full(len(decisions), np.nan)
    future[:-1] = np.where(_followed(decisions)[:-1], best[1:], np.nan)
    target = decisions.reward + discount * np.where(decisions.done, 0.0, future)
    return target - decisions.q_values[rows, decisions.action]


def _followed(decisions: VersionDecisions) -> NDArray[np.bool_]:
    """Whether the next row is the next decision of the same episode, (N,)."""
    followed = np.zeros(len(decisions), dtype=bool)
    followed[:-1] = (decisions.episode[1:] == decisions.episode[:-1]) & (decisions.step[1:] == decisions.step[:-1] + 1)
    return followed


def _from_end(decisions: VersionDecisions) -> NDArray[np.int64]:
    """How many rows of the same episode come after each, (N,)."""
    if not len(decisions):
        return np.zeros(0, dtype=np.int64)
    ends = np.flatnonzero(np.r_[decisions.episode[1:] != decisions.episode[:-1], True])
    return ends[np.searchsorted(ends, np.arange(len(decisions)))] - np.arange(len(decisions))
