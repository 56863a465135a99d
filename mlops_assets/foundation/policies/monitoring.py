"""What is looked at in served decisions, how far back, and what counts as kept."""

from typing import Annotated

from pydantic import Field

from mlops_assets.foundation.policies.base import Count, NotNegative, Positive, Section, Share


class SloTargets(Section):
    """Targets of the platform's own service levels, over the last `window_days`; shares are of one, times in hours.

    `ab_power` has to be exceeded, `drift_detection_accuracy` and `ci_cd_success` too; all others are inclusive.
    `monitored_hours`: between a version's first user and its promotion. `feature_read_ms`: 95th percentile.
    """

    window_days: Annotated[int, Field(ge=1)]
    tracking_coverage: Share
    datasets_versioned: Share
    feature_read_ms: Positive
    hourly_drift_checks: Share
    retraining_automation: Share
    manual_retrainings: Count
    drift_detection_accuracy: Share
    ab_power: Share
    governance_compliance: Share
    ci_cd_success: Share
    time_to_deploy_hours: Positive
    monitored_hours: NotNegative
    bad_model_incidents: Count


class MonitoringPolicy(Section):
    """How served decisions are watched, and the limits of a performance report; all limits are inclusive.

    `window_hours`: what a check or report looks back on. `trend_days`: calendar days, UTC. `concept_window`: newest
    labelled decisions of the rolling accuracy. `report_sample_rows`: the most rows of a report that is drawn.
    `label_delay_hours`: after so long, a decision without a label counts as one that has none. `min_rows`,
    `min_labelled`: with fewer the verdict is `insufficient_data`.

    `max_accuracy_drop` and `max_confidence_drop` are shares of the version's own baseline.
    `min_throughput_per_hour`: None where nobody says what to expect. `maturity_target`: level 0 to 4.
    """

    window_hours: Positive
    trend_days: Annotated[int, Field(ge=1)]
    concept_window: Annotated[int, Field(ge=1)]
    report_sample_rows: Annotated[int, Field(ge=1)]
    label_delay_hours: NotNegative
    min_rows: Annotated[int, Field(ge=1)]
    min_labelled: Annotated[int, Field(ge=1)]
    max_accuracy_drop: Share
    max_confidence_drop: Share
    max_error_rate: Share
    max_latency_p95_ms: Positive
    max_latency_p99_ms: Positive
    min_data_quality: Share
    min_throughput_per_hour: Positive | None
    maturity_target: Annotated[int, Field(ge=0, le=4)]
    slo: SloTargets
