"""Policy profiles: every threshold of the project as data, one YAML file of `profiles/` for each source of numbers.

Nothing has a default here: a profile spells every number, so that no threshold lives in code.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ValidationError, model_validator

from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.policies import (
    AbTestDesign,
    AccessPolicy,
    AlertingPolicy,
    AlertThresholds,
    DataPolicies,
    DriftPolicy,
    EstimatePolicy,
    EvaluationPolicy,
    GovernancePolicy,
    HealthPolicy,
    MonitoringPolicy,
    PrometheusPolicy,
    RetrainingPolicy,
    RetryPolicySettings,
    RolloutPolicy,
    Section,
    ServingPolicy,
)

_FOLDER = Path(__file__).parent / "profiles"


class PolicyProfile(Section):
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
    alerting: AlertingPolicy
    alert_thresholds: AlertThresholds
    monitoring: MonitoringPolicy
    prometheus: PrometheusPolicy
    retraining: RetrainingPolicy
    drift: DriftPolicy
    health: HealthPolicy
    estimate: EstimatePolicy
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
    return _parsed(text, origin)


# A tick of a sensor reads it several times, and validation takes 70 ms; by its text, so that another file is another profile.
@lru_cache(maxsize=8)
def _parsed(text: str, origin: str) -> PolicyProfile:
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
