"""The retraining section of the profiles: each source's own numbers, and what cannot be meant."""

from typing import Any

import pytest
from pydantic import ValidationError

from mlops_assets.foundation.policies import OffPeak, RetrainingPolicy, TriggerLimits
from mlops_assets.foundation.profiles import load_profile, profile_names

POLICY = load_profile("aiwebtest").retraining


@pytest.mark.parametrize("name", profile_names())
def test_the_throttles_of_every_profile(name: str) -> None:
    """One profile trains every hour."""
    policy = load_profile(name).retraining
    assert (policy.min_hours_between, policy.max_per_day, policy.min_new_samples) == (6.0, 4, 1000)
    assert (policy.max_days_without, policy.retrain_when, policy.require_confirmation) == (7.0, "thresholds", False)


def test_each_source_has_its_own_limits() -> None:
    """PSI, Kolmogorov-Smirnov and the combined score are mixed up as one drift threshold."""
    found = {
        name: (limits.psi_warning, limits.psi_critical, limits.accuracy_critical_rel, limits.combined, limits.ks)
        for name in profile_names()
        for limits in [load_profile(name).retraining.limits]
    }
    assert found == {
        "aiwebtest": (0.2, 0.3, 0.1, None, None),
        "duetmind": (0.2, 0.3, 0.05, 0.1, None),
        "agent27": (0.1, 0.25, 0.1, None, 0.1),
        "diagnosis": (0.2, 0.3, 0.1, 0.5, None),
    }


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (OffPeak, {"timezone": "Berlin"}, "there is no timezone 'Berlin'"),
        (OffPeak, {"hours": (2, 2)}, "are no window"),
        (OffPeak, {"hours": (2, 25)}, "are no window"),
        (TriggerLimits, {"psi_warning": 0.31}, "have to grow in this order"),
        (TriggerLimits, {"accuracy_stable_rel": 0.06}, "have to grow in this order"),
        (RetrainingPolicy, {"signal_expiry_hours": 48.0}, "before their deadline of 48 h"),
        (RetrainingPolicy, {"retrain_when": "always"}, "'thresholds' or 'hurts'"),
    ],
)
def test_what_cannot_be_meant(section: type[Any], changes: dict[str, Any], message: str) -> None:
    """A typing error in a profile, and nothing is ever trained, or always."""
    good: Any = {OffPeak: POLICY.off_peak, TriggerLimits: POLICY.limits, RetrainingPolicy: POLICY}[section]
    values = {**{name: getattr(good, name) for name in type(good).model_fields}, **changes}
    with pytest.raises(ValidationError, match=message):
        section.model_validate(values)
