"""The operations server on a real socket: what Prometheus and people get from it, and what when the database is away."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, event

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import FixedClock, SystemClock
from mlops_assets.foundation.database import create_operational_engine, transaction
from mlops_assets.foundation.settings import Settings
from mlops_assets.operations import REFUSED, create_operations_app, main
from mlops_assets.serving import boundary
from mlops_assets.serving.tokens import create_token
from mlops_assets_tests.monitoring.alerting import finding, routing, see
from mlops_assets_tests.monitoring.test_metrics import check, version
from mlops_assets_tests.monitoring.traffic import serve
from mlops_assets_tests.programs import assert_metrics_pass_promtool, free_port, wait_for
from mlops_assets_tests.sockets import on_a_socket

ROOT = Path(__file__).resolve().parents[1]
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
SPEC = AGENTS["execution"]
# Rules and dashboards know these names.
NAMES = {
    "model_drift_psi",
    "model_drift_ks",
    "model_drift_score",
    "model_accuracy_drop_percent",
    "model_drift_verdict",
    "model_drift_check_age_seconds",
    "model_decisions_checked",
    "mlops_alerts_open",
    "mlops_alert_deliveries",
    "mlops_alert_oldest_waiting_seconds",
    "mlops_rollout_share",
    "mlops_retraining_signals_pending",
    "mlops_retraining_decisions",
    "mlops_retraining_runs",
    "mlops_retraining_last_success_age_seconds",
}


def settings_of(**changes: object) -> Settings:
    """Decisions are in the time of the clock."""
    return Settings.model_validate({"serving_clock": "system", **changes})


@pytest.fixture
def url(sqlite_engine: Engine) -> Iterator[str]:
    """Address of a server on a database of the test's own."""
    with on_a_socket(create_operations_app(settings_of(), sqlite_engine, FixedClock(NOW))) as address:
        yield address


def assert_problem(answer: httpx.Response, status: int) -> None:
    """A problem document, of which the client learns nothing of the inside."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in answer.text
    assert "# HELP" not in answer.text


def test_a_scrape_has_every_gauge_as_prometheus_wants_it(url: str, sqlite_engine: Engine) -> None:
    """A rule names a gauge that nobody exposes, or Prometheus drops the whole page for one bad line."""
    with transaction(sqlite_engine) as session:
        session.add_all([version("1.0.0", "Production"), check("1.0.0", NOW - timedelta(hours=1), "critical")])
    see(sqlite_engine, finding("CRITICAL", title='with "quotes"\n'), routing("log"), NOW)
    first = httpx.get(f"{url}/metrics")
    assert first.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(first.text)}
    assert families.keys() == NAMES
    assert all(family.documentation and family.type == "gauge" for family in families.values())
    assert 'model_drift_score{model_type="execution",model_version="1.0.0"} 0.42' in first.text
    assert 'mlops_alerts_open{severity="CRITICAL"} 1.0' in first.text
    assert_metrics_pass_promtool(first.content)
    assert httpx.get(f"{url}/metrics").text == first.text


def test_a_scrape_is_one_read_of_the_database_as_it_is_then(engine: Engine) -> None:
    """The page mixes two moments, holds the lock of a writer, or still shows what it read at the start."""
    transactions: list[str] = []
    event.listen(engine, "begin", lambda _: transactions.append("begin"))
    with on_a_socket(create_operations_app(settings_of(), engine, FixedClock(NOW))) as url:
        transactions.clear()
        assert 'mlops_alerts_open{severity="WARNING"} 0.0' in httpx.get(f"{url}/metrics").text
        assert transactions == ["begin"]
        see(engine, finding("WARNING"), routing("log"), NOW)
        with engine.connect() as other:
            other.exec_driver_sql("UPDATE alert SET severity = 'INFO'")  # a writer that is not done
            assert 'mlops_alerts_open{severity="WARNING"} 1.0' in httpx.get(f"{url}/metrics").text


def test_two_servers_in_one_process_do_not_meet(url: str, postgres_engine: Engine) -> None:
    """Registered twice in the global registry, the second does not start, or shows the first one's numbers."""
    see(postgres_engine, finding("INFO"), routing("log"), NOW)
    with on_a_socket(create_operations_app(settings_of(), postgres_engine, FixedClock(NOW))) as second:
        assert 'mlops_alerts_open{severity="INFO"} 1.0' in httpx.get(f"{second}/metrics").text
        assert 'mlops_alerts_open{severity="INFO"} 0.0' in httpx.get(f"{url}/metrics").text


