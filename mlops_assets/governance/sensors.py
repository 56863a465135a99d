"""The sensor of this room: a shell around `follow_up.plan`, which decides what happens to requests."""

import dagster as dg

from mlops_assets.foundation.resources import Platform
from mlops_assets.governance.approvals import ApprovalRequest, open_approvals
from mlops_assets.governance.evidence import spec_of
from mlops_assets.governance.follow_up import follow_up
from mlops_assets.governance.notification import notifiers
from mlops_assets.registry.assets import model_registry

_SECONDS = 60


@dg.sensor(
    name="approval_sensor",
    minimum_interval_seconds=_SECONDS,
    # What a crash left between the last vote and the registry must not wait for somebody to find a switch.
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Completes approvals that a crash interrupted, expires old requests, tells approvers of new ones.",
)
def approval_sensor(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
    """Follow up on every request that is not finished; versions that take their place are materialisations of `approval`."""
    approvals = open_approvals(platform.settings, platform.engine, platform.clock, model_registry(platform))
    done = follow_up(approvals, platform.clock.now(), ways=notifiers(platform.settings))
    for one in done:
        context.log.info(f"{one.action}: {one.problem or 'done'}")
    if not done:
        return dg.SkipReason("no request is to be applied, expired or told of")
    events = [_materialisation(one.action.request) for one in done if one.action.kind == "apply" and not one.problem]
    words = "; ".join(f"{one.action}: {one.problem or 'done'}" for one in done)
    return dg.SensorResult(asset_events=events) if events else dg.SkipReason(words)


def _materialisation(request: ApprovalRequest) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        asset_key="approval",
        partition=spec_of(request.model_name).name,
        description=f"{request.model_name} {request.semver} approved by {', '.join(request.approved_by)}",
        metadata={"status": request.status, "semver": request.semver, "evidence_hash": request.evidence_hash},
    )


GOVERNANCE_SENSORS = [approval_sensor]
