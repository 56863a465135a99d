"""Jobs of this room: the two that run the lifecycle, from executions to the approval decision, and a request by hand."""

from typing import Any

import dagster as dg
from pydantic import Field

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.partitions import ALL_AGENTS_TAGS, permanent_failures
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.foundation.resources import Platform
from mlops_assets.foundation.trigger import TriggerReason
from mlops_assets.retraining.by_hand import request_retraining as request_by_hand

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


class RetrainingConfig(dg.Config):
    """One training by hand."""

    agent: str = Field(description=f"Which: {', '.join(AGENTS)}.")
    reason: str = Field(description="Why; goes to the run, the MLflow run and the model card.")
    user: str = Field(
        description="Who answers for it, such as mlops@company.com; needs a role, where there is a table of roles."
    )
    override: bool = Field(
        default=False, description="Also within the shortest time between trainings; never beside one under way."
    )


@dg.op(description="Ask for a training of one agent; drift_sensor starts it, once nothing is in its way.")
def ask_for_retraining(context: dg.OpExecutionContext, config: RetrainingConfig, platform: Platform) -> None:
    """Ask, and say what was decided."""
    with permanent_failures(config.agent or "no agent"):
        done = request_by_hand(
            platform.settings,
            platform.engine,
            platform.clock,
            agent=config.agent,
            reason=config.reason,
            user=config.user,
            override=config.override,
            key=context.run.run_id,
        )
    context.log.info(str(done))
    context.add_output_metadata({"decision": done.decision.verdict, "reason": done.decision.reason})


@dg.job(
    description="Train an agent again, by hand; give agent, reason and user.",
    # What the launchpad opens with, so that people fill it in; left empty it is refused.
    config={"ops": {"ask_for_retraining": {"config": {"agent": "", "reason": "", "user": "", "override": False}}}},
    executor_def=dg.in_process_executor,
)
def request_retraining() -> None:
    """Ask for one training."""
    ask_for_retraining()


RETRAINING_JOBS = [request_retraining]