def test_a_database_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    """Half a page is taken for all of it: gauges that are missing end alerts."""
    (tmp_path / "folder").mkdir()
    nowhere = f"postgresql://nobody:secret@127.0.0.1:{free_port()}/absent"
    for address in (nowhere, f"sqlite:///{tmp_path}/folder", f"sqlite:///{tmp_path}/no-tables.db"):
        engine = create_operational_engine(address)
        with on_a_socket(create_operations_app(settings_of(), engine, FixedClock(NOW))) as url:
            scraped = httpx.get(f"{url}/metrics", timeout=30)
            assert_problem(scraped, 503)
            assert scraped.headers["Retry-After"] == "1"
            assert "secret" not in scraped.text
            if "no-tables" not in address:
                assert_problem(httpx.get(f"{url}/monitoring/status", timeout=30), 503)
                bearer = {"Authorization": "Bearer mlops_x"}
                assert_problem(httpx.get(f"{url}/retraining/history", headers=bearer, timeout=30), 503)
            assert httpx.get(f"{url}/healthz").json() == {"status": "alive"}
        engine.dispose()


def test_a_database_that_stands_still_holds_no_scrape_up(
    postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prometheus gives a scrape up after its own time, and every one that waits keeps a connection."""
    monkeypatch.setattr(boundary, "_DATABASE_SECONDS", 0.5)
    with on_a_socket(create_operations_app(settings_of(), postgres_engine, FixedClock(NOW))) as url:
        with postgres_engine.connect() as migration:
            migration.exec_driver_sql("LOCK TABLE alert IN ACCESS EXCLUSIVE MODE")
            waited = httpx.get(f"{url}/metrics", timeout=30)
        assert_problem(waited, 503)
        assert "did not answer within 0.5 s" in waited.json()["detail"]
        monkeypatch.undo()
        assert httpx.get(f"{url}/metrics", timeout=30).status_code == 200


def test_the_status_is_that_of_the_last_hours(url: str, sqlite_engine: Engine) -> None:
    """People are told of another window's decisions, or an agent without any is called healthy."""
    serve(sqlite_engine, SPEC, 240, start=NOW - timedelta(hours=24, minutes=-1), version="1.0.0")
    serve(sqlite_engine, SPEC, 10, start=NOW - timedelta(minutes=20), hours=0.3, version="1.1.0", prefix="q")
    see(sqlite_engine, finding("CRITICAL"), routing("log"), NOW)
    day = httpx.get(f"{url}/monitoring/status").json()
    assert day["hours"] == 24.0
    models = {one["model_name"]: one for one in day["models"]}
    assert set(models) == {spec.registered_model for spec in AGENTS.values()}
    execution = models["execution-agent-dqn"]
    assert (execution["status"], execution["total_predictions"]) == ("critical", 250)
    assert execution["alerts"] == {"CRITICAL": 1, "WARNING": 0, "INFO": 0}
    assert {one["version"]: one["total_predictions"] for one in execution["versions"]} == {"1.0.0": 240, "1.1.0": 10}
    assert execution["avg_accuracy"] == pytest.approx(0.9, abs=0.06)
    quiet = models["generation-agent-dqn"]
    assert (quiet["status"], quiet["total_predictions"], quiet["avg_accuracy"]) == ("insufficient_data", 0, None)
    assert quiet["versions"] == []
    lately = httpx.get(f"{url}/monitoring/status?hours=0.5").json()["models"]
    # One every six minutes, and the ten.
    assert [one["total_predictions"] for one in lately if one["agent"] == "execution"] == [5 + 10]


def test_hours_of_a_closed_history_end_where_it_does(sqlite_engine: Engine) -> None:
    """Of the simulator's decisions, which are of last spring, the status says that there are none."""
    serve(sqlite_engine, SPEC, 48, start=NOW - timedelta(hours=24))
    later = FixedClock(NOW + timedelta(days=200))
    for settings, count in ((settings_of(serving_clock="data"), 47), (settings_of(), 0)):
        with on_a_socket(create_operations_app(settings, sqlite_engine, later)) as url:
            models = {one["agent"]: one for one in httpx.get(f"{url}/monitoring/status?hours=23.5").json()["models"]}
        assert models["execution"]["total_predictions"] == count
        end = datetime.fromisoformat(models["execution"]["end"])
        assert (end < NOW) is (count > 0)


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "x", "1e9"])
def test_hours_that_are_none_are_named(url: str, hours: str) -> None:
    """A window of `nan` hours is all of history, or a crash."""
    answer = httpx.get(f"{url}/monitoring/status?hours={hours}")
    assert_problem(answer, 422)
    assert answer.json()["detail"].startswith(f"hours={hours!r}: Input should be ")


