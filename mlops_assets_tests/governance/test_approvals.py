"""Approvals on real stores: asked, voted on, refused, applied, void again; each step on the audit trail."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from mlops_assets.foundation.database import create_operational_engine
from mlops_assets.foundation.errors import InputError
from mlops_assets.governance.approval_requests import ApprovalRequest
from mlops_assets.governance.approval_state import ApprovalRefusedError, VoteDecision
from mlops_assets.governance.approvals import open_approvals
from mlops_assets.governance.decision_records import decisions_on
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets_tests.governance.conftest import ML, QA, Office
from mlops_assets_tests.mlflow_runs import NOW, SPEC, dying_at_commit

NAME = SPEC.registered_model


def vote(
    office: Office, approver: str, decision: VoteDecision = "approve", version: str = "1.0.0", comment: str = "read it"
) -> ApprovalRequest:
    return office.approvals.vote(NAME, version, approver=approver, decision=decision, comment=comment, channel="cli")


def refused(office: Office, approver: str, version: str = "1.0.0") -> str:
    """Try to approve and return the reason of the refusal, which has to be on the audit trail as well."""
    with pytest.raises(ApprovalRefusedError) as caught:
        vote(office, approver, version=version)
    last = office.events()[-1]
    assert (last.event_type, last.user, last.model_name) == ("approval_refused", approver, NAME)
    assert last.details["reason"] == caught.value.reason
    assert last.details["message"] == str(caught.value)
    return caught.value.reason


def kinds(office: Office) -> list[str]:
    return [event.event_type for event in office.events()]


def test_two_approvers_make_a_champion(office: Office) -> None:
    """The first version waits for two people, and nothing else has to be done after the second."""
    assert office.decide().outcome == "waiting"
    (request,) = office.approvals.requests(open_only=True)
    assert (request.author, request.required_approvers, request.min_approvals) == ("ana", (ML, QA), 2)
    assert request.expires_at == NOW + timedelta(hours=168)
    first = vote(office, ML)
    assert (first.status, first.awaited, first.approved_by) == ("open", (QA,), (ML,))
    assert office.registry.champion(NAME) is None
    done = vote(office, QA.upper())
    assert (done.status, done.applied, done.approved_by) == ("approved", True, (ML, QA))
    champion = office.registry.champion(NAME)
    assert champion is not None
    assert champion.semver == "1.0.0"
    assert kinds(office) == [
        "model_registered",
        "model_review_required",
        "approval_requested",
        "approval_vote",
        "approval_vote",
        "model_approved",
        "model_promoted_to_production",
        "approval_applied",
    ]
    assert [event.user for event in office.events()][3:7] == [ML, QA, QA, f"{ML}, {QA}"]
    (stored,) = MlflowStore(office.runs.tracking_uri).versions(NAME)
    assert stored.tags["approval_status"] == "approved"
    assert stored.tags["approved_by"] == f"{ML}, {QA}"
    assert stored.tags["approval_comments"] == f"{ML}: read it; {QA}: read it"


def test_beside_a_champion_it_becomes_challenger(office: Office) -> None:
    """People approve for staging; only the rollout puts a version in front of all users."""
    office.decide(0, "approved")
    office.decide(1)
    vote(office, ML, version="v1.1.0")
    vote(office, QA, version="1.1.0")
    challenger = office.registry.challenger(NAME)
    assert challenger is not None
    assert (challenger.semver, challenger.stage) == ("1.1.0", "Staging")


def test_one_rejection_ends_it(office: Office) -> None:
    """There was no way to say no in the source."""
    office.decide()
    vote(office, ML)
    assert vote(office, QA, "reject", comment="slower on Safari").status == "rejected"
    assert refused(office, ML) == "already_decided"
    assert office.registry.version(NAME, "1.0.0").stage == "None"
    (stored,) = MlflowStore(office.runs.tracking_uri).versions(NAME)
    assert (stored.tags["approval_status"], stored.tags["rejected_by"]) == ("rejected", QA)
    assert office.decide().status == "rejected"


def test_refused_tries_have_a_reason_and_an_audit_event(office: Office) -> None:
    """A try that fails in silence is tried again until it passes."""
    assert refused(office, ML, version="9.9.9") == "unknown_version"
    assert refused(office, ML, version="nonsense" * 20 + "\x00") == "unknown_version"
    office.decide(0, author=ML)
    assert refused(office, "eve@company.com") == "wrong_role"
    assert refused(office, ML) == "own_model"
    vote(office, QA)
    assert refused(office, QA) == "same_approver_twice"
    office.clock.instant += timedelta(hours=168)
    assert refused(office, QA) == "expired"
    assert refused(office, QA) == "expired"
    assert kinds(office).count("approval_expired") == 1
    office.decide(1, "approved")
    assert refused(office, QA, version="1.1.0") == "no_request"
    with pytest.raises(InputError, match="decision 'maybe' is unknown; use one of: approve, reject"):
        vote(office, QA, "maybe")  # type: ignore[arg-type]


def test_an_expired_request_is_asked_again_by_the_next_lifecycle(office: Office) -> None:
    """A version whose approvers were on holiday could never be approved."""
    office.decide()
    office.clock.instant += timedelta(hours=169)
    assert refused(office, ML) == "expired"
    office.decide()
    vote(office, ML)
    assert vote(office, QA).applied


@pytest.mark.parametrize("changed", ["report", "weights", "data"])
def test_changed_evidence_voids_a_request(office: Office, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    """A model swapped after the first signature goes to users with the second."""
    office.decide()
    vote(office, ML)
    if changed == "report":
        office.write_report(0, gap=4.5)
    elif changed == "weights":
        monkeypatch.setattr(office.registry, "files_hash", lambda *_: "f" * 64)
    else:
        from sqlalchemy import text

        with office.engine.begin() as connection:
            connection.execute(text("UPDATE model_version SET data_hash = 'other'"))
    assert refused(office, QA) == "evidence_changed"
    assert office.approvals.request(NAME, "1.0.0").status == "superseded"
    assert refused(office, QA) == "evidence_changed"
    assert kinds(office).count("approval_superseded") == 1


def test_a_damaged_report_is_no_evidence(office: Office) -> None:
    """Without the report nobody can say what was approved."""
    office.decide()
    (file,) = office.settings.paths.reports(SPEC.name).rglob("*.json")
    file.write_text("{}")
    assert refused(office, ML) == "evidence_unreadable"


def test_new_evidence_asks_anew(office: Office) -> None:
    """Votes on last week's report count for this week's."""
    office.decide()
    vote(office, ML)
    office.decide(gap=4.5)
    newest, older = office.approvals.requests()
    assert (newest.status, newest.votes, older.status) == ("open", (), "superseded")
    vote(office, ML)
    assert vote(office, QA).applied


def test_the_same_lifecycle_again_asks_nothing_and_keeps_the_answer(office: Office) -> None:
    """A rerun puts an approved version back to waiting, or asks twice."""
    office.decide()
    office.decide()
    assert len(office.approvals.requests()) == 1
    vote(office, ML)
    vote(office, QA)
    again = office.decide()
    assert (again.status, again.outcome) == ("approved", "unchanged")
    (stored,) = MlflowStore(office.runs.tracking_uri).versions(NAME)
    assert stored.tags["approval_status"] == "approved"


def test_an_old_approval_does_not_lift_a_version_again(office: Office) -> None:
    """An archived version comes back by a rerun of its lifecycle."""
    office.decide(0, "approved")
    office.decide(1)
    vote(office, ML, version="1.1.0")
    with dying_at_commit(office.engine, survived=2), pytest.raises(KeyboardInterrupt):
        vote(office, QA, version="1.1.0")
    (request,) = office.approvals.requests(unfinished=True)
    assert (request.status, request.applied) == ("approved", False)
    office.registry.archive(NAME, "1.1.0", user="sre", reason="not wanted")
    assert office.approvals.apply(request).applied
    assert office.decide(1).outcome == "unchanged"
    assert office.registry.version(NAME, "1.1.0").stage == "Archived"


@pytest.mark.parametrize("survived", [0, 1, 2, 3, 4])
def test_a_crash_at_any_commit_heals(office: Office, survived: int) -> None:
    """Killed between the last vote and the promotion, an approved version would wait for ever."""
    office.decide()
    vote(office, ML)
    try:
        with dying_at_commit(office.engine, survived=survived):
            vote(office, QA)
    except KeyboardInterrupt:
        pass
    for request in office.approvals.requests(unfinished=True):
        if request.status == "open":
            vote(office, QA)
        else:
            office.approvals.apply(request)
    assert office.approvals.requests(unfinished=True) == []
    champion = office.registry.champion(NAME)
    assert champion is not None
    assert champion.semver == "1.0.0"
    for once in ("model_approved", "model_promoted_to_production", "approval_applied"):
        assert kinds(office).count(once) == 1


def at_once(office: Office, approvers: list[str]) -> list[str]:
    """Approve in as many threads, each with a connection of its own; returns what came of each."""
    url = office.engine.url.render_as_string(hide_password=False)

    def try_it(approver: str) -> str:
        engine = create_operational_engine(url)
        registry = ModelRegistry(office.runs.tracking_uri, engine, office.clock)
        try:
            approvals = open_approvals(office.settings, engine, office.clock, registry)
            approvals.vote(NAME, "1.0.0", approver=approver, decision="approve", comment="c", channel="http")
        except ApprovalRefusedError as error:
            return error.reason
        finally:
            engine.dispose()
        return "counted"

    with ThreadPoolExecutor(len(approvers)) as pool:
        return list(pool.map(try_it, approvers))


def test_two_votes_of_one_person_at_once_count_once(office: Office) -> None:
    """A double click is not two approvers."""
    office.decide()
    results = at_once(office, [ML] * 4)
    assert sorted(results) == ["counted", *["same_approver_twice"] * 3]
    assert office.approvals.request(NAME, "1.0.0").status == "open"


def test_two_approvers_at_once_approve_once(office: Office) -> None:
    """Each sees the other's vote missing, and nobody is the last; or the version is promoted twice."""
    office.decide()
    assert at_once(office, [ML, QA]) == ["counted", "counted"]
    request = office.approvals.request(NAME, "1.0.0")
    assert (request.status, request.applied, set(request.approved_by)) == ("approved", True, {ML, QA})
    for once in ("model_approved", "model_promoted_to_production", "approval_applied"):
        assert kinds(office).count(once) == 1


