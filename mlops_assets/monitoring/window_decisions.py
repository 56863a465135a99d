"""From a window as it is read to the plain decisions that health and loss are measured on."""

import numpy as np
from numpy.typing import NDArray

from mlops_assets.monitoring.version_decisions import VersionDecisions, some_clusters
from mlops_assets.monitoring.window import DecisionWindow

# Of the sample of users: the same window gives the same numbers.
_SEED = 0


def dependent_rows(window: DecisionWindow) -> NDArray[np.int64]:
    """Return whose decisions depend on each other (N,): numbers of users where they are known, else of episodes."""
    first = int(window.user.max(initial=-1)) + 1
    return np.where(window.user >= 0, window.user, first + window.episode)


def version_decisions(window: DecisionWindow, *, max_rows: int) -> VersionDecisions:
    """Return the decisions of a window of one version, at most `max_rows` of them, whole clusters at a time.

    Rows that another network than the agent's now has answered are left out: their vectors have another length, or their
    action is none of its actions.
    """
    actions = window.q_values.shape[1]
    own = np.isfinite(window.states).all(axis=1) & np.isfinite(window.q_values).all(axis=1)
    rows = np.flatnonzero(own & (window.action >= 0) & (window.action < actions))
    cluster = dependent_rows(window)[rows]
    if len(rows) > max_rows:
        numbers = np.unique(cluster, return_inverse=True)[1].astype(np.int64)
        kept = some_clusters(numbers, max_rows, np.random.default_rng(_SEED))
        rows, cluster = rows[kept], cluster[kept]
    return VersionDecisions(
        state=window.states[rows],
        q_values=window.q_values[rows],
        action=window.action[rows],
        reward=window.reward[rows].astype(np.float32),
        done=window.done[rows],
        episode=window.episode[rows],
        step=window.step[rows],
        cluster=cluster,
        best_action=window.best_action[rows],
        action_values=window.action_values[rows],
        event_time=window.event_time[rows].astype("datetime64[us]").astype(np.int64),
    )
