"""The room's only words with MLflow. What versions, aliases and tags mean is `model_registry.py`'s business.

Every call goes through a client with explicit URIs; MLflow's global state is never touched. MLflow's stages are
deprecated, so the lifecycle lives in aliases and in the version tag `stage`.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from mlops_assets.experiences.text_embedding import TextEmbedder
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError, NotReadyError, StorageError
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets.training.tracking import TEXT_EMBEDDER_FILE, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

MODEL_ARTIFACT = "model"
SEMVER_TAG = "semantic_version"
STAGE_TAG = "stage"

_ABSENT = "RESOURCE_DOES_NOT_EXIST"
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_INVALID = "INVALID_PARAMETER_VALUE"
_PROBE_ROWS = 3
_FLAVOUR = "onnx"
POLICY_FILE = "policy.onnx"
_PASSWORD = re.compile(r"(://[^\s/:@]*):\S*@")


@dataclass(frozen=True)
class LoggedPolicy:
    """A logged model that was loaded and has answered, and where it lies."""

    model_id: str
    uri: str


@dataclass(frozen=True)
class LoadedModel:
    """A version in memory; `text_embedder` is None for an agent that reads no requirement texts."""

    policy: GreedyPolicy
    text_embedder: TextEmbedder | None


@dataclass(frozen=True)
class StoredVersion:
    """One model version as MLflow holds it; `number` is MLflow's own running number, as text."""

    number: str
    run_id: str
    tags: Mapping[str, str]


