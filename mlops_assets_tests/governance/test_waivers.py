"""Waivers: decided by approvers only, with an end, on the audit trail; and a decision that was taken with one."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select

from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.governance.commands import DONE, REFUSED, main
from mlops_assets.governance.decisions import record_decision
from mlops_assets.governance.policy import Decision
from mlops_assets.governance.waivers import Waiver, all_waivers, grant_waiver, revoke_waiver, waivers_at
from mlops_assets_tests.governance.conftest import ML, QA, Office
from mlops_assets_tests.mlflow_runs import NOW, SPEC

NAME, CHECK = SPEC.registered_model, "governance_latency_p95_ms"
PROFILE = load_profile("aiwebtest")
Grant = Callable[..., Waiver]


@pytest.fixture
def grant(engine: Engine) -> Grant:
    def make(**changes: object) -> Waiver:
        values = {
            "model_name": NAME,
            "check_name": CHECK,
            "days": 7.0,
            "user": ML,
            "reason": "new hardware",
            "now": NOW,
        }
        return grant_waiver(engine, PROFILE, **{**values, **changes})  # type: ignore[arg-type]

    return make


def test_a_waiver_has_an_end(grant: Grant, engine: Engine) -> None:
    """A waiver that nobody ends holds for ever."""
    waiver = grant(user=" ML-Lead@company.com")
    assert str(waiver) == f"{ML} until 2026-03-08: new hardware"
    held = [bool(waivers_at(engine, NAME, NOW + timedelta(days=days))) for days in (-0.1, 0, 6.99, 7, 99)]
    assert held == [False, True, True, False, False]
    assert waivers_at(engine, "execution-agent-dqn", NOW) == []


def test_revoked_once(grant: Grant, engine: Engine) -> None:
    """A waiver that was a mistake goes on for a week, or its end moves with every call."""
    waiver = grant()
    later = NOW + timedelta(days=1)
    revoked = revoke_waiver(engine, waiver.id, user=QA, now=later)
    assert revoke_waiver(engine, waiver.id, user=QA, now=later + timedelta(days=1)) == revoked
    assert (revoked.revoked_at, revoked.holds(later), revoked.holds(NOW)) == (later, False, True)
    with pytest.raises(InputError, match="there is no waiver 99"):
        revoke_waiver(engine, 99, user=QA, now=NOW)
    with read_transaction(engine) as session:
        assert verify_chain(session).intact
        events = session.scalars(select(AuditEvent).order_by(AuditEvent.sequence)).all()
    assert [(event.event_type, event.user) for event in events] == [("waiver_granted", ML), ("waiver_revoked", QA)]
    assert events[0].details["ends_at"] == "2026-03-08T12:00:00.000000+00:00"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": "eve@company.com"}, "may not grant waivers; required approvers may: ml-lead@company.com"),
        ({"check_name": "security_findings"}, "'security_findings' cannot be waived"),
        ({"check_name": "acuracy"}, "'acuracy' cannot be waived; checks are named"),
        ({"model_name": "nothing"}, "unknown model 'nothing'"),
        ({"reason": " \x00"}, "needs a reason"),
        ({"days": 0.0}, "give a number of days"),
        ({"days": -1.0}, "give a number of days"),
        ({"days": float("nan")}, "give a number of days"),
        ({"days": 1e12}, "give a number of days"),
    ],
)
def test_refused(grant: Grant, engine: Engine, changes: dict[str, object], message: str) -> None:
    """A waiver with a typo holds for no check, and one by anybody for all of them."""
    with pytest.raises(InputError, match=message):
        grant(**changes)
    assert all_waivers(engine) == []


def test_a_decision_is_taken_anew_with_a_waiver(grant: Grant, office: Office) -> None:
    """The version was rejected before, and the same report is decided once: the waiver would change nothing."""
    assert office.decide(0, "rejected").status == "rejected"
    version = office.registry.version(NAME, "1.0.0")
    grant()
    for _ in range(2):
        again = record_decision(
            version,
            Decision("requires_review", "low", ("slow, waived",), ()),
            evidence=office.approvals.evidence(version),
            engine=office.engine,
            registry=office.registry,
            clock=office.clock,
            approvals=office.approvals,
        )
        assert again.outcome in {"waiting", "unchanged"}
        for approver in (ML, QA):
            if office.registry.champion(NAME) is None:
                office.approvals.vote(NAME, "1.0.0", approver=approver, decision="approve", comment="c", channel="cli")
    assert again.status == "approved"
    assert office.registry.champion(NAME) is not None


def test_commands(small_office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    """What approvers type."""
    environ = {
        "MLOPS_HOME": str(small_office.settings.home),
        "MLOPS_DATABASE_URL": small_office.engine.url.render_as_string(hide_password=False),
    }
    waive = ["waive", "--model-name", NAME, "--check", CHECK, "--days", "7", "--reason", "new hardware", "--user"]
    assert main([*waive, "eve@company.com"], environ) == REFUSED
    assert main([*waive, ML], environ) == DONE
    assert main(["waivers"], environ) == DONE
    assert f"1: {NAME} {CHECK} holds, {ML} until" in capsys.readouterr().out
    assert main(["revoke-waiver", "--waiver", "1", "--user", QA], environ) == DONE
    assert main(["revoke-waiver", "--waiver", "2", "--user", QA], environ) == REFUSED
    assert main(["waivers"], environ) == DONE
    assert "revoked" in capsys.readouterr().out
