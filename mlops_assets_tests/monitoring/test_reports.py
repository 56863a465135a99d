"""The texts of a day: the mail about one agent, and the overview of all models."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import ScaledClock
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.overview import main, overview_line
from mlops_assets.monitoring.reports import daily_text
from mlops_assets_tests.monitoring.test_summary import alert, check
from mlops_assets_tests.monitoring.traffic import serve

SPEC = AGENTS["execution"]
PROFILE = load_profile("aiwebtest")
NOW = datetime(2026, 3, 10, 1, tzinfo=UTC)


@pytest.fixture
def watched(engine: Engine) -> Engine:
    """A day of one agent, two drift checks and three alerts."""
    serve(engine, SPEC, 240, start=NOW - timedelta(hours=24), accuracy=1.0)
    with transaction(engine) as session:
        session.add_all(
            [
                check(NOW - timedelta(hours=2), "critical"),
                check(NOW - timedelta(hours=1), "warning", version="1.1.0"),
                alert("CRITICAL", NOW - timedelta(hours=3), NOW - timedelta(hours=2)),
                alert("WARNING", NOW - timedelta(hours=3)),
                alert("INFO", NOW - timedelta(hours=4)),
            ]
        )
    return engine


def test_the_mail_of_a_day(watched: Engine) -> None:
    """The mail says that all is well on a day with a critical alert that is over, or forgets the drift."""
    lines = daily_text(watched, SPEC, PROFILE, newest=NOW).splitlines()
    assert lines[0] == "execution-agent-dqn: daily report"
    assert lines[1].startswith("critical; 2026-03-09 01:00 to 2026-03-10 01:00 UTC")
    (whole,) = [line for line in lines if line.startswith("  all:")]
    assert "status critical, decisions 239, accuracy 100.00%, errors 0.00%" in whole
    assert whole.endswith("drift incidents 2, alerts (critical, warning, info) 1, 1, 1")
    assert sum(line.startswith("  2026-03-") for line in lines) == 7


def test_the_overview_is_of_the_newest_check_and_of_open_alerts(watched: Engine) -> None:
    """The overview shows the first check there ever was, or alerts that are long over."""
    line = overview_line(watched, SPEC, 24.0, NOW)
    assert line == (
        "execution-agent-dqn: 1.1.0 warning at 2026-03-10 00:00 UTC, drift score 0.4, PSI 0.25; "
        "accuracy 100.00% of 240 decisions in 24 h; open alerts: 1 warning, 1 info"
    )
    none = overview_line(watched, AGENTS["generation"], 24.0, NOW)
    assert none == (
        "generation-agent-dqn: never checked for drift; accuracy – of 0 decisions in 24 h; open alerts: none"
    )


def test_the_command_prints_every_model(watched: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    """The command looks at the machine's last day, while the deployment lives in another time."""
    environ = {
        "MLOPS_DATABASE_URL": watched.url.render_as_string(hide_password=False),
        "MLOPS_CLOCK": str(ScaledClock(NOW - timedelta(seconds=30), datetime.now(UTC), 1e-3)),
    }
    assert main([], environ) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [spec.registered_model for spec in AGENTS.values()]
    assert "of 240 decisions" in lines[-1]
    assert main([], {"MLOPS_DATABASE_URL": "mysql://nowhere"}) == 2
    assert "mysql" in capsys.readouterr().err
