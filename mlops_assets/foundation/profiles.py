"""Policy profiles: every threshold of the project as data, one YAML file of `profiles/` for each source of numbers.

Nothing has a default here: a profile spells every number, so that no threshold lives in code.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mlops_assets.foundation.errors import SettingsError

_FOLDER = Path(__file__).parent / "profiles"
_ADDRESS = re.compile(r"[^@\s]+@[^@\s.]+(?:\.[^@\s.]+)+")
_LONGEST_ADDRESS = 254


def real_address(address: str) -> str:
    """Return the address if it is one of a person, as far as its form tells.

    Raises:
        ValueError: it is not.
    """
    if _ADDRESS.fullmatch(address) is None or len(address) > _LONGEST_ADDRESS:
        raise ValueError(f"{address!r} is not an e-mail address")
    return address


Share = Annotated[float, Field(ge=0.0, le=1.0)]
OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
EmailAddress = Annotated[str, AfterValidator(real_address)]
Role = Literal["ml_engineer", "mlops", "sre"]
Roles = Annotated[tuple[Role, ...], Field(strict=False)]
Permission = Literal["deploy_staging", "deploy_production", "rollback", "scale"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataPolicy(_Section):
    """Bounds that a snapshot of experiences is validated against.

    `window_rows`: newest rows kept, of the last `window_days` (None: no limit). `max_age_hours`: age of the newest row,
    None for no limit. `max_mean_shift_sigmas`, `min_std_ratio`, `max_std_ratio`, `max_missing_rate_increase_points`
    (percentage points) compare with the previous snapshot; with fewer than `min_shift_rows` rows on a side the verdict
    is `insufficient_data`.
    """

    min_rows: Count
    max_rows: Count
    window_rows: Annotated[int, Field(ge=1)]
    window_days: Annotated[int, Field(ge=1)] | None
    reward_low: Finite
    reward_high: Finite
    max_age_hours: Annotated[int, Field(ge=1)] | None
    max_mean_shift_sigmas: Positive
    min_std_ratio: NotNegative
    max_std_ratio: Positive
    max_missing_rate_increase_points: Annotated[float, Field(ge=0.0, le=100.0)]
    min_shift_rows: Count

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for low, high in (
            ("min_rows", "max_rows"),
            ("min_rows", "window_rows"),
            ("reward_low", "reward_high"),
            ("min_std_ratio", "max_std_ratio"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low)} is greater than {high} {getattr(self, high)}")
        return self


class DataPolicies(_Section):
    """`standard`: a system in operation. `bootstrap`: a cold start or a small history, chosen by name."""

    standard: DataPolicy
    bootstrap: DataPolicy

    def named(self, name: Literal["standard", "bootstrap"]) -> DataPolicy:
        """Return one of the two by its name."""
        return self.standard if name == "standard" else self.bootstrap


class EvaluationPolicy(_Section):
    """Smoke gates of a trained model, and how they are measured.

    `holdout_share`: newest share of the episodes. `max_latency_ms`: of the 95th percentile. `max_slice_gap_points`:
    largest gap of accuracy between slices, percentage points. None: the profile's source names no such gate.
    """

    holdout_share: OpenShare
    min_holdout_rows: Count
    min_accuracy: Share
    max_latency_ms: Positive
    min_f1: Share | None
    min_roc_auc: Share | None
    max_model_size_mb: Positive | None
    max_slice_gap_points: Annotated[float, Field(ge=0.0, le=100.0)]
    min_slice_rows: Count
    confidence: OpenShare
    bootstrap_samples: Annotated[int, Field(ge=100)]
    min_effective_sample_size: NotNegative


class GovernancePolicy(_Section):
    """When a registered version is approved, waits for people, or is rejected. All limits are inclusive.

    `min_improvement_percent`: relative to the champion's accuracy. `min_off_policy_gain`: reward of an episode by which
    the lower bound of the version's `avg_reward` has to exceed what was earned on the logged episodes; None is no such
    check. `high_risk_accuracy_drop`: absolute, as a share.
    `min_approvals`: how many of the required approvers have to approve; a request ends after `approval_expiry_hours`.
    """

    min_accuracy: Share
    max_latency_ms: Positive
    min_improvement_percent: Finite
    min_off_policy_gain: Finite | None
    high_risk_accuracy_drop: Share
    high_risk_new_architecture: bool
    auto_approve_low_risk: bool
    required_approvers_high_risk: Annotated[tuple[EmailAddress, ...], Field(min_length=1, strict=False)]
    min_approvals: Annotated[int, Field(ge=1)]
    approval_expiry_hours: Positive

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        distinct = {address.casefold() for address in self.required_approvers_high_risk}
        if self.min_approvals > len(distinct):
            raise ValueError(
                f"min_approvals {self.min_approvals} is more than the {len(distinct)} distinct "
                "required_approvers_high_risk"
            )
        return self


class AccessPolicy(_Section):
    """Who may do what to versions: people and services have roles, roles have permissions.

    `roles`: by the name that a person acts under; empty is no role table. `services`: the same for the platform's own
    automation, whose names no person may use.
    """

    roles: dict[str, Roles]
    services: dict[str, Roles]
    permissions: dict[Role, Annotated[tuple[Permission, ...], Field(strict=False)]]


MetricName = Literal["wrong", "loss", "failed", "slow"]


class MetricLimit(_Section):
    """How much worse the treatment may be: its users' mean is at most `ratio` times the control's plus `delta`.

    `effect`: harm beyond the limit, in points, that is to be found soon; it sets the bets, not the error rate. `better_by`:
    how far below the control's mean the treatment's has to be to count as better.
    """

    ratio: Positive
    delta: Annotated[float, Field(gt=-1.0, lt=1.0)]
    effect: OpenShare
    better_by: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class AbTestDesign(_Section):
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


class ShadowGate(_Section):
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


class StageLimits(_Section):
    """One stage with users: how long it lasts at least, on how many users of each arm, and what it has to prove.

    `max_error_ratio` and `max_latency_ratio` (of the 95th percentiles) compare with the champion in the same hours;
    `min_accuracy` is a floor.
    """

    hours: Positive
    min_users_per_arm: Annotated[int, Field(ge=1)]
    max_error_ratio: Annotated[float, Field(ge=1.0, allow_inf_nan=False)]
    max_latency_ratio: Annotated[float, Field(ge=1.0, allow_inf_nan=False)]
    min_accuracy: Share


class DeploymentCalendar(_Section):
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


class RolloutPolicy(_Section):
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


class ServingPolicy(_Section):
    """How the decision server protects itself and its answers.

    `feature_timeout_ms`: longest wait for online features; `breaker_failures` refused or late lookups in a row open the
    circuit breaker for `breaker_open_seconds`, in which answers go out with default features, flagged. The cache holds
    `cache_entries` answers of `cache_ttl_seconds`. An answer is durable after `log_flush_ms`; with `log_queue_rows`
    answers not yet durable, new requests are refused. `registry_poll_ms`: how often aliases, traffic splits and tokens
    are looked up. A version on trial is waited for `treatment_timeout_ms`, then the champion answers; late
    `breaker_failures` times in a row, it is not asked for `breaker_open_seconds`. `rate_per_second` and `rate_burst` limit
    each token, `max_body_bytes` and `max_batch_rows` a request.

    A stream's consumer has `stream_batch` messages in hand at most; one that nobody held for `stream_claim_idle_seconds`
    is taken over, after `stream_max_deliveries` it is given up. It waits `stream_feature_patience_seconds` for a feature
    store that is away before it answers with default features, flagged.
    """

    feature_timeout_ms: Positive
    breaker_failures: Annotated[int, Field(ge=1)]
    breaker_open_seconds: Positive
    cache_entries: Count
    cache_ttl_seconds: Positive
    treatment_timeout_ms: Positive
    log_flush_ms: Annotated[float, Field(gt=0.0, le=100.0)]
    log_queue_rows: Annotated[int, Field(ge=1)]
    registry_poll_ms: Annotated[float, Field(gt=0.0, le=1000.0)]
    rate_per_second: Positive
    rate_burst: Annotated[int, Field(ge=1)]
    max_body_bytes: Annotated[int, Field(ge=1024)]
    max_batch_rows: Annotated[int, Field(ge=1)]
    stream_batch: Annotated[int, Field(ge=1)]
    stream_claim_idle_seconds: Positive
    stream_max_deliveries: Annotated[int, Field(ge=1)]
    stream_feature_patience_seconds: NotNegative


class RetryPolicySettings(_Section):
    """Retries of a step after a transient failure."""

    max_retries: Count
    delay_seconds: NotNegative


class PolicyProfile(_Section):
    """One named set of thresholds."""

    name: str
    description: str
    data: DataPolicies
    evaluation: EvaluationPolicy
    governance: GovernancePolicy
    access: AccessPolicy
    ab_test: AbTestDesign
    rollout: RolloutPolicy
    serving: ServingPolicy
    retry: RetryPolicySettings

    @model_validator(mode="after")
    def _layered(self) -> Self:
        """Gates get stricter on the way to production, never laxer."""
        if self.governance.min_accuracy < self.evaluation.min_accuracy:
            raise ValueError(
                f"governance.min_accuracy {self.governance.min_accuracy} is below "
                f"evaluation.min_accuracy {self.evaluation.min_accuracy}"
            )
        if self.governance.max_latency_ms > self.evaluation.max_latency_ms:
            raise ValueError(
                f"governance.max_latency_ms {self.governance.max_latency_ms} is above "
                f"evaluation.max_latency_ms {self.evaluation.max_latency_ms}"
            )
        return self


class _StrictLoader(yaml.SafeLoader):
    """YAML without its silent last-one-wins for a key that is written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        written = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in written:
            if written.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is written twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that come with the project, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_profile(name: str) -> PolicyProfile:
    """Read and validate one profile.

    Raises:
        SettingsError: unknown name, or a profile file with an unknown, missing or invalid value.
    """
    if name not in profile_names():
        raise SettingsError(f"unknown policy profile {name!r}; known profiles: {', '.join(profile_names())}")
    profile = parse_profile((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), origin=f"profiles/{name}.yaml")
    if profile.name != name:
        raise SettingsError(f"profiles/{name}.yaml: name is {profile.name!r}, expected the file's name {name!r}")
    return profile


def parse_profile(text: str, *, origin: str) -> PolicyProfile:
    """Validate a profile's YAML text; `origin` names it in errors.

    Raises:
        SettingsError: not YAML, or an unknown, missing or invalid value; each is listed with its key.
    """
    try:
        # A subclass of SafeLoader: no tags that construct objects.
        return PolicyProfile.model_validate(yaml.load(text, Loader=_StrictLoader))  # noqa: S506
    except yaml.YAMLError as error:
        raise SettingsError(f"{origin} is not valid YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'profile'}: {problem['msg']} (got {problem['input']!r})"
            for problem in error.errors(include_url=False)
        )
        raise SettingsError(f"{origin} is not a policy profile: {problems}") from error
