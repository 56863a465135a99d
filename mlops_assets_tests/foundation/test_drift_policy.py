"""The numbers of drift: those of the sources, and what is refused."""

import pytest

from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.profiles import load_profile, parse_profile, profile_names
from mlops_assets_tests.foundation.test_profiles import _TEXT


def test_numbers_of_the_default_profile() -> None:
    """A band moved by accident retrains every hour or never, and nothing else notices."""
    drift = load_profile("aiwebtest").drift
    assert (drift.psi_monitor, drift.psi_warning, drift.psi_critical) == (0.1, 0.2, 0.3)
    assert (drift.combined_monitor, drift.combined_warning, drift.combined_critical) == (0.1, 0.3, 0.5)
    assert drift.accuracy_drop_monitor_rel == 0.02
    assert (drift.accuracy_drop_warning_rel, drift.accuracy_drop_critical_rel) == (0.05, 0.10)
    assert (drift.ks_monitor, drift.psi_bins, drift.psi_binning, drift.min_rows) == (0.1, 10, "quantile", 1000)


def test_numbers_of_the_handbook() -> None:
    """Its Kolmogorov-Smirnov limit is critical at 0.1, and its PSI significant at 0.25."""
    drift = load_profile("agent27").drift
    assert (drift.ks_critical, drift.psi_monitor, drift.psi_critical) == (0.1, 0.1, 0.25)


@pytest.mark.parametrize("name", profile_names())
def test_false_alarms_are_budgeted_for_ninety_days(name: str) -> None:
    """An alpha of 0.05 is a false alarm a day at hourly checks."""
    hourly_checks = 90 * 24
    assert load_profile(name).drift.alpha * hourly_checks < 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("psi_warning: 0.2", "psi_warning: 0.4", "psi_monitor, psi_warning, psi_critical"),
        ("ks_monitor: 0.1", "ks_monitor: 0.3", "ks_monitor, ks_warning, ks_critical"),
        ("psi_binning: quantile", "psi_binning: deciles", "psi_binning"),
        ("  psi_bins: 10\n", "", "drift.psi_bins: Field required"),
    ],
)
def test_bands_out_of_order_are_refused(old: str, new: str, message: str) -> None:
    """A warning limit above the critical one is a band that nothing reaches."""
    assert old in _TEXT
    with pytest.raises(SettingsError, match=message):
        parse_profile(_TEXT.replace(old, new), origin="p.yaml")
