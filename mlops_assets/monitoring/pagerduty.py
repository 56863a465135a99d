"""PagerDuty's Events API v2: an alert is one incident, known by its dedup_key from trigger to resolve.

https://developer.pagerduty.com/docs/events-api-v2-overview
"""

import json
from typing import Any

from mlops_assets.foundation.posting import post
from mlops_assets.monitoring.severity import Severity
from mlops_assets.monitoring.wording import NoticeMessage, as_read, headline

_LONGEST_SUMMARY = 1024
_ACTIONS = {"acknowledged": "acknowledge", "recovered": "resolve"}
_SEVERITIES = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "critical"}


def send_to_pagerduty(url: str, routing_key: str, message: NoticeMessage, *, seconds: float) -> None:
    """Send one event; the same one twice is the same incident.

    Raises:
        NotTakenError: it was not taken; the routing key is a secret and not named.
    """
    post(
        url,
        json.dumps({"routing_key": routing_key, **event_of(message)}).encode(),
        {"Content-Type": "application/json"},
        to="PagerDuty",
        setting="MLOPS_PAGERDUTY_ROUTING_KEY",
        seconds=seconds,
    )


def event_of(message: NoticeMessage) -> dict[str, Any]:
    """Return the event, without its routing key."""
    action = _ACTIONS.get(message.kind, "trigger")
    event: dict[str, Any] = {"event_action": action, "dedup_key": message.incident}
    if action != "trigger":
        return event
    return {
        **event,
        "client": "mlops-assets",
        "payload": {
            "summary": headline(message)[:_LONGEST_SUMMARY],
            "source": message.source,
            "severity": _SEVERITIES[message.severity],
            "timestamp": message.at.isoformat(),
            "component": message.model_name or message.agent or message.source,
            "class": message.key,
            "custom_details": {"notice": message.id, "text": as_read(message).text, **message.details},
        },
    }
