"""The approval policy: every rule of it, and which of two wins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.evaluation.gates import Gate, Layer, Verdict
from mlops_assets.evaluation.intervals import Interval
from mlops_assets.evaluation.off_policy import OffPolicyEstimate, OffPolicyReport
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.governance.evidence import ApprovalEvidence, Finding
from mlops_assets.governance.policy import OFF_POLICY_GAIN, Decision, Evidence, evaluate_for_approval, waivable
from mlops_assets_tests.registry.test_model_card import a_report

POLICY = load_profile("aiwebtest").governance


def a_gate(name: str, layer: Layer, verdict: Verdict) -> Gate:
    return Gate(
        name=name, layer=layer, value=1.0, comparison=">=", threshold=0.0, verdict=verdict, reason=f"{name} {verdict}"
    )


def evidence(**changes: object) -> Evidence:
    """A candidate that is 4 % better than a champion at 0.90."""
    passing = (
        a_gate("accuracy", "absolute", "pass"),
        a_gate("security_findings", "security", "pass"),
        a_gate("max_slice_gap_points", "slices", "pass"),
        a_gate("accuracy_gain_over_champion_low", "champion", "pass"),
    )
    values: dict[str, object] = {
        "accuracy": 0.936,
        "latency_p95_ms": 45.0,
        "architecture_change": False,
        "champion_version": "1.0.0",
        "champion_accuracy": 0.90,
        "improvement_percent": 4.0,
        "accuracy_drop": 0.0,
        "gates": passing,
        "avg_reward_low": 69.1,
        "logged_return": 51.3,
        "avg_reward_method": "off-policy, doubly robust",
        "model": Finding("same"),
        "snapshot": Finding("same"),
    }
    return Evidence.model_validate({**values, **changes})


def first(**changes: object) -> Evidence:
    """A first version."""
    nobody = {"champion_version": None, "champion_accuracy": None, "improvement_percent": None, "accuracy_drop": None}
    return evidence(**{**nobody, "gates": evidence().gates[:3], **changes})


def with_gate(name: str, verdict: Verdict) -> tuple[Gate, ...]:
    return tuple(
        g.model_copy(update={"verdict": verdict, "reason": f"{name} {verdict}"}) if g.name == name else g
        for g in evidence().gates
    )


def judge(found: Evidence) -> Decision:
    return evaluate_for_approval(found, POLICY)


def test_a_better_candidate_is_approved() -> None:
    """Automation that approves nothing is no automation."""
    decision = judge(evidence())
    assert (decision.status, decision.risk) == ("approved", "low")
    assert decision.reasons == ("low risk, and every check holds",)
    assert {check.name for check in decision.checks} >= {"governance_accuracy", "governance_improvement_percent"}


def test_a_first_version_is_judged_absolutely() -> None:
    """Without a champion there used to be an IndexError, or a division by zero."""
    decision = judge(first())
    assert decision.status == "approved"
    assert "first version" in decision.reasons[0]
    assert not any(check.layer == "champion" for check in decision.checks)
    assert judge(first(accuracy=0.89)).status == "rejected"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"accuracy": 0.90, "improvement_percent": 2.0}, "approved"),
        ({"accuracy": 0.8999, "improvement_percent": 2.0}, "rejected"),
        ({"latency_p95_ms": 100.0}, "approved"),
        ({"latency_p95_ms": 100.01}, "rejected"),
        ({"improvement_percent": 1.99}, "rejected"),
        ({"accuracy_drop": 0.05, "improvement_percent": -5.0}, "rejected"),
        ({"accuracy_drop": 0.0501, "improvement_percent": -5.0}, "requires_review"),
    ],
)
def test_limits_are_inclusive(changes: dict[str, object], status: str) -> None:
    """A limit that excludes its own value contradicts the policy text."""
    assert judge(evidence(**changes)).status == status


def test_a_large_drop_goes_to_people() -> None:
    """Judged by improvement first, every drop was rejected and the review rule was dead."""
    decision = judge(evidence(accuracy=0.91, champion_accuracy=0.98, accuracy_drop=0.07, improvement_percent=-7.1))
    assert (decision.status, decision.risk) == ("requires_review", "high")
    assert decision.reasons == (
        "high risk: accuracy is 7.0 points below the champion's, more than 5.0",
        "needs the approval of ml-lead@company.com and qa-lead@company.com",
    )


def test_a_new_architecture_goes_to_people_unless_the_policy_says_otherwise() -> None:
    """However good its figures, another network has unknown failure modes."""
    assert (judge(evidence(architecture_change=True)).status) == "requires_review"
    tolerant = POLICY.model_copy(update={"high_risk_new_architecture": False})
    assert evaluate_for_approval(evidence(architecture_change=True), tolerant).status == "approved"


@pytest.mark.parametrize("changes", [{"accuracy": 0.85}, {"latency_p95_ms": 250.0}])
def test_no_risk_excuses_a_failed_absolute_check(changes: dict[str, object]) -> None:
    """A review must not be asked for a model that may not be approved at all."""
    decision = judge(evidence(**changes, architecture_change=True))
    assert (decision.status, decision.risk) == ("rejected", "high")
    assert any("architecture" in reason for reason in decision.reasons)


def test_a_security_finding_rejects() -> None:
    """A file that runs code when it is loaded is nothing to vote on."""
    decision = judge(evidence(gates=with_gate("security_findings", "fail")))
    assert decision.status == "rejected"
    assert decision.reasons == ("security_findings fail",)


def test_a_slice_gap_goes_to_people() -> None:
    """An 87 % slice under a 93 % average was called no significant bias."""
    decision = judge(evidence(gates=with_gate("max_slice_gap_points", "fail")))
    assert (decision.status, decision.reasons) == ("requires_review", ("max_slice_gap_points fail",))


@pytest.mark.parametrize("name", ["accuracy", "max_slice_gap_points", "accuracy_gain_over_champion_low"])
def test_too_little_data_is_never_an_approval(name: str) -> None:
    """Unknown is not zero, and it is not good either."""
    decision = judge(evidence(gates=with_gate(name, "insufficient_data")))
    assert decision.status == "requires_review"
    assert f"{name} insufficient_data" in decision.reasons


def test_missing_figures_are_never_an_approval() -> None:
    """An accuracy that nobody measured must not compare as anything."""
    assert judge(evidence(accuracy=None)).status == "requires_review"
    assert judge(first(latency_p95_ms=None)).status == "requires_review"
    assert judge(evidence(improvement_percent=None)).status == "requires_review"


def test_better_by_chance_only_is_rejected() -> None:
    """An improvement whose interval reaches below zero is a coin that fell well."""
    assert judge(evidence(gates=with_gate("accuracy_gain_over_champion_low", "fail"))).status == "rejected"


def test_a_champion_that_is_never_right() -> None:
    """Over an accuracy of 0 there is no percentage to demand."""
    decision = judge(evidence(champion_accuracy=0.0, improvement_percent=None))
    assert decision.status == "approved"


def test_people_can_keep_every_approval() -> None:
    """With auto-approval off even a perfect candidate waits."""
    manual = POLICY.model_copy(update={"auto_approve_low_risk": False})
    decision = evaluate_for_approval(evidence(), manual)
    assert (decision.status, decision.risk) == ("requires_review", "low")


@given(
    accuracy=st.none() | st.floats(0, 1),
    latency=st.none() | st.floats(0, 1000),
    improvement=st.none() | st.floats(-100, 100),
    drop=st.none() | st.floats(0, 1),
    change=st.booleans(),
    verdicts=st.tuples(*[st.sampled_from(["pass", "fail", "insufficient_data"])] * 4),
)
def test_approval_means_that_everything_is_known_and_holds(
    accuracy: float | None,
    latency: float | None,
    improvement: float | None,
    drop: float | None,
    *,
    change: bool,
    verdicts: tuple[Verdict, ...],
) -> None:
    """Whatever combination comes, nothing slips through between two rules, and every decision has a reason."""
    gates = tuple(g.model_copy(update={"verdict": v}) for g, v in zip(evidence().gates, verdicts, strict=True))
    decision = judge(
        evidence(
            accuracy=accuracy,
            latency_p95_ms=latency,
            improvement_percent=improvement,
            accuracy_drop=drop,
            architecture_change=change,
            gates=gates,
        )
    )
    assert decision.reasons
    if decision.status == "approved":
        assert accuracy is not None
        assert accuracy >= POLICY.min_accuracy
        assert latency is not None
        assert latency <= POLICY.max_latency_ms
        assert improvement is not None
        assert improvement >= POLICY.min_improvement_percent
        assert not change
        assert set(verdicts) == {"pass"}
        assert (drop or 0.0) <= POLICY.high_risk_accuracy_drop


def waived(found: Evidence, *names: str) -> Decision:
    return evaluate_for_approval(found, POLICY, {name: f"ml-lead until 2026-04-01: {name} is fine" for name in names})


def test_a_waiver_lets_people_decide_and_approves_nothing() -> None:
    """A check that does not count any more would let a version through without anybody's look at it."""
    slow = evidence(latency_p95_ms=150.0)
    assert judge(slow).status == "rejected"
    decision = waived(slow, "governance_latency_p95_ms")
    assert decision.status == "requires_review"
    assert decision.reasons == (
        "governance_latency_p95_ms 150 misses <= 100, waived by ml-lead until 2026-04-01: governance_latency_p95_ms is fine",
    )
    worse = evidence(improvement_percent=1.0)
    assert (judge(worse).status, waived(worse, "governance_improvement_percent").status) == (
        "rejected",
        "requires_review",
    )


