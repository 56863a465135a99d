"""Gauges of drift, alerts and rollouts, against what was written into a real database."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, event

from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.posting import NotTakenError
from mlops_assets.foundation.tables import DriftCheckRecord, ModelVersionRecord
from mlops_assets.monitoring.alerts import acknowledge
from mlops_assets.monitoring.delivery import Dispatcher
from mlops_assets.monitoring.metrics import monitoring_families
from mlops_assets.monitoring.wording import NoticeMessage
from mlops_assets_tests.monitoring.alerting import finding, gone, routing, see
from mlops_assets_tests.rollout.ledgers import begin, climb, go
from mlops_assets_tests.rollout.rollouts import rollout

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
SPEC = AGENTS["execution"]
NAME = SPEC.registered_model
COLUMNS = {
    "budget_left": {"psi": 0.31, "ks": 0.22, "verdict": "critical"},
    "browser": {"psi": 0.04, "ks": None, "verdict": "ok"},
}
Samples = dict[tuple[str, ...], float]


def version(semver: str, stage: str, spec: AgentSpec = SPEC) -> ModelVersionRecord:
    """A registered version."""
    major, minor, patch = map(int, semver.split("."))
    return ModelVersionRecord(
        model_name=spec.registered_model,
        semver=semver,
        major=major,
        minor=minor,
        patch=patch,
        mlflow_version=str(major),
        run_id=f"run-{semver}",
        training_hash="a" * 64,
        data_hash="b" * 64,
        stage=stage,
        created_at=NOW,
        updated_at=NOW,
    )


def check(semver: str, end: datetime, verdict: str = "ok", **changes: object) -> DriftCheckRecord:
    """A check of 24 hours, made ten minutes after they ended."""
    values = {
        "agent": SPEC.name,
        "model_name": NAME,
        "model_version": semver,
        "window_start": end - timedelta(hours=24),
        "window_end": end,
        "checked_at": end + timedelta(minutes=10),
        "rows": 1200,
        "labelled": 300,
        "verdict": verdict,
        "psi": 0.31,
        "combined": 0.42,
        "accuracy_drop_rel": 0.0625,
        "document": {"columns": COLUMNS},
        **changes,
    }
    return DriftCheckRecord(**values)


def read(engine: Engine, now: datetime = NOW) -> dict[str, Samples]:
    """Every family by name: label values to value."""
    with read_transaction(engine) as session:
        families = monitoring_families(session, now)
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples} for family in families
    }


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    """The statements that the engine runs meanwhile."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def test_drift_is_that_of_the_champions_newest_check(engine: Engine) -> None:
    """A dashboard shows last night's check, the archived version's, or the candidate's, which nobody is served by."""
    hour = timedelta(hours=1)
    with transaction(engine) as session:
        session.add_all([version("1.0.0", "Archived"), version("1.1.0", "Production"), version("1.2.0", "Staging")])
        session.add(check("1.1.0", NOW - 2 * hour, "ok", rows=7, combined=0.01))
        session.add(check("1.1.0", NOW - hour, "warning"))
        session.add_all([check("1.0.0", NOW, "critical", rows=8), check("1.2.0", NOW, "critical", rows=9)])
    found = read(engine)
    assert found["model_drift_psi"] == {(NAME, "budget_left"): 0.31, (NAME, "browser"): 0.04}
    # Categories have no order, so no D; and no D is not a D of 0.
    assert found["model_drift_ks"] == {(NAME, "budget_left"): 0.22}
    assert found["model_drift_score"] == {("execution", "1.1.0"): 0.42}
    assert found["model_accuracy_drop_percent"] == {(NAME,): 6.25}
    assert found["model_drift_check_age_seconds"] == {(NAME,): 3000.0}
    assert found["model_decisions_checked"] == {(NAME,): 1200.0}
    assert found["model_drift_verdict"] == {
        (NAME, "1.1.0", verdict): float(verdict == "warning")
        for verdict in ("insufficient_data", "ok", "monitor", "warning", "critical")
    }


