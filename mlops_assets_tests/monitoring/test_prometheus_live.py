"""A real Prometheus scrapes both real servers: every rule loads, drift fires, and no panel of a dashboard is empty."""

import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from mlops_assets.experiments.experiments import create_experiment
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import create_operational_engine, transaction
from mlops_assets.foundation.profiles import PolicyProfile, load_profile
from mlops_assets.foundation.settings import load_settings
from mlops_assets.monitoring.dashboards import all_dashboards
from mlops_assets.monitoring.prometheus_rules import all_rules
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.retraining.evaluate import evaluate
from mlops_assets.retraining.requests import SeenRun, reconcile
from mlops_assets.serving.api_documents import example_request
from mlops_assets_tests.lifecycle.conftest import FirstLifecycle, first_lifecycle
from mlops_assets_tests.monitoring.alerting import finding, routing, see
from mlops_assets_tests.monitoring.prometheus import ROOT, Prometheus, running
from mlops_assets_tests.monitoring.test_metrics import check
from mlops_assets_tests.programs import free_port, wait_for
from mlops_assets_tests.retraining.triggers import new_signal
from mlops_assets_tests.rollout.ledgers import begin, climb
from mlops_assets_tests.rollout.rollouts import rollout
from mlops_assets_tests.serving.live import LiveServer
from mlops_assets_tests.serving.versions import register_linear_version

__all__ = ["first_lifecycle"]

pytestmark = pytest.mark.slow
SECONDS = 180.0
USERS = [f"u{number}" for number in range(12)]


def impatient(profile: PolicyProfile) -> PolicyProfile:
    """The same limits, with times that a test can wait for."""
    short = {"traffic_for_minutes": 0.02, "state_for_minutes": 0.02, "down_for_minutes": 0.5, "rate_minutes": 1.0}
    return profile.model_copy(update={"prometheus": profile.prometheus.model_copy(update=short)})


PROFILE = impatient(load_profile("aiwebtest"))


@dataclass(frozen=True)
class Platform:
    """Both servers, and the Prometheus that scrapes them."""

    server: LiveServer
    prometheus: Prometheus

    def serve(self) -> None:
        """Some decisions of every agent, of both arms of the experiment, with outcomes, and one that is refused."""
        answers = [self.server.post("/predict", example_request(AGENTS[name])) for name in sorted(AGENTS)]
        spec = AGENTS["generation"]
        asked = example_request(spec)
        answers += [self.server.post("/predict", {**asked, "user_id": user, "experiment": "half"}) for user in USERS]
        assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
        told = [
            {
                "prediction_id": answer.json()["prediction_id"],
                "reward": 1.0,
                "best_action": 0,
                "action_values": [1.0, *[0.0] * (len(spec.actions) - 1)],
            }
            for answer in answers[len(AGENTS) :]
        ]
        assert self.server.post("/outcomes", {"outcomes": told}).status_code == 200
        assert self.server.post("/predict", {"agent": "nobody"}).status_code == 404


