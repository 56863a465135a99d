"""What people are told of, how loudly, on which ways, and when they are left in peace."""

from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, model_validator

from mlops_assets.foundation.policies.base import NotNegative, Positive, Section
from mlops_assets.foundation.policies.governance import Role, Roles

SeverityName = Literal["INFO", "WARNING", "CRITICAL"]
ChannelName = Literal["log", "slack", "slack_alerts", "email", "pagerduty", "sentry"]
Channels = Annotated[tuple[ChannelName, ...], Field(strict=False)]
# What wakes people up.
_PAGER: ChannelName = "pagerduty"
_HOURS_A_DAY = 24


class QuietHours(Section):
    """Hours of the day in `timezone` in which only CRITICAL alerts are told, such as [22, 7]; the others wait for their end."""

    timezone: str
    hours: Annotated[tuple[int, int], Field(strict=False)]

    @model_validator(mode="after")
    def _real(self) -> Self:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"there is no timezone {self.timezone!r}; use a name such as Europe/Berlin") from None
        begin, end = self.hours
        if not (0 <= begin < _HOURS_A_DAY and 0 <= end < _HOURS_A_DAY) or begin == end:
            raise ValueError(f"hours {self.hours} are no part of a day; use two different hours, such as [22, 7]")
        return self


class DeliveryLimits(Section):
    """How the ways to people are used.

    `answer_seconds`: so long one message may take. `tick_seconds`: so long a channel sends in one tick, plus one message.
    `retry_seconds`: wait after a first failure; it doubles with each, up to `max_retry_seconds`.
    """

    answer_seconds: Positive
    tick_seconds: Positive
    retry_seconds: Positive
    max_retry_seconds: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_retry_seconds < self.retry_seconds:
            raise ValueError(f"max_retry_seconds {self.max_retry_seconds} is below retry_seconds {self.retry_seconds}")
        return self


class AlertingPolicy(Section):
    """What is told when, and on which channels.

    `cooldown_minutes`: an alert that goes on is told again only so long after it was told. `settle_minutes`: it has
    recovered when nothing was seen of it for so long. `escalation_minutes`: a CRITICAL alert that nobody has acknowledged
    for so long goes to `escalation`. `fold_recovered`: who was told nothing of an alert before it recovered is told in
    one message, otherwise of everything in its order.

    `routes`: channels by severity; only CRITICAL may page. Of them, those are used that the deployment has set. E-mails go
    to the people with `email_roles`, and when an alert escalates to those with `escalation_roles` too.

    `failed_runs`: severity of a failed run by its job; `default` is that of all others. `look_back_hours`: runs that
    ended longer ago, when runs are first looked at, are told of no more.
    """

    cooldown_minutes: NotNegative
    settle_minutes: NotNegative
    escalation_minutes: Positive
    quiet_hours: QuietHours | None
    fold_recovered: bool
    routes: dict[SeverityName, Channels]
    escalation: Channels
    email_roles: Roles
    escalation_roles: Roles
    failed_runs: dict[str, SeverityName]
    look_back_hours: Positive
    delivery: DeliveryLimits

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if sorted(self.routes) != ["CRITICAL", "INFO", "WARNING"]:
            raise ValueError(f"routes are those of {', '.join(self.routes)}; expected INFO, WARNING and CRITICAL")
        for severity, channels in self.routes.items():
            if severity != "CRITICAL" and _PAGER in channels:
                raise ValueError(f"routes.{severity} has {_PAGER}: only CRITICAL pages; take a channel that can wait")
        if "default" not in self.failed_runs:
            raise ValueError("failed_runs has no `default`; give the severity of jobs that are not named")
        return self

    def roles_told(self, *, escalated: bool) -> tuple[Role, ...]:
        """Roles whose people get the e-mails."""
        return tuple(dict.fromkeys((*self.email_roles, *(self.escalation_roles if escalated else ()))))


class Levels(Section):
    """From where on a measurement is told of: INFO and WARNING from their limit on, CRITICAL above its; None is never."""

    info: NotNegative | None
    warning: NotNegative | None
    critical: NotNegative | None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        given = [limit for limit in (self.info, self.warning, self.critical) if limit is not None]
        if given != sorted(given):
            raise ValueError(f"levels {given} fall; expected info, warning and critical in rising order")
        return self


class AlertThresholds(Section):
    """From which measurement on people are told of a served version.

    `accuracy_drop`: absolute, as a share, below the version's own baseline. `error_rate`: share of the requests.
    `feature_drift`, `prediction_drift`: the policy profile's drift score of the inputs and of the outputs;
    `concept_drift`: that of what the right answers are. `confidence_drop`: absolute, of the mean confidence.
    """

    accuracy_drop: Levels
    error_rate: Levels
    latency_p95_ms: Levels
    latency_p99_ms: Levels
    feature_drift: Levels
    prediction_drift: Levels
    concept_drift: Levels
    confidence_drop: Levels
