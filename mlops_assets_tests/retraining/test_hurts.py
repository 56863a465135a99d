"""`retrain_when: hurts` from served decisions to the training: a month of benign drift, and one day of real harm."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from mlops_assets.experiences.simulator.config import Drift
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import load_settings
from mlops_assets.foundation.tables import DriftCheckRecord
from mlops_assets.monitoring.drift_checks import keep
from mlops_assets.retraining.evaluate import evaluate
from mlops_assets.retraining.requests import all_requests
from mlops_assets.retraining.sources import of_served
from mlops_assets_tests.monitoring.logged import Served, day, log
from mlops_assets_tests.monitoring.sessions import benign
from mlops_assets_tests.monitoring.simulated import DAY, agent, play, world_of
from mlops_assets_tests.retraining.test_data_signals import a_version

pytestmark = pytest.mark.slow
NAME = "generation"
PROFILE = load_profile("aiwebtest")
HURTS = PROFILE.retraining.model_copy(update={"retrain_when": "hurts"})
# Days of the simulator: the version serves from BEGIN on; a column moves on MOVED, and stays.
BEGIN, MOVED, DAYS = 17, 20, 30


@pytest.fixture
def in_service(sqlite_engine: Engine, tmp_path: Path) -> Served:
    own = agent(NAME)
    made = Served(sqlite_engine, own.spec, PROFILE, tmp_path)
    made.freeze(play(world_of(own.spec), range(10, 16), own.policy))
    log(sqlite_engine, own.spec, play(world_of(own.spec), range(BEGIN, MOVED), own.policy), prefix="well")
    with transaction(sqlite_engine) as session:
        session.add(a_version("1.0.0", day(BEGIN - 1), "Production", model_name=own.spec.registered_model))
    return made


def live(served: Served, hours: float) -> list[str]:
    """Check and decide at one moment as the schedule and the sensor do; the evaluation's verdict, and what suppressed it."""
    now = day(BEGIN) + timedelta(hours=hours)
    keep(served.engine, served.spec, served.check(now), PROFILE, None, now)
    settings = load_settings({"MLOPS_HOME": str(served.home)})
    found = [one for one in of_served(served.engine, HURTS, FixedClock(now), settings) if one.agent == NAME]
    decision = evaluate(served.engine, NAME, HURTS, now, signals=found).decision
    return [decision.verdict, *decision.suppressed_by]


def test_benign_drift_trains_never_in_thirty_days(in_service: Served) -> None:
    """A column that does not matter moves, and every night of a month a training is paid for."""
    own = agent(NAME)
    log(in_service.engine, own.spec, benign(own, range(MOVED, MOVED + DAYS)), prefix="moved")
    decided = [live(in_service, hours) for hours in range(72, 72 + 24 * DAYS + 1, 24)]
    assert all_requests(in_service.engine, since=day(0)) == []
    # Not since nothing was found: the drift asked, and was held back as harmless.
    assert decided.count(["suppressed", "no_loss_shown"]) > DAYS / 2
    with read_transaction(in_service.engine) as session:
        checks = list(session.scalars(select(DriftCheckRecord).order_by(DriftCheckRecord.id)))
    assert all(one.psi is not None and one.psi > 0.1 for one in checks[1:])
    assert all(one.document["loss_per_day"] is not None for one in checks)


def test_harm_trains_within_a_day(in_service: Served) -> None:
    """Rewards have changed, and days pass before anybody trains."""
    own = agent(NAME)
    bad = play(world_of(own.spec, drift=Drift(0, reward_change=1.0)), range(60, 61), own.policy)
    log(in_service.engine, own.spec, replace(bad, event_time=bad.event_time - (60 - MOVED) * DAY), prefix="bad")
    before = live(in_service, 72)
    assert before == ["idle"]
    for hours in (78, 84, 90, 96):
        live(in_service, hours)
    asked = all_requests(in_service.engine, since=day(0))
    assert len(asked) >= 1
    assert asked[-1].requested_at - day(MOVED) <= timedelta(hours=24)
    assert asked[-1].evidence["loss_per_day_low"] > PROFILE.retraining.training_cost