def test_unknown_paths_and_methods_are_problem_documents(url: str) -> None:
    """A client has to guess what an error page means."""
    assert_problem(httpx.get(f"{url}/absent"), 404)
    assert_problem(httpx.post(f"{url}/metrics"), 405)


def test_retraining_is_asked_for_and_read_here(url: str, sqlite_engine: Engine) -> None:
    """The routes exist, and no server has them."""
    token = create_token(sqlite_engine, "ana@company.com", user="ops", now=SystemClock().now())
    bearer = {"Authorization": f"Bearer {token}"}
    assert_problem(httpx.get(f"{url}/retraining/history"), 401)
    asked = httpx.post(f"{url}/retraining", json={"agent": "execution", "reason": "new browser"}, headers=bearer)
    assert (asked.status_code, asked.json()["run_key"]) == (201, "retrain-execution-1")
    (one,) = httpx.get(f"{url}/retraining/history?days=1", headers=bearer).json()["evaluations"]
    assert (one["decision"], one["run_key"]) == ("retrain", "retrain-execution-1")
    assert 'mlops_retraining_runs{agent="execution",status="requested"} 1.0' in httpx.get(f"{url}/metrics").text


def test_who_reads_from_outside_brings_a_token(sqlite_engine: Engine) -> None:
    """Everybody on the network reads what is wrong with which model; or the probe of an orchestrator needs a token."""
    open_to_all = settings_of(operations_host="0.0.0.0")
    token = create_token(sqlite_engine, "prometheus", user="ops", now=SystemClock().now())
    with on_a_socket(create_operations_app(open_to_all, sqlite_engine, FixedClock(NOW))) as url:
        assert httpx.get(f"{url}/healthz").status_code == 200
        for path in ("/metrics", "/monitoring/status"):
            for wrong in ({}, {"Authorization": "Bearer mlops_wrong"}, {"Authorization": f"Basic {token}"}):
                refused = httpx.get(f"{url}{path}", headers=wrong)
                assert_problem(refused, 401)
                assert refused.headers["WWW-Authenticate"] == "Bearer"
            assert httpx.get(f"{url}{path}", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    """It listens where nobody looks, makes no database, or has to be killed."""
    port = free_port()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "MLOPS_HOME": str(tmp_path / "home"),
        "MLOPS_OPERATIONS_PORT": str(port),
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlops_assets.operations"], cwd=ROOT, env=environ, stdout=log, stderr=log
        )

    def alive() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_for(alive, 60)
        assert 'mlops_alerts_open{severity="INFO"} 0.0' in httpx.get(f"http://127.0.0.1:{port}/metrics").text
    finally:
        process.send_signal(signal.SIGTERM)
        ended = process.wait(60)
    assert ended in {0, -signal.SIGTERM}
    said = (tmp_path / "log").read_text()
    assert "Application shutdown complete." in said
    assert "Traceback" not in said


def test_what_does_not_let_it_start_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error in a variable starts a server with defaults, or shows a traceback."""
    assert main({"MLOPS_OPERATIONS_PROT": "1"}) == REFUSED
    expected = "unknown environment variable MLOPS_OPERATIONS_PROT; did you mean MLOPS_OPERATIONS_PORT?\n"
    assert capsys.readouterr().err == expected
    (tmp_path / "folder").mkdir()
    assert main({"MLOPS_HOME": str(tmp_path), "MLOPS_DATABASE_URL": f"sqlite:///{tmp_path}/folder"}) == REFUSED
    assert capsys.readouterr().err.count("\n") == 1
