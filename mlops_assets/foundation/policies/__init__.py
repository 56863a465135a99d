"""Every threshold of the project as a typed section, by room. Nothing has a default: a profile spells every number."""

from mlops_assets.foundation.policies.base import (
    Count,
    EmailAddress,
    Finite,
    NotNegative,
    OpenShare,
    Positive,
    Section,
    Share,
    real_address,
)
from mlops_assets.foundation.policies.data import DataPolicies, DataPolicy
from mlops_assets.foundation.policies.evaluation import EvaluationPolicy
from mlops_assets.foundation.policies.experiments import AbTestDesign, MetricLimit, MetricName
from mlops_assets.foundation.policies.governance import AccessPolicy, GovernancePolicy, Permission, Role, Roles
from mlops_assets.foundation.policies.health import EstimatePolicy, HealthPolicy
from mlops_assets.foundation.policies.platform import RetryPolicySettings
from mlops_assets.foundation.policies.rollout import (
    STAGE_SHARES,
    DeploymentCalendar,
    RolloutPolicy,
    ShadowGate,
    StageLimits,
    StageName,
    Weekday,
)
from mlops_assets.foundation.policies.serving import ServingPolicy

__all__ = [
    "STAGE_SHARES", "AbTestDesign", "AccessPolicy", "Count", "DataPolicies", "DataPolicy", "DeploymentCalendar",
    "EmailAddress", "EstimatePolicy", "EvaluationPolicy", "Finite", "GovernancePolicy", "HealthPolicy", "MetricLimit", "MetricName", "NotNegative",
    "OpenShare", "Permission", "Positive", "RetryPolicySettings", "Role", "Roles", "RolloutPolicy", "Section",
    "ServingPolicy", "ShadowGate", "Share", "StageLimits", "StageName", "Weekday", "real_address",
]  # fmt: skip
