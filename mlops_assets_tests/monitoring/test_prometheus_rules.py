"""The rule file: the stored one is that of the code, the real promtool takes it, and each rule fires when it should."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops_assets.foundation.policies import Levels
from mlops_assets.foundation.profiles import PolicyProfile, load_profile, profile_names
from mlops_assets.monitoring import promql
from mlops_assets.monitoring.alert_rule import AlertRule, of_bands, of_levels
from mlops_assets.monitoring.prometheus_rules import DONE, REFUSED, all_rules, main, rule_file, rule_text
from mlops_assets.monitoring.rules import judged
from mlops_assets.monitoring.severity import Severity
from mlops_assets.serving.metrics import ServingMetrics
from mlops_assets_tests.monitoring.prometheus import MONITORING, ROOT, promtool
from mlops_assets_tests.serving.test_metrics import VECTOR, answer
from mlops_assets_tests.test_operations import NAMES

PROFILE = load_profile("aiwebtest")
TESTS = ("rules_test.yaml", "rules_days_test.yaml")


def rules_of(profile: PolicyProfile = PROFILE) -> list[AlertRule]:
    return [rule for rules in all_rules(profile).values() for rule in rules]


def with_limits(**sections: Any) -> PolicyProfile:
    """The default profile with other limits in some sections."""
    update = {name: getattr(PROFILE, name).model_copy(update=changes) for name, changes in sections.items()}
    return PROFILE.model_copy(update=update)


def test_the_stored_file_is_that_of_the_code(tmp_path: Path) -> None:
    """A limit is changed in the profile, and Prometheus goes on with the old one; or somebody edits the file."""
    stored = (MONITORING / "rules" / "aiwebtest.yaml").read_text(encoding="utf-8")
    assert stored == rule_text(PROFILE)
    assert yaml.safe_load(stored) == rule_file(PROFILE)
    assert main(["--folder", str(tmp_path)], {}) == DONE
    assert (tmp_path / "aiwebtest.yaml").read_text(encoding="utf-8") == stored
    assert (
        main(["--folder", str(tmp_path), "--runbooks", "https://x/r.md"], {"MLOPS_POLICY_PROFILE": "agent27"}) == DONE
    )
    links = re.findall(r"runbook_url: (\S+)", (tmp_path / "agent27.yaml").read_text(encoding="utf-8"))
    assert all(link.startswith("https://x/r.md#") for link in links)
    assert len(links) == len(rules_of(load_profile("agent27")))


def test_an_unknown_profile_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt profile leaves Prometheus without any rule."""
    assert main(["--profile", "nobody", "--folder", str(tmp_path)], {}) == REFUSED
    assert "unknown policy profile 'nobody'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", profile_names())
def test_promtool_takes_the_rules_of_every_profile(name: str, tmp_path: Path) -> None:
    """One rule that does not parse, or two that are one, and Prometheus starts with none."""
    (tmp_path / "rules.yaml").write_text(rule_text(load_profile(name)), encoding="utf-8")
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "rules.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(rules_of(load_profile(name)))} rules found" in done.stdout


