"""A version's figures become alerts, and good ones end them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.alerts import alerts
from mlops_assets.monitoring.baseline import Baseline
from mlops_assets.monitoring.performance import Performance, measure
from mlops_assets.monitoring.rules import Measurements
from mlops_assets.monitoring.tell import SOURCE, measurements_of, tell
from mlops_assets.monitoring.window import read_window
from mlops_assets_tests.monitoring.alerting import routing
from mlops_assets_tests.monitoring.traffic import serve

SPEC = AGENTS["execution"]
PROFILE = load_profile("aiwebtest")
START = datetime(2026, 3, 9, tzinfo=UTC)
DAY = timedelta(days=1)
BASELINE = Baseline(accuracy=0.9, mean_confidence=0.8, source="tests")
MODEL = SPEC.registered_model


def day(engine: Engine, number: int, count: int = 2000, *, accuracy: float, failing: int = 0) -> Performance:
    """Serve a day, and measure it; of `failing` decisions, one fails."""
    start = START + number * DAY
    serve(
        engine,
        SPEC,
        count,
        start=start,
        prefix=f"day{number}-",
        accuracy=accuracy,
        seed=number,
        changes=lambda row: {"fallback": "failed" if failing and row % failing == 0 else None},
    )
    window = read_window(engine, SPEC, start, start + DAY, version="1.0.0", as_of=start + 2 * DAY)
    return measure(window, SPEC, PROFILE.monitoring, PROFILE.evaluation, BASELINE)


def told(engine: Engine, one: Performance, now: datetime) -> dict[str, str]:
    changed = tell(engine, SPEC, one, PROFILE.alert_thresholds, routing(), now)
    return {alert.finding.key: f"{alert.state.severity} {alert.state.status}" for alert in changed}


def test_a_bad_day_alerts_and_good_ones_end_it(engine: Engine) -> None:
    """Nobody hears of a model that is wrong or fails, or the alert stands for ever."""
    bad = day(engine, 0, accuracy=0.6, failing=50)
    assert told(engine, bad, START + DAY) == {
        f"{MODEL}:accuracy_drop": "CRITICAL open",
        f"{MODEL}:error_rate": "WARNING open",
    }
    assert {alert.finding.source for alert in alerts(engine)} == {SOURCE}
    good = day(engine, 1, accuracy=0.9)
    assert told(engine, good, START + 2 * DAY) == {
        f"{MODEL}:accuracy_drop": "CRITICAL recovered",
        f"{MODEL}:error_rate": "WARNING recovered",
    }
    assert alerts(engine) == []


def test_a_drop_that_may_be_noise_is_none(sqlite_engine: Engine) -> None:
    """Sixty labels of a version as good as ever wake somebody at night."""
    few = day(sqlite_engine, 0, 120, accuracy=0.86)
    assert few.figure("accuracy").value is not None
    drop = measurements_of(few).accuracy_drop
    assert drop is not None
    assert drop < 0.02
    many = day(sqlite_engine, 1, 8000, accuracy=0.7)
    assert measurements_of(many).accuracy_drop == pytest.approx(0.2, abs=0.03)


def test_too_few_decisions_say_nothing(sqlite_engine: Engine) -> None:
    """An hour without users ends an alert, or raises one."""
    bad = day(sqlite_engine, 0, accuracy=0.6)
    told(sqlite_engine, bad, START + DAY)
    nothing = replace(bad, enough=False)
    assert measurements_of(nothing) == Measurements()
    assert told(sqlite_engine, nothing, START + 2 * DAY) == {}
    assert [alert.state.status for alert in alerts(sqlite_engine)] == ["open"]
