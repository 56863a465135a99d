"""What a run has trained, as its assets recorded it: read for the notice of its completion."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, select

from mlops_assets.evaluation.report import REPORT_JSON, read_report
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import MlopsError
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.tables import AssetRecord
from mlops_assets.monitoring.run_alerts import Trained

_ASSETS = ("registered_model", "validation_report", "approval")


def trained_by(engine: Engine, paths: ArtifactPaths, run_id: str) -> list[Trained]:
    """Return the versions that a run registered, by agent; one that found nothing new registered none."""
    query = select(AssetRecord).where(AssetRecord.run_id == run_id, AssetRecord.asset.in_(_ASSETS))
    records: dict[str, dict[str, Mapping[str, Any]]] = {}
    with read_transaction(engine) as session:
        for record in session.scalars(query):
            records.setdefault(record.partition, {})[record.asset] = record.payload
    return [
        _trained(agent, made, paths)
        for agent, made in sorted(records.items())
        if made.get("registered_model", {}).get("created")
    ]


def _trained(agent: str, made: Mapping[str, Mapping[str, Any]], paths: ArtifactPaths) -> Trained:
    version, metrics = made["registered_model"], _metrics(agent, made.get("validation_report", {}), paths)
    return Trained(
        agent=agent,
        model_name=version["model_name"],
        semver=version["semver"],
        status=made.get("approval", {}).get("status", "not decided"),
        accuracy=metrics.get("accuracy"),
        improvement_percent=metrics.get("improvement_percent"),
    )


def _metrics(agent: str, report: Mapping[str, Any], paths: ArtifactPaths) -> Mapping[str, float]:
    if "run_id" not in report:
        return {}
    try:
        return read_report(paths.reports(agent) / report["run_id"] / REPORT_JSON).metrics
    except (MlopsError, OSError):
        # People are told of the version all the same, with what is not known as not known.
        return {}
