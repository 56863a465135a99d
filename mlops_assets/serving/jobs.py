"""The job of this room: decisions for many rows at once."""

from typing import Any

import dagster as dg

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.partitions import ALL_AGENTS_TAGS
from mlops_assets.foundation.profiles import PolicyProfile


def serving_jobs(profile: PolicyProfile) -> list[Any]:
    """Return `batch_inference`, which scores the batch of every agent in one run.

    Dagster refuses a run of a partitioned asset without a partition, so the job's tags ask for all agents:
    `dagster job execute -m mlops_assets.definitions -j batch_inference`. For one agent, give the same two tags its name:
    `--tags '{"dagster/asset_partition_range_start": "execution", "dagster/asset_partition_range_end": "execution"}'`, or
    in the UI the same in the launchpad's tag editor; `dagster/partition` beside them is refused. Without the job:
    `dagster asset materialize -m mlops_assets.definitions --select batch_predictions --partition execution`, or
    "Materialize" on the asset's page in the UI, which asks for the agents.
    """
    return [
        dg.define_asset_job(
            "batch_inference",
            selection=dg.AssetSelection.assets("batch_predictions"),
            description=f"Decisions of the champions for many rows at once, agents {', '.join(AGENTS)} in one run.",
            tags=ALL_AGENTS_TAGS,
            executor_def=dg.in_process_executor,
            op_retry_policy=dg.RetryPolicy(max_retries=profile.retry.max_retries, delay=profile.retry.delay_seconds),
        )
    ]
