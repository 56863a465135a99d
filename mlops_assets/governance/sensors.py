"""The sensor of this room: a shell around `follow_up.plan`, which decides what happens to requests."""

import dagster as dg

from mlops_assets.foundation.resources import Platform
from mlops_assets.governance.approval_requests import ApprovalRequest, in_words
from mlops_assets.governance.approvals import open_approvals
from mlops_assets.governance.evidence import spec_of
from mlops_assets.governance.follow_up import applied_since, follow_up
from mlops_assets.governance.notification import notifiers
from mlops_assets.registry.assets import model_registry

_SECONDS = 60


@dg.sensor(
    name="approval_sensor",
    minimum_interval_seconds=_SECONDS,
    # What a crash left between the last vote and the registry must not wait for somebody to find a switch.
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Completes interrupted approvals, expires old requests, tells approvers of new ones, shows what was approved.",
)
def approval_sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
    """Follow up on every request that is not finished, then show what people approved since the last tick.

    A version that took its place, whatever the way in, is a materialisation of `approval`. The cursor is the sequence of
    the audit event that was shown last.
    """
    approvals = open_approvals(platform.settings, platform.engine, platform.clock, model_registry(platform))
    done = follow_up(approvals, platform.clock.now(), ways=notifiers(platform.settings))
    words = [f"{one.action}: {one.problem or 'done'}" for one in done]
    for line in words:
        context.log.info(line)
    applied, sequence = applied_since(platform.engine, int(context.cursor or 0))
    if not applied:
        waiting = [f"waits for people: {in_words(one)}" for one in approvals.requests(open_only=True)]
        return dg.SkipReason(" | ".join([*words, *waiting]) or "no request waits, or is to be applied or expired")
    return dg.SensorResult(asset_events=[_materialisation(request) for request in applied], cursor=str(sequence))


def _materialisation(request: ApprovalRequest) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        asset_key="approval",
        partition=spec_of(request.model_name).name,
        description=f"{request.model_name} {request.semver} approved by {', '.join(request.approved_by)}",
        metadata={"status": request.status, "semver": request.semver, "evidence_hash": request.evidence_hash},
    )


GOVERNANCE_SENSORS = [approval_sensor]
