"""One rollout from its start to its end: ticked, watched, and compared with how it should end."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import func, select

from examples.rollout_demo.deployment import Deployment
from examples.rollout_demo.processes import Users
from mlops_assets.experiments.assignment import CONTROL
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.policies import STAGE_SHARES
from mlops_assets.foundation.tables import PredictionRecord
from mlops_assets.rollout.controller import open_rollouts
from mlops_assets.rollout.effects import undelivered
from mlops_assets.rollout.ledger import rollout_named
from mlops_assets.rollout.report import rollout_png, step_in_words
from mlops_assets.rollout.state import RolloutState, Status, Step

_USER = "demo@company.com"
# As often as the sensor looks, by the clock that goes fast.
_TICK_SECONDS = 300.0
_AFTER_SHADOW = timedelta(hours=1)


@dataclass(frozen=True)
class Scenario:
    """A candidate, and how its rollout has to end: `words` are part of the last step's reason.

    `patience_seconds`: longer than it takes on two cores.
    """

    name: str
    title: str
    ends: Status
    words: str
    patience_seconds: float


@dataclass(frozen=True)
class Finished:
    """What came of one: users that met the candidate, of all, and what is not as it should be."""

    scenario: Scenario
    last: Step
    hours: float
    seconds: float
    met: int
    users: int
    problems: tuple[str, ...]
    picture: Path

    def __str__(self) -> str:
        """Say it in a line."""
        verdict = "as it should" if not self.problems else f"NOT as it should: {'; '.join(self.problems)}"
        return (
            f"{self.scenario.name}: {self.last.kind.replace('_', ' ')} after {self.hours:.1f} h ({self.seconds:.0f} s), "
            f"{self.met:,} of {self.users:,} users ({self.met / max(1, self.users):.1%}) met {self.last.state.candidate}; "
            f"{verdict}; {self.picture}"
        )


def drive(deployment: Deployment, scenario: Scenario, version: str, users: Users) -> Finished:
    """Start the rollout of a version, tick it to its end, and say every step when it comes.

    Raises:
        SystemExit: it does not end in time, or the users do.
    """
    begun = time.monotonic()
    model = deployment.spec.registered_model
    rollouts = open_rollouts(
        deployment.settings, deployment.engine, deployment.clock, deployment.registry, holder=f"demo {os.getpid()}"
    )
    state = rollouts.start(model, version, user=_USER, reason=scenario.title)
    told = _Told(users)
    said = 0
    while True:
        ticked = time.monotonic()
        tick = rollouts.tick(model)
        done = rollout_named(deployment.engine, state.name)
        for step in done[said:]:
            print(f"  {step_in_words(step)}", flush=True)
        said = len(done)
        last = done[-1].state
        if not last.active and not undelivered(deployment.engine):
            return _finished(deployment, scenario, done, time.monotonic() - begun)
        users.require_alive()
        told.follow(last, deployment.clock.now())
        if time.monotonic() - begun > scenario.patience_seconds:
            raise SystemExit(f"{scenario.name} is not over after {scenario.patience_seconds:.0f} s: {tick}")
        time.sleep(max(0.0, _TICK_SECONDS / deployment.clock.speed - (time.monotonic() - ticked)))


class _Told:
    """What the users have been told of a rollout's progress, each once."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._later = self._calm = False

    def follow(self, state: RolloutState, now: datetime) -> None:
        """Tell them that the shadow stage is long over, and that few are enough: stages of many users wait for hours.

        In the last stage the candidate's latency is held against the champion's before it, so the machine has to be no
        busier by then.
        """
        if not self._later and state.share > 0.0 and now - state.since > _AFTER_SHADOW:
            self._users.make_it_later()
            self._later = True
        if not self._calm and state.share > STAGE_SHARES["5_percent"]:
            self._users.calm_down()
            self._calm = True


def _finished(deployment: Deployment, scenario: Scenario, done: Sequence[Step], seconds: float) -> Finished:
    last = done[-1]
    picture = deployment.settings.home / f"{scenario.name}.png"
    rollout_png(deployment.engine, last.state.name, picture)
    met, everybody = _met(deployment, last.state.name)
    return Finished(
        scenario=scenario,
        last=last,
        hours=(last.at - done[0].at).total_seconds() / 3600.0,
        seconds=seconds,
        met=met,
        users=everybody,
        problems=tuple(_problems(deployment, scenario, last)),
        picture=picture,
    )


def _met(deployment: Deployment, rollout: str) -> tuple[int, int]:
    """Users that were in the candidate's arm, and all."""
    one = PredictionRecord
    counted = select(func.count(func.distinct(one.user_hash))).where(one.experiment == rollout)
    with read_transaction(deployment.engine) as session:
        return session.scalar(counted.where(one.variant != CONTROL)) or 0, session.scalar(counted) or 0


def _problems(deployment: Deployment, scenario: Scenario, last: Step) -> list[str]:
    state, reason = last.state, "; ".join(last.reasons)
    model = state.model_name
    expected = _expected(scenario, state)
    champion = deployment.registry.champion(model)
    found = {
        "it is": state.status,
        "champion is": None if champion is None else champion.semver,
        f"{state.candidate} is in stage": deployment.registry.version(model, state.candidate).stage,
    }
    problems = [f"{name} {found[name]}, not {expected[name]}" for name in found if found[name] != expected[name]]
    return problems + ([] if scenario.words in reason else [f"its reason says nothing of {scenario.words!r}"])


def _expected(scenario: Scenario, state: RolloutState) -> dict[str, str]:
    good = scenario.ends == "completed"
    return {
        "it is": scenario.ends,
        "champion is": state.candidate if good else state.champion,
        f"{state.candidate} is in stage": "Production" if good else "Archived",
    }
