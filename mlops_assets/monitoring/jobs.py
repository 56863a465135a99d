"""Jobs of this room."""

from typing import Any

import dagster as dg

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.partitions import ALL_AGENTS_TAGS
from mlops_assets.foundation.profiles import PolicyProfile


def monitoring_jobs(profile: PolicyProfile) -> list[Any]:
    """Return `drift_monitoring` and `daily_report`: of every agent in one run, the latter of the platform as well.

    For one agent, give the tags of the partition range its name, as with `batch_inference`.
    """
    retry = dg.RetryPolicy(max_retries=profile.retry.max_retries, delay=profile.retry.delay_seconds)
    return [
        dg.define_asset_job(
            "drift_monitoring",
            selection=dg.AssetSelection.assets("drift_reference", "drift_report"),
            description=f"Drift of the last hours' decisions, agents {', '.join(AGENTS)}, against each champion's reference.",
            tags=ALL_AGENTS_TAGS,
            executor_def=dg.in_process_executor,
            op_retry_policy=retry,
        ),
        dg.define_asset_job(
            "daily_report",
            selection=dg.AssetSelection.assets("performance_report", "slo_report"),
            description=f"What was served in the last hours, agents {', '.join(AGENTS)}, and the service levels.",
            tags=ALL_AGENTS_TAGS,
            executor_def=dg.in_process_executor,
            op_retry_policy=retry,
        ),
    ]
