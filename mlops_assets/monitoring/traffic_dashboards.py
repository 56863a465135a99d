"""Dashboards of what the decision servers answer: models, experiments and rollouts."""

from typing import Any

from mlops_assets.foundation.policies import Levels
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.monitoring import promql
from mlops_assets.monitoring.grafana import Panel, Query, Section, Variable, dashboard

# As long as four scrapes at least, whatever is zoomed to.
_RATE = "$__rate_interval"
_VERSION = '{model_version=~"$model_version"}'
_EXPERIMENT = '{experiment=~"$experiment"}'


def model_monitoring(profile: PolicyProfile) -> dict[str, Any]:
    """What the decision servers answer: how much, how fast, how sure, and what they fail on."""
    levels, features = profile.alert_thresholds, profile.monitoring.slo.feature_read_ms / 1000.0
    answers = promql.ANSWERS + _VERSION
    latency = [
        Query(promql.quantile(level, promql.LATENCY, _RATE, where=_VERSION), f"p{100 * level:g}")
        for level in (0.5, 0.95, 0.99)
    ]
    now = Section(
        "Now",
        [
            Panel("Servers", "Decision servers that answer Prometheus.", [Query('sum(up{job="decisions"})')],
                  kind="stat", width=6, height=4),
            Panel("Decisions a second", "Over five minutes.", [Query(promql.rate(promql.ANSWERS, "5m"))],
                  "reqps", "stat", width=6, height=4),
            Panel("Error share", "Requests that got no answer (5xx), over five minutes.",
                  [Query(promql.error_share("5m"))], "percentunit", "stat", _limits(levels.error_rate), 6, 4),
            Panel("Versions in service", "By agent and alias.",
                  [Query("ml_model_served", "{{agent}} {{alias}} {{model_version}}")], kind="stat", width=6, height=4),
        ],
    )  # fmt: skip
    decisions = Section(
        "Decisions",
        [
            Panel("Request rate", "Answers a second over five minutes, by version and status.",
                  [Query(promql.rate(answers, "5m", ["model_version", "status"]), "{{model_version}} {{status}}")],
                  "reqps"),
            Panel("Latency", "Time in the server. Lines: limits of the 95th percentile.", latency, "s",
                  limits=_limits(levels.latency_p95_ms, 1000.0)),
            Panel("Confidence", "How the softmax margin of the decisions is distributed.",
                  [Query(promql.increase(f"{promql.CONFIDENCE}_bucket{_VERSION}", _RATE, ["le"]), "{{le}}")],
                  kind="heatmap"),
            Panel("Mean confidence", "By version.",
                  [Query(promql.mean(promql.CONFIDENCE, _RATE, ["model_version"], _VERSION), "{{model_version}}")]),
            Panel("Latency by version", "95th percentile.",
                  [Query(promql.quantile(0.95, promql.LATENCY, _RATE, ["model_version"], _VERSION), "{{model_version}}")],
                  "s", limits=_limits(levels.latency_p95_ms, 1000.0)),
            Panel("Error share", "Requests that got no answer (5xx), and answers without online features.",
                  [Query(promql.error_share("5m"), "failed"), Query(promql.degraded_share("5m"), "degraded")],
                  "percentunit", limits=_limits(levels.error_rate)),
        ],
    )  # fmt: skip
    behind = Section(
        "Behind the decisions",
        [
            Panel("Refused requests", "A second, by HTTP status.",
                  [Query(promql.rate("ml_requests_refused_total", "5m", ["status"]), "{{status}}")], "reqps", width=8),
            Panel("Online features", "95th percentile of the wait for them, and 1 while they are not asked for.",
                  [Query(promql.quantile(0.95, "ml_online_feature_seconds", _RATE), "p95 (s)"),
                   Query("max(ml_online_features_breaker_open)", "breaker open")],
                  limits=(None, features, None), width=8),
            Panel("Prediction log", "Answers not in the database yet, and refusals a second of what stands behind it.",
                  [Query("sum(ml_prediction_log_unshipped)", "not shipped"),
                   Query(promql.known_zero(promql.rate("ml_prediction_log_failures_total", "5m")), "refusals a second")],
                  width=8),
            Panel("Features", "Mean over the newest state vectors.",
                  [Query('ml_feature_value{statistic="mean", feature_name=~"$feature_name"}', "{{feature_name}}")],
                  width=24),
        ],
    )  # fmt: skip
    return dashboard(
        "ml-model-monitoring", "ML Model Monitoring", [now, decisions, behind],
        [Variable("model_version", "Version", promql.ANSWERS, "model_version"),
         Variable("feature_name", "Feature", "ml_feature_value", "feature_name")],
    )  # fmt: skip


