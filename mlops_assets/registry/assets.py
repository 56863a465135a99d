"""Assets of this room: the registered version of an evaluated run, and its model card."""

import dagster as dg

from mlops_assets.evaluation.assets import validation_report
from mlops_assets.evaluation.report import REPORT_JSON, ValidationReport, read_report, summary_metrics
from mlops_assets.experiences.assets import OWNERS
from mlops_assets.experiences.snapshots import open_snapshot
from mlops_assets.foundation.access import access_control
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.partitions import AGENT_PARTITIONS, Outcome, each_agent
from mlops_assets.foundation.resources import Platform
from mlops_assets.foundation.trigger import TriggerReason, author_in
from mlops_assets.registry.model_card import TrainingFacts, build_model_card, save_model_card, to_yaml
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.registry.registration import Candidate, RegisteredVersion

GROUP = "registry"
_STATUS = {"pass": "passed", "fail": "failed", "insufficient_data": "insufficient_data"}


def model_registry(platform: Platform) -> ModelRegistry:
    """Return the registry of the platform."""
    access = access_control(platform.settings)
    return ModelRegistry(platform.settings.tracking_uri, platform.engine, platform.clock, access)


def report_behind(version: RegisteredVersion, platform: Platform, spec: AgentSpec) -> ValidationReport:
    """Return the validation report that the version was registered with; MLflow has it where this machine does not.

    Training the same thing again makes another report, but no other version, and no other decision on this one.
    """
    from mlops_assets.training.tracking import TrainingTracker

    file = platform.paths.reports(spec.name) / version.run_id / REPORT_JSON
    if not file.is_file():
        tracker = TrainingTracker(platform.settings.tracking_uri, platform.settings.artifact_root)
        tracker.download_artifact(version.run_id, file.name, file.parent)
    return read_report(file)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"mlflow"},
    partitions_def=AGENT_PARTITIONS,
    deps=[validation_report],
    description="The evaluated run as one version in the registry, with a semantic version of its own.",
)
def registered_model(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Register the run exactly once; the same training again gives the version that is there."""

    def register(spec: AgentSpec) -> Outcome:
        # Read in here, where a wrong value fails once, with its text, and is not retried.
        reason, author = TriggerReason.from_tags(context.run.tags), author_in(context.run.tags)
        run_id = platform.record("validation_report", spec.name, context.run.run_id)["run_id"]
        report = read_report(platform.paths.reports(spec.name) / run_id / REPORT_JSON)
        version = model_registry(platform).register(
            Candidate(
                run_id=report.identity.run_id,
                training_hash=report.identity.training_hash,
                data_hash=report.identity.data_hash,
                description=f"{reason.trigger_type}: {reason.reason}",
                user=author or f"dagster:{context.run.job_name}",
                author=author,
                validation_status=_STATUS[report.verdict],
                metrics=summary_metrics(report),
                tags=reason.facts(),
            ),
            spec,
            bump="major" if report.comparison is not None and report.comparison.architecture_change else "minor",
        )
        done = "registered" if version.created else "nothing changed since, so nothing was registered: it is"
        context.log.info(f"{spec.name}: {done} {version.model_name} {version.semver}")
        facts = {
            "model_name": version.model_name,
            "semver": version.semver,
            "mlflow_version": version.mlflow_version,
            "run_id": version.run_id,
            "created": version.created,
        }
        return Outcome(record=facts, version=f"{version.model_name}-{version.semver}", metadata=facts)

    return each_agent(context, platform, register)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"yaml"},
    partitions_def=AGENT_PARTITIONS,
    deps=[registered_model],
    description="What a user of the version should know before relying on it, generated from its run's data.",
)
def model_card(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Write the card of the registered version."""

    def write(spec: AgentSpec) -> Outcome:
        registered = platform.record("registered_model", spec.name, context.run.run_id)
        registry = model_registry(platform)
        version = registry.version(spec.registered_model, registered["semver"])
        report = report_behind(version, platform, spec)
        snapshot = open_snapshot(spec.name, version.data_hash, paths=platform.paths, engine=platform.engine)
        card = build_model_card(
            spec,
            version,
            report,
            TrainingFacts(
                framework=_framework(),
                data_source=snapshot.source,
                first_event=snapshot.first_event,
                last_event=snapshot.last_event,
                # The version's own: a later run that trains the same thing gives this version again.
                reason=registry.training_reason(version.model_name, version.semver),
            ),
        )
        path = save_model_card(card, platform.paths.reports(spec.name) / report.identity.run_id)
        return Outcome(
            record={"path": str(path), "semver": version.semver},
            version=f"{version.model_name}-{version.semver}",
            metadata={"file": dg.MetadataValue.path(path), "card": dg.MetadataValue.md(f"```yaml\n{to_yaml(card)}```")},
        )

    return each_agent(context, platform, write)


def _framework() -> str:
    from importlib.metadata import version

    return f"PyTorch {version('torch')}"


REGISTRY_ASSETS = [registered_model, model_card]