def test_promtool_takes_the_configuration() -> None:
    """Prometheus does not start; or it scrapes under names that no rule knows, and says that everything is down."""
    done = promtool("check", "config", str(MONITORING / "prometheus.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    configuration = yaml.safe_load((MONITORING / "prometheus.yaml").read_text(encoding="utf-8"))
    assert [job["job_name"] for job in configuration["scrape_configs"]] == [promql.DECISIONS, promql.OPERATIONS]
    interval = int(configuration["global"]["scrape_interval"].removesuffix("s"))
    assert all(60.0 * load_profile(name).prometheus.rate_minutes >= 4 * interval for name in profile_names())


@pytest.mark.parametrize("name", TESTS)
def test_every_rule_fires_when_it_should(name: str) -> None:
    """An alert never comes, always comes, or says a number that nobody understands."""
    done = promtool("test", "rules", str(MONITORING / name))
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_in_both_ways() -> None:
    """A rule is added, and nobody has seen it fire, or not fire."""
    fires: set[str] = set()
    rests: set[str] = set()
    severities: set[tuple[str, str]] = set()
    for file in TESTS:
        for group in yaml.safe_load((MONITORING / file).read_text(encoding="utf-8"))["tests"]:
            for case in group.get("alert_rule_test", []):
                (fires if case["exp_alerts"] else rests).add(case["alertname"])
                severities |= {(case["alertname"], one["exp_labels"]["severity"]) for one in case["exp_alerts"]}
            for case in group.get("promql_expr_test", []):
                name = re.search(r'alertname="(\w+)"', case["expr"])
                assert name is not None
                found = re.findall(r'severity="(\w+)"', str(case["exp_samples"]))
                severities |= {(name[1], severity) for severity in found}
    assert fires == rests == {rule.name for rule in rules_of()}
    assert severities == {(rule.name, rule.severity.value) for rule in rules_of()}


def test_severities_roles_and_links() -> None:
    """A severity of another scale pages nobody; a link leads nowhere in the night in which it is needed."""
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert len(anchors) == len(headings)
    for group in rule_file(PROFILE)["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in set(Severity)
            assert rule["labels"]["role"] in {"sre", "mlops", "ml_engineer"}
            document, anchor = rule["annotations"]["runbook_url"].split("#")
            assert (ROOT / document).is_file()
            assert anchor in anchors
    everywhere = {rule.name for name in profile_names() for rule in rules_of(load_profile(name))} | {"LowThroughput"}
    assert everywhere <= set(headings)


def test_only_what_users_feel_or_nobody_is_told_of_is_critical() -> None:
    """C-24: what pages for everything is switched off by the one whom it wakes."""
    critical = {rule.name for rule in rules_of() if rule.severity is Severity.CRITICAL}
    assert critical == {
        "DecisionServerDown",
        "HighLatency",
        "HighErrorRate",
        "ExperimentErrors",
        "ModelDrift",
        "FeatureDrift",
        "AccuracyDrop",
        "AlertsUndelivered",
    }
    # A drift whose severity the source wants critical is so in its own profile, from its own limit on.
    (handbook,) = [
        r for r in rules_of(load_profile("agent27")) if r.labels.get("statistic") == "ks" and "0.1 " in r.expr
    ]
    assert (handbook.severity, handbook.expr.split(" unless")[0]) == (Severity.CRITICAL, "model_drift_ks > 0.1")


def test_rules_name_what_is_exposed() -> None:
    """A rule about a metric that nobody exposes is healthy, and never fires."""
    metrics = ServingMetrics()
    metrics.answered(answer(experiment="x"), VECTOR)
    exposed = NAMES | set(re.findall(r"^# TYPE (\w+) ", metrics.exposition().decode(), flags=re.MULTILINE))
    for rule in rules_of(with_limits(monitoring={"min_throughput_per_hour": 100.0})):
        named = set(
            re.findall(
                r"\b(?:ml|mlops|model|ab_test)_\w+", re.sub(r"by \([^)]*\)|on \([^)]*\)|\{[^}]*\}", "", rule.expr)
            )
        )
        assert named | set(re.findall(r"\bup\b", rule.expr)), rule.expr
        unknown = {
            name for name in named if name not in exposed and re.sub(r"_(bucket|sum|count)$", "", name) not in exposed
        }
        assert not unknown, rule


def test_no_limit_of_latency_is_beyond_the_buckets() -> None:
    """A quantile is never more than the last bucket's bound: a limit beyond it is never reached."""
    metrics = ServingMetrics()
    metrics.answered(answer(), VECTOR)
    bounds = re.findall(r'ml_prediction_latency_seconds_bucket\{le="([\d.]+)"', metrics.exposition().decode())
    largest = max(map(float, bounds))
    limits = [
        limit / 1000.0
        for name in profile_names()
        for levels in (
            load_profile(name).alert_thresholds.latency_p95_ms,
            load_profile(name).alert_thresholds.latency_p99_ms,
        )
        for limit in levels.model_dump().values()
        if limit is not None
    ]
    assert limits
    assert max(limits) < largest


def test_what_no_profile_says_has_no_rule() -> None:
    """A limit of `None` becomes `>= None`; or a rule for throughput fires in a platform that expects none."""
    names = {rule.name for rule in rules_of()}
    assert "LowThroughput" not in names
    (low,) = [
        r for r in rules_of(with_limits(monitoring={"min_throughput_per_hour": 100.0})) if r.name == "LowThroughput"
    ]
    assert low.expr.endswith("< 100")
    never = Levels(info=None, warning=None, critical=None)
    quiet = with_limits(alert_thresholds={"latency_p95_ms": never, "latency_p99_ms": never, "error_rate": never})
    assert not {"HighLatency", "HighErrorRate", "ExperimentErrors"} & {rule.name for rule in rules_of(quiet)}


def test_a_rule_for_throughput_fires_where_one_is_expected(tmp_path: Path) -> None:
    """Nobody can reach the server, nothing fails, and nothing is told of; or a quiet hour is taken for that."""
    profile = with_limits(monitoring={"min_throughput_per_hour": 100.0})
    (tmp_path / "rules.yaml").write_text(rule_text(profile), encoding="utf-8")
    up = {"series": 'up{job="decisions"}', "values": "1x90"}

    def case(series: list[dict[str, str]], firing: int) -> dict[str, Any]:
        expr = 'count(ALERTS{alertname="LowThroughput", alertstate="firing"}) or vector(0)'
        expected = {"expr": expr, "eval_time": "80m", "exp_samples": [{"labels": "{}", "value": firing}]}
        return {"interval": "1m", "input_series": [up, *series], "promql_expr_test": [expected]}

    answers = 'ml_prediction_requests_total{model_version="a",status="ok"}'
    cases = [
        case([{"series": answers, "values": "0+2x90"}], 0),
        case([{"series": answers, "values": "0+1x90"}], 1),
        case([], 1),
        {**case([], 0), "input_series": []},  # no server: that is another alert
    ]
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": cases}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    done = promtool("test", "rules", str(tmp_path / "test.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_levels_and_bands_begin_where_they_do_elsewhere() -> None:
    """The house's own alert and Prometheus' disagree about the same number."""
    levels = Levels(info=None, warning=0.01, critical=0.02)
    assert [(one.severity, one.sign, one.limit) for one in of_levels(levels)] == [
        ("WARNING", ">=", 0.01),
        ("CRITICAL", ">", 0.02),
    ]
    assert (judged(0.01, levels), judged(0.02, levels)) == (Severity.WARNING, Severity.WARNING)
    assert [(one.severity, one.sign) for one in of_bands(0.1, 0.2, 0.3)] == [
        ("INFO", ">"),
        ("WARNING", ">"),
        ("CRITICAL", ">"),
    ]
    # Of two bands with one limit the worse one is meant.
    assert [(one.severity, one.limit) for one in of_bands(0.05, 0.1, 0.1)] == [("INFO", 0.05), ("CRITICAL", 0.1)]
    assert [one.severity for one in of_bands(0.1, 0.1, 0.1)] == ["CRITICAL"]
