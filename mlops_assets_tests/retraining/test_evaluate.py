"""Evaluations: one transaction, one decision for each agent, and all of it can be read afterwards."""

import threading
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select

from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.leases import acquire
from mlops_assets.foundation.tables import AuditEvent, DriftCheckRecord, RetrainingRunRecord, TriggerSignalRecord
from mlops_assets.retraining.drift_signals import checks_since, signals_of
from mlops_assets.retraining.evaluate import Evaluated, evaluate, evaluate_all, evaluations
from mlops_assets.retraining.requests import SeenRun, all_requests, reconcile
from mlops_assets_tests.retraining.test_data_signals import a_version
from mlops_assets_tests.retraining.triggers import NOW, POLICY, hours, new_signal, policy


def test_a_trigger_becomes_a_training_that_says_why(engine: Engine) -> None:
    """A training begins, and nobody can find out what for."""
    done = evaluate(engine, "execution", POLICY, NOW, signals=[new_signal(), new_signal(kind="volume")])
    assert str(done) == (
        "execution: retrain (retrain-execution-1): drift: because of drift 1; answers 1 more: volume 1"
    )
    with read_transaction(engine) as session:
        settled = session.execute(select(TriggerSignalRecord.settled_by, TriggerSignalRecord.settled_at)).all()
        event = session.scalars(select(AuditEvent)).one()
        assert verify_chain(session).intact
    assert settled == [("retrain-execution-1", NOW)] * 2
    assert (event.event_type, event.model_name, event.user) == (
        "retraining_requested",
        "execution-agent-dqn",
        "retraining",
    )
    assert event.details["run_key"] == "retrain-execution-1"
    (stored,) = evaluations(engine, since=NOW)
    assert (stored["decision"], stored["run_key"], stored["suppressed_by"]) == ("retrain", "retrain-execution-1", [])
    assert stored["triggers"] == ["drift:execution:1", "volume:execution:1"]
    assert stored["reason"] == done.decision.reason


def test_looks_that_come_to_the_same_are_counted(engine: Engine) -> None:
    """A rollout of two days leaves 600 rows that say the same, or none of them is there."""
    evaluate(engine, "execution", POLICY, NOW, signals=[new_signal()])
    for minutes in (5, 10, 15):
        held = evaluate(engine, "execution", POLICY, NOW + timedelta(minutes=minutes), signals=[new_signal(key="2")])
        assert held.decision.suppressed_by == ("in_flight", "min_hours")
    evaluate(engine, "execution", POLICY, NOW + timedelta(minutes=20), signals=[new_signal(key="3")])
    found = evaluations(engine, since=NOW)
    assert [(one["waiting"], one["times"]) for one in found] == [(2, 1), (1, 3), (1, 1)]
    assert found[1]["evaluated_at"] == (NOW + timedelta(minutes=5)).isoformat()
    assert found[1]["last_evaluated_at"] == (NOW + timedelta(minutes=15)).isoformat()
    assert evaluations(engine, since=NOW + timedelta(minutes=16))[0]["waiting"] == 2
    assert evaluations(engine, since=NOW, agent="generation") == []
    assert evaluate(engine, "generation", POLICY, NOW).decision.verdict == "idle"
    assert evaluations(engine, since=NOW, agent="generation") == []


def test_what_ends_without_a_training_is_noted(engine: Engine) -> None:
    """A trigger is gone, and nobody said what became of it."""
    with transaction(engine) as session:
        session.add(a_version("1.2.0", NOW, "Production"))
    old = new_signal(evidence={"model_version": "1.1.0"})
    done = evaluate(engine, "execution", POLICY, NOW, signals=[old])
    assert done.decision.reason == "no trigger waits; ended without a training: 1 superseded"
    with read_transaction(engine) as session:
        assert session.scalars(select(TriggerSignalRecord.settled_by)).all() == ["superseded"]
    assert evaluations(engine, since=NOW)[0]["evidence"]["settled"] == {"superseded": 1}


