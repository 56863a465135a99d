"""The gate before a version goes on: every approval holds as long as its evidence does, whoever gave it."""

import pytest
from sqlalchemy import text

from mlops_assets.foundation.errors import InputError, NotReadyError, StorageError
from mlops_assets.governance.approval_state import ApprovalRefusedError
from mlops_assets.governance.decision_records import decisions_on
from mlops_assets.governance.waivers import grant_waiver
from mlops_assets_tests.governance.conftest import ML, QA, Office
from mlops_assets_tests.governance.test_waivers import PROFILE
from mlops_assets_tests.mlflow_runs import NOW, SPEC, approve

NAME = SPEC.registered_model
OPS = "ops@company.com"


def ask(office: Office, version: str = "1.1.0") -> None:
    office.approvals.require_current(NAME, version, user=OPS)


def change(office: Office, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Change one part of the evidence of version 1.1.0."""
    if what == "validation report":
        office.write_report(1, gap=4.5)
    elif what == "model files":
        monkeypatch.setattr(office.registry, "files_hash", lambda *_: "f" * 64)
    elif what == "training data":
        with office.engine.begin() as connection:
            connection.execute(text("UPDATE model_version SET data_hash = 'other'"))
    else:
        check = "governance_latency_p95_ms"
        grant_waiver(office.engine, PROFILE, model_name=NAME, check_name=check, days=7, user=ML, reason="r", now=NOW)


@pytest.mark.parametrize("people", [False, True])
@pytest.mark.parametrize("what", ["validation report", "model files", "training data", "waivers"])
def test_changed_evidence_closes_the_gate(
    office: Office, monkeypatch: pytest.MonkeyPatch, *, people: bool, what: str
) -> None:
    """What the policy approved by itself was never looked at again: a swapped model went to all users."""
    office.decide(0, "approved")
    office.decide(1, "requires_review" if people else "approved")
    for approver in (ML, QA) if people else ():
        office.approvals.vote(NAME, "1.1.0", approver=approver, decision="approve", comment="c", channel="cli")
    ask(office)
    change(office, monkeypatch, what)
    for _ in range(2):
        with pytest.raises(ApprovalRefusedError, match=f"the evidence changed .*{what} changed") as caught:
            ask(office)
        assert caught.value.reason == "evidence_changed"
    events = [event for event in office.events() if event.version == "1.1.0"]
    assert [event.event_type for event in events][-3:] == [
        "approval_superseded",
        "approval_refused",
        "approval_refused",
    ]
    superseded, refused = events[-3], events[-1]
    assert superseded.details["changes"] == [f"{what} changed"]
    assert (refused.user, refused.details["reason"]) == (OPS, "evidence_changed")
    assert [found.status for found in decisions_on(office.engine, NAME, "1.1.0")][:2] == ["pending", "approved"]
    # Nobody gets around the gate through the registry.
    with pytest.raises(NotReadyError, match="is pending"):
        office.registry.promote_to_production(NAME, "1.1.0", user=OPS, reason="r")


def test_a_new_decision_opens_it_again(office: Office) -> None:
    """A version whose report was restored or decided on anew stays locked out for ever."""
    office.decide(0, "approved")
    office.decide(1, "approved")
    office.write_report(1, gap=4.5)
    with pytest.raises(ApprovalRefusedError):
        ask(office)
    office.decide(1, "approved", gap=4.5)
    ask(office)
    # And evidence that comes back counts only with a decision of its own.
    office.write_report(1)
    with pytest.raises(ApprovalRefusedError):
        ask(office)
    office.decide(1, "approved")
    ask(office)


def test_evidence_that_is_gone(office: Office) -> None:
    """Without the report nobody can say what was approved."""
    office.decide(0, "approved")
    (file,) = office.settings.paths.reports(SPEC.name).rglob("*.json")
    file.write_text("{}")
    with pytest.raises(ApprovalRefusedError, match="cannot be read any more"):
        ask(office, "1.0.0")


def test_a_store_that_does_not_answer_makes_nothing_void(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow is away for a minute, and every approval has to be given again."""
    office.decide(0, "approved")

    def away(*_: object) -> str:
        raise StorageError("MLflow does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(office.registry, "files_hash", away)
        with pytest.raises(StorageError):
            ask(office, "1.0.0")
    ask(office, "1.0.0")


def test_what_is_not_approved(office: Office) -> None:
    """The gate stands open for a version that nobody decided on, or that was rejected."""
    office.registry.register(office.runs.candidate(0), SPEC)
    with pytest.raises(NotReadyError, match="has no decision"):
        ask(office, "1.0.0")
    for status in ("rejected", "requires_review"):
        office.decide(0, status)  # type: ignore[arg-type]
        with pytest.raises(NotReadyError, match=f"is {status}"):
            ask(office, "1.0.0")
    with pytest.raises(InputError, match="no version"):
        ask(office, "7.0.0")


def test_an_approval_without_recorded_evidence(office: Office) -> None:
    """An approval of before evidence was recorded passes unread."""
    office.registry.register(office.runs.candidate(0), SPEC)
    approve(office.engine, NAME, "1.0.0")
    with pytest.raises(ApprovalRefusedError, match=r"recorded no evidence .* run the lifecycle for a new decision"):
        ask(office, "1.0.0")
    office.decide(0, "approved")
    ask(office, "1.0.0")
