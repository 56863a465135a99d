"""The asset of this room: decisions for many rows at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from mlops_assets.experiences.assets import OWNERS
from mlops_assets.experiences.snapshots import VALIDATED, latest_snapshot
from mlops_assets.features.assets import feature_store, online_features
from mlops_assets.features.store import FeatureStoreAdapter
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.foundation.partitions import AGENT_PARTITIONS, Outcome, each_agent
from mlops_assets.foundation.resources import Platform
from mlops_assets.governance.assets import approval
from mlops_assets.registry.catalogue import CHAMPION

if TYPE_CHECKING:
    from mlops_assets.serving.batch import BatchResult, Scorer
    from mlops_assets.serving.batch_input import BatchInput
    from mlops_assets.serving.models import ServedModel


class BatchConfig(dg.Config):
    """What is scored, and by which version; by default MLOPS_BATCH_INPUT, else the newest validated snapshot."""

    input: str | None = Field(default=None, description="Parquet file or folder, over MLOPS_BATCH_INPUT.")
    query: str | None = Field(default=None, description="SQL whose columns are those of a batch, ordered.")
    url: str | None = Field(
        default=None,
        description="Database of the query; `{env: NAME}` keeps a password out of the run. Default: MLOPS_SOURCE_URL.",
    )
    alias: str = Field(default=CHAMPION, description="Which registered version decides: champion, challenger, ...")


@dg.asset(
    group_name="serving",
    owners=OWNERS,
    kinds={"onnx", "parquet"},
    partitions_def=AGENT_PARTITIONS,
    deps=[approval, online_features],
    # A batch takes all that a core has, and memory for a chunk: more at a time only where the pool's limit says so.
    pool="batch_inference",
    description="Decisions of the champion for every row of a batch: parquet parts with action, values and confidence.",
)
def batch_predictions(
    context: dg.AssetExecutionContext, platform: Platform, config: BatchConfig
) -> dg.MaterializeResult[None]:
    """Score the batch, or what a killed run left of it; the same batch again is reused."""
    # Feast, MLflow and ONNX Runtime come with it, and the code location has to load without them.
    from mlops_assets.serving.batch import score_batch
    from mlops_assets.serving.batch_features import BatchFeatures

    def score(spec: AgentSpec) -> Outcome:
        model = _model(platform, spec, config.alias)
        store = feature_store(platform)
        features = BatchFeatures(spec, store, platform.paths, _moment(platform, store))
        with _batch_input(platform, spec, config) as batch:
            context.log.info(f"{spec.name}: {batch.rows:,} rows of {batch.name} by {config.alias} {model.semver}")
            result = score_batch(
                batch,
                model,
                features,
                paths=platform.paths,
                scorer=_scorer(platform, model),
                log=lambda line: context.log.info(f"{spec.name}: {line}"),
            )
            done = "was scored before, reusing" if result.reused else "scored into"
            context.log.info(f"{spec.name}: {batch.name} {done} {result.predictions}")
            return _outcome(result, batch.name, model)

    return each_agent(context, platform, score)


def _moment(platform: Platform, store: FeatureStoreAdapter) -> datetime:
    """What time it is for rows without one: a closed history has no present but the end of what was read of it."""
    now = platform.clock.now()
    return (store.materialized_until() or now) if platform.settings.data_clock else now


def _model(platform: Platform, spec: AgentSpec, alias: str) -> "ServedModel":
    from mlops_assets.registry.mlflow_store import MlflowStore
    from mlops_assets.serving.models import load_served_model

    store = MlflowStore(platform.settings.tracking_uri)
    aliases = store.aliases(spec.registered_model)
    if not aliases:
        raise NotReadyError(
            f"{spec.registered_model} has no {alias} yet; run the job model_lifecycle for its agent first"
        )
    if alias not in aliases:
        raise NotReadyError(
            f"{spec.registered_model} has no version behind the alias {alias!r}; there are {', '.join(sorted(aliases))}"
        )
    return load_served_model(store, spec, aliases[alias])


@contextmanager
def _batch_input(platform: Platform, spec: AgentSpec, config: BatchConfig) -> Iterator["BatchInput"]:
    from pathlib import Path

    from mlops_assets.serving.batch_input import parquet_input, query_input, snapshot_input

    settings = platform.settings
    if config.input and config.query:
        raise InputError("batch_predictions: `input` and `query` are both set; give one of them")
    if config.url and not config.query:
        raise InputError("batch_predictions: `url` is set without `query`; say what is to be read from there")
    if config.query:
        url = config.url or (settings.source_url.get_secret_value() if settings.source_url else None)
        if url is None:
            raise InputError("batch_predictions: `query` is set without `url`; set it, or MLOPS_SOURCE_URL")
        with query_input(url, config.query, spec, scratch=platform.paths.batch_predictions(spec.name)) as batch:
            yield batch
        return
    path = Path(config.input).expanduser() if config.input else settings.batch_input
    if path is not None:
        yield parquet_input(path, spec)
        return
    snapshot = latest_snapshot(spec.name, paths=platform.paths, engine=platform.engine, status=VALIDATED)
    if snapshot is None:
        raise NotReadyError(
            f"agent {spec.name!r} has no validated snapshot to score: run the job model_lifecycle first, or give a batch "
            "by MLOPS_BATCH_INPUT or by the asset's config"
        )
    yield snapshot_input(snapshot, spec)


def _scorer(platform: Platform, model: "ServedModel") -> "Scorer | None":
    settings = platform.settings
    if settings.ray_address is None:
        return None
    from mlops_assets.serving.ray_pool import ray_scorer

    return ray_scorer(settings.ray_address, settings.tracking_uri, model)


def _outcome(result: "BatchResult", source: str, model: "ServedModel") -> Outcome:
    tally, speed = result.tally, result.network_rows_per_second
    facts = {
        "key": result.key,
        "source": source,
        "model_name": model.spec.registered_model,
        "model_version": result.model_version,
        "rows": tally.rows,
        "refused_rows": tally.refused,
        "folder": str(result.folder),
    }
    shares = [
        f"| {name} | {tally.actions[name]:,} | {tally.actions[name] / max(tally.answered, 1):.1%} |"
        for name in model.spec.actions
    ]
    missing = [f"| {name} | {count:,} |" for name, count in sorted(tally.missing.items())]
    return Outcome(
        record=facts,
        version=result.key,
        metadata={
            **facts,
            "dagster/row_count": tally.rows,
            "folder": dg.MetadataValue.path(result.predictions),
            "actions": dg.MetadataValue.md("\n".join(["| action | rows | share |", "|---|---:|---:|", *shares])),
            "missing_features": dg.MetadataValue.md("\n".join(["| feature | rows |", "|---|---:|", *missing])),
            "rows_with_missing_features": tally.incomplete,
            "parts": result.parts,
            "parts_kept": result.kept_parts,
            "reused": result.reused,
            "seconds": result.seconds,
            # Nothing went through the network where everything was there.
            **({} if speed is None else {"network_rows_per_second": speed}),
        },
    )


SERVING_ASSETS = [batch_predictions]