@pytest.fixture(scope="module")
def platform(first_lifecycle: FirstLifecycle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One of each for the module, on a copy of a home in which the lifecycle ran."""
    root = tmp_path_factory.mktemp("scraped")
    home = root / "home"
    shutil.copytree(first_lifecycle.pristine, home)
    settings = load_settings({"MLOPS_HOME": str(home)})
    spec, store = AGENTS["generation"], MlflowStore(settings.tracking_uri)
    challenger = register_linear_version(settings.tracking_uri, spec, "2.0.0", seed=8)
    store.set_alias(spec.registered_model, "challenger", challenger)
    engine = create_operational_engine(settings.database)
    write(engine)
    server = LiveServer(home, root / "server.log", {})
    try:
        server.start()
        with ExitStack() as stack:
            operations = stack.enter_context(operations_server(home, root / "operations.log"))
            ports = {"decisions": server.port, "operations": operations}
            prometheus = stack.enter_context(running(root / "prometheus", PROFILE, ports))
            yield Platform(server, prometheus)
    finally:
        server.end()
        engine.dispose()


def write(engine: Engine) -> None:
    """A check with drift, an alert, an experiment, a rollout, and trainings: one that ended well, and a trigger after it."""
    now = datetime.now(UTC)
    with transaction(engine) as session:
        session.add(check("1.0.0", now - timedelta(hours=1), "critical", combined=0.42))
    see(engine, finding("CRITICAL"), routing("log", "slack"), now - timedelta(hours=1))
    create_experiment(engine, "half", "generation", treatment_share=0.5, user="tests", now=now)
    begun = rollout(model_name="requirements-agent-dqn", agent="requirements", name="rollout-requirements-1.1.0-1")
    climb(engine, begin(engine, begun, now - timedelta(hours=9)), "5_percent")
    evaluate(engine, "execution", PROFILE.retraining, now - timedelta(hours=30), signals=[new_signal()])
    reconcile(engine, lambda _: SeenRun("run-1", "succeeded"), now - timedelta(hours=29))
    evaluate(engine, "execution", PROFILE.retraining, now, signals=[new_signal(key="2")])


@contextmanager
def operations_server(home: Path, log: Path) -> Iterator[int]:
    """`python -m mlops_assets.operations` on a home; gives its port."""
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(log.parent),
        "MLOPS_HOME": str(home),
        "MLOPS_OPERATIONS_PORT": str(port),
    }
    with log.open("wb") as output:
        command = [sys.executable, "-m", "mlops_assets.operations"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)

    def alive() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_for(alive, SECONDS)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def test_both_servers_are_scraped_and_every_rule_is_evaluated(platform: Platform) -> None:
    """A server's page is refused by Prometheus, or a rule is, and nobody is told of anything."""
    platform.serve()
    expected = sum(len(rules) for rules in all_rules(PROFILE).values())
    wait_for(lambda: platform.prometheus.targets() == {"decisions": "up", "operations": "up"}, SECONDS)
    wait_for(lambda: {rule["health"] for rule in platform.prometheus.rules()} == {"ok"}, SECONDS)
    assert len(platform.prometheus.rules()) == expected
    assert not [rule for rule in platform.prometheus.rules() if rule.get("lastError")]


def test_the_drift_rule_fires(platform: Platform) -> None:
    """A model has drifted for hours, the gauge says so, and no alert comes; or one comes of a model that has not."""

    def drift() -> set[tuple[str, str]]:
        found = platform.prometheus.firing()
        return {(severity, of) for name, severity, of in found if name == "ModelDrift"}

    wait_for(lambda: drift() == {("INFO", "execution"), ("WARNING", "execution")}, SECONDS)
    columns = {(severity, of) for name, severity, of in platform.prometheus.firing() if name == "FeatureDrift"}
    # A column with PSI .31, and with a D of .22, which is the limit of CRITICAL and not above it; of the other one, none.
    assert columns == {
        *((severity, "budget_left psi") for severity in ("INFO", "WARNING", "CRITICAL")),
        *((severity, "budget_left ks") for severity in ("INFO", "WARNING")),
    }
    assert not {name for name, _, _ in platform.prometheus.firing() if name in {"DecisionServerDown", "HighErrorRate"}}


def test_no_panel_is_empty(platform: Platform) -> None:
    """A panel asks for a name or a label that nobody exposes, and is empty for ever."""
    documents = all_dashboards(PROFILE)
    asked = {
        (document["title"], panel["title"], target["expr"])
        for document in documents
        for panel in document["panels"]
        for target in panel.get("targets", [])
    }
    assert len(asked) > 40
    waiting = set(asked)
    deadline = time.monotonic() + SECONDS
    while waiting and time.monotonic() < deadline:
        platform.serve()
        waiting = {one for one in waiting if not drawn(platform.prometheus.query(one[2]))}
    assert not waiting, waiting
    assert not drawn(platform.prometheus.query("ml_prediction_requests_absent"))
    assert not drawn(platform.prometheus.query('ml_prediction_requests_total{model_version="absent"}'))


def test_every_choice_has_values(platform: Platform) -> None:
    """A variable offers nothing but `All`."""
    platform.serve()
    for document in all_dashboards(PROFILE):
        for variable in document["templating"]["list"]:
            metric, label = variable["definition"].removeprefix("label_values(").removesuffix(")").split(", ")

            def values(metric: str = metric, label: str = label) -> Any:
                return platform.prometheus.get(f"label/{label}/values", **{"match[]": metric})

            wait_for(lambda values=values: bool(values()), SECONDS)
    assert platform.prometheus.get("label/agent/values", **{"match[]": "mlops_retraining_runs"}) == sorted(AGENTS)


def test_the_annotations_are_the_alerts_that_fire(platform: Platform) -> None:
    """A line at the time of an alert is what shows that the curve beside it is why."""
    for document in all_dashboards(PROFILE):
        (annotation,) = document["annotations"]["list"]
        wait_for(lambda annotation=annotation: bool(platform.prometheus.query(annotation["expr"])), SECONDS)


def drawn(series: list[dict[str, Any]]) -> bool:
    """Whether there is a number to draw: a quantile of nothing is a series too, of NaN."""
    return any(math.isfinite(float(one["value"][1])) for one in series)
