"""The state machine of approval requests, alone: every rule, and what holds along every path."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.governance.approval_state import Look, RequestState, RequestStatus, Vote, VoteDecision, decide
from mlops_assets_tests.mlflow_runs import NOW

STATE = RequestState(
    status="open",
    author="ana@company.com",
    required_approvers=("ana@company.com", "ml@company.com", "qa@company.com"),
    min_approvals=2,
    evidence_hash="evidence",
    expires_at=NOW + timedelta(hours=1),
)


def vote(approver: str = "ml@company.com", decision: VoteDecision = "approve", comment: str = "read it") -> Vote:
    return Vote(approver, decision, comment, "evidence")


@pytest.mark.parametrize(
    ("state", "said", "hours", "status", "reason"),
    [
        (STATE, vote("eve@company.com"), 0, "open", "wrong_role"),
        (STATE, vote("ana@company.com"), 0, "open", "own_model"),
        (STATE, vote(" Ana@Company.com"), 0, "open", "own_model"),
        (replace(STATE, approved_by=("ml@company.com",)), vote(" ML@company.com "), 0, "open", "same_approver_twice"),
        (STATE, vote(comment=" "), 0, "open", "no_comment"),
        (STATE, vote(), 1, "expired", "expired"),
        (replace(STATE, status="expired"), vote(), 0, "expired", "expired"),
        (replace(STATE, status="approved"), vote("qa@company.com"), 0, "approved", "already_decided"),
        (replace(STATE, status="rejected"), vote(), 0, "rejected", "already_decided"),
        (replace(STATE, status="superseded"), vote(), 0, "superseded", "evidence_changed"),
        (STATE, replace(vote(), evidence_hash="other"), 0, "superseded", "evidence_changed"),
        (
            replace(STATE, status="approved"),
            replace(vote(), evidence_hash="other"),
            0,
            "superseded",
            "evidence_changed",
        ),
    ],
)
def test_refusals(state: RequestState, said: Vote, hours: int, status: RequestStatus, reason: str) -> None:
    """One vote that should not count, and a version that nobody looked at reaches users."""
    step = decide(state, said, NOW + timedelta(hours=hours))
    assert (step.status, step.counted) == (status, False)
    assert step.refusal is not None
    assert step.refusal.reason == reason


def test_the_last_approval_needed_approves() -> None:
    """One of two signatures was enough in the source."""
    assert decide(STATE, vote(), NOW).status == "open"
    after = replace(STATE, approved_by=("ml@company.com",))
    assert decide(after, vote("QA@company.com"), NOW).status == "approved"


def test_one_rejection_rejects() -> None:
    """A veto that others can outvote is none."""
    after = replace(STATE, approved_by=("ml@company.com",))
    assert decide(after, vote("qa@company.com", "reject"), NOW).status == "rejected"


@pytest.mark.parametrize(
    ("status", "found", "hours", "expected"),
    [
        ("open", "evidence", 0.99, "open"),
        ("open", "evidence", 1, "expired"),
        ("open", "other", 1, "superseded"),
        ("approved", "evidence", 99, "approved"),
        ("approved", "other", 0, "superseded"),
        ("rejected", "other", 99, "rejected"),
        ("expired", "other", 99, "expired"),
    ],
)
def test_a_look(status: RequestStatus, found: str, hours: float, expected: RequestStatus) -> None:
    """Time closes what nobody answered; it does not take back what was decided."""
    step = decide(replace(STATE, status=status), Look(found), NOW + timedelta(hours=hours))
    assert (step.status, step.counted, step.refusal) == (expected, False, None)


people = st.sampled_from(["ana@company.com", "ml@company.com", "qa@company.com", "eve@company.com", "ML@company.com "])
votes = st.builds(
    Vote,
    people,
    st.sampled_from(["approve", "reject"]),
    st.sampled_from(["read it", ""]),
    st.sampled_from(["evidence"] * 4 + ["x"]),
)
steps = st.lists(
    st.tuples(st.one_of(votes, st.builds(Look, st.sampled_from(["evidence"] * 4 + ["x"]))), st.floats(0, 1.2))
)


@given(steps)
def test_along_every_path(path: list[tuple[Vote | Look, float]]) -> None:
    """Some order of tries ends approved without two distinct approvers, or leaves an end again."""
    state = STATE
    for said, hours in path:
        step = decide(state, said, NOW + timedelta(hours=hours))
        assert not (step.counted and step.refusal)
        assert state.status == "open" or step.status in {state.status, "superseded"}
        if state.status in {"rejected", "expired", "superseded"}:
            assert step.status == state.status
        if step.counted and isinstance(said, Vote) and said.decision == "approve":
            state = replace(state, approved_by=(*state.approved_by, said.approver.strip().casefold()))
        state = replace(state, status=step.status)
        assert (state.status == "approved") <= (set(state.approved_by) == {"ml@company.com", "qa@company.com"})
        assert len(set(state.approved_by)) == len(state.approved_by) <= 2
