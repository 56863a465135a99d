"""Alerts of runs: one for each job and partition, ended by a later success and by no earlier one."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.database import transaction
from mlops_assets.monitoring.alerts import alerts
from mlops_assets.monitoring.run_alerts import (
    RunEnd,
    Trained,
    completion_of,
    failure_of,
    first_line,
    run_failed,
    run_succeeded,
    tell_trained,
)
from mlops_assets_tests.monitoring.alerting import NOW, outbox, policy, routing, told

TO = routing()


def a_run(number: int = 1, job: str = "retrain", partition: str = "execution", minutes: float = 0.0) -> RunEnd:
    return RunEnd(
        run_id=f"run-{number}",
        job=job,
        partition=partition,
        agent=partition,
        ended_at=NOW + timedelta(minutes=minutes),
        url=f"http://127.0.0.1:3000/runs/run-{number}",
        tags={"mlops/trigger_type": "drift"},
    )


def failed(engine: Engine, run: RunEnd, error: str = "dqn_model: no GPU", now: datetime = NOW) -> bool:
    with transaction(engine) as session:
        return run_failed(session, run, error, TO, now) is not None


def succeeded(engine: Engine, run: RunEnd, now: datetime = NOW) -> bool:
    with transaction(engine) as session:
        return run_succeeded(session, run, TO, now) is not None


def test_a_failed_retraining_is_told_until_one_succeeds(engine: Engine) -> None:
    """RET-15: a training that fails every week is never told, or told for ever after it was mended."""
    assert failed(engine, a_run(1))
    assert failed(engine, a_run(2, minutes=5))
    assert failed(engine, a_run(3, partition="generation", minutes=6))
    assert not succeeded(engine, a_run(4, job="model_lifecycle", minutes=7))
    assert succeeded(engine, a_run(5, minutes=8))
    assert [(one.finding.key, one.state.occurrences) for one in alerts(engine)] == [("run:retrain:generation", 1)]
    assert told(engine, "slack_alerts") == ["raised", "raised", "recovered"]
    end = outbox(engine)[-1].message
    assert end["note"] == "run run-5 succeeded: http://127.0.0.1:3000/runs/run-5"


def test_what_ended_before_ends_nothing(engine: Engine) -> None:
    """A success of before the failure, that is seen after it, ends the alert of what is broken now."""
    assert failed(engine, a_run(1, minutes=10))
    assert not succeeded(engine, a_run(2, minutes=5))
    assert [one.state.status for one in alerts(engine)] == ["open"]
    # Nor does a failure of before the success begin it again.
    assert succeeded(engine, a_run(3, minutes=12))
    assert not failed(engine, a_run(1, minutes=10))
    assert alerts(engine) == []


def test_a_run_that_is_seen_twice_counts_once(engine: Engine) -> None:
    """A tick that died after it had written sees the same runs again, and tells of all that is over."""
    for _ in range(2):
        failed(engine, a_run(1))
        succeeded(engine, a_run(2, minutes=1))
    assert told(engine, "log") == ["raised", "recovered"]


def test_what_is_said() -> None:
    """Whoever is told has to open the run to see of what it was, or reads a password."""
    run = a_run()
    error = "\nTransientError: postgresql://mlops:hush@db/x does not answer\n  File ..."
    found = failure_of(run, error, policy())
    assert (found.severity, found.title, found.agent) == ("WARNING", "Run failed: retrain of execution", "execution")
    assert found.body.splitlines() == [
        "TransientError: postgresql://<hidden>@db/x does not answer",
        "http://127.0.0.1:3000/runs/run-1",
    ]
    assert found.details["run_id"] == "run-1"
    assert found.details["tags"] == {"mlops/trigger_type": "drift"}
    assert "hush" not in str(found)
    assert failure_of(a_run(job="rollback_model"), "x", policy()).severity == "CRITICAL"
    assert failure_of(a_run(partition=""), "x", policy()).key == "run:retrain:all"
    assert failure_of(a_run(partition=""), "x", policy()).title == "Run failed: retrain"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("", "the run gave no reason"),
        (" \n\n  Boom: x\nmore", "Boom: x"),
        ("x" * 999, "x" * 300),
        ("a\0b\ud800c", "a b c"),
    ],
)
def test_first_lines(error: str, line: str) -> None:
    """A traceback of a hundred lines on a pager."""
    assert first_line(error) == line


def test_a_training_that_is_done_is_told_once(engine: Engine) -> None:
    """MON-15: with model, version, improvement and accuracy; of a first version there is no improvement."""
    trained = Trained("execution", "execution-agent-dqn", "1.2.0", "approved", 0.9312, 2.345)
    for _ in range(2):
        with transaction(engine) as session:
            tell_trained(session, a_run(), trained, TO, NOW)
    assert sorted(row.channel for row in outbox(engine)) == ["log", "slack"]
    message = outbox(engine)[0].message
    assert message["title"] == "Training completed: 1.2.0, approved"
    assert message["body"].splitlines()[0] == (
        "execution-agent-dqn 1.2.0: accuracy 0.9312, improvement +2.35 %, approved"
    )
    first = completion_of(a_run(), Trained("execution", "m", "1.0.0", "approved", None, None))
    assert "accuracy not known, improvement no champion to compare with" in first.body
