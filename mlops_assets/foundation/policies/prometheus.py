"""When Prometheus' own rules fire, beyond the limits that the other sections have."""

from typing import Annotated

from pydantic import Field

from mlops_assets.foundation.policies.base import NotNegative, Positive, Section


class PrometheusPolicy(Section):
    """How long something has to go on before a rule fires, and limits that nothing but a rule asks for.

    Limits of latency, errors, drift, accuracy, throughput and rollouts are those of `alert_thresholds`, `drift`,
    `monitoring`, `retraining` and `rollout`.

    `rate_minutes`: rates and quantiles are taken over so long; four scrapes at least. `min_requests`: with fewer answers in
    it, shares and quantiles are not judged. `traffic_for_minutes`, `state_for_minutes`: so long what is measured of
    requests, or read from the database, has to be beyond its limit; `down_for_minutes`: so long a process is away.

    `max_check_age_hours`: of a model's newest drift check. `max_waiting_minutes`: of a notice that is due and undelivered.
    `training_grace_hours`: after `retraining.max_days_without`, until a training has to have ended well.
    `failure_minutes`: so long a training that failed is told of.
    """

    rate_minutes: Annotated[float, Field(ge=1.0, allow_inf_nan=False)]
    min_requests: Annotated[int, Field(ge=1)]
    traffic_for_minutes: NotNegative
    state_for_minutes: NotNegative
    down_for_minutes: NotNegative
    max_check_age_hours: Positive
    max_waiting_minutes: Positive
    training_grace_hours: NotNegative
    failure_minutes: Positive
