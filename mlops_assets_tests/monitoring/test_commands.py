"""The commands that people on call type, on a real database and a real receiver."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from mlops_assets.monitoring.alerts import alerts
from mlops_assets.monitoring.commands import DONE, REFUSED, WRONG, main
from mlops_assets_tests.monitoring.alerting import finding, gone, routing, see
from mlops_assets_tests.monitoring.receivers import Slack, receiving

TO = routing("log", "slack_alerts")


@pytest.fixture
def environ(engine: Engine, tmp_path: object) -> dict[str, str]:
    return {
        "MLOPS_HOME": str(tmp_path),
        "MLOPS_DATABASE_URL": engine.url.render_as_string(hide_password=False),
    }


def test_nothing_is_said(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """An empty page could be an error as well."""
    assert main(["alerts"], environ) == DONE
    assert main(["deliver"], environ) == DONE
    assert capsys.readouterr().out == "there is no alert\nnothing was due\n"


def test_a_night_on_call(engine: Engine, environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """INC-2: acknowledge, look, and see that it is over; a script that asks whether all is well is told no."""
    now = datetime.now(UTC)
    see(engine, finding("CRITICAL"), TO, now)
    see(engine, finding("INFO", "old", title="Old"), TO, now - timedelta(hours=1))
    gone(engine, "old", TO, now)
    slack = Slack()
    with receiving(slack):
        on_call = {**environ, "MLOPS_SLACK_WEBHOOK": slack.url}
        assert main(["deliver"], on_call) == DONE
        told = capsys.readouterr().out
        assert "slack_alerts: CRITICAL: Error rate 0.013 (execution-agent-dqn)\n" in told
        assert len(slack.taken) == 1
    assert main(["alerts"], environ) == WRONG
    assert capsys.readouterr().out == (
        f"1: CRITICAL Error rate 0.013 (execution-agent-dqn), seen once since {now:%Y-%m-%d %H:%M} UTC, open\n"
    )
    assert main(["acknowledge", "1", "--user", "ana@company.com"], environ) == DONE
    assert capsys.readouterr().out.endswith("UTC, acknowledged by ana@company.com\n")
    assert main(["alerts"], environ) == DONE
    gone(engine, alerts(engine)[0].finding.key, TO, now, for_good=True)
    assert main(["alerts", "--all"], environ) == DONE
    listed = capsys.readouterr().out
    assert ", recovered, acknowledged by ana@company.com\n" in listed
    assert "2: INFO Old (execution-agent-dqn), seen once since" in listed


def test_a_channel_that_is_away_is_said(
    engine: Engine, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody hears of anything, and the command says done."""
    see(engine, finding(), TO, datetime.now(UTC) - timedelta(hours=3))
    hook = {"MLOPS_SLACK_WEBHOOK": "http://127.0.0.1:1/hush"}
    assert main(["deliver"], {**environ, **hook}) == WRONG
    told = capsys.readouterr().out
    assert "slack_alerts: WARNING: Error rate 0.013 (execution-agent-dqn) waits after 1 try: the Slack webhook" in told
    assert "slack_alerts: 1 notice waits until" in told
    assert "hush" not in told
    assert main(["alerts"], environ) == DONE
    assert "it is not set here; see docs/alerts.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["acknowledge", "9", "--user", "ana"], "there is no alert 9"),
        (["acknowledge", "a-key", "--user", "ana"], "there is no alert 'a-key'"),
        (["acknowledge", "9" * 30, "--user", "ana"], "there is no alert 999"),
        (["acknowledge", "1", "--user", " "], "nobody is named as user"),
        (["acknowledge", "1", "--user", "rollout"], "'rollout' is the name of a service"),
    ],
)
def test_refusals(
    engine: Engine, environ: dict[str, str], capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    """A traceback in the night; or an alert that a service acknowledged, and so nobody."""
    see(engine, finding("CRITICAL"), TO, datetime.now(UTC))
    assert main(arguments, environ) == REFUSED
    told = capsys.readouterr().err
    assert problem in told
    assert told.count("\n") == 1
    assert [one.state.status for one in alerts(engine)] == ["open"]


def test_a_wrong_setting_is_refused(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A dispatcher that does not start must say why."""
    assert main(["deliver"], {**environ, "MLOPS_SENTRY_DSN": "https://hush"}) == REFUSED
    told = capsys.readouterr().err
    assert told.startswith("MLOPS_SENTRY_DSN=<hidden>: expected https://<key>@<host>/<project number>")
