"""The job of this room; what it scores is tested behind a lifecycle."""

import dagster as dg
import pytest

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.profiles import load_profile, profile_names
from mlops_assets.foundation.resources import Platform
from mlops_assets.serving.assets import SERVING_ASSETS
from mlops_assets.serving.jobs import serving_jobs


@pytest.mark.parametrize("name", profile_names())
def test_the_retry_numbers_are_the_profiles(name: str) -> None:
    """A database that does not answer for a minute costs the night."""
    profile = load_profile(name)
    (job,) = serving_jobs(profile)
    assert job.op_retry_policy == dg.RetryPolicy(
        max_retries=profile.retry.max_retries, delay=profile.retry.delay_seconds
    )


def test_batch_inference_is_one_asset_of_all_agents_in_one_process() -> None:
    """Started with nothing said, Dagster would refuse it; an interpreter per step imports Feast for nothing."""
    (asset,) = SERVING_ASSETS
    (job,) = serving_jobs(load_profile("aiwebtest"))
    definitions = dg.Definitions(assets=[asset], jobs=[job], resources={"platform": Platform()})
    resolved = definitions.resolve_job_def("batch_inference")
    assert resolved.executor_def.name == "in_process"
    assert {key.to_user_string() for key in resolved.asset_layer.executable_asset_keys} == {"batch_predictions"}
    span = [resolved.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")]
    assert span == [next(iter(AGENTS)), list(AGENTS)[-1]]
    assert asset.op.pool == "batch_inference"
