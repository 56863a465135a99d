"""The audit trail: chained, append-only, logged once committed."""

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from mlops_assets.foundation.audit import (
    GENESIS_HASH,
    PROMOTED_TO_PRODUCTION,
    ROLLED_BACK,
    AuditVerdict,
    append_event,
    champion_at,
    verify_chain,
)
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets_tests.foundation.processes import append_events, run_together

NOW = datetime(2026, 1, 5, 12, 0, 0, 123456, tzinfo=UTC)


def _append(session: Session, event_type: str = "model_approved", **changes: Any) -> AuditEvent:
    values: dict[str, Any] = {
        "model_name": "execution-agent-dqn",
        "version": "1.0.0",
        "user": "ml-lead@company.com",
        "details": {"reason": "better"},
        "now": NOW,
    }
    return append_event(session, event_type=event_type, **{**values, **changes})


def _chain(engine: Engine, length: int) -> None:
    with transaction(engine) as session:
        for number in range(length):
            _append(session, details={"number": number})


def _verdict(engine: Engine) -> AuditVerdict:
    with read_transaction(engine) as session:
        return verify_chain(session)


def _tamper(engine: Engine, statement: str) -> None:
    """Change the table as an administrator would: with the triggers out of the way."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE audit_event DISABLE TRIGGER ALL"))
        else:
            connection.execute(text("DROP TRIGGER audit_event_no_update"))
            connection.execute(text("DROP TRIGGER audit_event_no_delete"))
        connection.execute(text(statement))


def test_events_are_chained_from_the_genesis_hash(engine: Engine) -> None:
    """Without the predecessor's hash in each event, one event could be taken out of the middle."""
    with transaction(engine) as session:
        first = _append(session)
        second = _append(session, event_type="model_rejected")
    assert (first.sequence, second.sequence) == (1, 2)
    assert first.previous_hash == GENESIS_HASH
    assert second.previous_hash == first.hash
    assert first.hash != second.hash
    verdict = _verdict(engine)
    assert (verdict.entries, verdict.broken_at, verdict.intact) == (2, None, True)


def test_an_empty_trail_is_intact(engine: Engine) -> None:
    """A fresh installation is not an incident."""
    assert _verdict(engine).entries == 0
    assert _verdict(engine).intact


def test_numbers_and_texts_survive_storage(engine: Engine) -> None:
    """PostgreSQL's JSONB rewrites 1e22 and -0.0: an untouched chain would read as forged."""
    details = {"huge": 1e22, "tiny": 5e-324, "minus": -0.0, "third": 1 / 3, "text": "é\u0000\U0001f600", "big": 2**70}
    with transaction(engine) as session:
        _append(session, details={**details, "at": NOW, "nested": [{"x": None}]})
    assert _verdict(engine).intact
    with read_transaction(engine) as session:
        stored = session.scalars(select(AuditEvent)).one()
    assert stored.occurred_at == NOW
    assert stored.details == {**details, "at": "2026-01-05T12:00:00.123456+00:00", "nested": [{"x": None}]}


@pytest.mark.parametrize(
    ("statement", "broken_at", "reason"),
    [
        ("UPDATE audit_event SET version = '9.9.9' WHERE sequence = 3", 3, "event 3 was changed"),
        ("UPDATE audit_event SET user_name = 'x' WHERE sequence = 1", 1, "event 1 was changed"),
        ("UPDATE audit_event SET details = '{}' WHERE sequence = 5", 5, "event 5 was changed"),
        ("DELETE FROM audit_event WHERE sequence = 2", 2, "event 2 is missing"),
        ("DELETE FROM audit_event WHERE sequence = 1", 1, "event 1 is missing"),
        ("UPDATE audit_event SET hash = 'f' WHERE sequence = 2", 2, "event 2 was changed"),
        ("UPDATE audit_event SET previous_hash = 'f' WHERE sequence = 4", 4, "event 4 does not follow from event 3"),
    ],
)
def test_tampering_is_found_where_it_happened(engine: Engine, statement: str, broken_at: int, reason: str) -> None:
    """An edited approval that verifies is worse than no audit trail."""
    _chain(engine, 5)
    _tamper(engine, statement)
    verdict = _verdict(engine)
    assert (verdict.entries, verdict.broken_at) == (broken_at - 1, broken_at)
    assert reason in verdict.reason


