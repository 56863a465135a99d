"""Rules of Prometheus on what the decision servers answer, and on whether both servers are there."""

from collections.abc import Iterator

from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.monitoring import promql
from mlops_assets.monitoring.alert_rule import VALUE, AlertRule, of_levels
from mlops_assets.monitoring.promql import DECISIONS, OPERATIONS, duration
from mlops_assets.monitoring.severity import Severity

_WARNING, _CRITICAL = Severity.WARNING, Severity.CRITICAL


def decision_rules(profile: PolicyProfile) -> list[AlertRule]:
    """Rules on what the decision servers answer."""
    policy, levels = profile.prometheus, profile.alert_thresholds
    window = duration(policy.rate_minutes)
    went_on = f"over {window}, for {duration(policy.traffic_for_minutes)}"
    rules = [*_latency(profile)]
    enough = f"{promql.asked(window)} >= {policy.min_requests}"
    for severity, sign, limit in of_levels(levels.error_rate):
        rules.append(
            AlertRule(
                "HighErrorRate", severity, "sre",
                f"{promql.error_share(window)} {sign} {limit:g} and {enough}", policy.traffic_for_minutes,
                "Requests for decisions fail",
                f"{{{{ $value | humanizePercentage }}}} of the requests got no answer (5xx), limit {100 * limit:g}%, {went_on}",
            )
        )  # fmt: skip
    degraded = profile.retraining.limits.max_error_rate
    answers = promql.increase(promql.ANSWERS, window)
    rules += [
        AlertRule(
            "DegradedAnswers", _WARNING, "sre",
            f"{promql.degraded_share(window)} > {degraded:g} and {answers} >= {policy.min_requests}",
            policy.traffic_for_minutes,
            "Decisions are made without online features",
            f"{{{{ $value | humanizePercentage }}}} of the answers had default features, limit {100 * degraded:g}%, {went_on}",
        ),
        AlertRule(
            "PredictionLogFailing", _WARNING, "sre",
            f"{promql.increase('ml_prediction_log_failures_total', window, ['what'])} > 0", policy.traffic_for_minutes,
            "The prediction log is not written",
            f"{VALUE} refusals of {{{{ $labels.what }}}} {went_on}",
        ),
        *_throughput(profile),
        *_confidence(profile),
        *_experiments(profile, window, went_on),
    ]  # fmt: skip
    return rules


def process_rules(profile: PolicyProfile) -> list[AlertRule]:
    """Rules on whether the two servers are there."""
    minutes = profile.prometheus.down_for_minutes
    away = f"for {duration(minutes)}"
    server, keeper = f'up{{job="{DECISIONS}"}}', f'up{{job="{OPERATIONS}"}}'
    return [
        AlertRule(
            "DecisionServerDown", _CRITICAL, "sre", f"sum({server}) == 0 or absent({server})", minutes,
            "No decision server answers", f"users get no decisions: no decision server has answered Prometheus {away}",
        ),
        AlertRule(
            "DecisionServerDown", _WARNING, "sre", f"{server} == 0", minutes,
            "A decision server does not answer", f"{{{{ $labels.instance }}}} has not answered Prometheus {away}",
        ),
        AlertRule(
            "OperationsServerDown", _WARNING, "mlops", f"{keeper} == 0 or absent({keeper})", minutes,
            "Nothing is known of drift, alerts and trainings",
            f"the operations server, or its database, has not answered Prometheus {away}",
        ),
    ]  # fmt: skip


def _latency(profile: PolicyProfile) -> Iterator[AlertRule]:
    policy, levels = profile.prometheus, profile.alert_thresholds
    window, by = duration(policy.rate_minutes), ["model_version"]
    enough = f"{promql.increase(f'{promql.LATENCY}_count', window, by)} >= {policy.min_requests}"
    for level, limits in ((0.95, levels.latency_p95_ms), (0.99, levels.latency_p99_ms)):
        for severity, sign, limit in of_levels(limits):
            yield AlertRule(
                "HighLatency", severity, "sre",
                f"{promql.quantile(level, promql.LATENCY, window, by)} {sign} {limit / 1000.0:g} and {enough}",
                policy.traffic_for_minutes,
                "Decisions are slow",
                f"the {100 * level:g}th percentile of {{{{ $labels.model_version }}}} is {{{{ $value | humanizeDuration }}}}, "
                f"limit {limit:g} ms, over {window}, for {duration(policy.traffic_for_minutes)}",
                {"quantile": f"{level:g}"},
            )  # fmt: skip


def _throughput(profile: PolicyProfile) -> Iterator[AlertRule]:
    expected = profile.monitoring.min_throughput_per_hour
    if expected is not None:
        answered = promql.known_zero(promql.increase(promql.ANSWERS, "1h"))
        yield AlertRule(
            "LowThroughput", _WARNING, "sre", f"{answered} < {expected:g}", profile.prometheus.traffic_for_minutes,
            "Fewer decisions are asked for than expected",
            f"{VALUE} decisions in an hour, expected {expected:g}",
        )  # fmt: skip


def _confidence(profile: PolicyProfile) -> Iterator[AlertRule]:
    """Whole days are compared, so that nights are: what is asked then is not what is asked at noon."""
    monitoring, by = profile.monitoring, ["model_version"]
    now, before = duration(60.0 * monitoring.window_hours), duration(1440.0 * monitoring.trend_days)
    fall = f"({promql.mean(promql.CONFIDENCE, before, by)}) - ({promql.mean(promql.CONFIDENCE, now, by)})"
    enough = f"{promql.increase(f'{promql.CONFIDENCE}_count', now, by)} >= {monitoring.min_rows}"
    for severity, sign, limit in of_levels(profile.alert_thresholds.confidence_drop):
        yield AlertRule(
            "ConfidenceDrop", severity, "ml_engineer", f"{fall} {sign} {limit:g} and {enough}",
            profile.prometheus.traffic_for_minutes,
            "A model is less sure of its decisions",
            f"the mean confidence of {{{{ $labels.model_version }}}} in {now} is {VALUE} below that of "
            f"{before}, limit {limit:g}",
        )  # fmt: skip


def _experiments(profile: PolicyProfile, window: str, went_on: str) -> Iterator[AlertRule]:
    by = ["experiment", "variant"]
    share = (
        f"{promql.rate('ab_test_errors_total', window, by)} / {promql.rate('ab_test_predictions_total', window, by)}"
    )
    enough = f"{promql.increase('ab_test_predictions_total', window, by)} >= {profile.prometheus.min_requests}"
    for severity, sign, limit in of_levels(profile.alert_thresholds.error_rate):
        yield AlertRule(
            "ExperimentErrors", severity, "mlops", f"{share} {sign} {limit:g} and {enough}",
            profile.prometheus.traffic_for_minutes,
            "A version on trial fails on requests",
            "the version of {{ $labels.variant }} in {{ $labels.experiment }} failed on {{ $value | humanizePercentage }} "
            f"of the requests, limit {100 * limit:g}%, {went_on}",
        )  # fmt: skip
