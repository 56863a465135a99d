"""Assets of this room: what was measured on the held-out decisions, and the report that people and gates read."""

import dagster as dg

from mlops_assets.evaluation.report import ValidationReport
from mlops_assets.experiences.assets import OWNERS
from mlops_assets.features.training_set import open_training_set
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.partitions import AGENT_PARTITIONS, Outcome, each_agent
from mlops_assets.foundation.resources import Platform
from mlops_assets.training.assets import dqn_model

GROUP = "evaluation"


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"numpy", "onnx"},
    partitions_def=AGENT_PARTITIONS,
    deps=[dqn_model],
    description="Metrics with intervals on later, held-out decisions: accuracy, return, slices, latency, champion.",
)
def model_evaluation(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Measure the model of this run; a run that was evaluated before keeps its evidence."""
    # torch takes seconds to import, and the code location has to load without it.
    from mlops_assets.evaluation.lifecycle import evaluate_run
    from mlops_assets.training.tracking import TrainingTracker

    settings = platform.settings

    def measure(spec: AgentSpec) -> Outcome:
        model = platform.record("dqn_model", spec.name, context.run.run_id)
        evaluation = evaluate_run(
            model,
            open_training_set(spec.name, model["training_hash"], paths=platform.paths),
            spec,
            platform.profile,
            settings=settings,
            engine=platform.engine,
            tracker=TrainingTracker(settings.tracking_uri, settings.artifact_root),
            now=platform.clock.now(),
        )
        report = evaluation.report
        context.log.info(f"{spec.name}: accuracy {report.metrics.get('accuracy')}, verdict {report.verdict}")
        return Outcome(
            record={"run_id": report.identity.run_id, "evaluated": evaluation.measured_now},
            version=report.evidence_hash,
            metadata={
                **{name: float(value) for name, value in report.metrics.items()},
                "measured_now": evaluation.measured_now,
                "avg_reward_method": report.avg_reward_method,
                "holdout_first_event": str(report.holdout.first_event),
                "holdout_last_event": str(report.holdout.last_event),
            },
        )

    return each_agent(context, platform, measure)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"json", "html"},
    partitions_def=AGENT_PARTITIONS,
    deps=[model_evaluation],
    description="The report a decision rests on: gates, comparison, slices, limitations; JSON for machines, HTML for people.",
)
def validation_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Write the report of this run's evaluation, and attach it to the MLflow run."""
    from mlops_assets.evaluation.lifecycle import finish_report
    from mlops_assets.training.tracking import TrainingTracker

    settings = platform.settings

    def publish(spec: AgentSpec) -> Outcome:
        run_id = platform.record("model_evaluation", spec.name, context.run.run_id)["run_id"]
        tracker = TrainingTracker(settings.tracking_uri, settings.artifact_root)
        finished = finish_report(spec, run_id, paths=platform.paths, tracker=tracker)
        report = finished.report
        metadata = {
            "verdict": report.verdict,
            # A path to copy: browsers refuse to follow file:// links from a page that came over http.
            "report": dg.MetadataValue.path(finished.files.html),
            "report_json": dg.MetadataValue.path(finished.files.json),
            "gates": dg.MetadataValue.md(_gates(report)),
            "evidence_hash": report.evidence_hash,
        }
        if finished.confusion_data_uri is not None:
            metadata["confusion_matrix"] = dg.MetadataValue.md(f"![confusion matrix]({finished.confusion_data_uri})")
        return Outcome(record=finished.facts(), version=report.evidence_hash, metadata=metadata)

    return each_agent(context, platform, publish)


def _gates(report: ValidationReport) -> str:
    rows = [f"| {gate.name} | {gate.verdict} | {gate.reason} |" for gate in report.gates]
    return "\n".join(["| gate | verdict | why |", "|---|---|---|", *rows])


EVALUATION_ASSETS = [model_evaluation, validation_report]
