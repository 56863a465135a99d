"""Sentry's envelopes against a receiver that parses them."""

import pytest

from mlops_assets.foundation.posting import NotTakenError
from mlops_assets.monitoring.sentry import SentryProject, parse_dsn, send_to_sentry
from mlops_assets_tests.monitoring.receivers import Sentry, receiving
from mlops_assets_tests.monitoring.test_channels import a_notice


def test_an_event_arrives_once_of_each_id() -> None:
    """A notice that is sent twice counts as two errors."""
    sentry = Sentry()
    with receiving(sentry):
        project = parse_dsn(sentry.dsn)
        for message in (a_notice(), a_notice(), a_notice("recovered", "CRITICAL", 2)):
            send_to_sentry(project, "production", message, seconds=2.0)
    first, end = sentry.taken
    assert len(sentry.requests) == 3
    assert (first["event_id"], first["level"], first["environment"]) == (a_notice().id, "warning", "production")
    assert first["message"]["formatted"] == "WARNING: Error rate 0.013 (execution-agent-dqn)"
    assert first["fingerprint"] == end["fingerprint"] == ["execution-agent-dqn:error_rate"]
    assert first["tags"] == {"agent": "execution", "model": "execution-agent-dqn", "notice": "raised"}
    assert first["extra"]["value"] == 0.013
    assert first["timestamp"] == a_notice().at.timestamp()
    assert end["level"] == "info"


@pytest.mark.parametrize(
    ("dsn", "url"),
    [
        ("https://k@o1.ingest.sentry.io/42", "https://o1.ingest.sentry.io/api/42/envelope/"),
        ("https://k:secret@sentry.company.com:8443/42", "https://sentry.company.com:8443/api/42/envelope/"),
        ("http://k@[::1]:9000/a/b/42", "http://[::1]:9000/a/b/api/42/envelope/"),
    ],
)
def test_dsns(dsn: str, url: str) -> None:
    """A self-hosted Sentry below a path is posted to a page that answers 200 to everything."""
    assert parse_dsn(dsn) == SentryProject(url, "k")


def test_a_wrong_key_is_told_without_it() -> None:
    """The key stands in the log of every tick."""
    sentry = Sentry()
    with receiving(sentry):
        project = parse_dsn(sentry.dsn.replace("0123456789abcdef", "hush"))
        with pytest.raises(NotTakenError, match=r"Sentry did not .* answered 403") as caught:
            send_to_sentry(project, "embedded", a_notice(), seconds=2.0)
    assert not caught.value.refused
    assert "hush" not in str(caught.value)