class MlflowStore:
    """One MLflow tracking server (or database) as tracking store and model registry."""

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri

    def run_metrics(self, run_id: str) -> dict[str, float]:
        """Return the run's last value of every metric.

        Raises:
            InputError: the run does not exist.
        """
        with self._mlflow() as client:
            return {name: float(value) for name, value in self._run(client, run_id).data.metrics.items()}

    def verified_model(self, run_id: str, spec: AgentSpec) -> LoggedPolicy:
        """Load the run's model and let it answer, so that an empty or failed one is never registered.

        MLflow itself registers a FAILED logged model, and a folder that does not exist, without complaint.

        Raises:
            InputError: no such run, or its model is absent, not READY, not loadable, another agent's, or gives no
                finite numbers.
            NotReadyError: the run has not finished.
        """
        with self._mlflow() as client:
            run = self._run(client, run_id)
            if run.info.lifecycle_stage != "active":
                raise InputError(f"MLflow run {run_id} is deleted; restore it or train again")
            if run.info.status != "FINISHED":
                raise NotReadyError(
                    f"MLflow run {run_id} is {run.info.status}, not FINISHED; let the training end, or train again"
                )
            model = _logged_model(client, run)
        _probe(self._load(model.artifact_location).policy, model.artifact_location, spec)
        return LoggedPolicy(model_id=model.model_id, uri=model.artifact_location)

    def versions(self, model_name: str) -> list[StoredVersion]:
        """Return every version of the model, oldest first; none when the name is unknown."""
        found: list[StoredVersion] = []
        token: str | None = None
        with self._mlflow() as client:
            while True:
                page = client.search_model_versions(f"name='{model_name}'", page_token=token)
                found += [StoredVersion(str(v.version), str(v.run_id), dict(v.tags)) for v in page]
                token = page.token
                if not token:
                    return sorted(found, key=lambda version: int(version.number))

    def create_version(
        self,
        model_name: str,
        model: LoggedPolicy,
        *,
        run_id: str,
        tags: Mapping[str, str],
        purpose: str,
        description: str,
    ) -> str:
        """Create the version with its tags in one call and return MLflow's number for it; the model's name if new, too.

        Raises:
            StorageError: MLflow has not made the version ready.
        """
        with self._mlflow() as client:
            _ensure_model(client, model_name, purpose)
            version = client.create_model_version(
                model_name,
                source=model.uri,
                run_id=run_id,
                tags=dict(tags),
                description=description,
                model_id=model.model_id,
            )
        if version.status != "READY":
            raise StorageError(
                f"MLflow left version {version.version} of {model_name} in status {version.status}; "
                f"register run {run_id} again"
            )
        return str(version.version)

    def alias_target(self, model_name: str, alias: str) -> str | None:
        """Return MLflow's number of the version behind the alias; None without the alias, or without the model."""
        from mlflow.exceptions import MlflowException

        with self._mlflow() as client:
            try:
                return str(client.get_model_version_by_alias(model_name, alias).version)
            except MlflowException as error:
                # A missing model does not exist; a missing alias is an invalid parameter.
                if error.error_code in {_ABSENT, _INVALID}:
                    return None
                raise

    def aliases(self, model_name: str) -> dict[str, str]:
        """Return MLflow's number of the version behind every alias; none when the name is unknown."""
        from mlflow.exceptions import MlflowException

        with self._mlflow() as client:
            try:
                found = client.get_registered_model(model_name).aliases
            except MlflowException as error:
                if error.error_code != _ABSENT:
                    raise
                return {}
        return {alias: str(number) for alias, number in found.items()}

    def stored_version(self, model_name: str, number: str) -> StoredVersion:
        """Return one version with its tags.

        Raises:
            InputError: there is no such version.
        """
        from mlflow.exceptions import MlflowException

        with self._mlflow() as client:
            try:
                version = client.get_model_version(model_name, number)
            except MlflowException as error:
                if error.error_code != _ABSENT:
                    raise
                raise InputError(f"MLflow has no version {number} of {model_name}") from error
        return StoredVersion(str(version.version), str(version.run_id), dict(version.tags))

    def set_alias(self, model_name: str, alias: str, number: str) -> None:
        """Point the alias to a version: one atomic write, a reader sees the old target or the new one."""
        with self._mlflow() as client:
            client.set_registered_model_alias(model_name, alias, number)

    def drop_alias(self, model_name: str, alias: str) -> None:
        """Remove the alias; nothing happens when there is none."""
        if self.alias_target(model_name, alias) is not None:
            with self._mlflow() as client:
                client.delete_registered_model_alias(model_name, alias)

    def set_tags(self, model_name: str, number: str, tags: Mapping[str, str]) -> None:
        """Write tags on one version."""
        with self._mlflow() as client:
            for key, value in tags.items():
                client.set_model_version_tag(model_name, number, key, value)

    def load(self, model_name: str, number: str) -> GreedyPolicy:
        """Load one version's policy: states (N, D) to action values (N, A), float32.

        Raises:
            InputError: there is no such version, or its artifacts cannot be loaded.
        """
        return self.load_served(model_name, number).policy

    def load_served(self, model_name: str, number: str) -> LoadedModel:
        """Load everything that serving one version takes: its policy, and the embedder of requirement texts.

        Raises:
            InputError: there is no such version, or its artifacts cannot be loaded.
        """
        return self._load(self._version_uri(model_name, number))

    def fetch_served(self, model_name: str, number: str, folder: Path) -> None:
        """Bring the files that serving one version takes into `folder`: `policy.onnx`, and `text_embedder.npz` if any.

        Raises:
            InputError: there is no such version, or its artifacts are not an exported policy.
        """
        self._fetch(self._version_uri(model_name, number), folder)

    def _version_uri(self, model_name: str, number: str) -> str:
        from mlflow.exceptions import MlflowException

        with self._mlflow() as client:
            try:
                return str(client.get_model_version_download_uri(model_name, number))
            except MlflowException as error:
                if error.error_code != _ABSENT:
                    raise
                raise InputError(f"MLflow has no version {number} of {model_name}") from error

    @cached_property
    def _client(self) -> "MlflowClient":
        return connect(self.tracking_uri)

    @contextmanager
    def _mlflow(self) -> Iterator["MlflowClient"]:
        """Give the client; what MLflow refuses in the block, and the block does not explain, may pass on the next try."""
        from mlflow.exceptions import MlflowException

        try:
            yield self._client
        # A database that MLflow cannot even open speaks for itself.
        except (MlflowException, SQLAlchemyError) as error:
            raise StorageError(
                _without_passwords(
                    f"MLflow at {self.tracking_uri} did not do what it was asked ({str(error).splitlines()[0]}); "
                    "check that it runs and can write, then try again"
                )
            ) from _showable(error)

    def _run(self, client: "MlflowClient", run_id: str) -> "Run":
        from mlflow.exceptions import MlflowException

        try:
            return client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != _ABSENT:
                raise
            store = _without_passwords(self.tracking_uri)
            raise InputError(
                f"MLflow at {store} has no run {run_id!r}; train first, or check MLFLOW_TRACKING_URI"
            ) from _showable(error)

    def _load(self, uri: str) -> LoadedModel:
        with tempfile.TemporaryDirectory() as scratch:
            self._fetch(uri, Path(scratch))
            return read_served(Path(scratch))

    def _fetch(self, uri: str, folder: Path) -> None:
        """Fetch a logged model; only its ONNX flavour is taken, which runs no code of the file."""
        import mlflow.artifacts
        from mlflow.exceptions import MlflowException
        from mlflow.models import Model

        shown = _without_passwords(uri)
        with tempfile.TemporaryDirectory() as scratch:
            try:
                found = Path(
                    mlflow.artifacts.download_artifacts(
                        artifact_uri=uri, dst_path=scratch, tracking_uri=self.tracking_uri
                    )
                )
                flavours = Model.load(str(found)).flavors
            except (MlflowException, OSError) as error:
                reason = _without_passwords(str(error))
                raise InputError(f"the model at {shown} is not there ({reason}); train again") from _showable(error)
            if _FLAVOUR not in flavours:
                names = ", ".join(sorted(flavours))
                raise InputError(f"the model at {shown} is logged as {names}, expected {_FLAVOUR}; train again")
            policy, embedder = found / flavours[_FLAVOUR]["data"], found / TEXT_EMBEDDER_FILE
            if not policy.is_file():
                raise InputError(f"the model at {shown} is not there (no {policy.name}); train again")
            shutil.copyfile(policy, folder / POLICY_FILE)
            if embedder.is_file():
                shutil.copyfile(embedder, folder / TEXT_EMBEDDER_FILE)


