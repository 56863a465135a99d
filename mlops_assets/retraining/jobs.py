"""The two jobs that run the lifecycle, from executions to the approval decision."""

from typing import Any

import dagster as dg

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.partitions import ALL_AGENTS_TAGS
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.foundation.trigger import TriggerReason

LIFECYCLE = dg.AssetSelection.groups("experiences", "features", "training", "evaluation", "registry", "governance")


def lifecycle_jobs(profile: PolicyProfile) -> list[Any]:
    """Return `model_lifecycle` (every agent in one run) and `retrain` (one agent a run, started by a trigger).

    One process for the whole run: an interpreter per step would import Feast, MLflow and torch fourteen times.
    """
    retry = dg.RetryPolicy(max_retries=profile.retry.max_retries, delay=profile.retry.delay_seconds)
    agents = ", ".join(AGENTS)
    return [
        dg.define_asset_job(
            "model_lifecycle",
            selection=LIFECYCLE,
            description=f"The main job: from test executions to the approval decision, agents {agents} in one run.",
            tags={**ALL_AGENTS_TAGS, **TriggerReason().tags()},
            executor_def=dg.in_process_executor,
            op_retry_policy=retry,
        ),
        dg.define_asset_job(
            "retrain",
            selection=LIFECYCLE,
            description="The same assets for one agent, started by a trigger; the run's tags say why.",
            executor_def=dg.in_process_executor,
            op_retry_policy=retry,
        ),
    ]