def test_what_is_not_known_has_no_series(sqlite_engine: Engine) -> None:
    """A champion that was never checked, or on too little, is shown as one without drift."""
    unknown = {"combined": None, "accuracy_drop_rel": None}
    columns = {"budget_left": {"psi": float("nan"), "ks": None}}
    with transaction(sqlite_engine) as session:
        session.add_all([version("1.0.0", "Production"), version("1.1.0", "Archived", AGENTS["generation"])])
        session.add(check("1.0.0", NOW, "insufficient_data", rows=12, document={"columns": columns}, **unknown))
        session.add(check("1.1.0", NOW, agent="generation", model_name=AGENTS["generation"].registered_model))
    found = read(sqlite_engine)
    for name in ("model_drift_psi", "model_drift_ks", "model_drift_score", "model_accuracy_drop_percent"):
        assert found[name] == {}
    assert found["model_decisions_checked"] == {(NAME,): 12.0}
    assert found["model_drift_verdict"][NAME, "1.0.0", "insufficient_data"] == 1.0
    assert found["mlops_rollout_share"] == found["mlops_alert_deliveries"] == {}
    assert found["mlops_alerts_open"] == {("CRITICAL",): 0.0, ("WARNING",): 0.0, ("INFO",): 0.0}


def test_alerts_that_go_on_are_counted_by_severity(engine: Engine) -> None:
    """An alert that somebody looks after disappears from the board, or one that is over stays on it."""
    to = routing("log")
    for key, severity in (("a", "CRITICAL"), ("b", "WARNING"), ("c", "WARNING"), ("d", "WARNING")):
        see(engine, finding(severity, key), to, NOW)
    acknowledge(engine, "b", user="sre@company.com", routing=to, now=NOW)
    assert gone(engine, "d", to, NOW + timedelta(hours=1)) is not None
    assert read(engine)["mlops_alerts_open"] == {("CRITICAL",): 1.0, ("WARNING",): 2.0, ("INFO",): 0.0}


def test_the_outbox_says_what_does_not_arrive(engine: Engine) -> None:
    """A webhook is dead and nobody hears of anything; or a page is sent at night for what quiet hours hold back."""
    night = datetime(2026, 3, 9, 23, tzinfo=UTC)
    clock = FixedClock(night)
    to = routing("log", "slack", "pagerduty", "email", "slack_alerts")
    see(engine, finding("INFO", "info"), to, night)
    see(engine, finding("CRITICAL", "critical"), to, night)

    def take(_message: NoticeMessage) -> None:
        """It arrived."""

    def refuse(_message: NoticeMessage) -> None:
        raise NotTakenError("it answered 400", refused=True)

    Dispatcher(engine, to, {"log": take, "email": refuse}, clock, "tests").tick()
    found = read(engine, night + timedelta(minutes=5))
    deliveries = found["mlops_alert_deliveries"]
    by_channel = {
        channel: [deliveries[channel, status] for status in ("delivered", "waiting", "retrying")]
        for channel in ("log", "slack", "email", "pagerduty")
    }
    assert by_channel == {"log": [2, 0, 0], "slack": [0, 1, 0], "email": [0, 0, 1], "pagerduty": [0, 1, 0]}
    age = {channel: found["mlops_alert_oldest_waiting_seconds"][channel,] for channel in by_channel}
    assert age == {"log": 0.0, "slack": 0.0, "email": 300.0, "pagerduty": 300.0}
    morning = read(engine, datetime(2026, 3, 10, 6, 1, tzinfo=UTC))["mlops_alert_oldest_waiting_seconds"]
    assert morning["slack",] == 60.0


def test_a_rollout_under_way_has_a_share(engine: Engine) -> None:
    """The board shows 20 % of a rollout that was taken back yesterday."""
    state = climb(engine, begin(engine, rollout()), "20_percent")
    assert read(engine)["mlops_rollout_share"] == {(NAME, "20_percent"): 0.2}
    go(engine, state, "rolled_back")
    assert read(engine)["mlops_rollout_share"] == {}
    other = replace(rollout(), model_name="generation-agent-dqn", agent="generation", name="another")
    begin(engine, other)
    assert read(engine)["mlops_rollout_share"] == {("generation-agent-dqn", "shadow"): 0.0}


@pytest.mark.parametrize("checks", [1, 100])
def test_the_queries_do_not_grow(sqlite_engine: Engine, checks: int) -> None:
    """After a year of hourly checks, a scrape takes longer than the time between two."""
    with transaction(sqlite_engine) as session:
        session.add(version("1.0.0", "Production"))
        session.add_all(check("1.0.0", NOW - timedelta(hours=back)) for back in range(checks))
    for number in range(checks):
        see(sqlite_engine, finding(key=f"key {number}"), routing("log", "slack_alerts"), NOW)
    with counted(sqlite_engine) as statements:
        found = read(sqlite_engine)
    assert found["mlops_alerts_open"]["WARNING",] == checks
    assert sum(one.startswith("SELECT") for one in statements) == len(AGENTS) + 3
