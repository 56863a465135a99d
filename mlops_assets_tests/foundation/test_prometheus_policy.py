"""The numbers of Prometheus' rules, and what is refused."""

import pytest

from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.profiles import load_profile, parse_profile, profile_names
from mlops_assets_tests.foundation.test_profiles import _TEXT


def test_numbers_of_the_default_profile() -> None:
    """An alert that was to come after five minutes comes after five hours, and nothing else notices."""
    policy = load_profile("aiwebtest").prometheus
    assert (policy.rate_minutes, policy.min_requests, policy.traffic_for_minutes) == (5.0, 20, 5.0)
    assert (policy.state_for_minutes, policy.down_for_minutes) == (1.0, 1.0)
    assert (policy.max_check_age_hours, policy.max_waiting_minutes) == (3.0, 15.0)
    assert (policy.training_grace_hours, policy.failure_minutes) == (24.0, 60.0)


@pytest.mark.parametrize("name", profile_names())
def test_an_hourly_check_is_late_only_when_one_was_missed(name: str) -> None:
    """Between two hourly checks the older one is an hour old: a limit of an hour fires every hour."""
    assert load_profile(name).prometheus.max_check_age_hours > 2.0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate_minutes: 5.0", "rate_minutes: 0.5", r"prometheus\.rate_minutes: .*greater than or equal to 1"),
        ("min_requests: 20", "min_requests: 0", r"prometheus\.min_requests: "),
        ("max_waiting_minutes: 15.0", "max_waiting_minutes: .inf", r"prometheus\.max_waiting_minutes: "),
        ("down_for_minutes: 1.0", "down_for_minutes: -1.0", r"prometheus\.down_for_minutes: "),
        ("  failure_minutes: 60.0\n", "", r"prometheus\.failure_minutes: Field required"),
        ("state_for_minutes: 1.0", "state_for: 1.0", r"prometheus\.state_for: Extra inputs"),
    ],
)
def test_numbers_that_cannot_be_are_refused(old: str, new: str, message: str) -> None:
    """A rule with no time at all fires at every hiccup, one with an endless time never."""
    assert old in _TEXT
    with pytest.raises(SettingsError, match=message):
        parse_profile(_TEXT.replace(old, new), origin="p.yaml")
