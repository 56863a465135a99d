"""What errors, new data and age ask for, and that unknown asks for nothing."""

from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.tables import (
    ModelVersionRecord,
    OutcomeRecord,
    PredictionRecord,
    RetrainingRunRecord,
    SnapshotRecord,
)
from mlops_assets.retraining.data_signals import champion_of, error_rate, new_samples, staleness, trained_at, volume
from mlops_assets_tests.retraining.triggers import NOW, POLICY, hours, policy

AGENT = "execution"


def a_version(semver: str, at: datetime, stage: str = "Archived", **changes: Any) -> ModelVersionRecord:
    major, minor, patch = (int(part) for part in semver.split("."))
    values = {
        "model_name": "execution-agent-dqn",
        "semver": semver,
        "major": major,
        "minor": minor,
        "patch": patch,
        "mlflow_version": str(minor + 1),
        "run_id": f"run-{semver}",
        "training_hash": semver,
        "data_hash": "d",
        "stage": stage,
        "created_at": at,
        "updated_at": at,
    }
    return ModelVersionRecord(**{**values, **changes})


def a_run(
    number: int, requested: datetime, status: str = "succeeded", ended: datetime | None = None
) -> RetrainingRunRecord:
    return RetrainingRunRecord(
        run_key=f"retrain-{AGENT}-{number}",
        agent=AGENT,
        number=number,
        trigger_type="drift",
        reason="because",
        evidence={},
        requested_at=requested,
        status=status,
        ended_at=ended,
    )


def a_prediction(number: int, at: datetime, **changes: Any) -> PredictionRecord:
    values: dict[str, Any] = {
        "prediction_id": f"p{number}",
        "event_time": at,
        "agent": AGENT,
        "agent_id": "a",
        "test_id": "t",
        "requirement_id": "r",
        "requirement_text": "",
        "episode_id": f"e{number}",
        "step": 0,
        "ui_framework": "react",
        "browser": "chromium",
        "test_type": "ui",
        "model_name": "execution-agent-dqn",
        "model_version": "1.2.0",
        "model_alias": "champion",
        "variant": "control",
        "state": b"",
        "missing_features": [],
        "q_values": [0.0],
        "action": 0,
        "propensity": 1.0,
        "explored": False,
        "confidence": 1.0,
        "latency_ms": 1.0,
        "cached": False,
        "status": "ok",
        "channel": "http",
    }
    return PredictionRecord(**{**values, **changes})


def test_the_champion_is_the_version_in_production(engine: Engine) -> None:
    """Drift of an archived version asks for trainings for ever."""
    with transaction(engine) as session:
        assert champion_of(session, AGENT) is None
        session.add_all([a_version("1.1.0", NOW), a_version("1.2.0", NOW, "Production"), a_version("1.3.0", NOW)])
        session.flush()
        assert champion_of(session, AGENT) == "1.2.0"
        assert champion_of(session, "generation") is None


def test_a_model_is_as_old_as_its_newest_training(engine: Engine) -> None:
    """A training that gave no new version, as nothing had changed, is repeated every hour."""
    with transaction(engine) as session:
        assert trained_at(session, AGENT) is None
        session.add_all([a_version("1.1.0", NOW - hours(200)), a_version("1.2.0", NOW, mlflow_version=None)])
        session.flush()
        assert trained_at(session, AGENT) == NOW - hours(200)
        session.add_all(
            [
                a_run(1, NOW - hours(100), ended=NOW - hours(99)),
                a_run(2, NOW - hours(50), "failed", NOW - hours(49)),
            ]
        )
        session.flush()
        assert trained_at(session, AGENT) == NOW - hours(99)


def test_staleness(engine: Engine) -> None:
    """`max_days_without` of seven: at six days already, or for a model that nobody has trained."""
    with transaction(engine) as session:
        assert staleness(session, AGENT, POLICY, NOW) == []
        session.add(a_version("1.1.0", NOW - hours(168)))
        session.flush()
        assert staleness(session, AGENT, POLICY, NOW) == []
        (asked,) = staleness(session, AGENT, POLICY, NOW + hours(1))
    assert (asked.kind, asked.dedupe_key) == ("staleness", "weekly:execution:2026-W48")
    assert asked.reason == "last trained 7.0 days ago (2026-11-18), more than 7"
    assert asked.evidence == {"days_without": 7.042}


