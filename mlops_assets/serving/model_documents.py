"""What the API tells about models: the versions in service, and the card of a registered one."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.settings import Settings
from mlops_assets.registry.version_records import version_record
from mlops_assets.serving.models import ServedModels
from mlops_assets.training.tracking import TrainingTracker


def served_models(models: ServedModels) -> list[dict[str, Any]]:
    """List what stands behind which alias."""
    return [
        {
            "agent": agent,
            "alias": alias,
            "name": model.spec.registered_model,
            "version": model.semver,
            "mlflow_version": model.mlflow_version,
            "mlflow_run_id": model.run_id,
            "data_hash": model.data_hash,
            "training_hash": model.training_hash,
            "weights_hash": model.policy.weights_hash,
            "actions": list(model.spec.actions),
            "state_fields": list(model.spec.state_fields),
            "card": f"/models/{model.spec.registered_model}/{model.semver}/card",
        }
        for (agent, alias), model in sorted(models.by_alias.items())
    ]


def model_card_text(engine: Engine, settings: Settings, model_name: str, version: str) -> str:
    """Return the card of a registered version: the file of this home, else of its MLflow run.

    Raises:
        InputError: no such model or version, or it has no card.
    """
    agent = next((name for name, spec in AGENTS.items() if spec.registered_model == model_name), None)
    if agent is None:
        known = ", ".join(spec.registered_model for spec in AGENTS.values())
        raise InputError(f"there is no model {model_name!r}; registered models: {known}")
    with read_transaction(engine) as session:
        record = version_record(session, model_name, version)
        name, run_id = f"{model_name}-v{record.semver}-card.yaml", record.run_id
    local = settings.paths.reports(agent) / run_id / name
    if local.is_file():
        return local.read_text(encoding="utf-8")
    with TemporaryDirectory() as folder:
        TrainingTracker(settings.tracking_uri).download_artifact(run_id, name, Path(folder))
        fetched = Path(folder) / name
        if not fetched.is_file():
            raise InputError(f"{model_name} {record.semver} has no card; materialise model_card for it")
        return fetched.read_text(encoding="utf-8")
