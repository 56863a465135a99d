"""Every threshold of the project as a typed section, by room. Nothing has a default: a profile spells every number."""

from mlops_assets.foundation.policies.alerting import (
    AlertingPolicy,
    AlertThresholds,
    ChannelName,
    DeliveryLimits,
    Levels,
    QuietHours,
    SeverityName,
)
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
from mlops_assets.foundation.policies.drift import DriftPolicy
from mlops_assets.foundation.policies.evaluation import EvaluationPolicy
from mlops_assets.foundation.policies.experiments import AbTestDesign, MetricLimit, MetricName
from mlops_assets.foundation.policies.governance import AccessPolicy, GovernancePolicy, Permission, Role, Roles
from mlops_assets.foundation.policies.health import EstimatePolicy, HealthPolicy
from mlops_assets.foundation.policies.monitoring import MonitoringPolicy, SloTargets
from mlops_assets.foundation.policies.platform import RetryPolicySettings
from mlops_assets.foundation.policies.prometheus import PrometheusPolicy
from mlops_assets.foundation.policies.retraining import FileWatch, OffPeak, RetrainingPolicy, TriggerLimits
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
    "STAGE_SHARES", "AbTestDesign", "AccessPolicy", "AlertThresholds", "AlertingPolicy", "ChannelName", "Count",
    "DataPolicies", "DataPolicy", "DeliveryLimits", "DeploymentCalendar", "DriftPolicy", "EmailAddress",
    "EstimatePolicy", "EvaluationPolicy", "FileWatch", "Finite", "GovernancePolicy", "HealthPolicy", "Levels",
    "MetricLimit", "MetricName", "MonitoringPolicy", "NotNegative", "OffPeak", "OpenShare", "Permission",
    "Positive", "PrometheusPolicy", "QuietHours", "RetrainingPolicy", "RetryPolicySettings", "Role", "Roles",
    "RolloutPolicy", "Section", "ServingPolicy", "SeverityName", "ShadowGate", "Share", "SloTargets", "StageLimits",
    "StageName", "TriggerLimits", "Weekday", "real_address",
]  # fmt: skip
