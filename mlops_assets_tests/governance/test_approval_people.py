"""Whose work a version is: a person or nobody, said as it is; and a request that nobody could ever approve."""

import pytest

from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.governance.approval_people import Author, author_of, eligible, too_few_note
from mlops_assets.governance.approval_requests import in_words
from mlops_assets.governance.approval_state import ApprovalRefusedError
from mlops_assets.governance.approvals import Approvals
from mlops_assets_tests.governance.conftest import ML, QA, Office
from mlops_assets_tests.mlflow_runs import NOW, SPEC

NAME = SPEC.registered_model
OPS = "ops@company.com"


def test_nobody_is_left_out_in_silence(office: Office) -> None:
    """A run without the author's tag looks as if the rule about one's own model had been kept."""
    told = office.decide(author=None)
    (request,) = office.approvals.requests()
    assert request.author == ""
    (note,) = [reason for reason in request.reasons if "author" in reason]
    assert note == (
        "no person is known as the author (no person, registered by dagster:retrain), so nobody is kept from approving "
        "their own work; the run tag mlops/author names one"
    )
    assert note in told.reasons
    assert note in in_words(request)
    events = {event.event_type: event.details for event in office.events()}
    for kind in ("model_review_required", "approval_requested"):
        assert events[kind]["author"] == "no person, registered by dagster:retrain"
    office.decide(1, author=OPS)
    assert not any("no person" in reason for reason in office.approvals.requests()[0].reasons)


def test_an_approval_of_the_policy_says_whose_work_it_is(office: Office) -> None:
    """Without a request nobody can see who made the champion."""
    office.decide(0, "approved", author=OPS)
    approved = next(event for event in office.events() if event.event_type == "model_approved")
    assert approved.details["author"] == OPS


@pytest.mark.parametrize(("user", "person"), [("ana@company.com", "ana@company.com"), ("dagster:retrain", None)])
def test_events_of_an_older_version(small_office: Office, user: str, person: str | None) -> None:
    """After the upgrade a person may approve their own model, or a job is taken for a person."""
    with transaction(small_office.engine) as session:
        append_event(
            session, event_type="model_registered", model_name=NAME, version="1.0.0", user=user, details={}, now=NOW
        )
    with read_transaction(small_office.engine) as session:
        assert author_of(session, NAME, "1.0.0") == Author(person, user)
        assert author_of(session, NAME, "2.0.0").person is None


def test_who_is_left() -> None:
    """The author in another spelling counts as somebody else."""
    assert eligible((ML, QA), " ML-Lead@company.com") == [QA]
    assert too_few_note((ML, QA), 1, Author(ML, ML), ()) is None
    assert too_few_note((ML, QA), 2, Author(OPS, OPS), ()) is None
    assert too_few_note((ML, QA), 2, Author(None, "dagster:retrain"), ()) is None
    note = too_few_note((ML, QA), 2, Author(ML, ML), (ML, OPS.upper(), QA.upper(), "eve@company.com"))
    assert note is not None
    assert "2 approvals are needed, qa-lead@company.com may give one, and ml-lead@company.com is the author" in note
    assert "add one of OPS@COMPANY.COM, eve@company.com to required_approvers_high_risk" in note
    alone = too_few_note((ML,), 1, Author(ML, ML), ())
    assert alone is not None
    assert "nobody may give one" in alone
    assert "add another person to" in alone


def test_a_request_that_nobody_could_approve_says_so(office: Office) -> None:
    """With the author as one of two required approvers the version waited for a week, expired, and waited again."""
    told = office.decide(author=ML)
    (request,) = office.approvals.requests()
    for reasons in (told.reasons, request.reasons):
        assert any(reason.startswith("cannot be approved as it is asked: 2 approvals are needed") for reason in reasons)
    assert "add another person to required_approvers_high_risk" in in_words(request)
    vote(office.approvals, QA)
    with pytest.raises(ApprovalRefusedError, match="is the version's author"):
        vote(office.approvals, ML)


def test_the_remedy_works_at_once(office: Office) -> None:
    """The profile names a third approver, and the request that asks two goes on blocking for a week."""
    office.decide(author=ML)
    more = office.approvals._policy.model_copy(update={"required_approvers_high_risk": (ML, QA, OPS)})
    office.approvals = Approvals(
        office.engine, office.registry, more, office.clock, office.approvals.evidence, others=lambda: (OPS,)
    )
    office.decide(author=ML)
    newest, older = office.approvals.requests()
    assert (newest.status, newest.required_approvers, older.status) == ("open", (ML, QA, OPS), "superseded")
    assert not any("cannot be approved" in reason for reason in newest.reasons)
    office.decide(author=ML)
    assert len(office.approvals.requests()) == 2
    vote(office.approvals, QA)
    assert vote(office.approvals, OPS) == "approved"


def vote(approvals: Approvals, approver: str) -> str:
    return approvals.vote(NAME, "1.0.0", approver=approver, decision="approve", comment="c", channel="cli").status
