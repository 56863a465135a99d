"""Policy profiles: the numbers of the sources, and what is refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from mlops_assets.foundation import profiles
from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.profiles import PolicyProfile, load_profile, parse_profile, profile_names

_TEXT = (Path(profiles.__file__).parent / "profiles" / "aiwebtest.yaml").read_text(encoding="utf-8")
# The smallest F1 that the handbook's own performance trigger lets pass.
_HANDBOOK_RETRAINING_F1 = 0.8


def _parse(old: str, new: str) -> PolicyProfile:
    assert old in _TEXT
    return parse_profile(_TEXT.replace(old, new), origin="p.yaml")


def test_every_profile_loads_under_its_own_name() -> None:
    """A profile with a typo would fail only on the day when somebody chooses it."""
    assert profile_names() == ("agent27", "aiwebtest", "diagnosis", "duetmind")
    for name in profile_names():
        assert load_profile(name).name == name


def test_numbers_of_the_default_profile() -> None:
    """A threshold changed by accident lets a worse model through, and nothing else notices."""
    profile = load_profile("aiwebtest")
    standard, bootstrap = profile.data.standard, profile.data.bootstrap
    assert (standard.min_rows, standard.max_rows, standard.window_rows) == (100_000, 2_000_000, 1_000_000)
    assert (standard.reward_low, standard.reward_high, standard.max_age_hours) == (-100.0, 100.0, 168)
    assert (standard.max_mean_shift_sigmas, standard.max_std_ratio) == (3.0, 2.0)
    assert standard.max_missing_rate_increase_points == 5.0
    assert bootstrap == standard.model_copy(update={"min_rows": 50, "max_age_hours": None, "window_days": None})
    assert (profile.evaluation.min_accuracy, profile.evaluation.max_latency_ms) == (0.85, 100.0)
    assert profile.evaluation.max_slice_gap_points == 5.0
    governance = profile.governance
    assert (governance.min_accuracy, governance.max_latency_ms) == (0.90, 100.0)
    assert (governance.min_improvement_percent, governance.high_risk_accuracy_drop) == (2.0, 0.05)
    assert governance.min_off_policy_gain == 0.0
    assert governance.high_risk_new_architecture
    assert governance.auto_approve_low_risk
    assert governance.required_approvers_high_risk == ("ml-lead@company.com", "qa-lead@company.com")
    assert (governance.min_approvals, governance.approval_expiry_hours) == (2, 168.0)
    assert profile.access.permissions == {
        "ml_engineer": ("deploy_staging",),
        "mlops": ("deploy_staging", "deploy_production"),
        "sre": ("rollback", "scale"),
    }
    assert (profile.retry.max_retries, profile.retry.delay_seconds) == (2, 300.0)


def test_numbers_of_the_handbook_profile() -> None:
    """With the 0.70 of its own gate a model would pass and be retrained at once, for ever."""
    profile = load_profile("agent27")
    assert profile.evaluation.min_f1 == _HANDBOOK_RETRAINING_F1
    assert (profile.evaluation.min_roc_auc, profile.evaluation.max_latency_ms) == (0.75, 50.0)
    assert (profile.retry.max_retries, profile.retry.delay_seconds) == (3, 300.0)


def test_only_critical_pages() -> None:
    """C-24: a warning wakes people, until they no longer wake up."""
    for name in profile_names():
        alerting = load_profile(name).alerting
        paging = {severity for severity, channels in alerting.routes.items() if "pagerduty" in channels}
        assert paging == {"CRITICAL"}
        # The database is there anyway, and without a way set the log is all that there is.
        assert all("log" in channels for channels in alerting.routes.values())
        assert "pagerduty" in alerting.escalation
    assert load_profile("duetmind").alert_thresholds.accuracy_drop.model_dump() == {
        "info": None, "warning": 0.02, "critical": 0.05,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("WARNING: [log,", "WARNING: [pagerduty, log,", "only CRITICAL pages"),
        ("    INFO: [log, slack]\n", "", "expected INFO, WARNING and CRITICAL"),
        ("INFO: [log, slack]", "INFO: [log, telegram]", "'telegram'"),
        ("hours: [22, 6]", "hours: [6, 6]", "are no part of a day"),
        ("hours: [22, 6]", "hours: [22, 24]", "are no part of a day"),
        ("{timezone: UTC, hours: [22, 6]}", "{timezone: Mars, hours: [22, 6]}", "there is no timezone 'Mars'"),
        ("max_retry_seconds: 300.0", "max_retry_seconds: 3.0", "is below retry_seconds 15.0"),
        (", default: WARNING}", "}", "failed_runs has no `default`"),
        (
            "error_rate: {info: null, warning: 0.01,",
            "error_rate: {info: null, warning: 0.03,",
            "expected .* in rising order",
        ),
    ],
)
def test_alerting_that_cannot_be_is_refused(old: str, new: str, message: str) -> None:
    """A typo in a route is found in the night in which somebody should have been told."""
    with pytest.raises(SettingsError, match=message):
        _parse(old, new)


def test_profiles_differ() -> None:
    """A profile copied and never edited loses its source's numbers."""
    loaded = [load_profile(name) for name in profile_names()]
    contents = {profile.model_dump_json(exclude={"name", "description"}) for profile in loaded}
    assert len(contents) == len(loaded)


