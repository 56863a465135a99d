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


def registered_run(engine: Engine, model_name: str, version: str) -> tuple[str, str, str]:
    """Return agent, MLflow run and full semantic version of a registered version.

    Raises:
        InputError: there is no such model, or no such version; the known ones are named.
    """
    agent = next((name for name, spec in AGENTS.items() if spec.registered_model == model_name), None)
    if agent is None:
        known = ", ".join(spec.registered_model for spec in AGENTS.values())
        raise InputError(f"there is no model {model_name!r}; registered models: {known}")
    with read_transaction(engine) as session:
        record = version_record(session, model_name, version)
        return agent, record.run_id, record.semver


def model_card_text(settings: Settings, agent: str, run_id: str, semver: str) -> str | None:
    """Return the card of a registered version: the file of this home, else of its MLflow run; None without one."""
    name = f"{AGENTS[agent].registered_model}-v{semver}-card.yaml"
    local = settings.paths.reports(agent) / run_id / name
    if local.is_file():
        return local.read_text(encoding="utf-8")
    with TemporaryDirectory() as folder:
        TrainingTracker(settings.tracking_uri).download_artifact(run_id, name, Path(folder))
        fetched = Path(folder) / name
        return fetched.read_text(encoding="utf-8") if fetched.is_file() else None
