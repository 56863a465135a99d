"""The asset of this room: one trained dueling double DQN per agent."""

from typing import TYPE_CHECKING

import dagster as dg

from mlops_assets.experiences.assets import OWNERS
from mlops_assets.experiences.snapshots import open_snapshot, require_validated
from mlops_assets.features.assets import online_features, training_set
from mlops_assets.features.training_set import open_training_set
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.leases import lease
from mlops_assets.foundation.partitions import AGENT_PARTITIONS, Outcome, each_agent
from mlops_assets.foundation.resources import Platform
from mlops_assets.foundation.trigger import TriggerReason, author_in
from mlops_assets.training.resources import DqnTrainer, MlflowParentRun

if TYPE_CHECKING:
    from mlops_assets.training.lifecycle import TrainedModel

_LEASE_SECONDS = 30.0
# A living holder is waited for as long as a training may take; a dead one loses its lease after _LEASE_SECONDS.
_WAIT_SECONDS = 4 * 3600.0


@dg.asset(
    group_name="training",
    owners=OWNERS,
    kinds={"pytorch", "mlflow", "onnx"},
    partitions_def=AGENT_PARTITIONS,
    deps=[training_set, online_features],
    pool="training_device",
    description="The agent's dueling double DQN: checkpoint, ONNX policy, curves, and the MLflow run that made them.",
)
def dqn_model(
    context: dg.AssetExecutionContext, platform: Platform, trainer: DqnTrainer, mlflow_parent: MlflowParentRun
) -> dg.MaterializeResult[None]:
    """Train on the training set of this run, unless a run with the same inputs has these weights already."""
    # torch takes seconds to import, and the code location has to load without it.
    from mlops_assets.training.lifecycle import lineage_of, new_origin, train_or_reuse
    from mlops_assets.training.tracking import TrainingTracker

    settings = platform.settings
    tracker = TrainingTracker(settings.tracking_uri, settings.artifact_root)
    dagster_run = context.run.run_id

    def learn(spec: AgentSpec) -> Outcome:
        # Read in here, where a wrong value fails once, with its text, and is not retried.
        config, reason = trainer.config(), TriggerReason.from_tags(context.run.tags)
        author_in(context.run.tags)  # registration reads it, hours after a wrong one could have been said
        record = platform.record("training_set", spec.name, dagster_run)
        require_validated(platform.engine, spec.name, record["data_hash"])
        snapshot = open_snapshot(spec.name, record["data_hash"], paths=platform.paths, engine=platform.engine)
        decisions = open_training_set(spec.name, record["training_hash"], paths=platform.paths)
        with (
            # A pool slot outlives a killed process, a lease does not: two trainings of one agent never run at once.
            lease(
                platform.engine,
                f"training:{spec.name}",
                dagster_run,
                _LEASE_SECONDS,
                platform.clock,
                wait_seconds=_WAIT_SECONDS,
            ),
            mlflow_parent.open(context, tracker) as parent,
        ):
            tracker.close_abandoned(spec)
            model = train_or_reuse(
                decisions,
                spec,
                config,
                lineage=lineage_of(decisions, snapshot, config, seed=settings.training_seed),
                origin=new_origin(dagster_run, reason.facts(), platform.clock.now(), parent),
                device=trainer.device_for(settings),
                tracker=tracker,
                paths=platform.paths,
                text_embedder=snapshot.embedder() if spec.text_dimensions else None,
                progress=lambda point: context.log.info(f"{spec.name}: {point.summary(config.updates)}"),
            )
        context.log.info(
            f"{spec.name}: {'trained' if model.trained else 'unchanged, reusing'} MLflow run {model.run_id}"
        )
        return _outcome(model, record["training_hash"])

    return each_agent(context, platform, learn)


def _outcome(model: "TrainedModel", training_hash: str) -> Outcome:
    facts = {
        "run_id": model.run_id,
        "identity": model.identity,
        "data_hash": model.lineage.data_hash,
        "training_hash": training_hash,
        "weights_hash": model.weights_hash,
        "trained": model.trained,
    }
    picture = dg.MetadataValue.md(f"![training curves]({_data_uri(model)})")
    folder = dg.MetadataValue.path(model.files.folder)
    metrics = {name: float(value) for name, value in model.metrics.items()}
    # With a space, since a long name that cannot wrap runs into its value in the UI.
    lineage = {name.replace(".", " "): value for name, value in model.lineage.tags().items()}
    return Outcome(
        record=facts,
        version=model.weights_hash,
        metadata={**facts, **lineage, **metrics, "training_curves": picture, "folder": folder},
    )


def _data_uri(model: "TrainedModel") -> str:
    from base64 import b64encode

    return "data:image/png;base64," + b64encode(model.files.training_curves.read_bytes()).decode()


TRAINING_ASSETS = [dqn_model]
