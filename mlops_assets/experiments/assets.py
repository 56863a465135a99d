"""The asset of this room: what the newest experiment of an agent says."""

import dagster as dg

from mlops_assets.experiences.assets import OWNERS
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.partitions import AGENT_PARTITIONS, Outcome, each_agent
from mlops_assets.foundation.resources import Platform


@dg.asset(
    group_name="experiments",
    owners=OWNERS,
    kinds={"numpy", "json"},
    partitions_def=AGENT_PARTITIONS,
    description=(
        "The newest A/B test of each agent: verdict in words, metrics of both arms, evidence over all looks, posteriors, "
        "traffic split. Materialise it whenever you like: it takes one more look, and looks cost nothing."
    ),
)
def ab_test_report(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Take a look at the agent's newest experiment and judge it; looking often costs nothing."""
    # scipy and pandas take a second to import, and the code location has to load without them.
    from mlops_assets.experiments.experiments import all_experiments
    from mlops_assets.experiments.report import report_experiment, summary

    def report(spec: AgentSpec) -> Outcome:
        newest = next((one for one in all_experiments(platform.engine) if one.agent == spec.name), None)
        if newest is None:
            words = (
                f"{spec.name} has no experiment; create one with `python -m mlops_assets.experiments.commands create "
                f"<name> --agent {spec.name} --share 0.05 --user <you>`"
            )
            context.log.info(words)
            return Outcome(
                record={"experiment": None}, version="none", metadata={"summary": dg.MetadataValue.md(words)}
            )
        found = report_experiment(
            platform.engine,
            newest.name,
            platform.profile,
            platform.paths.experiments(newest.name),
            now=platform.clock.now(),
            data_clock=platform.settings.data_clock,
        )
        analysis = found.analysis
        context.log.info(f"{spec.name}, {newest.name}: {analysis.verdict}: {'; '.join(analysis.reasons)}")
        facts = {
            "experiment": newest.name,
            "verdict": analysis.verdict,
            "arm": analysis.arm,
            "control_users": analysis.deciding.control_users,
            "treatment_users": analysis.deciding.treatment_users,
            "looks": analysis.looks,
        }
        return Outcome(
            record={**facts, "reasons": list(analysis.reasons)},
            version=f"{newest.name}-{analysis.looks}",
            metadata={
                **facts,
                "new_users": found.new_users,
                "summary": dg.MetadataValue.md(summary(found)),
                "picture": dg.MetadataValue.md(f"![evidence and posteriors]({_data_uri(found.picture.read_bytes())})"),
                "report": dg.MetadataValue.path(found.json),
            },
        )

    return each_agent(context, platform, report)


def _data_uri(picture: bytes) -> str:
    from base64 import b64encode

    return "data:image/png;base64," + b64encode(picture).decode()


EXPERIMENTS_ASSETS = [ab_test_report]
