"""Dashboards of what the operational database holds: drift checks, alerts and trainings."""

from typing import Any

from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.monitoring.grafana import Panel, Query, Section, Variable, dashboard

_MODEL = '{model_name=~"$model_name"}'
_AGENT = '{agent=~"$agent"}'


def drift_and_performance(profile: PolicyProfile) -> dict[str, Any]:
    """The newest drift check of each champion, over time."""
    policy = profile.drift
    drops = (policy.accuracy_drop_monitor_rel, policy.accuracy_drop_warning_rel, policy.accuracy_drop_critical_rel)
    info, warning, critical = (round(100.0 * drop, 9) for drop in drops)
    latest_check = profile.prometheus.max_check_age_hours * 3600.0
    verdicts = Section(
        "Newest check",
        [
            Panel("Verdict", "What the newest check of each champion came to.",
                  [Query("max by (model_name, model_version, verdict) (model_drift_verdict) == 1")], kind="table",
                  height=6),
            Panel("Age of the check", "Checks are hourly.",
                  [Query(f"model_drift_check_age_seconds{_MODEL}", "{{model_name}}")], "s", "stat",
                  (None, latest_check, None), 6, 6),
            Panel("Decisions checked", "With too few, the verdict is insufficient_data.",
                  [Query(f"model_decisions_checked{_MODEL}", "{{model_name}}")], kind="stat", width=6, height=6),
        ],
    )  # fmt: skip
    effects = Section(
        "Drift",
        [
            Panel("Drift score", "Of the predictions, 0 to 1. Lines: watch, retrain, retrain now.",
                  [Query("model_drift_score", "{{model_type}} {{model_version}}")],
                  limits=(policy.combined_monitor, policy.combined_warning, policy.combined_critical)),
            Panel("Accuracy lost", "Of the version's own accuracy, what is certain.",
                  [Query(f"model_accuracy_drop_percent{_MODEL}", "{{model_name}}")], "percent",
                  limits=(info, warning, critical)),
            Panel("PSI", "The ten columns that moved most.",
                  [Query(f"topk(10, model_drift_psi{_MODEL})", "{{model_name}} {{feature}}")],
                  limits=(policy.psi_monitor, policy.psi_warning, policy.psi_critical)),
            Panel("Kolmogorov-Smirnov", "The ten columns that moved most.",
                  [Query(f"topk(10, model_drift_ks{_MODEL})", "{{model_name}} {{feature}}")],
                  limits=(policy.ks_monitor, policy.ks_warning, policy.ks_critical)),
        ],
    )  # fmt: skip
    return dashboard(
        "ml-drift-performance", "Drift and performance", [verdicts, effects],
        [Variable("model_name", "Model", "model_drift_check_age_seconds", "model_name")],
    )  # fmt: skip


def retraining_and_alerts(profile: PolicyProfile) -> dict[str, Any]:
    """What asks for trainings and what becomes of them, and whether people are told what they have to know."""
    overdue = profile.retraining.max_days_without * 86_400.0 + profile.prometheus.training_grace_hours * 3600.0
    waiting = 60.0 * profile.prometheus.max_waiting_minutes
    alerts = Section(
        "Alerts",
        [
            Panel("Alerts that go on", "By severity, acknowledged or not.",
                  [Query("mlops_alerts_open", "{{severity}}")], kind="stat", width=8),
            Panel("Prometheus' own", "Rules that fire now.",
                  [Query("count by (alertname, severity, role) (ALERTS{alertstate=\"firing\"})")], kind="table", width=16),
            Panel("Notices", "In the outbox, by channel.",
                  [Query('sum by (channel, status) (mlops_alert_deliveries)', "{{channel}} {{status}}")]),
            Panel("Oldest notice that is due", "Zero where none waits.",
                  [Query("mlops_alert_oldest_waiting_seconds", "{{channel}}")], "s", limits=(None, None, waiting)),
        ],
    )  # fmt: skip
    trainings = Section(
        "Retraining",
        [
            Panel("Triggers that wait", "By agent.",
                  [Query(f"mlops_retraining_signals_pending{_AGENT}", "{{agent}}")], width=8),
            Panel("Decisions on triggers", "In the last seven days.",
                  [Query(f"mlops_retraining_decisions{_AGENT}", "{{agent}} {{outcome}}")], width=8),
            Panel("Trainings", "By what became of them.",
                  [Query(f"mlops_retraining_runs{_AGENT}", "{{agent}} {{status}}")], width=8),
            Panel("Time since the last good training", "Nothing of an agent that was never retrained.",
                  [Query(f"mlops_retraining_last_success_age_seconds{_AGENT}", "{{agent}}")], "s",
                  limits=(None, overdue, None), width=24),
        ],
    )  # fmt: skip
    return dashboard(
        "ml-retraining-alerts", "Retraining and alerts", [alerts, trainings],
        [Variable("agent", "Agent", "mlops_retraining_runs", "agent")],
    )  # fmt: skip
