"""What can be an alert, and where its notices go."""

import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import ChannelName
from mlops_assets.monitoring.notices import NoticeKind
from mlops_assets.monitoring.severity import Severity
from mlops_assets_tests.monitoring.alerting import finding, routing


@pytest.mark.parametrize("change", [{"key": ""}, {"key": "k" * 201}, {"title": " "}, {"title": "t" * 256}])
def test_what_the_database_would_refuse_is_refused_before(change: dict[str, str]) -> None:
    """PostgreSQL refuses a long key in the transaction of whoever found something, and takes its work with it."""
    with pytest.raises(InputError, match=rf"{next(iter(change))} .*of a finding: expected 1 to 2"):
        finding(**change)


@pytest.mark.parametrize(
    ("severity", "kind", "told", "channels"),
    [
        ("INFO", "raised", (), ("log", "slack")),
        ("WARNING", "raised", (), ("log", "sentry", "slack_alerts")),
        ("CRITICAL", "raised", (), ("email", "log", "pagerduty", "sentry", "slack_alerts")),
        ("CRITICAL", "escalated", ("log",), ("email", "log", "pagerduty", "slack_alerts")),
        ("WARNING", "recovered", ("log", "slack_alerts"), ("log", "slack_alerts")),
        ("CRITICAL", "recovered", ("log", "slack", "pagerduty"), ("log", "pagerduty", "slack")),
        ("CRITICAL", "acknowledged", ("log", "slack_alerts", "pagerduty"), ("log", "pagerduty")),
        ("CRITICAL", "acknowledged", ("log", "slack_alerts"), ("log",)),
    ],
)
def test_routes(
    severity: str, kind: NoticeKind, told: tuple[ChannelName, ...], channels: tuple[ChannelName, ...]
) -> None:
    """A warning pages, an incident is never resolved, or those who were told of an alert never hear of its end."""
    assert routing().of(Severity(severity), kind, frozenset(told)) == channels


def test_only_what_is_set() -> None:
    """Notices for a channel that nobody has pile up for ever."""
    assert routing("log").of(Severity.CRITICAL, "raised", frozenset()) == ("log",)
    assert routing("slack").of(Severity.CRITICAL, "recovered", frozenset({"log", "pagerduty"})) == ()
