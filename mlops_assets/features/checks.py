"""Checks of this room: training and serving see the same values, and no decision sees the future."""

from datetime import datetime

import dagster as dg

from mlops_assets.experiences.snapshots import open_snapshot
from mlops_assets.features.assets import feature_store, online_features, training_set
from mlops_assets.features.parity import check_no_future, check_parity, sample_decisions
from mlops_assets.foundation.resources import Platform

_SAMPLE = 200
_SEED = 20251027


@dg.asset_check(asset=online_features, blocking=True, description="Offline value = online value, value by value.")
def offline_equals_online(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """Compare Feast's historical retrieval with the online store and the bulk join for sampled entities."""
    run = context.op_execution_context
    found = {}
    for agent in run.partition_keys:
        record = platform.record("training_experiences", agent, run.run.run_id)
        snapshot = open_snapshot(agent, record["data_hash"], paths=platform.paths, engine=platform.engine)
        sample = sample_decisions(snapshot, _SAMPLE, _SEED)
        as_of = datetime.fromisoformat(platform.record("online_features", agent, run.run.run_id)["as_of"])
        found[agent] = check_parity(feature_store(platform), sample, as_of)
    return dg.AssetCheckResult(
        passed=all(report.passed for report in found.values()),
        metadata={
            agent: f"{report.values} values of {report.entities} entities, {report.mismatches} differ {report.listed}"
            for agent, report in found.items()
        },
    )


@dg.asset_check(asset=training_set, blocking=True, description="No joined value is newer than its decision.")
def no_value_from_the_future(context: dg.AssetCheckExecutionContext, platform: Platform) -> dg.AssetCheckResult:
    """Recheck the point-in-time join of sampled decisions by a plain scan."""
    run = context.op_execution_context
    found = {}
    for agent in run.partition_keys:
        record = platform.record("training_experiences", agent, run.run.run_id)
        snapshot = open_snapshot(agent, record["data_hash"], paths=platform.paths, engine=platform.engine)
        sample = sample_decisions(snapshot, _SAMPLE, _SEED)
        found[agent] = check_no_future(feature_store(platform), sample, paths=platform.paths)
    return dg.AssetCheckResult(
        passed=all(report.passed for report in found.values()),
        metadata={
            agent: f"{report.joined} values joined to {report.decisions} decisions, newest {report.newest_age} old, "
            f"{report.violations} from the future {report.listed}"
            for agent, report in found.items()
        },
    )


FEATURES_CHECKS = [offline_equals_online, no_value_from_the_future]