def test_a_waiver_excuses_its_own_check_only() -> None:
    """One waiver lifts a limit that nobody spoke about, or a finding that no one may lift."""
    slow_and_wrong = evidence(latency_p95_ms=150.0, accuracy=0.5)
    assert waived(slow_and_wrong, "governance_latency_p95_ms").status == "rejected"
    assert waived(evidence(), "governance_latency_p95_ms") == judge(evidence())
    unsafe = evidence(gates=with_gate("security_findings", "fail"))
    assert waived(unsafe, "security_findings").status == "rejected"
    unknown = evidence(latency_p95_ms=None)
    assert waived(unknown, "governance_latency_p95_ms").reasons == judge(unknown).reasons
    slow_and_few = evidence(latency_p95_ms=150.0, gates=with_gate("max_slice_gap_points", "insufficient_data"))
    decision = waived(slow_and_few, "governance_latency_p95_ms")
    assert decision.status == "requires_review"
    assert "waived by" in decision.reasons[-1]


@pytest.mark.parametrize("part", ["model", "snapshot"])
def test_what_was_swapped_since_the_evaluation_is_rejected(part: str) -> None:
    """A file put in between evaluation and decision has the figures of another model, and its approval."""
    name = {"model": "model_as_evaluated", "snapshot": "data_as_recorded"}[part]
    decision = judge(evidence(**{part: Finding("differs", "another file")}))
    assert (decision.status, decision.reasons) == ("rejected", (f"{name}: differs: another file",))
    # Nobody may waive it, and a review is not asked for.
    assert waived(evidence(**{part: Finding("differs", "x")}, architecture_change=True), name).status == "rejected"


