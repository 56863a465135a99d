"""Decisions small enough to write down; what is left out is a filler."""

from typing import Any

import numpy as np

from mlops_assets.monitoring.version_decisions import VersionDecisions


def decisions(q_values: Any, **columns: Any) -> VersionDecisions:
    """Decisions with these Q values (N, A); each an episode and a user of its own, unless said."""
    rows, actions = np.shape(q_values)
    filler: dict[str, Any] = {
        "state": np.zeros((rows, 1)),
        "action": np.argmax(q_values, axis=1),
        "reward": np.zeros(rows),
        "done": np.ones(rows, dtype=bool),
        "episode": np.arange(rows),
        "step": np.zeros(rows),
        "best_action": np.full(rows, -1),
        "action_values": np.full((rows, actions), np.nan),
        "event_time": np.zeros(rows),
    }
    values = {**filler, "q_values": q_values, **columns}
    values.setdefault("cluster", values["episode"])
    types = {
        "state": np.float32,
        "q_values": np.float32,
        "reward": np.float32,
        "action_values": np.float32,
        "done": bool,
    }
    return VersionDecisions(
        **{name: np.asarray(value).astype(types.get(name, np.int64)) for name, value in values.items()}
    )
