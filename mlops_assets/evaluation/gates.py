"""Pass, fail or insufficient data, by the thresholds of the policy profile. Nothing is measured here.

Layers, from the least a model must do to the most: `absolute` (accuracy, latency, F1, ROC AUC, size), `security`,
`slices` (no UI framework or browser left behind), `off_policy` (worth what was earned on the logged episodes, beyond
chance; governance's own), `champion` (better than the model in production, beyond chance). A first model has no champion
and so no gate in that layer. Thresholds are inclusive; only "better than the champion" is strict.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from mlops_assets.foundation.policies import EvaluationPolicy

Verdict = Literal["pass", "fail", "insufficient_data"]
Layer = Literal["absolute", "security", "slices", "off_policy", "champion"]
Comparison = Literal[">=", "<=", ">"]


class Gate(BaseModel):
    """One threshold and its verdict; `value` is None where it could not be measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    layer: Layer
    value: float | None
    comparison: Comparison
    threshold: float
    verdict: Verdict
    reason: str

    @property
    def passed(self) -> bool | None:
        """True or False; None when the data do not say."""
        return None if self.verdict == "insufficient_data" else self.verdict == "pass"


class Measured(BaseModel):
    """The figures that gates judge; None is "not measured", never zero.

    `champion_difference_low` is the lower bound of the accuracy difference to the champion, on the same decisions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    labelled: int
    accuracy: float | None
    f1: float | None
    roc_auc: float | None
    latency_p95_ms: float | None
    model_size_mb: float | None
    security_findings: int | None
    max_slice_gap_points: float | None
    has_champion: bool
    champion_difference_low: float | None


def judge(measured: Measured, policy: EvaluationPolicy) -> tuple[Gate, ...]:
    """Apply every gate of the policy; a gate that the policy leaves unset does not exist."""
    return (*_absolute(measured, policy), *_guards(measured, policy), *_champion(measured, policy))


def overall(gates: tuple[Gate, ...]) -> Verdict:
    """Return fail if a gate fails, else insufficient_data if one lacks data (or there is none), else pass."""
    verdicts = {gate.verdict for gate in gates}
    if "fail" in verdicts:
        return "fail"
    return "insufficient_data" if "insufficient_data" in verdicts or not verdicts else "pass"


def gate(
    name: str, layer: Layer, value: float | None, comparison: Comparison, threshold: float, *, lacking: str = ""
) -> Gate:
    """Compare one value with one threshold; `lacking` says why the data do not suffice, and empties the verdict."""
    if value is None or lacking:
        reason = lacking or f"{name} was not measured"
        verdict: Verdict = "insufficient_data"
    else:
        holds = {">=": value >= threshold, "<=": value <= threshold, ">": value > threshold}[comparison]
        verdict = "pass" if holds else "fail"
        reason = f"{name} {value:.6g} {'meets' if holds else 'misses'} {comparison} {threshold:.6g}"
    return Gate(
        name=name, layer=layer, value=value, comparison=comparison, threshold=threshold, verdict=verdict, reason=reason
    )


def _absolute(measured: Measured, policy: EvaluationPolicy) -> list[Gate]:
    lacking = _too_few(measured, policy)
    gates = [
        gate("accuracy", "absolute", measured.accuracy, ">=", policy.min_accuracy, lacking=lacking),
        gate("latency_p95_ms", "absolute", measured.latency_p95_ms, "<=", policy.max_latency_ms),
    ]
    if policy.min_f1 is not None:
        gates.append(gate("f1", "absolute", measured.f1, ">=", policy.min_f1, lacking=lacking))
    if policy.min_roc_auc is not None:
        gates.append(gate("roc_auc", "absolute", measured.roc_auc, ">=", policy.min_roc_auc, lacking=lacking))
    if policy.max_model_size_mb is not None:
        gates.append(gate("model_size_mb", "absolute", measured.model_size_mb, "<=", policy.max_model_size_mb))
    return gates


def _guards(measured: Measured, policy: EvaluationPolicy) -> list[Gate]:
    findings = None if measured.security_findings is None else float(measured.security_findings)
    no_slices = (
        ""
        if measured.max_slice_gap_points is not None
        else (f"no UI framework or browser has two slices of {policy.min_slice_rows} labelled decisions to compare")
    )
    return [
        gate("security_findings", "security", findings, "<=", 0.0),
        gate(
            "max_slice_gap_points",
            "slices",
            measured.max_slice_gap_points,
            "<=",
            policy.max_slice_gap_points,
            lacking=no_slices,
        ),
    ]


def _champion(measured: Measured, policy: EvaluationPolicy) -> list[Gate]:
    if not measured.has_champion:
        return []
    name = "accuracy_gain_over_champion_low"
    return [
        gate(name, "champion", measured.champion_difference_low, ">", 0.0, lacking=_too_few(measured, policy)),
    ]


def _too_few(measured: Measured, policy: EvaluationPolicy) -> str:
    if measured.labelled >= policy.min_holdout_rows:
        return ""
    return f"{measured.labelled} labelled held-out decisions, {policy.min_holdout_rows} needed"
