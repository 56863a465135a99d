"""The roof: every room's Dagster objects in the one `Definitions`. Nothing else belongs here."""

from collections.abc import Mapping

import dagster as dg

from mlops_assets.evaluation.assets import EVALUATION_ASSETS
from mlops_assets.evaluation.checks import EVALUATION_CHECKS
from mlops_assets.experiences.assets import EXPERIENCES_ASSETS
from mlops_assets.experiences.checks import EXPERIENCES_CHECKS
from mlops_assets.experiments.assets import EXPERIMENTS_ASSETS
from mlops_assets.features.assets import FEATURES_ASSETS
from mlops_assets.features.checks import FEATURES_CHECKS
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.resources import Platform
from mlops_assets.governance.assets import GOVERNANCE_ASSETS
from mlops_assets.governance.jobs import GOVERNANCE_JOBS
from mlops_assets.governance.sensors import GOVERNANCE_SENSORS
from mlops_assets.monitoring.assets import MONITORING_ASSETS
from mlops_assets.monitoring.jobs import monitoring_jobs
from mlops_assets.monitoring.schedules import MONITORING_SCHEDULES
from mlops_assets.monitoring.sensors import MONITORING_SENSORS
from mlops_assets.registry.assets import REGISTRY_ASSETS
from mlops_assets.retraining.jobs import RETRAINING_JOBS, lifecycle_jobs
from mlops_assets.retraining.schedules import retraining_schedules
from mlops_assets.retraining.sensors import retraining_sensors
from mlops_assets.rollout.assets import ROLLOUT_ASSETS
from mlops_assets.rollout.jobs import ROLLOUT_JOBS
from mlops_assets.rollout.sensors import ROLLOUT_SENSORS
from mlops_assets.serving.assets import SERVING_ASSETS
from mlops_assets.serving.jobs import serving_jobs
from mlops_assets.training.assets import TRAINING_ASSETS
from mlops_assets.training.resources import DqnTrainer, MlflowParentRun


def build_definitions(*, resources: Mapping[str, object] | None = None, profile: str = "aiwebtest") -> dg.Definitions:
    """Return fresh definitions; `resources` replaces resources by key, `profile` gives the jobs' retry numbers."""
    policies = load_profile(profile)
    return dg.Definitions(
        assets=[
            *EXPERIENCES_ASSETS,
            *FEATURES_ASSETS,
            *TRAINING_ASSETS,
            *EVALUATION_ASSETS,
            *REGISTRY_ASSETS,
            *GOVERNANCE_ASSETS,
            *EXPERIMENTS_ASSETS,
            *ROLLOUT_ASSETS,
            *SERVING_ASSETS,
            *MONITORING_ASSETS,
        ],
        asset_checks=[*EXPERIENCES_CHECKS, *FEATURES_CHECKS, *EVALUATION_CHECKS],
        jobs=[
            *lifecycle_jobs(policies),
            *RETRAINING_JOBS,
            *GOVERNANCE_JOBS,
            *ROLLOUT_JOBS,
            *serving_jobs(policies),
            *monitoring_jobs(policies),
        ],
        schedules=[*retraining_schedules(policies), *MONITORING_SCHEDULES],
        sensors=[*GOVERNANCE_SENSORS, *ROLLOUT_SENSORS, *MONITORING_SENSORS, *retraining_sensors(policies)],
        # Also for what people materialise in the UI: while a step waits for its pool, the platform must already be open,
        # since it finds and fails the killed run that holds the slot.
        executor=dg.in_process_executor,
        resources={
            "platform": Platform(),
            "trainer": DqnTrainer(),
            "mlflow_parent": MlflowParentRun(),
            **(resources or {}),
        },
    )


defs = build_definitions()
