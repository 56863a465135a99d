"""The approval policy: evidence in, decision out, nothing stored. Recording and applying it is in `decisions.py`.

Order of judgement, first match wins:

1. an absolute check (accuracy, latency, security scan, model files and training data as evaluated) fails and is not
   waived: rejected, however small the risk;
2. high risk (new architecture, or accuracy more than the limit below the champion's): requires review by people,
   although the improvement check fails too, since a drop may be wanted;
3. anything unknown (too little data for a check, a bias check that could not be made): requires review, never approval;
4. a slice gap beyond its limit: requires review;
5. worth less than what was earned on the logged episodes, or not better than the champion beyond chance, or by less
   than the minimum, and that is not waived: rejected;
6. a waiver was needed to get here: requires review, since a waiver lets people approve and never approves by itself;
7. low risk: approved when the policy approves low risk by itself, else requires review.

A first version has no champion, so only the absolute checks, the bias check and the value on the logs apply to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from mlops_assets.evaluation.gates import Gate, gate
from mlops_assets.evaluation.report import ValidationReport
from mlops_assets.foundation.policies import EvaluationPolicy, GovernancePolicy
from mlops_assets.governance.evidence import ApprovalEvidence, Finding

ApprovalStatus = Literal["pending", "approved", "rejected", "requires_review"]
Risk = Literal["low", "high"]

_ABSOLUTE = ("absolute", "security")
OFF_POLICY_GAIN = "governance_off_policy_gain"


class Evidence(BaseModel):
    """What a decision rests on.

    `improvement_percent` is relative to the champion's accuracy; None where it is undefined (champion at 0) or unknown.
    `accuracy_drop` is absolute, as a share. `gates` are those of the validation report. `avg_reward_low` is the
    lower bound of what an episode earns under the version, by `avg_reward_method`, and `logged_return` what the episodes
    earned on which that was estimated: under the champion where it made them. `model` and `snapshot` say whether
    the model's files and the training data are still those that were evaluated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    accuracy: float | None
    latency_p95_ms: float | None
    architecture_change: bool
    champion_version: str | None
    champion_accuracy: float | None
    improvement_percent: float | None
    accuracy_drop: float | None
    gates: tuple[Gate, ...]
    avg_reward_low: float | None
    logged_return: float | None
    avg_reward_method: str
    model: Finding
    snapshot: Finding

    @classmethod
    def from_report(
        cls, report: ValidationReport, found: ApprovalEvidence, *, architecture_change: bool = False
    ) -> "Evidence":
        """Take the evidence from a validation report.

        Args:
            report: of the version to decide on.
            found: what was found when the model's files and its training data were read again.
            architecture_change: declared by the run's tag `architecture_change`, beside what the report found itself.
        """
        comparison, reward = report.comparison, report.intervals.get("avg_reward")
        return cls(
            accuracy=report.metrics.get("accuracy"),
            latency_p95_ms=report.metrics.get("latency_p95_ms"),
            architecture_change=architecture_change or (comparison is not None and comparison.architecture_change),
            champion_version=comparison.champion_version if comparison else None,
            champion_accuracy=comparison.champion_accuracy if comparison else None,
            improvement_percent=comparison.improvement_percent if comparison else None,
            accuracy_drop=comparison.accuracy_drop if comparison else None,
            gates=report.gates,
            avg_reward_low=reward.low if reward is not None else None,
            logged_return=report.off_policy.logged_return.estimate if report.off_policy is not None else None,
            avg_reward_method=report.avg_reward_method,
            model=found.model,
            snapshot=found.snapshot,
        )


@dataclass(frozen=True)
class Decision:
    """Verdict of the policy: status, risk, the reasons in words, and every check that was made."""

    status: ApprovalStatus
    risk: Risk
    reasons: tuple[str, ...]
    checks: tuple[Gate, ...]


def evaluate_for_approval(
    evidence: Evidence, policy: GovernancePolicy, waivers: Mapping[str, str] | None = None
) -> Decision:
    """Judge a version by the policy; see the order in this module's docstring. All limits are inclusive.

    Args:
        evidence: what the decision rests on.
        policy: the limits.
        waivers: by the name of a check that may fail, who decided so, why and until when, in words.
    """
    risk, risk_reasons = assess_risk(evidence, policy)
    checks = _checks(evidence, policy)
    excuses = waivers or {}
    waived = {
        check.name: check
        for check in checks
        if check.verdict == "fail" and check.name in excuses and check.layer != "security"
    }
    standing = [check for check in checks if check.name not in waived]

    absolute = _reasons([check for check in standing if check.layer in _ABSOLUTE], "fail")
    excused = [f"{check.reason}, waived by {excuses[name]}" for name, check in waived.items()]
    first = [] if evidence.champion_version else ["first version: there is no champion, so absolute checks only"]
    by_people = [] if policy.auto_approve_low_risk else ["low risk, but the policy leaves every approval to people"]
    ladder: tuple[tuple[ApprovalStatus, list[str]], ...] = (
        ("rejected", [*absolute, *risk_reasons] if absolute else []),
        ("requires_review", [*risk_reasons, *excused, _approvers(policy)] if risk_reasons else []),
        ("requires_review", _with(_reasons(checks, "insufficient_data"), excused)),
        ("requires_review", _with(_reasons([one for one in standing if one.layer == "slices"], "fail"), excused)),
        ("rejected", _reasons(standing, "fail")),
        ("requires_review", excused),
        ("requires_review", by_people),
        ("approved", [*first, "low risk, and every check holds"]),
    )
    status, reasons = next((status, reasons) for status, reasons in ladder if reasons)
    # Two checks of one figure may lack the same data: one sentence says it.
    return Decision(status, risk, tuple(dict.fromkeys(reasons)), checks)


