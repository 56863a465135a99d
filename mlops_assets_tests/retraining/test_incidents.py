"""Incidents: what is planned in which order, and that it is done once, on a deployment with real versions and rollouts."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select

from mlops_assets.experiments.experiments import create_experiment, experiment_named
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import TransientError
from mlops_assets.foundation.messages import Message
from mlops_assets.foundation.tables import TriggerSignalRecord
from mlops_assets.retraining.evaluate import evaluations
from mlops_assets.retraining.incidents import RESPONDED, Incident, IncidentKind, Responder, Situation, plan
from mlops_assets.retraining.requests import all_requests
from mlops_assets_tests.retraining.triggers import NOW, POLICY, hours
from mlops_assets_tests.rollout.conftest import (
    MODEL,
    Tower,
    clock,
    mlflow_runs,
    mlflow_template,
    new_office,
    new_tower,
    small_tower,
)

__all__ = ["clock", "mlflow_runs", "mlflow_template", "new_office", "new_tower", "small_tower"]
LATE = Situation("1.1.0", NOW - hours(24), "1.0.0", None, "exp")
OLD = Situation("1.1.0", NOW - hours(24 * 15), "1.0.0", None, None)
ROLLING = Situation("1.0.0", NOW - hours(24), "0.9.0", "1.1.0", None)


def incident(kind: IncidentKind = "accuracy_drop", version: str = "1.1.0", key: str = "alert-1") -> Incident:
    return Incident(key, kind, MODEL, version, "accuracy fell by 14 %", {"accuracy_drop": 0.14})


@pytest.mark.parametrize(
    ("kind", "situation", "steps"),
    [
        ("accuracy_drop", LATE, ["rollback 1.0.0", "pause_experiment exp", "retrain", "notify"]),
        ("high_error_rate", LATE, ["rollback 1.0.0", "pause_experiment exp", "retrain", "notify"]),
        ("concept_drift", LATE, ["retrain", "notify"]),
        # A champion that was good for two weeks: the world has changed.
        ("accuracy_drop", OLD, ["retrain", "notify"]),
        ("accuracy_drop", ROLLING, ["rollback 1.1.0", "retrain", "notify"]),
        # Nothing is known, and nothing is taken back.
        ("accuracy_drop", Situation(), ["retrain", "notify"]),
        ("accuracy_drop", Situation("1.1.0", NOW, None), ["retrain", "notify"]),
        # Another version is at fault than the one that users have.
        ("accuracy_drop", Situation("1.2.0", NOW, "1.1.0"), ["retrain", "notify"]),
        ("accuracy_drop", Situation("1.1.0", NOW, "1.0.0", "1.2.0"), ["retrain", "notify"]),
    ],
)
def test_plans(kind: IncidentKind, situation: Situation, steps: list[str]) -> None:
    """It trains for hours before anybody thinks of the version that is still there, or takes back the wrong one."""
    found = plan(incident(kind), situation, POLICY, NOW)
    named = [f"{one.step} {one.target}" if one.step in {"rollback", "pause_experiment"} else one.step for one in found]
    assert named == steps


class Desk:
    """Who is told; not at first, where `deaf`."""

    def __init__(self, *, deaf: int = 0) -> None:
        self.told: list[str] = []
        self.deaf = deaf

    def tell(self, message: Message) -> None:
        if self.deaf:
            self.deaf -= 1
            raise TransientError("the mail server is away")
        self.told.append(message.text)


def responder(tower: Tower, desk: Desk) -> Responder:
    return Responder(tower.engine, tower.rollouts, POLICY, tower.office.clock, desk.tell)


def test_a_candidate_is_taken_back_first(new_tower: Callable[[Engine], Tower], engine: Engine) -> None:
    """The rollout holds the training up for two days, and users keep the version."""
    tower = new_tower(engine)
    assert tower.rollouts.tick(MODEL).kind == "started"
    desk = Desk()
    done = responder(tower, desk).respond(incident())
    assert [one.planned.step for one in done] == ["rollback", "retrain", "notify"]
    assert tower.kinds() == ["started", "rolled_back"]
    assert tower.stages() == {"1.1.0": "Archived", "1.0.0": "Production"}
    (request,) = all_requests(engine, since=tower.office.clock.now())
    assert (request.agent, request.trigger_type) == ("requirements", "accuracy_drop")
    title = "CRITICAL: incident accuracy_drop (requirements-agent-dqn 1.1.0)"
    assert desk.told == ["\n".join([title, "accuracy fell by 14 %", f"- {done[0].said}", f"- {done[1].said}"])]
    # The same incident again: nothing is done twice.
    again = responder(tower, desk).respond(incident())
    assert [one.planned.step for one in again] == ["retrain", "notify"]
    assert len(desk.told) == 1
    assert len(all_requests(engine, since=tower.office.clock.now())) == 1
    steps = [event.details["step"] for event in tower.office.events() if event.event_type == RESPONDED]
    assert steps == ["rollback", "retrain", "notify"]


def test_only_this_models_experiment_is_paused(small_tower: Tower) -> None:
    """One model's errors pause everybody's experiments."""
    tower, now = small_tower, small_tower.office.clock.now()
    mine = create_experiment(tower.engine, "mine", "requirements", treatment_share=0.1, user="ana", now=now)
    other = create_experiment(tower.engine, "other", "execution", treatment_share=0.1, user="ana", now=now)
    done = responder(tower, Desk()).respond(incident("high_error_rate", "1.1.0"))
    assert [one.planned.step for one in done] == ["pause_experiment", "retrain", "notify"]
    assert experiment_named(tower.engine, mine.name).status == "paused"
    assert experiment_named(tower.engine, other.name).status == "running"


def test_a_champion_of_late_goes_back_once(small_tower: Tower) -> None:
    """Production goes back one version with every alert of the same incident, down to the first one."""
    tower = small_tower
    tower.registry.promote_to_production(MODEL, "1.1.0", user="ana", reason="tests")
    tower.office.clock.instant += timedelta(days=2)
    for key in ("alert-1", "alert-1", "alert-2"):
        responder(tower, Desk()).respond(incident(key=key))
        assert tower.stages()["1.0.0"] == "Production"
    rolled_back = [event for event in tower.office.events() if event.event_type == "model_rolled_back"]
    assert [(event.version, event.user) for event in rolled_back] == [("1.0.0", "retraining")]


def test_a_step_that_fails_keeps_no_other_back(small_tower: Tower) -> None:
    """The mail server is away, and the model stays as it is; or people are told by nobody, ever."""
    tower, desk = small_tower, Desk(deaf=1)
    first = responder(tower, desk).respond(incident("concept_drift", "1.0.0"))
    assert [one.problem for one in first] == [None, "the mail server is away"]
    second = responder(tower, desk).respond(incident("concept_drift", "1.0.0"))
    assert [one.problem for one in second] == [None, None]
    assert len(desk.told) == 1


def test_its_training_is_throttled_like_any(small_tower: Tower) -> None:
    """Ten incidents a night are ten trainings."""
    tower = small_tower
    for number in range(10):
        responder(tower, Desk()).respond(incident("concept_drift", "1.0.0", key=f"alert-{number}"))
    now = tower.office.clock.now()
    assert len(all_requests(tower.engine, since=now)) == 1
    assert evaluations(tower.engine, since=now)[0]["suppressed_by"] == ["in_flight", "min_hours"]
    with read_transaction(tower.engine) as session:
        keys = list(session.scalars(select(TriggerSignalRecord.dedupe_key).order_by(TriggerSignalRecord.id)))
    assert keys == [f"incident:alert-{number}" for number in range(10)]
