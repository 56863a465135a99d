"""How an A/B test is planned and judged."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mlops_assets.foundation.policies.base import NotNegative, OpenShare, Positive, Section

MetricName = Literal["wrong", "loss", "failed", "slow"]


class MetricLimit(Section):
    """How much worse the treatment may be: its users' mean is at most `ratio` times the control's plus `delta`.

    `effect`: harm beyond the limit, in points, that is to be found soon; it sets the bets, not the error rate. `better_by`:
    how far below the control's mean the treatment's has to be to count as better.
    """

    ratio: Positive
    delta: Annotated[float, Field(gt=-1.0, lt=1.0)]
    effect: OpenShare
    better_by: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class AbTestDesign(Section):
    """How an A/B test is planned and judged.

    `power`: chance to see an effect that is there. `traffic_share`: share of decisions that the treatment takes.
    `min_samples_per_arm`: users each side needs whatever the evidence says. `max_days`: then it ends, undecided or not.

    Metrics are means over users, from 0 (good) to 1: `wrong` (labelled decisions that were not the best), `loss`
    (reward, from the highest possible down), `failed` and `slow` requests. `primary_metric` decides on promotion (with
    `must_be_better`, only on evidence that it is better); each in `limits` rolls back on evidence of harm. `alpha`: the
    chance that a harmless treatment is ever rolled back, and that one beyond its limit is ever promoted. `split_alpha`:
    that a right split is called broken. A user counts with the first `user_window_minutes`, and the outcomes that are
    known `outcome_delay_minutes` later. `pre_period_days`: how far back before the experiment a user's metrics are taken to
    explain a part of the noise, 0 for not at all; they decide nothing. `aa_share`: share of the champion's users in each arm
    of the A/A test, which compares the champion with itself; 0 for none.
    """

    power: OpenShare
    traffic_share: OpenShare
    min_samples_per_arm: Annotated[int, Field(ge=1)]
    max_days: Annotated[int, Field(ge=1)]
    primary_metric: MetricName
    must_be_better: bool
    alpha: OpenShare
    split_alpha: OpenShare
    user_window_minutes: Positive
    outcome_delay_minutes: NotNegative
    # Experiments keep the design of their first look, and those of before this was asked for have none.
    pre_period_days: NotNegative = 0.0
    aa_share: Annotated[float, Field(ge=0.0, le=0.5)] = 0.01
    limits: dict[MetricName, MetricLimit]

    @model_validator(mode="after")
    def _primary_has_a_limit(self) -> Self:
        if self.primary_metric not in self.limits:
            raise ValueError(
                f"limits has no {self.primary_metric!r}, the primary metric; it says how much worse may be promoted"
            )
        return self