def be_impatient() -> None:
    """Let this process's calls to an MLflow server that stands still end in seconds, where nothing else is set.

    By default MLflow tries for a quarter of an hour, which suits a training and no watch. Telemetry and progress bars are
    off as well.
    """
    for name, value in (
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "5"),
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
        ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ):
        os.environ.setdefault(name, value)


def read_served(folder: Path) -> LoadedModel:
    """Load what `MlflowStore.fetch_served` brought into `folder`; nothing is unpickled.

    Raises:
        InputError: a file is missing or damaged.
    """
    embedder = folder / TEXT_EMBEDDER_FILE
    return LoadedModel(
        policy=GreedyPolicy.from_onnx(folder / POLICY_FILE),
        text_embedder=TextEmbedder.load(embedder) if embedder.is_file() else None,
    )


def _without_passwords(text: str) -> str:
    """Mask the password of every URI in the text: what MLflow refuses, it quotes, with the path that it asked for."""
    return _PASSWORD.sub(r"\1:***@", text)


def _showable(error: Exception) -> Exception | None:
    """Give the error as a cause, unless a traceback would show a password with it."""
    return error if _without_passwords(str(error)) == str(error) else None


def _probe(policy: GreedyPolicy, uri: str, spec: AgentSpec) -> None:
    uri = _without_passwords(uri)
    expected = (len(spec.state_fields), len(spec.actions))
    if (policy.state_size, policy.action_count) != expected:
        raise InputError(
            f"the model at {uri} has {policy.state_size} inputs and {policy.action_count} actions, {spec.name} has "
            f"{expected[0]} and {expected[1]}; it belongs to another agent"
        )
    values = policy.q_values(np.zeros((_PROBE_ROWS, expected[0]), dtype=np.float32))
    if not np.isfinite(values).all():
        raise InputError(f"the model at {uri} gives no finite numbers: its training diverged; train again")


def _logged_model(client: "MlflowClient", run: "Run") -> "LoggedModel":
    found = [
        model
        for model in client.search_logged_models(
            [run.info.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'"
        )
        if model.name == MODEL_ARTIFACT
    ]
    if not found:
        raise InputError(f"MLflow run {run.info.run_id} has no logged model named {MODEL_ARTIFACT!r}; train again")
    # A failed try may stand beside the good one.
    ready = [model for model in found if str(model.status) == "READY"]
    if not ready:
        states = ", ".join(sorted({str(model.status) for model in found}))
        raise InputError(f"the logged model of MLflow run {run.info.run_id} is {states}, not READY; train again")
    return max(ready, key=lambda model: model.creation_timestamp)


def _ensure_model(client: "MlflowClient", model_name: str, purpose: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model_name, description=purpose)
    except MlflowException as error:
        if error.error_code != _EXISTS:
            raise
