"""Which measurements are told, with the numbers of each source."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.foundation.policies import Levels
from mlops_assets.foundation.profiles import load_profile, profile_names
from mlops_assets.monitoring.rules import Measurements, Subject, alerts_of, judged, recoveries_of
from mlops_assets.monitoring.severity import Severity

SUBJECT = Subject("performance", "execution", "execution-agent-dqn", "1.2.0")
DUETMIND = load_profile("duetmind").alert_thresholds


@pytest.mark.parametrize(
    ("measure", "value", "severity"),
    [
        ("accuracy_drop", 0.0199, None),
        ("accuracy_drop", 0.02, "WARNING"),
        ("accuracy_drop", 0.92 - 0.87, "WARNING"),  # .05 and a little
        ("accuracy_drop", 0.051, "CRITICAL"),
        ("accuracy_drop", -0.3, None),
        ("error_rate", 0.0099, None),
        ("error_rate", 0.01, "WARNING"),
        ("error_rate", 0.02, "WARNING"),
        ("error_rate", 0.0201, "CRITICAL"),
        ("latency_p95_ms", 199.9, None),
        ("latency_p95_ms", 200.0, "WARNING"),
        ("latency_p95_ms", 500.0, "WARNING"),
        ("latency_p95_ms", 500.1, "CRITICAL"),
        ("latency_p95_ms", math.inf, "CRITICAL"),
        ("feature_drift", 0.1, "WARNING"),
        ("feature_drift", 9.0, "WARNING"),
        ("concept_drift", 0.11, "CRITICAL"),
        ("confidence_drop", 0.03, "INFO"),
    ],
)
def test_levels_of_the_second_source(measure: str, value: float, severity: str | None) -> None:
    """MON-3 and MON-4: -2 to -5 % warns, more is critical; 1 to 2 %, 200 to 500 ms; features warn, concept is critical."""
    measured = Measurements(**{measure: value})
    found = alerts_of(measured, DUETMIND, SUBJECT)
    assert [one.severity for one in found] == ([] if severity is None else [severity])
    recovered = recoveries_of(measured, DUETMIND, SUBJECT)
    assert recovered == ([f"execution-agent-dqn:{measure}"] if severity is None else [])


def test_unknown_is_neither_bad_nor_good() -> None:
    """Too little data ends an alert that goes on, and nobody looks any more."""
    for unknown in (Measurements(), Measurements(error_rate=math.nan, accuracy_drop=None)):
        for name in profile_names():
            thresholds = load_profile(name).alert_thresholds
            assert alerts_of(unknown, thresholds, SUBJECT) == []
            assert recoveries_of(unknown, thresholds, SUBJECT) == []


def test_what_a_finding_says() -> None:
    """Without the limit nobody knows how bad it is; with the version in the key, each version starts anew."""
    (found,) = alerts_of(Measurements(latency_p95_ms=612.34), DUETMIND, SUBJECT)
    assert (found.key, found.title) == ("execution-agent-dqn:latency_p95_ms", "Latency p95 612.3 ms")
    assert found.body == (
        "latency (95th percentile) is 612.3 ms, above 500 ms (CRITICAL), of execution-agent-dqn 1.2.0"
    )
    assert (found.source, found.agent, found.model_name) == ("performance", "execution", "execution-agent-dqn")
    assert found.details == {
        "measure": "latency_p95_ms", "value": 612.34, "limit": 500.0, "model_version": "1.2.0",
    }  # fmt: skip
    (found,) = alerts_of(Measurements(error_rate=0.015), DUETMIND, SUBJECT)
    assert found.body.startswith("error rate is 0.015, at or above 0.01 (WARNING)")


@pytest.mark.parametrize(
    ("profile", "measured", "severities"),
    [
        ("aiwebtest", Measurements(accuracy_drop=0.03), ["INFO"]),
        ("aiwebtest", Measurements(accuracy_drop=0.07), ["WARNING"]),
        ("aiwebtest", Measurements(accuracy_drop=0.11), ["CRITICAL"]),
        ("aiwebtest", Measurements(feature_drift=0.25), ["WARNING"]),
        ("aiwebtest", Measurements(feature_drift=0.31), ["CRITICAL"]),
        ("aiwebtest", Measurements(latency_p95_ms=120.0, latency_p99_ms=210.0), ["WARNING", "WARNING"]),
        ("agent27", Measurements(feature_drift=0.11), ["CRITICAL"]),
        ("agent27", Measurements(latency_p99_ms=400.0), ["WARNING"]),
        ("diagnosis", Measurements(feature_drift=0.2), ["INFO"]),
        ("diagnosis", Measurements(feature_drift=0.4), ["WARNING"]),
        ("diagnosis", Measurements(feature_drift=0.6), ["CRITICAL"]),
    ],
)
def test_levels_of_the_other_sources(profile: str, measured: Measurements, severities: list[str]) -> None:
    """C-23: the sources differ, and a profile that has the numbers of another one is no profile."""
    found = alerts_of(measured, load_profile(profile).alert_thresholds, SUBJECT)
    assert [one.severity for one in found] == severities


@given(
    st.lists(st.none() | st.floats(0, 10), min_size=3, max_size=3).filter(
        lambda limits: [x for x in limits if x is not None] == sorted(x for x in limits if x is not None)
    ),
    st.floats(-1, 12),
    st.floats(-1, 12),
)
def test_more_is_never_better(limits: list[float | None], one: float, other: float) -> None:
    """A worse measurement recovers an alert."""
    levels = Levels(info=limits[0], warning=limits[1], critical=limits[2])

    def rank(value: float) -> int:
        found = judged(value, levels)
        return -1 if found is None else found.rank

    assert rank(min(one, other)) <= rank(max(one, other))
    assert judged(1e9, Levels(info=None, warning=None, critical=None)) is None
    assert Severity(judged(1e9, Levels(info=0.0, warning=None, critical=None)) or "") is Severity.INFO
