"""How an approved version comes to all users, and what takes it back."""

from typing import Annotated, Literal, Self, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, model_validator

from mlops_assets.foundation.policies.base import NotNegative, OpenShare, Positive, Section, Share

StageName = Literal["shadow", "5_percent", "20_percent", "50_percent", "100_percent"]
# In the order in which they are passed; the names are those of the assets, the shares what they say.
STAGE_SHARES: dict[StageName, float] = {
    "shadow": 0.0,
    "5_percent": 0.05,
    "20_percent": 0.2,
    "50_percent": 0.5,
    "100_percent": 1.0,
}
_HOURS_A_DAY = 24
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


class ShadowGate(Section):
    """What a candidate has to show before its first user, on requests that the champion answers.

    `min_requests`: of them `min_answered` at least must have the candidate's answer too. `min_agreement`: share of equal
    actions. `max_latency_ratio`: of the 95th percentiles. `max_accuracy_drop`: share of the champion's accuracy, on
    requests whose best action became known, of which `min_labelled` are needed. `max_value_drop`: share of the reward's
    range, where the reward of every action became known.
    """

    hours: Positive
    min_requests: Annotated[int, Field(ge=1)]
    min_answered: Share
    min_agreement: Share
    max_latency_ratio: Positive
    min_labelled: Annotated[int, Field(ge=1)]
    max_accuracy_drop: Share
    max_value_drop: Share


class StageLimits(Section):
    """One stage with users: how long it lasts at least, on how many users of each arm, and what it has to prove.

    `max_error_ratio` and `max_latency_ratio` (of the 95th percentiles) compare with the champion in the same hours;
    `min_accuracy` is a floor.
    """

    hours: Positive
    min_users_per_arm: Annotated[int, Field(ge=1)]
    max_error_ratio: Annotated[float, Field(ge=1.0, allow_inf_nan=False)]
    max_latency_ratio: Annotated[float, Field(ge=1.0, allow_inf_nan=False)]
    min_accuracy: Share


class DeploymentCalendar(Section):
    """When a rollout may start or advance; a rollback always may.

    `hours`: from and to, hours of the day in `timezone`, such as [4, 6]; None: all day. `blocked_days`: on which nothing
    starts or advances.
    """

    timezone: str
    hours: Annotated[tuple[int, int], Field(strict=False)] | None
    blocked_days: Annotated[tuple[Weekday, ...], Field(strict=False)]

    @model_validator(mode="after")
    def _real(self) -> Self:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"there is no timezone {self.timezone!r}; use a name such as Europe/Berlin") from None
        if self.hours is not None and not 0 <= self.hours[0] < self.hours[1] <= _HOURS_A_DAY:
            raise ValueError(f"hours {self.hours} are no window; use two hours of one day, such as [4, 6]")
        if len(set(self.blocked_days)) == len(get_args(Weekday)):
            raise ValueError("blocked_days are all seven: nothing would ever start")
        return self


class RolloutPolicy(Section):
    """How an approved version comes to all users, and what takes it back.

    `alpha_harm`: chance that a candidate within its limits is ever taken back; `alpha_pass`: that one beyond a limit ever
    passes a stage. `error_floor`: error rate that is allowed whatever the ratio says. `max_slow_points`: how many more of
    the candidate's requests than of the champion's may be slower than the allowed 95th percentile. `max_accuracy_drop`:
    share of the champion's accuracy. `*_effect`: harm beyond the limit that is to be found soon; these set the bets, not
    the error rates. `stall_hours`: undecided for so long beyond its time, a stage is called stalled.

    `cool_down_hours`: so long a version that was taken back, and any other of the same training, may not start again.
    `when_newer`: what an approved newer candidate does to a rollout under way. `automatic_start`: approved challengers
    start without being asked for.
    """

    shadow: ShadowGate
    stages: dict[StageName, StageLimits]
    alpha_harm: OpenShare
    alpha_pass: OpenShare
    error_floor: Annotated[float, Field(ge=0.0, lt=1.0)]
    error_effect: OpenShare
    max_slow_points: OpenShare
    slow_effect: OpenShare
    max_accuracy_drop: OpenShare
    accuracy_effect: OpenShare
    user_window_minutes: Positive
    outcome_delay_minutes: NotNegative
    stall_hours: Positive
    cool_down_hours: NotNegative
    when_newer: Literal["queue", "supersede"]
    automatic_start: bool
    calendar: DeploymentCalendar

    @model_validator(mode="after")
    def _whole(self) -> Self:
        expected = [name for name in STAGE_SHARES if name != "shadow"]
        if sorted(self.stages) != sorted(expected):
            raise ValueError(f"stages are {', '.join(self.stages)}; expected {', '.join(expected)}")
        return self

    @property
    def highest_floor(self) -> float:
        """The strictest stage's accuracy."""
        return max(stage.min_accuracy for stage in self.stages.values())