def test_evidence_that_comes_back_is_asked_about_again(office: Office) -> None:
    """A report that was damaged and restored leaves a version that nobody can approve any more."""
    office.decide()
    office.write_report(0, gap=4.5)
    assert refused(office, ML) == "evidence_changed"
    office.decide()
    assert [request.status for request in office.approvals.requests()] == ["open", "superseded"]
    vote(office, ML)
    assert vote(office, QA).applied


def test_tags_of_a_rejection_survive_a_rerun(office: Office) -> None:
    """The lifecycle's rerun writes the policy's question over the people's answer."""
    office.decide()
    vote(office, QA, "reject", comment="no")
    office.registry.annotate(NAME, "1.0.0", {"approval_status": "requires_review"})  # killed before its tags
    office.decide()
    (stored,) = MlflowStore(office.runs.tracking_uri).versions(NAME)
    assert stored.tags["approval_status"] == "rejected"


@pytest.mark.parametrize("answer", ["approve", "reject"])
def test_what_people_said_stands_against_the_policy(office: Office, answer: VoteDecision) -> None:
    """The lifecycle runs again under a laxer policy and approves what people rejected, or asks again what they approved."""
    office.decide()
    for approver in (ML, QA) if answer == "approve" else (ML,):
        vote(office, approver, answer)
    said = "approved" if answer == "approve" else "rejected"
    assert [office.decide(0, status).status for status in ("approved", "requires_review")] == [said, said]
    # But a limit that was tightened since rejects.
    assert office.decide(0, "rejected").status == "rejected"
    assert decisions_on(office.engine, NAME, "1.0.0")[0].status == "rejected"
