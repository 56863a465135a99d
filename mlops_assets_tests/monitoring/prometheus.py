"""A real Prometheus on loopback, with the deployment's own configuration in which only times and ports are others."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.monitoring.prometheus_rules import rule_text
from mlops_assets_tests.programs import free_port, system_program, wait_for

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
# What Grafana fills in: a range of at least four scrapes, and all values of a variable.
_GRAFANA = {"$__rate_interval": "1m"}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real promtool in the checkout."""
    command = [system_program("promtool", "prometheus"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


class Prometheus:
    """What a running one knows."""

    def __init__(self, port: int, log: Path) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._log = log

    @property
    def log(self) -> str:
        """What it said."""
        return self._log.read_text(errors="replace")

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"{self._url}/-/ready", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def get(self, path: str, **parameters: Any) -> Any:
        """The data behind a path of its API; a query that it refuses is an error that names it."""
        answer = httpx.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=60)
        assert answer.status_code == 200, (parameters, answer.text)
        return answer.json()["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression of a dashboard, now."""
        found: list[dict[str, Any]] = self.get("query", query=without_variables(expression))["result"]
        return found

    def targets(self) -> dict[str, str]:
        """Health of every target, by job."""
        found = self.get("targets")["activeTargets"]
        return {one["labels"]["job"]: f"{one['health']} {one['lastError']}".strip() for one in found}

    def rules(self) -> list[dict[str, Any]]:
        """Every rule."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def firing(self) -> set[tuple[str, str, str]]:
        """Alerts that fire: name, severity, and of what."""
        found = [one for one in self.get("alerts")["alerts"] if one["state"] == "firing"]
        return {(one["labels"]["alertname"], one["labels"]["severity"], _of_what(one["labels"])) for one in found}


def without_variables(expression: str) -> str:
    """The expression as Grafana sends it, with all values of each variable."""
    for name, value in _GRAFANA.items():
        expression = expression.replace(name, value)
    return re.sub(r"\$\w+", ".*", expression)


@contextmanager
def running(folder: Path, profile: PolicyProfile, ports: Mapping[str, int]) -> Iterator[Prometheus]:
    """Start one that scrapes these ports, by job, each second; it has ended, and its storage is gone, on return."""
    folder.mkdir()
    (folder / "rules").mkdir()
    (folder / "rules" / f"{profile.name}.yaml").write_text(rule_text(profile), encoding="utf-8")
    configuration = yaml.safe_load((MONITORING / "prometheus.yaml").read_text(encoding="utf-8"))
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    assert {job["job_name"] for job in configuration["scrape_configs"]} == set(ports)
    for job in configuration["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    port = free_port()
    command = [
        system_program("prometheus", "prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    prometheus = Prometheus(port, folder / "log")

    def ready() -> bool:
        assert process.poll() is None, prometheus.log[-4000:]
        return prometheus.ready()

    try:
        wait_for(ready, 60)
        yield prometheus
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(folder / "data", ignore_errors=True)


def _of_what(labels: Mapping[str, str]) -> str:
    if "feature" in labels:
        return f"{labels['feature']} {labels['statistic']}"
    for name in ("model_name", "model_type", "agent", "instance"):
        if name in labels:
            return labels[name]
    return ""
