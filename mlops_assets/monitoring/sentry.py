"""Sentry's envelopes, as far as one event without a stack trace needs them: no SDK, which would hook into everything.

https://develop.sentry.dev/sdk/foundations/transport/envelopes/
"""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.posting import post
from mlops_assets.monitoring.severity import Severity
from mlops_assets.monitoring.wording import NoticeMessage, as_read, headline

_CLIENT = "mlops-assets/1"
_LEVELS = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "fatal"}


@dataclass(frozen=True)
class SentryProject:
    """Where events go, and the key that lets them in."""

    url: str
    public_key: str


def parse_dsn(dsn: str) -> SentryProject:
    """Read `https://<key>@<host>/<project>`, with a path before the project where Sentry is served below one.

    Raises:
        SettingsError: it is no DSN.
    """
    expected = "MLOPS_SENTRY_DSN=<hidden>: expected https://<key>@<host>/<project number>, as Sentry's project shows it"
    try:
        parts = urlsplit(dsn)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        raise SettingsError(expected) from None
    path, _, project = parts.path.rpartition("/")
    if parts.scheme not in {"http", "https"} or not (parts.hostname and parts.username and project.isdecimal()):
        raise SettingsError(expected)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return SentryProject(f"{parts.scheme}://{host}{port}{path}/api/{project}/envelope/", parts.username)


def send_to_sentry(project: SentryProject, environment: str, message: NoticeMessage, *, seconds: float) -> None:
    """Send one event; Sentry keeps one of each event_id.

    Raises:
        NotTakenError: it was not taken; the key is a secret and not named.
    """
    headers = {
        "Content-Type": "application/x-sentry-envelope",
        "X-Sentry-Auth": f"Sentry sentry_version=7, sentry_client={_CLIENT}, sentry_key={project.public_key}",
    }
    body = envelope_of(message, environment)
    post(project.url, body, headers, to="Sentry", setting="MLOPS_SENTRY_DSN", seconds=seconds)


def envelope_of(message: NoticeMessage, environment: str) -> bytes:
    """Return an envelope with the one event: a line of headers, a line of the item's headers, the item."""
    event: dict[str, Any] = {
        "event_id": message.id,
        "timestamp": message.at.timestamp(),
        "platform": "other",
        "logger": message.source,
        "level": "info" if message.kind == "recovered" else _LEVELS[message.severity],
        "environment": environment,
        "message": {"formatted": headline(message)},
        # All notices of a key are one issue, whatever numbers their titles have.
        "fingerprint": [message.key],
        "tags": {
            name: value
            for name, value in (("agent", message.agent), ("model", message.model_name), ("notice", message.kind))
            if value
        },
        "extra": {"text": as_read(message).text, **message.details},
    }
    item = json.dumps(event).encode()
    lines = [{"event_id": message.id}, {"type": "event", "length": len(item), "content_type": "application/json"}]
    return b"\n".join([*(json.dumps(line).encode() for line in lines), item, b""])
