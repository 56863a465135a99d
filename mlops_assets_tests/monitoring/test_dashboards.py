"""The dashboards that are stored are those of the code, in Grafana's model, with queries that mean what they say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops_assets.foundation.profiles import load_profile, profile_names
from mlops_assets.monitoring.dashboards import DONE, REFUSED, all_dashboards, dashboard_text, main
from mlops_assets_tests.monitoring.prometheus import MONITORING
from mlops_assets_tests.monitoring.test_grafana import problems

DOCUMENTS = {document["uid"]: document for document in all_dashboards(load_profile("aiwebtest"))}


def queries(document: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in document["panels"] for target in panel.get("targets", [])]


def test_the_stored_dashboards_are_those_of_the_code(tmp_path: Path) -> None:
    """A limit is changed in the profile, and the line on the wall stays where it was; or somebody edits the JSON."""
    stored = {path.name: path.read_text(encoding="utf-8") for path in (MONITORING / "dashboards").iterdir()}
    assert stored == {f"{uid}.json": dashboard_text(document) for uid, document in DOCUMENTS.items()}
    assert main(["--folder", str(tmp_path)], {}) == DONE
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == stored
    assert {json.loads(text)["title"] for text in stored.values()} == {
        "ML Model Monitoring",
        "Experiments and rollouts",
        "Drift and performance",
        "Retraining and alerts",
    }


@pytest.mark.parametrize("name", profile_names())
def test_grafana_takes_them(name: str) -> None:
    """Grafana refuses the file at its start, where only its log says so."""
    documents = all_dashboards(load_profile(name))
    assert [problem for document in documents for problem in problems(document)] == []
    assert len({document["uid"] for document in documents}) == len(documents)


def test_quantiles_are_of_rates_of_buckets() -> None:
    """B-59: a quantile of counters since the start never falls again, whatever happens now."""
    found = [query for document in DOCUMENTS.values() for query in queries(document) if "histogram_quantile" in query]
    assert len(found) >= 6
    for query in found:
        assert re.search(r"histogram_quantile\([\d.]+, sum by \(le[,)].*\(rate\(\w+_bucket(\{.*?\})?\[", query), query
    for query in (query for document in DOCUMENTS.values() for query in queries(document)):
        counters = re.findall(r"\w+_(?:total|bucket|count|sum)\b(?!\s*\()", query)
        grown = re.findall(r"(?:rate|increase)\((\w+)", query)
        assert counters == grown, query


def test_what_was_asked_of_the_first_dashboard_is_there() -> None:
    """MON-8: percentiles of latency, the distribution of predictions as a heatmap, the rate of five minutes."""
    panels = {panel["title"]: panel for panel in DOCUMENTS["ml-model-monitoring"]["panels"]}
    latency = panels["Latency"]["targets"]
    assert [one["legendFormat"] for one in latency] == ["p50", "p95", "p99"]
    assert [one["expr"][:24] for one in latency] == [
        f"histogram_quantile({q}"[:24] for q in ("0.5, ", "0.95,", "0.99,")
    ]
    assert (panels["Confidence"]["type"], panels["Confidence"]["targets"][0]["format"]) == ("heatmap", "heatmap")
    rate = panels["Request rate"]["targets"][0]
    assert 'rate(ml_prediction_requests_total{model_version=~"$model_version"}[5m])' in rate["expr"]
    assert rate["legendFormat"] == "{{model_version}} {{status}}"
    drift = {panel["title"]: panel for panel in DOCUMENTS["ml-drift-performance"]["panels"]}["Drift score"]
    assert drift["targets"][0]["expr"] == "model_drift_score"
    assert [step["value"] for step in drift["fieldConfig"]["defaults"]["thresholds"]["steps"]] == [None, 0.1, 0.3, 0.5]


def test_every_choice_is_used_and_every_used_one_is_a_choice() -> None:
    """A variable that nothing uses confuses; one that is not there leaves its panel empty."""
    for document in DOCUMENTS.values():
        choices = {variable["name"] for variable in document["templating"]["list"]}
        used = {name for query in queries(document) for name in re.findall(r"\$(\w+)", query)}
        assert used - {"__rate_interval"} == choices, document["title"]


def test_provisioning_names_the_data_source_that_the_panels_ask() -> None:
    """Every panel says `Data source not found`."""
    provisioning = MONITORING / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))
    (prometheus,) = source["datasources"]
    assert {(prometheus["type"], prometheus["uid"])} == {
        (panel["datasource"]["type"], panel["datasource"]["uid"])
        for document in DOCUMENTS.values()
        for panel in document["panels"]
        if panel["type"] != "row"
    }
    scraping = yaml.safe_load((MONITORING / "prometheus.yaml").read_text(encoding="utf-8"))["global"]
    assert prometheus["jsonData"]["timeInterval"] == scraping["scrape_interval"]
    folders = yaml.safe_load((provisioning / "dashboards" / "mlops.yaml").read_text(encoding="utf-8"))
    (provider,) = folders["providers"]
    assert (folders["apiVersion"], source["apiVersion"], provider["type"]) == (1, 1, "file")
    assert not provider["allowUiUpdates"]


def test_an_unknown_profile_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Dashboards with no limits at all are written, and say that all is well."""
    assert main(["--profile", "nobody", "--folder", str(tmp_path)], {}) == REFUSED
    assert "unknown policy profile 'nobody'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
