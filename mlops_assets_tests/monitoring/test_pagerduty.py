"""PagerDuty's Events API v2 against a receiver that checks events as the service does."""

import pytest

from mlops_assets.foundation.posting import NotTakenError
from mlops_assets.monitoring.pagerduty import event_of, send_to_pagerduty
from mlops_assets_tests.monitoring.receivers import ROUTING_KEY, PagerDuty, receiving
from mlops_assets_tests.monitoring.test_channels import a_notice


def test_an_alert_is_one_incident_from_trigger_to_resolve() -> None:
    """Each notice opens an incident of its own, or the end resolves none."""
    pagerduty = PagerDuty()
    with receiving(pagerduty):
        for number, kind in enumerate(("raised", "worsened", "acknowledged", "escalated", "recovered"), 1):
            send_to_pagerduty(pagerduty.url, ROUTING_KEY, a_notice(kind, "CRITICAL", number), seconds=2.0)  # type: ignore[arg-type]
    assert list(pagerduty.incidents.values()) == [["trigger", "trigger", "acknowledge", "trigger", "resolve"]]
    assert next(iter(pagerduty.incidents)) == a_notice().incident


def test_what_the_pager_shows() -> None:
    """Whoever is woken has to look up what of which model it is."""
    message = a_notice("raised", "CRITICAL")
    event = event_of(message)
    payload = event["payload"]
    assert payload["summary"] == "CRITICAL: Error rate 0.013 (execution-agent-dqn)"
    assert (payload["severity"], payload["source"], payload["component"], payload["class"]) == (
        "critical", "performance", "execution-agent-dqn", "execution-agent-dqn:error_rate",
    )  # fmt: skip
    assert payload["custom_details"]["notice"] == message.id
    assert payload["custom_details"]["value"] == 0.013
    assert event_of(a_notice("raised", "WARNING"))["payload"]["severity"] == "warning"
    assert event_of(a_notice("recovered")) == {"event_action": "resolve", "dedup_key": message.incident}


def test_a_wrong_key_is_told_without_it() -> None:
    """The key of the pager stands in the log of every tick."""
    pagerduty = PagerDuty()
    with receiving(pagerduty), pytest.raises(NotTakenError, match=r"PagerDuty did not .* answered 400") as caught:
        send_to_pagerduty(pagerduty.url, "W" * 32, a_notice(), seconds=2.0)
    assert "WWW" not in str(caught.value)
    assert "MLOPS_PAGERDUTY_ROUTING_KEY" in str(caught.value)
