"""A decision problem small enough to solve by hand, and logs of it."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mlops_assets.features.decision_table import DecisionTable, following_states
from mlops_assets.foundation.agents import AgentSpec, ContextField
from mlops_assets.training.config import DqnConfig

DISCOUNT = 0.9
HORIZON = 3
HARVEST, INVEST = 0, 1

TOY = AgentSpec(
    name="toy",
    purpose="Harvests or invests.",
    episode="Three decisions.",
    reward="Harvesting gives 0.5, after an investment 2; investing costs 1.",
    reward_low=-1.0,
    reward_high=2.0,
    discount=DISCOUNT,
    actions=("harvest", "invest"),
    context=(
        ContextField("steps_left", "Share of the decisions that are still to come."),
        ContextField("invested", "1 after an investment."),
        ContextField("noise", "Means nothing."),
    ),
    text_dimensions=0,
    features=(),
)

# By backward induction: (step, invested) -> (value of harvest, value of invest). Short-sighted, investing never pays.
EXACT: Mapping[tuple[int, int], tuple[float, float]] = {
    (2, 0): (0.5, -1.0),
    (2, 1): (2.0, -1.0),
    (1, 0): (0.5 + 0.9 * 0.5, -1.0 + 0.9 * 2.0),
    (1, 1): (2.0 + 0.9 * 2.0, -1.0 + 0.9 * 2.0),
    (0, 0): (0.5 + 0.9 * 0.95, -1.0 + 0.9 * 3.8),
}

FAST = DqnConfig(
    learning_rate=5e-3,
    batch_size=64,
    hidden_sizes=(32, 32),
    updates=600,
    updates_per_block=4,
    target_decay=0.8,
    weight_decay=0.0,
    report_every=100,
)


def toy_state(step: int, invested: int, noise: float = 0.0) -> tuple[float, float, float]:
    """State vector of the toy problem."""
    return (HORIZON - step) / HORIZON, float(invested), noise


def toy_table(episodes: int = 600, *, seed: int = 0) -> DecisionTable:
    """Log a uniformly random policy; every second decision is labelled."""
    random = np.random.default_rng(seed)
    rows = episodes * HORIZON
    action = random.integers(0, 2, size=(episodes, HORIZON))
    invested = np.zeros((episodes, HORIZON), dtype=np.int64)
    invested[:, 1:] = np.maximum.accumulate(action, axis=1)[:, :-1]
    step = np.tile(np.arange(HORIZON), (episodes, 1))
    state = np.stack([(HORIZON - step) / HORIZON, invested, random.normal(size=step.shape)], axis=2)
    state = state.reshape(rows, 3).astype(np.float32)
    values = np.array(
        [EXACT.get((int(s), int(i)), (0.0, 0.0)) for s, i in zip(step.ravel(), invested.ravel(), strict=True)]
    )
    done = (step == HORIZON - 1).ravel()
    best = np.where(np.arange(rows) % 2 == 0, values.argmax(axis=1), -1)
    names = [f"e{episode:04d}" for episode in range(episodes)]
    return DecisionTable(
        state=state,
        next_state=following_states(state, done),
        action=action.ravel(),
        reward=np.where(action == INVEST, -1.0, np.where(invested == 1, 2.0, 0.5)).ravel().astype(np.float32),
        done=done,
        propensity=np.full(rows, 0.5, dtype=np.float32),
        best_action=best,
        action_values=values.astype(np.float32),
        event_time=np.datetime64("2026-01-05", "us") + np.arange(rows) * np.timedelta64(1, "s"),
        experience_id=np.array([f"{name}/{s}" for name in names for s in range(HORIZON)], dtype=object),
        episode_id=np.repeat(np.array(names, dtype=object), HORIZON),
        step=step.ravel(),
        ui_framework=np.full(rows, "react", dtype=object),
        browser=np.full(rows, "chromium", dtype=object),
        test_type=np.full(rows, "functional", dtype=object),
    )


def changed(table: DecisionTable, **columns: NDArray[np.generic]) -> DecisionTable:
    """The table with some columns replaced."""
    return replace(table, **columns)  # type: ignore[arg-type]
