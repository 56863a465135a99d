"""Registered models, read: versions, who is champion, loading and comparing. Nothing is changed here."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from sqlalchemy import Engine

from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import NotReadyError
from mlops_assets.foundation.files import digest, sha256_file
from mlops_assets.foundation.trigger import EvidenceName
from mlops_assets.registry.comparison import VersionComparison, compare_metrics
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.registry.registration import RegisteredVersion, Stage, registered_version
from mlops_assets.registry.version_records import numbered_record, version_record, version_records

if TYPE_CHECKING:
    from mlops_assets.training.policy import GreedyPolicy

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
# The version that a rollout is about: a newer challenger does not take its users away from it.
CANDIDATE = "candidate"


class ModelCatalogue:
    """Registered models of one MLflow store and one operational database, for readers."""

    def __init__(self, tracking_uri: str, engine: Engine) -> None:
        self._store = MlflowStore(tracking_uri)
        self._engine = engine

    def versions(self, model_name: str) -> list[RegisteredVersion]:
        """Return every version, the highest first."""
        with read_transaction(self._engine) as session:
            return [registered_version(record, created=False) for record in version_records(session, model_name)]

    def version(self, model_name: str, version: str) -> RegisteredVersion:
        """Resolve a semantic version; `v2.1.0` and `2.1.0` are the same.

        Raises:
            InputError: no such version; the known ones are named.
        """
        with read_transaction(self._engine) as session:
            return registered_version(version_record(session, model_name, version), created=False)

    def champion(self, model_name: str) -> RegisteredVersion | None:
        """Return the version that consumers load, the one behind the alias `champion`; None before the first."""
        return self._behind(model_name, CHAMPION)

    def challenger(self, model_name: str) -> RegisteredVersion | None:
        """Return the version behind the alias `challenger`, the newest approved one that is not in production."""
        return self._behind(model_name, CHALLENGER)

    def previous(self, model_name: str) -> RegisteredVersion | None:
        """Return the version behind the alias `previous`, the champion before the present one."""
        return self._behind(model_name, PREVIOUS)

    def get_latest_version(self, model_name: str, stage: Stage = "Production") -> RegisteredVersion | None:
        """Return the highest version in a stage, or None."""
        return next((version for version in self.versions(model_name) if version.stage == stage), None)

    def load_production_model(self, model_name: str) -> "GreedyPolicy":
        """Load the champion's policy, states (N, D) to action values (N, A).

        Raises:
            NotReadyError: there is no champion yet.
        """
        champion = self.champion(model_name)
        if champion is None:
            raise NotReadyError(f"{model_name} has no champion yet; run the job model_lifecycle for its agent first")
        return self._store.load(model_name, champion.mlflow_version)

    def load_specific_version(self, model_name: str, version: str) -> "GreedyPolicy":
        """Load one version's policy.

        Raises:
            InputError: no such version, or its artifacts are gone.
        """
        return self._store.load(model_name, self.version(model_name, version).mlflow_version)

    def metrics(self, model_name: str, version: str) -> dict[str, float]:
        """Return what was measured of the version when it was trained and evaluated.

        Raises:
            InputError: no such version, or its run is gone.
        """
        return self._store.run_metrics(self.version(model_name, version).run_id)

    def training_reason(self, model_name: str, version: str) -> str:
        """Return why the version was trained, such as `drift: PSI 0.41 > 0.3 (drift_score 0.41)`.

        Raises:
            InputError: no such version.
        """
        number = self.version(model_name, version).mlflow_version
        tags = next((one.tags for one in self._store.versions(model_name) if one.number == number), {})
        if "trigger_type" not in tags:
            return "not recorded"
        numbers = [f"{name} {float(tags[name]):g}" for name in get_args(EvidenceName) if name in tags]
        measured = f" ({', '.join(numbers)})" if numbers else ""
        return f"{tags['trigger_type']}: {tags.get('reason', 'no reason given')}{measured}"

    def files_hash(self, model_name: str, version: str) -> str:
        """Hash the files that serving the version takes, as the model store holds them now: 64 hex digits.

        Raises:
            InputError: no such version, or its artifacts are gone.
        """
        number = self.version(model_name, version).mlflow_version
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            self._store.fetch_served(model_name, number, folder)
            return digest({file.name: sha256_file(file) for file in folder.iterdir()})

    def compare_models(
        self,
        model_name: str,
        first: str,
        second: str,
        *,
        measure: Callable[["GreedyPolicy"], Mapping[str, float]] | None = None,
    ) -> VersionComparison:
        """Compare two versions, by default with the metrics of their MLflow runs.

        Args:
            model_name: registered model.
            first: semantic version to compare against.
            second: semantic version whose improvement is reported.
            measure: given a loaded model, its metrics: for a comparison of both on the same data.
        """
        sides = [self.version(model_name, version) for version in (first, second)]
        if measure is None:
            metrics = [self._store.run_metrics(side.run_id) for side in sides]
        else:
            metrics = [dict(measure(self._store.load(model_name, side.mlflow_version))) for side in sides]
        return VersionComparison(
            first_version=sides[0].semver,
            second_version=sides[1].semver,
            first=metrics[0],
            second=metrics[1],
            improvement=compare_metrics(*metrics),
        )

    def _behind(self, model_name: str, alias: str) -> RegisteredVersion | None:
        number = self._store.alias_target(model_name, alias)
        if number is None:
            return None
        with read_transaction(self._engine) as session:
            return registered_version(numbered_record(session, model_name, number), created=False)
