"""Rules of Prometheus on what the operational database holds: drift checks, alerts, trainings and rollouts."""

from mlops_assets.foundation.policies import STAGE_SHARES, StageName
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.monitoring.alert_rule import VALUE, AlertRule, of_bands
from mlops_assets.monitoring.promql import duration
from mlops_assets.monitoring.severity import Severity

_HOUR, _DAY = 3600.0, 86_400.0
_INFO, _WARNING, _CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL


def drift_rules(profile: PolicyProfile) -> list[AlertRule]:
    """Rules on the newest drift check of each champion: the bands of the section `drift`, whose limits are never in them."""
    policy, drift = profile.prometheus, profile.drift
    minutes = policy.state_for_minutes
    # What the house's own check holds for chance, or for too little, is told of by nobody.
    sure = 'unless on (model_name) model_drift_verdict{verdict=~"insufficient_data|ok"} == 1'
    column = "{{ $labels.feature }} of {{ $labels.model_name }}"
    rules = []
    for severity, sign, limit in of_bands(drift.combined_monitor, drift.combined_warning, drift.combined_critical):
        rules.append(
            AlertRule(
                "ModelDrift", severity, "ml_engineer", f"model_drift_score {sign} {limit:g}", minutes,
                "What a model decides has drifted",
                "the drift score of {{ $labels.model_type }} {{ $labels.model_version }} is "
                f"{VALUE}, above {limit:g}",
            )
        )  # fmt: skip
    for severity, sign, limit in of_bands(drift.psi_monitor, drift.psi_warning, drift.psi_critical):
        rules.append(
            AlertRule(
                "FeatureDrift", severity, "ml_engineer", f"model_drift_psi {sign} {limit:g} {sure}", minutes,
                "A column has drifted", f"the PSI of {column} is {VALUE}, above {limit:g}",
                {"statistic": "psi"},
            )
        )  # fmt: skip
    for severity, sign, limit in of_bands(drift.ks_monitor, drift.ks_warning, drift.ks_critical):
        rules.append(
            AlertRule(
                "FeatureDrift", severity, "ml_engineer", f"model_drift_ks {sign} {limit:g} {sure}", minutes,
                "A column has drifted",
                f"Kolmogorov-Smirnov's D of {column} is {VALUE}, above {limit:g}",
                {"statistic": "ks"},
            )
        )  # fmt: skip
    drops = (drift.accuracy_drop_monitor_rel, drift.accuracy_drop_warning_rel, drift.accuracy_drop_critical_rel)
    for severity, sign, limit in of_bands(*(round(100.0 * drop, 9) for drop in drops)):
        rules.append(
            AlertRule(
                "AccuracyDrop", severity, "ml_engineer", f"model_accuracy_drop_percent {sign} {limit:g}", minutes,
                "A model is less accurate than when it was released",
                f"{{{{ $labels.model_name }}}} has lost {VALUE} % of its accuracy, more than {limit:g} %",
            )
        )  # fmt: skip
    return [*rules, *_checks(profile)]


def operation_rules(profile: PolicyProfile) -> list[AlertRule]:
    """Rules on alerts, trainings and rollouts, as the operational database has them."""
    policy, retraining = profile.prometheus, profile.retraining
    minutes = policy.state_for_minutes
    waiting = policy.max_waiting_minutes
    overdue = retraining.max_days_without * _DAY + policy.training_grace_hours * _HOUR
    recent = duration(policy.failure_minutes)
    failed = 'mlops_retraining_runs{status=~"failed|lost"}'
    held = 60.0 * max(retraining.psi_deadline_hours, retraining.accuracy_deadline_hours)
    return [
        AlertRule(
            "CriticalAlertOpen", _WARNING, "sre", 'mlops_alerts_open{severity="CRITICAL"} > 0',
            profile.alerting.escalation_minutes,
            "A CRITICAL alert goes on",
            f"{{{{ $value }}}} CRITICAL alerts have not recovered for {duration(profile.alerting.escalation_minutes)}",
        ),
        AlertRule(
            "AlertsUndelivered", _CRITICAL, "sre", f"mlops_alert_oldest_waiting_seconds > {60.0 * waiting:g}", minutes,
            "People are not told of alerts",
            "a notice waits for {{ $labels.channel }} since {{ $value | humanizeDuration }}, "
            f"longer than {duration(waiting)}",
        ),
        AlertRule(
            "RetrainingFailed", _WARNING, "mlops", f"{failed} > {failed} offset {recent}", 0.0,
            "A training failed", f"a training of {{{{ $labels.agent }}}} ended as {{{{ $labels.status }}}} within {recent}",
        ),
        AlertRule(
            "RetrainingOverdue", _WARNING, "mlops", f"mlops_retraining_last_success_age_seconds > {overdue:.10g}", minutes,
            "A model has not been trained for too long",
            "the last training of {{ $labels.agent }} that ended well is {{ $value | humanizeDuration }} ago, "
            f"longer than {duration(overdue / 60.0)}",
        ),
        AlertRule(
            "RetrainingHeldUp", _INFO, "mlops", "mlops_retraining_signals_pending > 0", held,
            "Triggers wait for a training", f"{{{{ $value }}}} triggers of {{{{ $labels.agent }}}} wait for {duration(held)}",
        ),
        *(_stalled(profile, stage) for stage in STAGE_SHARES),
    ]  # fmt: skip


def _checks(profile: PolicyProfile) -> list[AlertRule]:
    late, unknown = profile.prometheus.max_check_age_hours, 60.0 * profile.monitoring.window_hours
    return [
        AlertRule(
            "DriftCheckLate", _WARNING, "mlops", f"model_drift_check_age_seconds > {late * _HOUR:g}",
            profile.prometheus.state_for_minutes,
            "A model is not checked for drift",
            "the newest drift check of {{ $labels.model_name }} is {{ $value | humanizeDuration }} old, "
            f"more than {duration(60.0 * late)}",
        ),
        AlertRule(
            "DriftUnknown", _INFO, "ml_engineer", 'model_drift_verdict{verdict="insufficient_data"} == 1', unknown,
            "Too little traffic to judge drift",
            f"every check of {{{{ $labels.model_name }}}} in {duration(unknown)} had too few decisions for a verdict",
        ),
    ]  # fmt: skip


def _stalled(profile: PolicyProfile, stage: StageName) -> AlertRule:
    rollout = profile.rollout
    at_least = rollout.shadow.hours if stage == "shadow" else rollout.stages[stage].hours
    longest = 60.0 * (at_least + rollout.stall_hours)
    return AlertRule(
        "RolloutStalled", _WARNING, "mlops", f'mlops_rollout_share{{stage="{stage}"}} >= 0', longest,
        "A rollout does not go on",
        f"the rollout of {{{{ $labels.model_name }}}} is at {stage} for {duration(longest)}",
        {"stage": stage},
    )  # fmt: skip
