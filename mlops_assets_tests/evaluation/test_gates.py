"""Gates: thresholds, layers, and what too little data means."""

import pytest

from mlops_assets.evaluation.gates import Gate, Measured, Verdict, gate, judge, overall
from mlops_assets.foundation.profiles import load_profile

AIWEBTEST, AGENT27 = (load_profile(name).evaluation for name in ("aiwebtest", "agent27"))


def measured(**changes: object) -> Measured:
    """A first model that passes every gate of every profile."""
    values: dict[str, object] = {
        "labelled": 5000,
        "accuracy": 0.95,
        "f1": 0.94,
        "roc_auc": 0.99,
        "latency_p95_ms": 1.0,
        "model_size_mb": 0.5,
        "security_findings": 0,
        "max_slice_gap_points": 1.0,
        "has_champion": False,
        "champion_difference_low": None,
    }
    return Measured.model_validate({**values, **changes})


def verdicts(gates: tuple[Gate, ...]) -> dict[str, Verdict]:
    return {found.name: found.verdict for found in gates}


def test_a_first_model_meets_absolute_gates_only() -> None:
    """Without a champion there is nothing to be better than; asking for it would block the first model for ever."""
    gates = judge(measured(), AIWEBTEST)
    assert set(verdicts(gates)) == {"accuracy", "latency_p95_ms", "security_findings", "max_slice_gap_points"}
    assert overall(gates) == "pass"


def test_profiles_bring_their_own_gates() -> None:
    """F1, ROC AUC and size are gates where the profile names them, and nowhere else."""
    assert {"f1", "roc_auc", "model_size_mb"} <= set(verdicts(judge(measured(), AGENT27)))
    assert verdicts(judge(measured(f1=0.79), AGENT27))["f1"] == "fail"
    assert verdicts(judge(measured(roc_auc=None), AGENT27))["roc_auc"] == "insufficient_data"


@pytest.mark.parametrize(
    ("name", "changes", "verdict"),
    [
        ("accuracy", {"accuracy": 0.85}, "pass"),
        ("accuracy", {"accuracy": 0.8499}, "fail"),
        ("accuracy", {"accuracy": None}, "insufficient_data"),
        ("latency_p95_ms", {"latency_p95_ms": 100.0}, "pass"),
        ("latency_p95_ms", {"latency_p95_ms": 100.1}, "fail"),
        ("latency_p95_ms", {"latency_p95_ms": None}, "insufficient_data"),
        ("security_findings", {"security_findings": 1}, "fail"),
        ("security_findings", {"security_findings": None}, "insufficient_data"),
        ("max_slice_gap_points", {"max_slice_gap_points": 5.0}, "pass"),
        ("max_slice_gap_points", {"max_slice_gap_points": 5.1}, "fail"),
        ("max_slice_gap_points", {"max_slice_gap_points": None}, "insufficient_data"),
    ],
)
def test_limits_are_inclusive_and_unknown_is_not_zero(name: str, changes: dict[str, object], verdict: str) -> None:
    """A gate that takes "not measured" for 0 ms, or excludes its own limit, decides the wrong way."""
    assert verdicts(judge(measured(**changes), AIWEBTEST))[name] == verdict


def test_few_labels_are_insufficient_however_good_they_look() -> None:
    """Ten right decisions of ten are not an accuracy of 100 %."""
    gates = judge(measured(labelled=999, accuracy=1.0), AIWEBTEST)
    assert verdicts(gates)["accuracy"] == "insufficient_data"
    assert overall(gates) == "insufficient_data"
    (found,) = [g for g in gates if g.name == "accuracy"]
    assert found.value == 1.0
    assert found.reason == "999 labelled held-out decisions, 1000 needed"
    assert found.passed is None


@pytest.mark.parametrize(
    ("low", "verdict"), [(0.001, "pass"), (0.0, "fail"), (-0.02, "fail"), (None, "insufficient_data")]
)
def test_better_than_the_champion_means_beyond_chance(low: float | None, verdict: str) -> None:
    """Being greater by any amount promotes every second coin flip; the interval's lower bound has to be above 0."""
    gates = judge(measured(has_champion=True, champion_difference_low=low), AIWEBTEST)
    assert verdicts(gates)["accuracy_gain_over_champion_low"] == verdict


def test_one_failure_fails_everything() -> None:
    """A failed gate weighs more than a missing one, and both more than all passes."""
    assert overall(judge(measured(accuracy=0.5, max_slice_gap_points=None), AIWEBTEST)) == "fail"
    assert overall(()) == "insufficient_data"


def test_reasons_name_value_and_threshold() -> None:
    """A rejection without the number sends people to the code."""
    failed = gate("accuracy", "absolute", 0.81234567, ">=", 0.85)
    assert failed.reason == "accuracy 0.812346 misses >= 0.85"
    assert failed.passed is False
    assert gate("accuracy", "absolute", 0.9, ">=", 0.85).reason == "accuracy 0.9 meets >= 0.85"
