"""Assets of this room: both feature views, their online copy, and the point-in-time training set."""

import dagster as dg

from mlops_assets.experiences.assets import OWNERS, data_validation_report, test_executions, training_experiences
from mlops_assets.experiences.snapshots import Snapshot, open_snapshot, require_validated
from mlops_assets.experiences.sources import execution_source
from mlops_assets.features.refresh import (
    FeatureRefresh,
    record_materialization,
    refresh_agent_features,
    refresh_test_features,
)
from mlops_assets.features.store import FeatureStoreAdapter, open_feature_store
from mlops_assets.features.training_set import build_training_set
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.partitions import AGENT_PARTITIONS, Outcome, each_agent, permanent_failures
from mlops_assets.foundation.resources import Platform

GROUP = "features"


def feature_store(platform: Platform) -> FeatureStoreAdapter:
    """Return the feature store of the platform."""
    return open_feature_store(platform.settings, platform.engine)


def snapshot_of(context: dg.AssetExecutionContext, platform: Platform, spec: AgentSpec) -> Snapshot:
    """Return the validated snapshot of this run, else the newest one.

    Raises:
        DataRejectedError: it did not pass validation.
    """
    record = platform.record("training_experiences", spec.name, context.run.run_id)
    require_validated(platform.engine, spec.name, record["data_hash"])
    return open_snapshot(spec.name, record["data_hash"], paths=platform.paths, engine=platform.engine)


def _facts(refreshed: FeatureRefresh) -> dict[str, int | str]:
    if refreshed.first_day is None:
        return {"rows_computed": 0, "computed": "nothing was due"}
    return {"rows_computed": refreshed.rows, "computed": f"{refreshed.first_day} to {refreshed.through_day}"}


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"feast", "parquet"},
    deps=[test_executions],
    pool="features",
    description="Feast view of every test, one row a day: pass rates, duration, retries, flakiness of the days before.",
)
def test_execution_features(platform: Platform) -> dg.MaterializeResult[None]:
    """Compute the days that new executions touch, and nothing else."""
    with permanent_failures("test features"):
        store = feature_store(platform)
        store.apply()
        as_of = execution_source(platform.settings).as_of(platform.clock.now())
        refreshed = refresh_test_features(store, paths=platform.paths, as_of=as_of)
    return dg.MaterializeResult(metadata=_facts(refreshed))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"feast", "parquet"},
    partitions_def=AGENT_PARTITIONS,
    deps=[training_experiences, data_validation_report],
    pool="features",
    description="Feast view of every agent instance, one row a day: accuracy, reward, output and confidence so far.",
)
def agent_context_features(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Compute the agent's daily rows from its validated snapshot."""

    def compute(spec: AgentSpec) -> Outcome:
        snapshot = snapshot_of(context, platform, spec)
        store = feature_store(platform)
        store.apply()
        refreshed = refresh_agent_features(spec, snapshot, store, paths=platform.paths)
        return Outcome(
            record={"data_hash": snapshot.data_hash, "rows": refreshed.rows},
            version=snapshot.data_hash,
            metadata=_facts(refreshed),
        )

    return each_agent(context, platform, compute)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"feast", "sqlite"},
    partitions_def=AGENT_PARTITIONS,
    deps=[test_execution_features, agent_context_features],
    pool="features",
    description="The newest row of every test and agent in the online store, where serving reads it.",
)
def online_features(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Copy what is newest online; an older row never overwrites a newer one."""

    def copy(spec: AgentSpec) -> Outcome:
        snapshot = snapshot_of(context, platform, spec)
        store = feature_store(platform)
        # Serving's clock never goes back: a closed history may have ended years before what is online already.
        as_of = max(snapshot.label_cutoff, store.materialized_until() or snapshot.label_cutoff)
        copied = store.materialize(as_of)
        record_materialization(platform.engine, copied, platform.clock.now())
        return Outcome(
            record={"as_of": as_of.isoformat()},
            version=snapshot.data_hash,
            metadata={f"{view.view}: keys written": view.keys_written for view in copied},
        )

    return each_agent(context, platform, copy)


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"feast", "parquet"},
    partitions_def=AGENT_PARTITIONS,
    deps=[test_execution_features, agent_context_features, data_validation_report],
    description="Decisions with the state each agent saw at their time, and later ones held out; frozen per snapshot.",
)
def training_set(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult[None]:
    """Join features and labels as of each decision's time, and split by time."""

    def build(spec: AgentSpec) -> Outcome:
        built = build_training_set(
            snapshot_of(context, platform, spec),
            spec,
            feature_store(platform),
            paths=platform.paths,
            holdout_share=platform.profile.evaluation.holdout_share,
        )
        context.log.info(f"{spec.name}: {built.rows} decisions to learn from, {built.holdout_rows} held out")
        return Outcome(
            record={"training_hash": built.training_hash, "data_hash": built.data_hash},
            version=built.training_hash,
            metadata={
                "dagster/row_count": built.rows + built.holdout_rows,
                "training_rows": built.rows,
                "holdout_rows": built.holdout_rows,
                "split_time": str(built.split_time),
                "state_fields": len(built.vector_fields),
                "missing_rates": dict(built.missing_rates),
                "incomplete_episodes": built.incomplete_episodes,
                "folder": dg.MetadataValue.path(built.folder),
            },
        )

    return each_agent(context, platform, build)


FEATURES_ASSETS = [test_execution_features, agent_context_features, online_features, training_set]
