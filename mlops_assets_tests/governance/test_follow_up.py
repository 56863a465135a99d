"""The sensor's plan and what comes of it: nothing twice, nothing forgotten, one failure keeps nothing back."""

from dataclasses import replace
from datetime import timedelta

from mlops_assets.foundation.errors import TransientError
from mlops_assets.governance.approval_requests import ApprovalRequest
from mlops_assets.governance.follow_up import follow_up, plan
from mlops_assets_tests.governance.conftest import ML, QA, Office
from mlops_assets_tests.mlflow_runs import NOW, SPEC, dying_at_commit

REQUEST = ApprovalRequest(
    id=1,
    model_name=SPEC.registered_model,
    semver="1.0.0",
    risk="high",
    reasons=("new architecture",),
    author="ana",
    required_approvers=(ML, QA),
    min_approvals=2,
    report_hash="r",
    evidence_hash="e",
    status="open",
    requested_at=NOW,
    expires_at=NOW + timedelta(hours=1),
    applied=False,
    notified_by=(),
    votes=(),
)


def words(requests: list[ApprovalRequest], hours: float = 0, ways: tuple[str, ...] = ("e-mail", "Slack")) -> list[str]:
    return [str(action) for action in plan(requests, NOW + timedelta(hours=hours), ways=ways)]


def test_plan() -> None:
    """A request is forgotten, or its approvers get a mail every minute."""
    told = replace(REQUEST, id=2, semver="2.0.0", notified_by=("e-mail",))
    approved = replace(REQUEST, id=3, semver="3.0.0", status="approved")
    name = SPEC.registered_model
    assert words([approved, told, REQUEST]) == [
        # Before all messages: one that cannot be sent must keep no version from its place.
        f"apply {name} 3.0.0",
        f"notify by e-mail {name} 1.0.0",
        f"notify by Slack {name} 1.0.0",
        f"notify by Slack {name} 2.0.0",
    ]
    assert words([REQUEST], ways=()) == []
    assert words([REQUEST], hours=1) == [f"expire {name} 1.0.0"]
    assert words([approved], hours=99) == [f"apply {name} 3.0.0"]
    assert words([replace(approved, applied=True), replace(REQUEST, status="rejected")]) == []


def test_expires_applies_and_tells(office: Office) -> None:
    """What nobody answers stays open for ever; what a crash interrupted waits for ever."""
    office.decide(0)
    office.clock.instant += timedelta(hours=167)
    office.decide(1)
    told: list[str] = []

    def tell(request: ApprovalRequest) -> None:
        told.append(request.semver)

    def fail(_: ApprovalRequest) -> None:
        raise TransientError("no server")

    done = follow_up(office.approvals, office.clock.now(), ways={"bad": fail, "good": tell})
    assert [one.problem for one in done] == ["no server", None] * 2
    assert told == ["1.0.0", "1.1.0"]
    follow_up(office.approvals, office.clock.now(), ways={"bad": tell, "good": tell})
    assert told == ["1.0.0", "1.1.0"] * 2
    name = SPEC.registered_model
    office.approvals.vote(name, "1.1.0", approver=ML, decision="approve", comment="c", channel="cli")
    try:
        with dying_at_commit(office.engine, survived=2):
            office.approvals.vote(name, "1.1.0", approver=QA, decision="approve", comment="c", channel="cli")
    except KeyboardInterrupt:
        pass
    office.clock.instant += timedelta(hours=1)
    done = follow_up(office.approvals, office.clock.now(), ways={})
    assert [(str(one.action), one.problem) for one in done] == [
        (f"expire {name} 1.0.0", None),
        (f"apply {name} 1.1.0", None),
    ]
    assert [request.status for request in office.approvals.requests()] == ["approved", "expired"]
    assert follow_up(office.approvals, office.clock.now(), ways={}) == []


def test_an_approval_that_evidence_voided_is_not_applied(office: Office) -> None:
    """Between the last vote and the registry the report is replaced, and the version goes to users."""
    office.decide(0)
    name = SPEC.registered_model
    office.approvals.vote(name, "1.0.0", approver=ML, decision="approve", comment="c", channel="cli")
    try:
        with dying_at_commit(office.engine, survived=2):
            office.approvals.vote(name, "1.0.0", approver=QA, decision="approve", comment="c", channel="cli")
    except KeyboardInterrupt:
        pass
    office.write_report(0, gap=4.5)
    (done,) = follow_up(office.approvals, office.clock.now(), ways={})
    assert done.problem is not None
    assert "the request is superseded" in done.problem
    assert office.registry.champion(name) is None
    assert follow_up(office.approvals, office.clock.now(), ways={}) == []
    assert [event.event_type for event in office.events()][-2:] == ["approval_superseded", "approval_refused"]
