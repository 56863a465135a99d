"""The asset of this room: the recorded decision on a version."""

import dagster as dg

from mlops_assets.experiences.assets import OWNERS
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.partitions import AGENT_PARTITIONS, Outcome, each_agent
from mlops_assets.foundation.resources import Platform
from mlops_assets.governance.approvals import open_approvals
from mlops_assets.governance.decisions import RecordedDecision, record_decision
from mlops_assets.governance.policy import Evidence, evaluate_for_approval
from mlops_assets.governance.waivers import all_waivers
from mlops_assets.registry.assets import model_card, model_registry, registered_model, report_behind

ARCHITECTURE_TAG = "mlops/architecture_change"


@dg.asset(
    group_name="governance",
    owners=OWNERS,
    kinds={"sqlite", "mlflow"},
    partitions_def=AGENT_PARTITIONS,
    deps=[registered_model, model_card],
    description="Approved, requires_review or rejected, with risk and reasons, bound to the evidence and audited.",
)
def approval(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Judge the version by the policy profile, record the decision, and apply it to the registry."""

    def decide(spec: AgentSpec) -> Outcome:
        registry = model_registry(platform)
        record = platform.record("registered_model", spec.name, context.run.run_id)
        version = registry.version(spec.registered_model, record["semver"])
        report = report_behind(version, platform, spec)
        approvals = open_approvals(platform.settings, platform.engine, platform.clock, registry)
        evidence = approvals.evidence(version)
        # The ones that the evidence names: another may end between two looks at the clock.
        waivers = [found for found in all_waivers(platform.engine, version.model_name) if found.id in evidence.waivers]
        recorded = record_decision(
            version,
            evaluate_for_approval(
                Evidence.from_report(
                    report, evidence, architecture_change=context.run.tags.get(ARCHITECTURE_TAG) == "true"
                ),
                platform.profile.governance,
                {waiver.check_name: str(waiver) for waiver in waivers},
            ),
            evidence=evidence,
            engine=platform.engine,
            registry=registry,
            clock=platform.clock,
            approvals=approvals,
        )
        context.log.info(f"{spec.name} {recorded.semver}: {recorded.status}, {_summary(recorded)}")
        facts = {
            "model_name": recorded.model_name,
            "semver": recorded.semver,
            "status": recorded.status,
            "risk": recorded.risk,
            "outcome": recorded.outcome,
            "recorded_now": recorded.recorded,
            "evidence_hash": recorded.evidence_hash,
            "report_hash": evidence.report_hash,
        }
        return Outcome(
            record={**facts, "summary": _summary(recorded)},
            version=f"{recorded.model_name}-{recorded.semver}-{recorded.status}",
            metadata={**facts, "reasons": "; ".join(recorded.reasons)},
        )

    return each_agent(context, platform, decide)


def _summary(recorded: RecordedDecision) -> str:
    became = {"champion": "champion now", "challenger": "challenger now", "unchanged": "decided before"}
    words = became.get(recorded.outcome, "")
    return "; ".join([*([words] if words else []), f"{recorded.risk} risk", *recorded.reasons])


GOVERNANCE_ASSETS = [approval]
