"""Simulated users: what each asks, and which answer would have been the best. Nothing is sent here.

Their requests are decisions of the simulator's days after those that the versions were trained on. Three things are
theirs alone, in context fields that no reward depends on, so that the best action stays what it is:

- a part of the webkit users has suites that fail more often than any in the training data;
- once a rollout has left its shadow stage, a part of the requests is about suites that had not run for days;
- from then on a few are about pages more complex than any before.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlops_assets.experiences.simulator.config import SimulatorConfig
from mlops_assets.experiences.simulator.fleet import app_name, build_fleet
from mlops_assets.experiences.simulator.world import FRAMEWORK_NAMES, World
from mlops_assets.foundation.agents import agent_spec

AGENT = "execution"
BROWSERS = {"chromium": 0.62, "firefox": 0.28, "webkit": 0.1}
# The rest are of users who come back.
NEW_USERS = 0.77
_DAYS = 8


@dataclass(frozen=True)
class Oddity:
    """A context field that is above `edge`, which no training data are, in a share of some requests: in the range `values`."""

    field: str
    edge: float
    values: tuple[float, float]
    share: float


FAILING_SUITES = Oddity("suite_failure_rate", edge=0.33, values=(0.36, 0.40), share=0.6)
RESTED_SUITES = Oddity("recency", edge=0.33, values=(0.36, 0.40), share=0.4)
COMPLEX_PAGES = Oddity("ui_complexity_score", edge=0.92, values=(0.94, 0.98), share=0.06)


@dataclass(frozen=True)
class Question:
    """One request, and what is known of it: the best action, the value of each, and the reward of each."""

    request: dict[str, Any]
    best_action: int
    action_values: list[float]
    rewards: list[float]


class Crowd:
    """An endless stream of users.

    Args:
        config: of the simulated world that the versions were trained on.
        seed: of this crowd.
    """

    def __init__(self, config: SimulatorConfig, *, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._seed = seed
        self._questions: dict[str, list[Question]] = {browser: [] for browser in BROWSERS}
        for question in questions(config, range(config.total_days, config.total_days + _DAYS), self._random):
            self._questions[question.request["browser"]].append(question)
        self._users: list[tuple[str, str]] = []

    def ask(self, *, later: bool) -> Question:
        """Return the next request; `later`: the rollout's shadow stage is over."""
        user, browser = self._user()
        questions = self._questions[browser]
        question = questions[self._random.integers(len(questions))]
        context = {**question.request["context"]}
        for oddity in [
            *([FAILING_SUITES] if browser == "webkit" else []),
            *([RESTED_SUITES, COMPLEX_PAGES] if later else []),
        ]:
            if self._random.random() < oddity.share:
                context[oddity.field] = float(self._random.uniform(*oddity.values))
        request = {**question.request, "user_id": user, "context": context}
        return replace(question, request=request)

    def _user(self) -> tuple[str, str]:
        """A new user, or one of the last hundreds once more."""
        if self._users and self._random.random() > NEW_USERS:
            return self._users[max(0, len(self._users) - int(self._random.integers(50, 250)))]
        browser = str(self._random.choice(list(BROWSERS), p=list(BROWSERS.values())))
        self._users.append((f"user-{self._seed}-{len(self._users)}", browser))
        return self._users[-1]


def questions(config: SimulatorConfig, days: range, random: np.random.Generator) -> Iterator[Question]:
    """Draw what is asked on some days of a simulated world, in which the logging policy acts."""
    spec = agent_spec(AGENT)
    world = World(config, build_fleet(config), spec)
    names = [field.name for field in spec.context]
    for day in days:
        regime, drawn = world.regime(day), world.day(day)
        problem, solution = regime.problem, regime.solution
        state = np.full(len(drawn.app), problem.start)
        for step in range(world.horizon):
            item = drawn.item[:, step]
            right = solution.best_actions[step, state, item]
            context = drawn.context[:, step] + regime.state_context[state]
            for episode, test in enumerate(drawn.test[:, step]):
                request = {
                    "agent": AGENT,
                    "agent_id": f"{AGENT}-{app_name(int(drawn.app[episode]))}",
                    "test_id": world.fleet.test_id[test],
                    "browser": world.fleet.browser[test],
                    "test_type": world.fleet.test_type[test],
                    "ui_framework": FRAMEWORK_NAMES[drawn.framework[episode]],
                    "context": dict(zip(names, map(float, context[episode]), strict=True)),
                }
                yield Question(
                    request,
                    int(right[episode]),
                    solution.action_values[step, state[episode], item[episode]].tolist(),
                    problem.reward[state[episode], item[episode]].tolist(),
                )
            chances = regime.propensities[step, state, item].cumsum(axis=1)[:, :-1]
            action = (chances < random.random((len(state), 1))).sum(axis=1)
            state = problem.next_state[state, item, action]