@pytest.mark.parametrize("name", ["aiwebtests", "", "../settings", "aiwebtest.yaml"])
def test_unknown_profiles_are_refused_with_the_choices(name: str) -> None:
    """A misspelt profile must not fall back to other thresholds, and a name is no path."""
    with pytest.raises(SettingsError, match="known profiles: agent27, aiwebtest, diagnosis, duetmind"):
        load_profile(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  min_accuracy: 0.90\n", "  min_acuracy: 0.90\n", r"governance\.min_acuracy: Extra inputs"),
        ("  min_accuracy: 0.90\n", "", r"governance\.min_accuracy: Field required"),
        ("  min_accuracy: 0.90\n", "  min_accuracy: 90\n", r"governance\.min_accuracy: .*less than or equal to 1.*90"),
        ("  min_accuracy: 0.90\n", "  min_accuracy: '0.90'\n", r"governance\.min_accuracy: .*valid number"),
        ("  min_accuracy: 0.90\n", "  min_accuracy: 0.80\n", r"governance\.min_accuracy 0\.8 is below .* 0\.85"),
        ("  min_accuracy: 0.90\n", "  min_accuracy: 0.90\n  min_accuracy: 0.10\n", "'min_accuracy' is written twice"),
        ("max_latency_ms: 100.0\n  min_f1", "max_latency_ms: 50.0\n  min_f1", r"100\.0 is above evaluation"),
        ("max_retries: 2", "max_retries: -1", r"retry\.max_retries: .*greater than or equal to 0.*-1"),
        ("max_retries: 2", "max_retries: 2.5", r"retry\.max_retries: .*valid integer"),
        ("delay_seconds: 300.0", "delay_seconds: .nan", r"retry\.delay_seconds: "),
        ("min_rows: 100000", "min_rows: 3000000", "min_rows 3000000 is greater than max_rows 2000000"),
        ("reward_low: -100.0", "reward_low: 200.0", "reward_low 200.0 is greater than reward_high 100.0"),
        ("ml-lead@company.com, qa-lead@company.com", "", "at least 1 item"),
        ("ml-lead@company.com", "ml-lead", "'ml-lead' is not an e-mail address"),
        ("min_approvals: 2", "min_approvals: 3", "min_approvals 3 is more than the 2 distinct"),
        ("ml-lead@company.com, qa", "QA-lead@company.com, qa", "min_approvals 2 is more than the 1 distinct"),
        ("roles: {}", "roles: {eve@company.com: [root]}", r"access\.roles\.eve@company\.com\.0: Input should be"),
        ("sre: [rollback", "sre: [everything", r"access\.permissions\.sre\.0: Input should be"),
        ("retry:\n", "retry: [\n", "not valid YAML"),
    ],
)
def test_invalid_values_are_refused_by_name(old: str, new: str, message: str) -> None:
    """A key that is ignored, or a number out of range, silently switches a gate off."""
    with pytest.raises(SettingsError, match=message):
        _parse(old, new)


def test_an_empty_file_is_no_profile() -> None:
    """`None` has no thresholds at all."""
    with pytest.raises(SettingsError, match=r"empty\.yaml is not a policy profile"):
        parse_profile("", origin="empty.yaml")


def test_profiles_cannot_be_changed_in_place() -> None:
    """A step that lowers a threshold for itself would lower it for everybody after it."""
    profile = load_profile("aiwebtest")
    with pytest.raises(ValidationError, match="frozen"):
        profile.governance.min_accuracy = 0.1  # type: ignore[misc]