@pytest.mark.parametrize(("part", "status"), [("model", "requires_review"), ("snapshot", "approved")])
def test_what_could_not_be_checked(part: str, status: str) -> None:
    """A report that does not say which model it is about passes as if it did; or retention stops every approval."""
    assert judge(evidence(**{part: Finding("not checked", "gone")})).status == status


@pytest.mark.parametrize(
    ("low", "logged", "status"),
    [
        (51.3, 51.3, "approved"),
        (51.2, 51.3, "rejected"),
        (None, 51.3, "requires_review"),
        (69.1, None, "requires_review"),
        (None, None, "requires_review"),
    ],
)
def test_the_value_on_the_logs(low: float | None, logged: float | None, status: str) -> None:
    """An accurate version that earns less than what ran before, or of which nobody knows it, goes to users unseen."""
    for candidate in (evidence, first):
        decision = judge(candidate(avg_reward_low=low, logged_return=logged))
        assert decision.status == status
        if status != "approved":
            assert any(OFF_POLICY_GAIN in reason for reason in decision.reasons)
    off = POLICY.model_copy(update={"min_off_policy_gain": None})
    assert evaluate_for_approval(evidence(avg_reward_low=low, logged_return=logged), off).status == "approved"


def test_the_value_on_the_logs_may_be_waived() -> None:
    """A version that is meant to earn less, for a reason that people know, could never be approved."""
    assert waived(evidence(avg_reward_low=1.0), OFF_POLICY_GAIN).status == "requires_review"
    assert waivable(OFF_POLICY_GAIN, load_profile("aiwebtest").evaluation)


def test_too_few_effective_episodes_are_insufficient_data() -> None:
    """An estimate on three episodes counts as one on three thousand."""
    report = a_report()
    estimate = OffPolicyEstimate("doubly_robust", Interval(70.0, 69.0, 71.0, 0.95), 3.0, 1, 6, sufficient=False)
    logged = Interval(50.0, 49.0, 51.0, 0.95)
    few = report.model_copy(
        update={
            "off_policy": OffPolicyReport((estimate,), logged, 100, 0),
            "avg_reward_method": "insufficient data: too few logged episodes agree with the policy",
        }
    )
    nothing = ApprovalEvidence("r", "w", "d")
    found = Evidence.from_report(few, nothing)
    assert (found.avg_reward_low, found.logged_return) == (None, 50.0)
    (check,) = [check for check in judge(found).checks if check.name == OFF_POLICY_GAIN]
    assert (check.verdict, check.reason) == (
        "insufficient_data",
        f"{OFF_POLICY_GAIN}: insufficient data: too few logged episodes agree with the policy",
    )
    measured = few.model_copy(update={"intervals": {**few.intervals, "avg_reward": Interval(70.0, 69.0, 71.0, 0.95)}})
    (check,) = [c for c in judge(Evidence.from_report(measured, nothing)).checks if c.name == OFF_POLICY_GAIN]
    assert (check.verdict, check.value) == ("pass", 19.0)
