"""The version in production as an opponent: its row in the operational database, its policy from its training's files."""

from sqlalchemy import Engine, select

from mlops_assets.evaluation.comparison import ChampionModel
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import NotReadyError
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.tables import ModelVersionRecord
from mlops_assets.training.artifacts import ArtifactFolder
from mlops_assets.training.checkpoint import load_checkpoint
from mlops_assets.training.network import DuelingQNetwork
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets.training.tracking import TrainingTracker

PRODUCTION = "Production"


def find_champion(
    spec: AgentSpec, *, engine: Engine, paths: ArtifactPaths, tracker: TrainingTracker
) -> ChampionModel | None:
    """Return the agent's champion, None before the first; its checkpoint comes back from MLflow where it is not at hand.

    Raises:
        NotReadyError: neither this machine nor MLflow has the champion's checkpoint.
    """
    with read_transaction(engine) as session:
        query = select(ModelVersionRecord).where(
            ModelVersionRecord.model_name == spec.registered_model, ModelVersionRecord.stage == PRODUCTION
        )
        record = session.scalars(query).one_or_none()
    if record is None:
        return None
    files = ArtifactFolder(paths.models(spec.name) / record.run_id)
    if not files.checkpoint.is_file():
        tracker.download_artifact(record.run_id, files.checkpoint.name, files.folder)
    if not files.checkpoint.is_file():
        raise NotReadyError(
            f"the checkpoint of champion {spec.registered_model} {record.semver} is neither in {files.folder} nor in MLflow "
            f"run {record.run_id}: restore it, or roll back to a version whose files exist"
        )
    checkpoint = load_checkpoint(files.checkpoint)
    return ChampionModel(
        semver=record.semver,
        run_id=record.run_id,
        policy=GreedyPolicy.from_network(checkpoint.network),
        state_fields=checkpoint.state_fields,
        architecture=architecture(checkpoint.network),
    )


def architecture(network: DuelingQNetwork) -> str:
    """Name a network's architecture, such as `dueling-dqn 34-256x256-4`: another name is another architecture."""
    hidden = "x".join(map(str, network.hidden_sizes))
    return f"dueling-dqn {network.state_size}-{hidden}-{network.actions}"
