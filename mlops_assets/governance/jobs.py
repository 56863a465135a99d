"""The job of this room: one approver's decision, from the launchpad or the command line."""

from typing import Literal

import dagster as dg
from pydantic import Field

from mlops_assets.foundation.access import access_control
from mlops_assets.foundation.partitions import permanent_failures
from mlops_assets.foundation.resources import Platform
from mlops_assets.governance.approval_requests import in_words
from mlops_assets.governance.approvals import open_approvals
from mlops_assets.registry.assets import model_registry


class ApprovalVoteConfig(dg.Config):
    """One vote."""

    model_name: str = Field(description="Registered model, such as execution-agent-dqn.")
    version: str = Field(description="Semantic version, such as 1.2.0.")
    decision: Literal["approve", "reject"] = Field(description="What the approver says.")
    user: str = Field(description="The approver, one of the policy profile's required approvers.")
    comment: str = Field(description="What the decision rests on.")


@dg.op(description="Count one approver's vote; the last one needed gives the version its place in the registry.")
def vote_on_version(context: dg.OpExecutionContext, config: ApprovalVoteConfig, platform: Platform) -> None:
    """Vote on the version's open request; a vote that does not count fails the run with the reason."""
    with permanent_failures(f"{config.model_name} {config.version}"):
        access_control(platform.settings).require_person(config.user)
        approvals = open_approvals(platform.settings, platform.engine, platform.clock, model_registry(platform))
        request = approvals.vote(
            config.model_name,
            config.version,
            approver=config.user,
            decision=config.decision,
            comment=config.comment,
            channel="dagster",
        )
        context.log.info(in_words(request))
        context.add_output_metadata({"request": in_words(request), "status": request.status})


@dg.job(
    description="Approve or reject a version that waits for people; give model, version, decision, user and comment.",
    # What the launchpad opens with, so that people fill it in; left empty it is refused.
    config={
        "ops": {
            "vote_on_version": {
                "config": {"model_name": "", "version": "", "decision": "reject", "user": "", "comment": ""}
            }
        }
    },
    executor_def=dg.in_process_executor,
)
def decide_approval() -> None:
    """Count one vote."""
    vote_on_version()


GOVERNANCE_JOBS = [decide_approval]