def experiments_and_rollouts(profile: PolicyProfile) -> dict[str, Any]:
    """What the arms of experiments bring, and how far rollouts are."""
    by, arm = ["experiment", "variant"], "{{experiment}} {{variant}}"
    levels = profile.alert_thresholds
    answered = promql.rate(f"ab_test_predictions_total{_EXPERIMENT}", _RATE, by)
    failed = promql.rate(f"ab_test_errors_total{_EXPERIMENT}", _RATE, by)
    arms = Section(
        "Experiments",
        [
            Panel("Decisions by arm", "A second.", [Query(answered, arm)], "reqps"),
            Panel("Failures by arm", "Share of the requests on which the arm's model failed; another one answered.",
                  [Query(f"({failed} or 0 * {answered}) / {answered}", arm)], "percentunit",
                  limits=_limits(levels.error_rate)),
            Panel("Latency by arm", "95th percentile.",
                  [Query(promql.quantile(0.95, "ab_test_prediction_latency_seconds", _RATE, by, _EXPERIMENT), arm)], "s",
                  limits=_limits(levels.latency_p95_ms, 1000.0), width=8),
            Panel("Accuracy by arm", "Share of the labelled decisions that were the best one.",
                  [Query(f"ab_test_accuracy{_EXPERIMENT}", arm)], "percentunit", width=8),
            Panel("Reward by arm", "Mean reward of the decisions whose outcome is known.",
                  [Query(f"ab_test_avg_reward{_EXPERIMENT}", arm)], width=8),
        ],
    )  # fmt: skip
    rollouts = Section(
        "Rollouts",
        [
            Panel("Users of the candidate", "Share, by stage; nothing while no rollout is under way.",
                  [Query("mlops_rollout_share", "{{model_name}} {{stage}}")], "percentunit"),
            Panel("Versions in service", "By agent and alias.",
                  [Query("count by (agent, alias, model_version) (ml_model_served)",
                         "{{agent}} {{alias}} {{model_version}}")]),
            Panel("Degraded answers", "Answers without online features, as a share of the version's answers.",
                  [Query(_degraded_by_version(), "{{model_version}}")], "percentunit"),
            Panel("Decisions by version", "Share of all.",
                  [Query(f"{promql.rate(promql.ANSWERS, '5m', ['model_version'])} "
                         f"/ on () group_left () {promql.rate(promql.ANSWERS, '5m')}", "{{model_version}}")],
                  "percentunit"),
        ],
    )  # fmt: skip
    return dashboard(
        "ml-experiments-rollouts", "Experiments and rollouts", [arms, rollouts],
        [Variable("experiment", "Experiment", "ab_test_predictions_total", "experiment")],
    )  # fmt: skip


def _degraded_by_version() -> str:
    by = ["model_version"]
    every = promql.rate(promql.ANSWERS, "5m", by)
    degraded = promql.rate(f'{promql.ANSWERS}{{status="degraded"}}', "5m", by)
    return f"({degraded} or 0 * {every}) / {every}"


def _limits(levels: Levels, divisor: float = 1.0) -> tuple[float | None, float | None, float | None]:
    info, warning, critical = (
        None if limit is None else limit / divisor for limit in (levels.info, levels.warning, levels.critical)
    )
    return info, warning, critical
