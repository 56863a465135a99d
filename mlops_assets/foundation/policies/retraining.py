"""When a model is trained again, and how automation answers incidents."""

from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, model_validator

from mlops_assets.foundation.policies.base import NotNegative, Positive, Section, Share

_HOURS_A_DAY = 24


class OffPeak(Section):
    """Hours of the day in `timezone` in which trainings disturb nobody, from and to, such as [2, 4]; [22, 3] spans midnight."""

    timezone: str
    hours: Annotated[tuple[int, int], Field(strict=False)]

    @model_validator(mode="after")
    def _real(self) -> Self:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"there is no timezone {self.timezone!r}; use a name such as Europe/Berlin") from None
        begin, end = self.hours
        if not (0 <= begin < _HOURS_A_DAY and 0 <= end <= _HOURS_A_DAY and begin != end):
            raise ValueError(f"hours {self.hours} are no window; use two hours of the day, such as [2, 4]")
        return self


class TriggerLimits(Section):
    """From where on what was measured asks for a training; every comparison is strict, so PSI exactly .3 is a warning.

    `psi_*`: largest population stability index of all columns. `accuracy_*_rel`: share of the version's own accuracy.
    Beyond `*_critical` a training is due at once, beyond `*_warning` within its deadline. `psi_monitor`: up to there the
    inputs did not move. `accuracy_stable_rel`: up to there accuracy is fine, on `min_labelled` decisions at least.
    `combined`, `ks`: drift score 0..1 and largest Kolmogorov-Smirnov statistic, None where a source has no such limit.
    `max_error_rate`: of the champion's decisions in `error_rate_hours`, of which `min_requests` are needed.
    """

    psi_monitor: Positive
    psi_warning: Positive
    psi_critical: Positive
    accuracy_stable_rel: Share
    accuracy_warning_rel: Share
    accuracy_critical_rel: Share
    min_labelled: Annotated[int, Field(ge=1)]
    combined: Share | None
    ks: Share | None
    max_error_rate: Share
    error_rate_hours: Positive
    min_requests: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.psi_monitor <= self.psi_warning <= self.psi_critical:
            raise ValueError("psi_monitor, psi_warning and psi_critical have to grow in this order")
        if not self.accuracy_stable_rel <= self.accuracy_warning_rel <= self.accuracy_critical_rel:
            raise ValueError(
                "accuracy_stable_rel, accuracy_warning_rel and accuracy_critical_rel have to grow in this order"
            )
        return self


class FileWatch(Section):
    """Where new data arrive as files: below `directories` (relative ones: below the project's home), by the name's end.

    A file is taken when two looks, `settle_seconds` apart or more, found it with the same size and time of change.
    """

    directories: Annotated[tuple[str, ...], Field(strict=False)]
    patterns: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    settle_seconds: NotNegative


class RetrainingPolicy(Section):
    """When a model is trained again, whatever asks for it.

    `min_hours_between` and `max_per_day` (in any 24 hours) throttle; people may override the first. `min_new_samples`: less
    new data is no reason. `max_days_without`: older models are trained again. `psi_deadline_hours`,
    `accuracy_deadline_hours`: within them a warning is answered, in the next off-peak window. A trigger that could not be
    answered for `signal_expiry_hours` is given up.

    `retrain_when`: `thresholds` goes by `limits`; `hurts` trains by itself only when the lower bound of the reward that is
    lost a day, times `payback_days`, exceeds `training_cost` (in reward), by a check of the last `evidence_max_age_hours`.
    `require_confirmation`: a drift of the inputs alone, at stable accuracy, waits for a person.
    `automatic_start`: sensors and schedules run without being switched on. An incident takes a champion back only within
    `rollback_within_days` of its promotion: one that was good for longer is not what went wrong.
    """

    min_hours_between: NotNegative
    max_per_day: Annotated[int, Field(ge=1)]
    min_new_samples: Annotated[int, Field(ge=1)]
    max_days_without: Positive
    psi_deadline_hours: Positive
    accuracy_deadline_hours: Positive
    signal_expiry_hours: Positive
    off_peak: OffPeak
    limits: TriggerLimits
    retrain_when: Literal["thresholds", "hurts"]
    training_cost: Positive
    payback_days: Positive
    evidence_max_age_hours: Positive
    require_confirmation: bool
    files: FileWatch
    automatic_start: bool
    rollback_within_days: Positive

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        longest = max(self.psi_deadline_hours, self.accuracy_deadline_hours)
        if self.signal_expiry_hours <= longest:
            raise ValueError(
                f"signal_expiry_hours {self.signal_expiry_hours:g} gives triggers up before their deadline of {longest:g} h"
            )
        return self