def _with(reasons: list[str], more: list[str]) -> list[str]:
    return [*reasons, *more] if reasons else []


def _approvers(policy: GovernancePolicy) -> str:
    people = policy.required_approvers_high_risk
    if policy.min_approvals == len(people):
        return f"needs the approval of {' and '.join(people)}"
    return f"needs the approval of {policy.min_approvals} of {', '.join(people)}"


def waivable(name: str, policy: EvaluationPolicy) -> bool:
    """Tell whether a check may be waived: every limit may, a finding of the security scan never."""
    known = {"governance_accuracy", "governance_latency_p95_ms", "governance_improvement_percent", OFF_POLICY_GAIN}
    known |= {"accuracy", "latency_p95_ms", "max_slice_gap_points", "accuracy_gain_over_champion_low"}
    optional = {"f1": policy.min_f1, "roc_auc": policy.min_roc_auc, "model_size_mb": policy.max_model_size_mb}
    return name in known | {one for one, limit in optional.items() if limit is not None}


def assess_risk(evidence: Evidence, policy: GovernancePolicy) -> tuple[Risk, list[str]]:
    """High for a new architecture or a large drop below the champion, else low; with the reasons for high."""
    reasons = []
    if evidence.architecture_change and policy.high_risk_new_architecture:
        reasons.append("high risk: the network has another architecture than the champion's")
    if evidence.accuracy_drop is not None and evidence.accuracy_drop > policy.high_risk_accuracy_drop:
        reasons.append(
            f"high risk: accuracy is {100 * evidence.accuracy_drop:.1f} points below the champion's, more than "
            f"{100 * policy.high_risk_accuracy_drop:.1f}"
        )
    return ("high", reasons) if reasons else ("low", [])


def _checks(evidence: Evidence, policy: GovernancePolicy) -> tuple[Gate, ...]:
    """The policy's own limits, and the report's gates that it builds on."""
    validated = {found.name: found for found in evidence.gates}
    too_few = validated.get("accuracy")
    lacking = too_few.reason if too_few is not None and too_few.verdict == "insufficient_data" else ""
    checks = [
        gate("governance_accuracy", "absolute", evidence.accuracy, ">=", policy.min_accuracy, lacking=lacking),
        gate("governance_latency_p95_ms", "absolute", evidence.latency_p95_ms, "<=", policy.max_latency_ms),
        _unchanged("model_as_evaluated", evidence.model),
        *evidence.gates,
    ]
    if evidence.snapshot.verdict != "not checked":
        # Gone by retention, or on another machine, is no reason to ask people: the recorded hashes still count.
        checks.append(_unchanged("data_as_recorded", evidence.snapshot))
    if policy.min_off_policy_gain is not None:
        checks.append(_off_policy_gain(evidence, policy.min_off_policy_gain))
    if evidence.champion_version is not None:
        checks.append(_improvement(evidence, policy))
    return tuple(checks)


def _off_policy_gain(evidence: Evidence, minimum: float) -> Gate:
    """Judge the lower bound: logs too few for an estimate, and no environment to measure in, leave it unknown."""
    gain, lacking = None, f"{OFF_POLICY_GAIN}: {evidence.avg_reward_method}"
    if evidence.avg_reward_low is not None and evidence.logged_return is not None:
        gain, lacking = evidence.avg_reward_low - evidence.logged_return, ""
    elif evidence.logged_return is None:
        lacking = f"{OFF_POLICY_GAIN}: no logged episode is complete, so there is nothing to compare with"
    return gate(OFF_POLICY_GAIN, "off_policy", gain, ">=", minimum, lacking=lacking)


def _unchanged(name: str, finding: Finding) -> Gate:
    value = {"same": 0.0, "differs": 1.0, "not checked": None}[finding.verdict]
    judged = gate(name, "security", value, "<=", 0.0, lacking=finding.words if value is None else "")
    return judged.model_copy(update={"reason": f"{name}: {finding}"})


def _improvement(evidence: Evidence, policy: GovernancePolicy) -> Gate:
    name, minimum = "governance_improvement_percent", policy.min_improvement_percent
    if evidence.champion_accuracy == 0 and evidence.accuracy is not None:
        # Relative to nothing there is no percentage; any right decision at all is an improvement.
        return gate(f"{name}_over_zero", "champion", evidence.accuracy, ">", 0.0)
    return gate(name, "champion", evidence.improvement_percent, ">=", minimum)


def _reasons(checks: tuple[Gate, ...] | list[Gate], verdict: str) -> list[str]:
    return [check.reason for check in checks if check.verdict == verdict]
