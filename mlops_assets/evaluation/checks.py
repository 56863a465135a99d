"""Checks of this room: whether a report passes every gate, shown where people look."""

import dagster as dg

from mlops_assets.evaluation.assets import validation_report
from mlops_assets.foundation.resources import Platform


@dg.asset_check(asset=validation_report, description="Every gate of the policy profile passes.")
def gates_passed(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """Warn, and stop nothing: a failed gate is evidence that governance decides on, and the version says why."""
    run = context.op_execution_context
    records = {agent: platform.record("validation_report", agent, run.run.run_id) for agent in run.partition_keys}
    return dg.AssetCheckResult(
        passed=all(record["verdict"] == "pass" for record in records.values()),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={agent: record["verdict"] for agent, record in records.items()},
    )


EVALUATION_CHECKS = [gates_passed]
