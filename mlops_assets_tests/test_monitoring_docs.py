"""docs/monitoring.md does what it says: its commands on a server, its scrape file, and its tables are all that is exposed."""

import json
import os
import re
import subprocess
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine

from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.settings import Settings, variable_names
from mlops_assets.operations import create_operations_app
from mlops_assets.serving.metrics import ServingMetrics
from mlops_assets_tests.programs import system_program
from mlops_assets_tests.serving.test_metrics import SPEC, VECTOR, answer
from mlops_assets_tests.sockets import on_a_socket

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    return str(found)


def names_of(heading: str) -> set[str]:
    """Names in the first column of a section's table."""
    section = DOCUMENT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    cells = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_the_commands_and_the_tables(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A command of the page fails, or a gauge has another name than the page, which dashboards are made by."""
    promtool = Path(system_program("promtool", "prometheus"))
    with on_a_socket(create_operations_app(Settings(), sqlite_engine, SystemClock())) as url:
        checked, status = (
            subprocess.run(
                ["bash", "-c", f"set -o pipefail; {line.replace('http://127.0.0.1:8400', url)}"],
                env={"PATH": f"{promtool.parent}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            ).stdout
            for line in block("bash").splitlines()
        )
        exposed = subprocess.run(["curl", "-s", f"{url}/metrics"], capture_output=True, text=True, check=True).stdout
    assert checked == ""
    for name in re.findall(r"`(\w+)`", DOCUMENT.split("get_monitoring_summary` gives", 1)[1].split("`null`", 1)[0]):
        assert name in json.loads(status)["models"][0], name
    families = {family.name for family in text_string_to_metric_families(exposed)}
    assert names_of("The operations server's gauges") == families
    scraping = tmp_path / "prometheus.yml"
    scraping.write_text(block("yaml"), encoding="utf-8")
    subprocess.run([promtool, "check", "config", scraping], check=True, capture_output=True, timeout=60)
    jobs = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in yaml.safe_load(block("yaml"))["scrape_configs"]
    }
    settings = Settings()
    assert jobs == {
        "decisions": [f"{settings.serving_host}:{settings.serving_port}"],
        "operations": [f"{settings.operations_host}:{settings.operations_port}"],
    }
    assert set(re.findall(r"`(MLOPS_\w+)", DOCUMENT)) <= set(variable_names())


def test_the_decision_servers_table() -> None:
    """A metric is exposed and nobody knows what it means."""
    metrics = ServingMetrics()
    metrics.answered(answer(), VECTOR)
    families = text_string_to_metric_families(metrics.exposition().decode())
    counters = {family.name + "_total" if family.type == "counter" else family.name for family in families}
    exposed = {name for name in counters if not name.endswith("_created")}
    runtime = (ROOT / "mlops_assets" / "serving" / "runtime.py").read_text(encoding="utf-8")
    read_at_the_scrape = set(re.findall(r'gauge\(\s*"(\w+)"', runtime))
    assert names_of("The decision server's metrics") == exposed | read_at_the_scrape
    assert f"{SPEC.name}." in metrics.exposition().decode()
