"""Bands: strict limits, and what they ask for."""

import math

import pytest

from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.drift_bands import (
    Verdict,
    accuracy_drop_limits,
    combined_limits,
    cramers_v_limits,
    ks_limits,
    psi_limits,
    recommendation,
    wasserstein_limits,
    worst,
)

_POLICY = load_profile("aiwebtest").drift


@pytest.mark.parametrize(
    ("psi", "band"),
    [
        (0.0, "ok"),
        (0.1, "ok"),
        (math.nextafter(0.1, 1), "monitor"),
        (0.2, "monitor"),
        (math.nextafter(0.2, 1), "warning"),
        (0.3, "warning"),
        (math.nextafter(0.3, 1), "critical"),
        (math.inf, "critical"),
        (math.nan, "insufficient_data"),
    ],
)
def test_limits_are_strict(psi: float, band: Verdict) -> None:
    """The sources leave exactly 0.3 undefined; it is a warning, and an unknown value is not 0."""
    assert psi_limits(_POLICY).band(psi) == band


def test_every_metric_has_its_own_limits() -> None:
    """One metric judged by another's limits alarms always or never."""
    values = {
        psi_limits: 0.25,
        ks_limits: 0.2,
        wasserstein_limits: 0.5,
        cramers_v_limits: 0.25,
        combined_limits: 0.42,
        accuracy_drop_limits: 0.07,
    }
    assert {limits(_POLICY).band(value) for limits, value in values.items()} == {"warning"}
    assert len({limits(_POLICY) for limits in values}) == len(values)


def test_unknown_does_not_hide_what_is_known() -> None:
    """A column with too few rows must not turn another's critical drift into unknown."""
    assert worst("insufficient_data", "ok") == "ok"
    assert worst("ok", "critical", "insufficient_data") == "critical"
    assert worst() == "insufficient_data"


def test_the_text_is_that_of_the_band() -> None:
    """The source's own example calls 0.42 urgent although its band only recommends."""
    assert recommendation(combined_limits(_POLICY).band(0.42), _POLICY) == "Schedule a retraining within 48 hours."
    assert recommendation(combined_limits(_POLICY).band(0.52), _POLICY) == "Retrain now."
    assert "too few" in recommendation("insufficient_data", _POLICY)
