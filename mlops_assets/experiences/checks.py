"""Checks of this room: a snapshot that broke an expectation stops the run that made it."""

import dagster as dg

from mlops_assets.experiences.assets import data_validation_report
from mlops_assets.foundation.resources import Platform


@dg.asset_check(asset=data_validation_report, blocking=True, description="Every Great Expectations rule holds.")
def expectations_met(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """Fail, and stop everything downstream in this run, when a snapshot was rejected.

    Training refuses such a snapshot by itself too: a blocking check stops only its own run.
    """
    run = context.op_execution_context
    records = {agent: platform.record("data_validation_report", agent, run.run.run_id) for agent in run.partition_keys}
    return dg.AssetCheckResult(
        passed=all(record["passed"] for record in records.values()),
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={agent: ", ".join(record["failed"]) or "all met" for agent, record in records.items()},
    )


EXPERIENCES_CHECKS = [expectations_met]
