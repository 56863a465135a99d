"""Who asks: users of a simulated world, hour by hour, before and after it has changed. Nothing is decided here.

Each decision is an episode of its own, and is told its whole value as the reward: what the action is worth with all that
follows from it. Items with a high risk come far more often once the world has changed; what an action is worth in a given
context stays what it was, so that whoever learns from the new decisions can be as good as before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from examples.rollout_demo.users import AGENT, NEW_USERS, Question, questions
from mlops_assets.experiences.simulator.config import Drift, SimulatorConfig
from mlops_assets.serving.requests import DecisionRequest, request_model

# What comes on two days of such a world is enough to draw from for a week.
_ROWS_A_DAY, _DAYS = 12_000, 2
_SHIFT = 1.0
# Standard deviation of a reward, as a share of the action's value.
_NOISE = 0.05


@dataclass(frozen=True)
class Asked:
    """N requests of one hour, in the order of time; best actions (N,), values (N, A) and reward noise (N,) of each."""

    requests: Sequence[DecisionRequest]
    at: Sequence[datetime]
    best: NDArray[np.int64]
    values: NDArray[np.float64]
    noise: NDArray[np.float64]


class Town:
    """An endless stream of users.

    Args:
        config: of the simulated world that the champion was trained on.
        rate: requests an hour.
        seed: of these users.
    """

    def __init__(self, config: SimulatorConfig, *, rate: int, seed: int) -> None:
        self._config = replace(config, rows=_ROWS_A_DAY * config.days)
        self._rate = rate
        self._seed = seed
        self._random = np.random.default_rng(seed)
        self._users = 0
        self._model = request_model(AGENT)

    def hour(self, begin: datetime, *, changed: bool) -> Asked:
        """Return what is asked in the hour from `begin` on."""
        pool = self._changed if changed else self._usual
        chosen = [pool[number] for number in self._random.integers(len(pool), size=self._rate)]
        seconds = np.sort(self._random.random(self._rate) * 3600.0)
        return Asked(
            requests=[self._model.model_validate({**one.request, "user_id": self._user()}) for one in chosen],
            at=[begin + timedelta(seconds=float(second)) for second in seconds],
            best=np.array([one.best_action for one in chosen]),
            values=np.array([one.action_values for one in chosen]),
            noise=1.0 + _NOISE * self._random.normal(size=self._rate),
        )

    @cached_property
    def _usual(self) -> list[Question]:
        return self._drawn(self._config)

    @cached_property
    def _changed(self) -> list[Question]:
        day = self._config.total_days
        return self._drawn(replace(self._config, drifts=(Drift(day, covariate_shift=_SHIFT),)))

    def _drawn(self, config: SimulatorConfig) -> list[Question]:
        days = range(config.total_days, config.total_days + _DAYS)
        return list(questions(config, days, np.random.default_rng(self._seed)))

    def _user(self) -> str:
        """A new user, or one of the last hundreds once more."""
        if self._users and self._random.random() > NEW_USERS:
            return f"user-{max(0, self._users - int(self._random.integers(50, 250)))}"
        self._users += 1
        return f"user-{self._users}"
