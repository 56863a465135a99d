"""When a version's learner counts as ill, and when an estimate without labels is believed."""

from typing import Annotated

from pydantic import Field

from mlops_assets.foundation.policies.alerting import SeverityName
from mlops_assets.foundation.policies.base import OpenShare, Positive, Section, Share


class HealthSeverities(Section):
    """How loudly people are told of each illness of a learner."""

    action_mix: SeverityName
    dead_action: SeverityName
    overestimation: SeverityName
    td_tail: SeverityName
    unseen_states: SeverityName


class HealthPolicy(Section):
    """Limits of the five alarms of a learner's health, each against the version's own frozen reference.

    An alarm needs both: an effect beyond its limit, and evidence at `alpha` that this is no chance; `alpha` bounds the false
    alarms of one alarm in one window. With fewer than `min_rows` decisions (`min_episodes` whole episodes for what is a matter
    of episodes) the verdict is `insufficient_data`.

    `max_mix_distance`: Cramér's V between the shares of the actions. `min_entropy_share`: of the reference's entropy.
    `min_action_share`: an action that the reference takes more often cannot be missing. `max_overestimation_sds`: of Q
    values above the realised return, beyond the reference's own, in its standard deviations. `max_tail_ratio`: of the TD
    error's `tail_quantile`. `max_unseen_share`: of states farther off than the reference's `unseen_quantile`.
    """

    alpha: OpenShare
    min_reference_rows: Annotated[int, Field(ge=1)]
    min_rows: Annotated[int, Field(ge=1)]
    min_episodes: Annotated[int, Field(ge=2)]
    max_mix_distance: OpenShare
    min_entropy_share: OpenShare
    min_action_share: OpenShare
    max_overestimation_sds: Positive
    tail_quantile: OpenShare
    max_tail_ratio: Annotated[float, Field(gt=1.0, allow_inf_nan=False)]
    unseen_quantile: OpenShare
    max_unseen_share: OpenShare
    severities: HealthSeverities


class EstimatePolicy(Section):
    """When performance is estimated without labels, and when that is believed.

    `confidence`: of the intervals, two-sided. `min_reference_rows`: labelled decisions of the version that calibrate.
    `reference_hours`: of a version's service, from its first decision, that it is compared with later, in estimates and in
    health; longer until there are enough decisions. `max_rows`: the most decisions that are looked at, whole users at a time.
    `max_outside_share`: of decisions unlike any in the reference, beyond which nothing is estimated. `coverage_alpha`: the
    chance that an estimate that keeps its promise is ever switched off. `min_realised`: with so many labels, or else
    outcomes, what was realised counts instead of the estimate.
    """

    confidence: OpenShare
    min_reference_rows: Annotated[int, Field(ge=1)]
    reference_hours: Positive
    max_rows: Annotated[int, Field(ge=1)]
    min_rows: Annotated[int, Field(ge=1)]
    max_outside_share: Share
    coverage_alpha: OpenShare
    min_realised: Annotated[int, Field(ge=2)]
    bootstrap_samples: Annotated[int, Field(ge=100)]
