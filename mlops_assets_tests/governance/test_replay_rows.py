"""Decisions, votes and waivers from the audit trail alone: what was done past it is named, and older events say less."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.governance.replay_rows import ToldRows, held_rows, row_differences
from mlops_assets.governance.waivers import grant_waiver, revoke_waiver
from mlops_assets_tests.governance.conftest import ML, QA, Office
from mlops_assets_tests.governance.test_waivers import PROFILE
from mlops_assets_tests.mlflow_runs import NOW, SPEC

NAME = SPEC.registered_model


def told(events: list[AuditEvent]) -> ToldRows:
    found = ToldRows()
    for event in events:
        found.take(event)
    return found


def compare(office: Office) -> list[str]:
    with read_transaction(office.engine) as session:
        return row_differences(told(office.events()).rows, held_rows(session))


def a_history(office: Office) -> None:
    """A decision of the policy, one of people, one that is void, two waivers."""
    office.decide(0, "approved")
    office.decide(1)
    for approver in (ML, QA):
        office.approvals.vote(NAME, "1.1.0", approver=approver, decision="approve", comment="ä", channel="cli")
    for days in (7, 8):
        grant_waiver(
            office.engine,
            PROFILE,
            model_name=NAME,
            check_name="governance_latency_p95_ms",
            days=days,
            user=ML,
            reason="new hardware",
            now=NOW,
        )
    revoke_waiver(office.engine, 1, user=QA, now=NOW + timedelta(days=1))
    office.approvals.look(office.approvals.request(NAME, "1.1.0"))


def test_the_trail_explains_every_row(office: Office) -> None:
    """An auditor cannot tell a decision from one that somebody put into the table."""
    a_history(office)
    assert compare(office) == []
    with read_transaction(office.engine) as session:
        rows = held_rows(session)
    assert sorted(rows) == [
        f"decision 1 on {NAME} 1.0.0",
        f"decision 1 on {NAME} 1.1.0",
        f"decision 2 on {NAME} 1.1.0",
        f"decision 3 on {NAME} 1.1.0",
        f"vote of {ML} on request 1",
        f"vote of {QA} on request 1",
        "waiver 1",
        "waiver 2",
    ]
    assert rows[f"decision 3 on {NAME} 1.1.0"]["status"] == "pending"


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (
            "UPDATE decision SET status = 'rejected' WHERE semver = '1.0.0'",
            f'decision 1 on {NAME} 1.0.0 status: the audit trail says "approved", the stores hold "rejected"',
        ),
        ("UPDATE decision SET decided_by = 'eve' WHERE semver = '1.0.0'", "decided_by"),
        ("UPDATE decision SET reasons = '[]' WHERE semver = '1.0.0'", "reasons"),
        ("UPDATE decision SET evidence = NULL WHERE semver = '1.0.0'", "evidence"),
        ("UPDATE decision SET evidence_hash = 'f' WHERE semver = '1.0.0'", "evidence_hash"),
        (
            "DELETE FROM decision WHERE semver = '1.0.0'",
            "1.0.0: the audit trail says it, the stores hold nothing",
        ),
        ("UPDATE approval_vote SET comment = 'no' WHERE approver LIKE 'ml%'", f"vote of {ML} on request 1 comment"),
        ("DELETE FROM approval_vote WHERE approver LIKE 'ml%'", f"vote of {ML} on request 1: the audit trail says it"),
        ("UPDATE waiver SET ends_at = '2030-01-01 00:00:00' WHERE id = 2", "waiver 2 ends_at"),
        ("UPDATE waiver SET revoked_at = NULL WHERE id = 1", "waiver 1 revoked_at"),
        ("DELETE FROM waiver WHERE id = 2", "waiver 2: the audit trail says it, the stores hold nothing"),
    ],
)
def test_what_was_done_past_the_trail_is_named(small_office: Office, statement: str, named: str) -> None:
    """Somebody decides, votes or waives by SQL."""
    a_history(small_office)
    with small_office.engine.begin() as connection:
        connection.execute(text(statement))
    (found,) = compare(small_office)
    assert named in found


def test_a_row_that_nobody_told_of(small_office: Office) -> None:
    """Somebody approves a version by SQL, and nothing compares the table with the trail."""
    a_history(small_office)
    with small_office.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO decision (model_name, semver, run_id, risk, status, reasons, evidence_hash, decided_at, "
                "decided_by) SELECT model_name, semver, run_id, risk, 'approved', reasons, evidence_hash, decided_at, "
                "decided_by FROM decision WHERE semver = '1.0.0'"
            )
        )
    assert compare(small_office) == [f"decision 2 on {NAME} 1.0.0: the audit trail says nothing, the stores hold it"]


def test_events_of_an_older_version_say_less(small_office: Office) -> None:
    """After the upgrade every row of before is a finding, and nobody looks at findings any more."""
    facts = {"risk": "low", "reasons": ["r"], "evidence_hash": "e", "run_id": "run"}
    with transaction(small_office.engine) as session:
        for kind, user, details in (
            ("model_review_required", "governance-policy", facts),
            ("approval_vote", ML, {"request": 1, "decision": "approve", "comment": "c", "channel": "cli"}),
            ("model_approved", ML, {"request": 1, "approved_by": [ML], "evidence_hash": "e", "run_id": "run"}),
            ("approval_superseded", "governance-approvals", {"request": 1, "evidence_hash": "e", "run_id": "run"}),
            ("approval_expired", "governance-approvals", {"request": 2, "evidence_hash": "e", "run_id": "run"}),
        ):
            append_event(
                session, event_type=kind, model_name=NAME, version="1.0.0", user=user, details=details, now=NOW
            )
    assert told(small_office.events()).rows == {
        f"decision 1 on {NAME} 1.0.0": {"status": "requires_review", **facts},
        f"vote of {ML} on request 1": {"decision": "approve", "comment": "c"},
        f"decision 2 on {NAME} 1.0.0": {"status": "approved", "run_id": "run"},
        f"decision 3 on {NAME} 1.0.0": {"status": "pending", "run_id": "run"},
    }
