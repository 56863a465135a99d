"""What a day brings, whatever the agent does: items, noise and times of every episode. No decisions here."""

from dataclasses import dataclass
from hashlib import sha256
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiences.simulator.behaviour import behaviour_probabilities
from mlops_assets.experiences.simulator.config import Drift, SimulatorConfig
from mlops_assets.experiences.simulator.drift import NEW_FRAMEWORK, break_unit, drifted_problem
from mlops_assets.experiences.simulator.fleet import APPS, CHOICES, FRAMEWORKS, Fleet
from mlops_assets.experiences.simulator.problem import DecisionProblem, Floats, Integers, SideField
from mlops_assets.experiences.simulator.problems import problem_of
from mlops_assets.experiences.simulator.solve import Solution, solve
from mlops_assets.foundation.agents import AgentSpec

_EPISODE_STREAM = 2
_DAY_SECONDS = 86_400
_KEY_LENGTH = 6
# Decisions of an episode follow each other within minutes, and every episode ends on the day it began.
_STEP_SECONDS = (20.0, 240.0)
FRAMEWORK_NAMES = (*FRAMEWORKS, NEW_FRAMEWORK)
# The new framework's app effects are those of the app: only the name is new.
_NEW_FRAMEWORK_INDEX = len(FRAMEWORKS)


@dataclass(frozen=True, eq=False)
class Regime:
    """The world between two drifts.

    Attributes:
        propensities: (T, S, K, A) of the logging policy.
        state_context: (S, C) float32, what the context shows of the state; zero in all other columns.
    """

    drift: Drift | None
    problem: DecisionProblem
    solution: Solution
    propensities: Floats
    state_context: NDArray[np.float32]


@dataclass(frozen=True)
class Day:
    """E episodes of T decisions, C context fields; nothing in it depends on an action.

    Attributes:
        app, framework: (E,) indices into the fleet's apps and into `FRAMEWORK_NAMES`.
        item: (E, T) item kinds; test, requirement: (E, T) indices into the fleet, requirement -1 for none.
        context: (E, T, C) float32, zero in the columns that show the state.
        seconds: (E, T) since midnight, rising within an episode.
        gain_noise: (E, T) of mean 0 and standard deviation 1, bounded at sqrt(3).
        action_draw, label_draw: (E, T) uniform in 0..1; label_delay: (E, T) days, 1 to 3.
    """

    app: Integers
    framework: Integers
    item: Integers
    test: Integers
    requirement: Integers
    context: NDArray[np.float32]
    seconds: Floats
    gain_noise: Floats
    action_draw: Floats
    label_draw: Floats
    label_delay: Floats


def world_key(config: SimulatorConfig, fleet: Fleet) -> str:
    """Short name of a world, part of every id: two worlds never share an id, a longer or drifting one keeps its past's."""
    size = f"{config.seed}:{config.rows}:{config.days}"
    policy = f"{config.label_share}:{config.exploration}:{config.reward_noise}"
    texts = "\n".join(item.text for item in fleet.requirements)
    return sha256(f"{size}:{policy}:{texts}".encode()).hexdigest()[:_KEY_LENGTH]