@pytest.mark.parametrize("statement", ["UPDATE audit_event SET version = 'x'", "DELETE FROM audit_event"])
def test_the_database_refuses_changes(engine: Engine, statement: str) -> None:
    """A careless cleanup script must fail, not rewrite history."""
    _chain(engine, 2)
    with pytest.raises(DBAPIError, match="append-only"), transaction(engine) as session:
        session.execute(text(statement))
    assert _verdict(engine).entries == 2


def test_postgresql_refuses_truncate(postgres_engine: Engine) -> None:
    """TRUNCATE fires no row triggers."""
    _chain(postgres_engine, 1)
    with pytest.raises(DBAPIError, match="append-only"), transaction(postgres_engine) as session:
        session.execute(text("TRUNCATE audit_event"))


def test_writers_of_several_processes_make_one_chain(engine: Engine) -> None:
    """Two writers with the same predecessor fork the chain: one event is lost, or the chain reads as forged."""
    url = engine.url.render_as_string(hide_password=False)
    assert run_together(append_events, [(url, 8, NOW)] * 2) == [0, 0]
    verdict = _verdict(engine)
    assert (verdict.entries, verdict.intact) == (16, True)


def test_champion_at_any_instant(engine: Engine) -> None:
    """MLflow's alias knows only today: who answered users last Tuesday is asked after an incident."""
    steps = [
        (0, PROMOTED_TO_PRODUCTION, "1.0.0"),
        (1, "model_approved", "1.1.0"),
        (2, PROMOTED_TO_PRODUCTION, "1.1.0"),
        (3, ROLLED_BACK, "1.0.0"),
    ]
    with transaction(engine) as session:
        for hours, event_type, version in steps:
            _append(session, event_type, version=version, now=NOW + timedelta(hours=hours))
        _append(session, PROMOTED_TO_PRODUCTION, model_name="generation-agent-dqn", version="7.0.0", now=NOW)
    with read_transaction(engine) as session:
        champions = [
            champion_at(session, "execution-agent-dqn", NOW + timedelta(hours=hours))
            for hours in (-1, 0, 1, 2, 2.5, 3, 99)
        ]
    assert champions == [None, "1.0.0", "1.0.0", "1.1.0", "1.1.0", "1.0.0", "1.0.0"]


def test_only_committed_events_are_logged(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """A logged approval that was rolled back would be taken for a decision."""
    caplog.set_level(logging.INFO, logger="audit")

    def roll_back() -> None:
        with transaction(engine) as session:
            _append(session, version="0.0.1")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        roll_back()
    with transaction(engine) as session:
        _append(session, version="0.0.2")
        with session.begin_nested() as savepoint:
            _append(session, version="0.0.3")
            savepoint.rollback()
        with session.begin_nested():
            _append(session, version="0.0.4")
        assert not caplog.records
    logged = [json.loads(record.getMessage()) for record in caplog.records if record.name == "audit"]
    assert [(line["sequence"], line["version"]) for line in logged] == [(1, "0.0.2"), (2, "0.0.4")]
    assert logged[0]["timestamp"] == "2026-01-05T12:00:00.123456+00:00"
    assert logged[1]["previous_hash"] == logged[0]["hash"]
    assert _verdict(engine).entries == 2


@pytest.mark.parametrize("changes", [{"details": {"accuracy": float("nan")}}, {"now": datetime(2026, 1, 1)}])  # noqa: DTZ001
def test_what_cannot_be_proven_is_refused(engine: Engine, changes: dict[str, Any]) -> None:
    """NaN reads back as an invalid document, a naive time as another instant."""
    with pytest.raises(ValueError, match=r"JSON|naive"), transaction(engine) as session:
        _append(session, **changes)
    assert _verdict(engine).entries == 0