def test_a_training_by_hand_in_the_ui_is_one_in_flight(engine: Engine) -> None:
    """It begins a second one beside it, which waits for hours for the first one's lease."""
    acquire(engine, "training:execution", "dagster-run-7", ttl_seconds=30.0, now=NOW)
    held = evaluate(engine, "execution", POLICY, NOW, signals=[new_signal()])
    assert held.decision.suppressed_by == ("in_flight",)
    assert "Dagster run dagster-run-7 is training execution" in held.decision.reason
    assert evaluate(engine, "execution", POLICY, NOW + timedelta(seconds=31)).decision.verdict == "retrain"


def test_many_at_once_decide_once(engine: Engine) -> None:
    """Three sensors, a schedule and a person at 02:00 on Sunday: one training each."""
    found: list[Evaluated] = []
    failures: list[BaseException] = []
    gate = threading.Barrier(6)

    def one(number: int) -> None:
        gate.wait()
        try:
            found.extend(
                evaluate_all(engine, POLICY, NOW, [new_signal(key=str(number)), new_signal("generation", key="same")])
            )
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    requests = [one.request.run_key for one in found if one.request is not None]
    assert sorted(requests) == ["retrain-execution-1", "retrain-generation-1"]
    with read_transaction(engine) as session:
        assert session.scalar(select(func.count()).select_from(RetrainingRunRecord)) == 2
        assert session.scalar(select(func.count()).select_from(TriggerSignalRecord)) == 7


def test_an_unknown_agent_is_refused(sqlite_engine: Engine) -> None:
    """Its triggers wait for ever."""
    with pytest.raises(SettingsError, match="executions"):
        evaluate(sqlite_engine, "executions", POLICY, NOW)


def _check(session_engine: Engine, at: datetime, low: float, psi: float) -> None:
    with transaction(session_engine) as session:
        session.add(
            DriftCheckRecord(
                agent="execution",
                model_name="execution-agent-dqn",
                model_version="1.2.0",
                window_start=at - hours(1),
                window_end=at,
                checked_at=at,
                rows=5000,
                labelled=1000,
                verdict="critical",
                psi=psi,
                combined=None,
                accuracy_drop_rel=0.0,
                document={"loss_per_day": {"low": low, "estimate": low + 300.0, "high": low + 600.0}},
            )
        )


@pytest.mark.parametrize("hurts", [True, False])
def test_thirty_days_of_benign_drift_and_then_harm(sqlite_engine: Engine, hurts: bool) -> None:
    """A column that matters to nobody trains every night for a month; or reward is lost for a week."""
    engine = sqlite_engine
    limits = policy(retrain_when="hurts" if hurts else "thresholds")
    with transaction(engine) as session:
        session.add(a_version("1.2.0", NOW, "Production"))

    def live(begin: datetime, days: int, low: float, step: int) -> None:
        for hour in range(0, 24 * days, step):
            now = begin + hours(hour)
            _check(engine, now, low, psi=0.6)
            reconcile(engine, lambda key: SeenRun(key, "succeeded"), now)
            with read_transaction(engine) as session:
                found = [
                    one
                    for check in checks_since(session, "execution", "1.2.0", now - hours(2))
                    for one in signals_of(check, limits)
                ]
            evaluate(engine, "execution", limits, now, signals=found)

    live(NOW, 30, low=-200.0, step=4)
    benign = all_requests(engine, since=NOW)
    # By thresholds it trains once a day, of which thirty days from noon to noon have 31.
    assert len(benign) == (0 if hurts else 31)
    live(NOW + hours(24 * 30), 1, low=900.0, step=1)
    harmed = all_requests(engine, since=NOW + hours(24 * 30))
    assert len(harmed) >= 1
    assert harmed[-1].requested_at - (NOW + hours(24 * 30)) <= hours(24)