class World:
    """One agent's world: fleet, regimes and days, all made from config and fleet alone."""

    def __init__(self, config: SimulatorConfig, fleet: Fleet, spec: AgentSpec) -> None:
        """Build the tables.

        Raises:
            InputError: the agent has no simulated problem, or one that does not fit the catalogue.
        """
        self.config = config
        self.fleet = fleet
        self.spec = spec
        self.key = world_key(config, fleet)
        self._base = problem_of(spec)
        self.horizon = self._base.horizon
        self.episodes_per_day = config.episodes_per_day(self.horizon)
        self._test_choices = self.fleet.test_choices(self._base.profile)
        # An agent without requirement text has decisions without requirement.
        self._requirement_choices = self.fleet.requirement_choices(self._base.profile) if spec.text_dimensions else None
        self._regimes: dict[Drift | None, Regime] = {}

    def regime(self, day: int) -> Regime:
        """Return the regime in force on `day`."""
        drift = self.config.drift_on(day)
        if drift not in self._regimes:
            self._regimes[drift] = self._make_regime(drift)
        return self._regimes[drift]

    def _make_regime(self, drift: Drift | None) -> Regime:
        problem = drifted_problem(self._base, drift)
        solution = solve(problem)
        propensities = behaviour_probabilities(
            problem,
            solution,
            exploration=self.config.exploration,
            preferred=drift.behaviour_action if drift else 0,
            preference=drift.behaviour_shift if drift else 0.0,
        )
        state_context = np.zeros((len(problem.gain), len(self.spec.context)), dtype=np.float32)
        for column, field in enumerate(self.spec.context):
            if field.name in problem.state_fields:
                state_context[:, column] = problem.state_fields[field.name]
        break_unit(state_context, self.spec, drift)
        return Regime(drift, problem, solution, propensities, state_context)

    def day(self, day: int) -> Day:
        """Draw everything that `day` brings; the same numbers at every call."""
        regime = self.regime(day)
        random = np.random.default_rng([self.config.seed, _EPISODE_STREAM, crc32(self.spec.name.encode()), day])
        shape = (self.episodes_per_day, self.horizon)
        app = random.integers(0, APPS, shape[0])
        item = np.searchsorted(np.cumsum(regime.problem.item_probability)[:-1], random.random(shape), side="right")
        choice = random.integers(0, CHOICES, shape)
        test = self._test_choices[app[:, None], item, choice]
        requirement = np.full(shape, -1)
        if self._requirement_choices is not None:
            requirement = self._requirement_choices[app[:, None], item, choice]
        new = random.random(shape[0]) < (regime.drift.new_framework_share if regime.drift else 0.0)
        gaps = random.uniform(*_STEP_SECONDS, shape)
        first = random.random((shape[0], 1)) * (_DAY_SECONDS - _STEP_SECONDS[1] * self.horizon)
        return Day(
            app=app,
            framework=np.where(new, _NEW_FRAMEWORK_INDEX, app % len(FRAMEWORKS)),
            item=item,
            test=test,
            requirement=requirement,
            context=self._exogenous_context(regime, app, item, random),
            seconds=first + np.cumsum(gaps, axis=1),
            gain_noise=np.sqrt(12.0) * (random.random(shape) - 0.5),
            action_draw=random.random(shape),
            label_draw=random.random(shape),
            label_delay=random.uniform(1.0, 3.0, shape),
        )

    def _exogenous_context(
        self, regime: Regime, app: Integers, item: Integers, random: np.random.Generator
    ) -> NDArray[np.float32]:
        problem = regime.problem
        context = np.zeros((*item.shape, len(self.spec.context)), dtype=np.float32)
        for column, field in enumerate(self.spec.context):
            if field.name in problem.item_fields:
                shown = problem.item_fields[field.name]
                jitter = shown.jitter * (2 * random.random(item.shape) - 1) if shown.jitter else 0.0
                context[..., column] = np.clip(shown.level[item] + jitter, field.low, field.high)
            elif field.name in problem.side_fields:
                context[..., column] = _side_values(problem.side_fields[field.name], column, app, item, random)
            elif field.name == "steps_left":
                context[..., column] = 1.0 - np.arange(self.horizon) / self.horizon
        break_unit(context, self.spec, regime.drift)
        return context


def _side_values(field: SideField, column: int, app: Integers, item: Integers, random: np.random.Generator) -> Floats:
    # A fixed position of every app for every field: a cosine of the two is as good as a table.
    position = np.cos(1.7 * app + 2.3 * column)
    values = field.base + field.app_spread * position[:, None] + field.spread * (2 * random.random(item.shape) - 1)
    if field.about is not None:
        values = values + field.slope * field.about[item]
    values = np.clip(values, 0.0, 1.0)
    if field.quantum is not None:
        values = np.floor(values * field.quantum + random.random(item.shape)) / field.quantum
    return values