def _outcomes(engine: Engine, count: int, at: datetime, agent: str = AGENT) -> None:
    with transaction(engine) as session:
        session.add_all(
            OutcomeRecord(
                prediction_id=f"{agent}-{at.isoformat()}-{n}",
                agent=agent,
                reward=1.0,
                done=True,
                occurred_at=at,
                received_at=at,
            )
            for n in range(count)
        )


def _snapshot(data_hash: str, at: datetime, new_rows: int, status: str = "validated") -> SnapshotRecord:
    return SnapshotRecord(
        agent=AGENT,
        data_hash=data_hash,
        source="reports",
        rows=10_000,
        new_rows=new_rows,
        label_cutoff=at,
        status=status,
        created_at=at,
    )


def test_volume_counts_what_is_new(engine: Engine) -> None:
    """Old data count again after every training, or outcomes and the snapshot that is made of them count twice."""
    _outcomes(engine, 700, NOW - hours(10))
    _outcomes(engine, 600, NOW)
    _outcomes(engine, 900, NOW, "generation")
    with transaction(engine) as session:
        assert volume(session, AGENT, POLICY, NOW) == []
        assert new_samples(session, AGENT, None) == 1300
        session.add(a_version("1.1.0", NOW - hours(20)))
        session.flush()
        (asked,) = volume(session, AGENT, POLICY, NOW)
        assert asked.reason == "1,300 new samples since the last training, 1,000 are enough"
        assert asked.evidence == {"new_samples": 1300.0}
        session.add_all([_snapshot("a", NOW, 800), _snapshot("b", NOW, 400), _snapshot("c", NOW, 9000, "rejected")])
        session.flush()
        assert new_samples(session, AGENT, NOW - hours(20)) == 1300
        session.add(a_run(1, NOW - hours(6), ended=NOW - hours(5)))
        session.flush()
        assert new_samples(session, AGENT, NOW - hours(5)) == 1200
        assert volume(session, AGENT, policy(min_new_samples=1201), NOW) == []
        (again,) = volume(session, AGENT, policy(min_new_samples=1200), NOW)
        assert again.dedupe_key != asked.dedupe_key


def test_error_rate(engine: Engine) -> None:
    """A handful of failures at night asks for a training; so does an outage of the feature store, or a bad candidate."""
    tried = {"aa_arm": "treatment"}
    failed = {**tried, "fallback": "failed"}
    with transaction(engine) as session:
        session.add_all(a_prediction(n, NOW - hours(0.5), **tried) for n in range(185))
        session.add_all(a_prediction(300 + n, NOW - hours(0.5), **failed) for n in range(10))
        # Of others: too old, of another version, not yet, of a candidate; and without features.
        session.add_all(a_prediction(400 + n, NOW - hours(24.5), **failed) for n in range(50))
        session.add_all(a_prediction(500 + n, NOW, **failed, model_version="1.3.0") for n in range(50))
        session.add_all(a_prediction(600 + n, NOW + hours(0.1), **failed) for n in range(50))
        session.add_all(a_prediction(800 + n, NOW, fallback="failed", variant="treatment") for n in range(50))
        session.add_all(a_prediction(900 + n, NOW, status="degraded") for n in range(50))
    with transaction(engine) as session:
        assert error_rate(session, AGENT, "1.2.0", POLICY, NOW) == []
        session.add_all(a_prediction(700 + n, NOW, **failed, status="degraded") for n in range(5))
    with read_transaction(engine) as session:
        (asked,) = error_rate(session, AGENT, "1.2.0", POLICY, NOW)
        assert error_rate(session, AGENT, None, POLICY, NOW) == []
        limits = POLICY.limits.model_copy(update={"max_error_rate": 0.075})
        assert error_rate(session, AGENT, "1.2.0", policy(limits=limits), NOW) == []
    assert asked.reason == "7.5% of 200 decisions of version 1.2.0 in 24 h failed, more than 5.0%"
    assert asked.evidence == {"model_version": "1.2.0", "error_rate": 0.075}
