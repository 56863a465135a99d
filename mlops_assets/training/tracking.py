"""Training runs in MLflow: the only file of this room that speaks MLflow. Registration lives in `registry/`.

Every call names its run: no active run, no global tracking URI, nothing left over for the next training in the process.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import make_url

from mlops_assets.experiences.text_embedding import TextEmbedder
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError, TransientError
from mlops_assets.foundation.file_lock import file_lock
from mlops_assets.training.episodes import EpisodeCurve, thinned

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

    from mlops_assets.training.learner import CurvePoint

MODEL_NAME = "model"
TEXT_EMBEDDER_FILE = "text_embedder.npz"
# One (lifecycle run, agent) has one MLflow run. Not `dagster_run_id`: by that tag dagster-mlflow finds its parent run.
LIFECYCLE_TAG = "lifecycle_run_id"
# MLflow's limit of metrics in one request.
_BATCH = 1000
_EXAMPLE_ROWS = 4
_SQLITE = "sqlite:///"
_GLOBALS = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")
_PERMANENT = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"}

_log = logging.getLogger(__name__)


class TrainingTracker:
    """Writes training runs to one MLflow store.

    Args:
        tracking_uri: a server's URL, or a database URL (`sqlite:////abs/mlflow.db`) for use without a server.
        artifact_root: where new experiments keep their artifacts (a folder or `s3://...`); None lets the server decide.
    """

    def __init__(self, tracking_uri: str, artifact_root: str | None = None) -> None:
        self.tracking_uri = tracking_uri
        self.artifact_root = artifact_root
        self._connected: MlflowClient | None = None

    def start(
        self,
        spec: AgentSpec,
        *,
        lifecycle_run_id: str,
        run_name: str,
        parent_run_id: str | None,
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> str:
        """Start the run of (`lifecycle_run_id`, agent) in the agent's experiment, or take up the one that exists.

        A step that is tried again logs into the run of its first try. Parameters of a run cannot change.

        Returns:
            The MLflow run id; the run is RUNNING.

        Raises:
            InputError: the run exists with other parameters.
            TransientError: the store does not answer.
        """
        client = self._client()
        with _store_errors(self.tracking_uri):
            experiment = self._experiment(client, spec.experiment)
            all_tags = dict(tags) | {LIFECYCLE_TAG: lifecycle_run_id, "agent": spec.name}
            if parent_run_id is not None:
                all_tags["mlflow.parentRunId"] = parent_run_id
            found = client.search_runs(
                [experiment],
                filter_string=f"tags.`{LIFECYCLE_TAG}` = '{lifecycle_run_id}' and tags.agent = '{spec.name}'",
                order_by=["attributes.start_time ASC"],
                max_results=1,
            )
            if found:
                run_id: str = found[0].info.run_id
                self._log_start(client, run_id, params, all_tags)
                client.update_run(run_id, status="RUNNING", name=run_name)
                _log.info("taking up MLflow run %s of %s", run_id, spec.name)
            else:
                run_id = client.create_run(experiment, run_name=run_name).info.run_id
                self._log_start(client, run_id, params, all_tags)
                _log.info("started MLflow run %s of %s", run_id, spec.name)
        return run_id

    def ensure_experiment(self, name: str) -> str:
        """Return the id of an experiment, which is made below the artifact root when there is none.

        Raises:
            TransientError: the store does not answer.
        """
        client = self._client()
        with _store_errors(self.tracking_uri):
            return self._experiment(client, name)

    def close_abandoned(self, spec: AgentSpec) -> list[str]:
        """End runs of the agent that still say RUNNING as KILLED, and return their ids.

        To be called by who holds the agent's training lease: then no other training of it is alive.
        """
        client = self._client()
        with _store_errors(self.tracking_uri):
            experiment = self._experiment(client, spec.experiment)
            running = client.search_runs([experiment], filter_string="attributes.status = 'RUNNING'")
            for run in running:
                client.set_terminated(run.info.run_id, "KILLED")
        return [run.info.run_id for run in running]

    def find_finished(self, spec: AgentSpec, fingerprint: str) -> str | None:
        """Return the newest FINISHED run with this lineage fingerprint, or None: a new one would give its weights."""
        client = self._client()
        with _store_errors(self.tracking_uri):
            experiment = client.get_experiment_by_name(spec.experiment)
            if experiment is None:
                return None
            found = client.search_runs(
                [experiment.experiment_id],
                filter_string=f"tags.fingerprint = '{fingerprint}' and attributes.status = 'FINISHED'",
                order_by=["attributes.start_time DESC"],
                max_results=1,
            )
        return found[0].info.run_id if found else None

    def log_curves(self, run_id: str, points: Sequence[CurvePoint]) -> None:
        """Log points of the training curves, with the update as step; points that the run has already are left out."""
        with _store_errors(self.tracking_uri):
            logged = {metric.step for metric in self._client().get_metric_history(run_id, "loss")}
        new = [point for point in points if point.update not in logged]
        self._log_points(run_id, [(*value, point.update) for point in new for value in point.metrics().items()])

    def log_episodes(self, run_id: str, episodes: EpisodeCurve) -> None:
        """Log the logged episodes, thinned, with the episode's number as step; not when the run has them already."""
        with _store_errors(self.tracking_uri):
            logged = self._client().get_metric_history(run_id, "episode_reward")
        if not logged:
            self._log_points(run_id, thinned(episodes))

    def log_metrics(
        self, run_id: str, metrics: Mapping[str, float], *, step: int = 0, tags: Mapping[str, str] | None = None
    ) -> None:
        """Log final numbers, and tags that are known after the training only."""
        from mlflow.entities import RunTag

        self._log_points(run_id, [(name, value, step) for name, value in metrics.items()])
        with _store_errors(self.tracking_uri):
            self._client().log_batch(run_id, tags=[RunTag(name, value) for name, value in (tags or {}).items()])

    def log_dataset(self, run_id: str, *, name: str, digest: str, source: str, rows: int, context: str) -> None:
        """Log one data set as input of the run; `digest` is its hash, `context` training or evaluation."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # MLflow keeps 36 characters of a digest.
        dataset = Dataset(name, digest[:36], "local", source, profile=f'{{"num_rows": {rows}}}')
        with _store_errors(self.tracking_uri):
            self._client().log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def log_artifacts(self, run_id: str, folder: Path) -> None:
        """Upload every file of a folder to the run."""
        with _store_errors(self.tracking_uri):
            self._client().log_artifacts(run_id, str(folder))

    def download_artifact(self, run_id: str, name: str, folder: Path) -> None:
        """Bring one file of a run's artifacts into `folder`; nothing happens when the run does not have it.

        Raises:
            InputError: there is no such run.
            TransientError: the store does not answer.
        """
        with _store_errors(self.tracking_uri):
            client = self._client()
            if any(file.path == name for file in client.list_artifacts(run_id)):
                folder.mkdir(parents=True, exist_ok=True)
                client.download_artifacts(run_id, name, str(folder))

    def log_model(
        self,
        run_id: str,
        onnx_file: Path,
        spec: AgentSpec,
        states: NDArray[np.float32],
        q_values: NDArray[np.float32],
        *,
        text_embedder: TextEmbedder | None = None,
    ) -> str:
        """Log the policy as the run's one model `model`, with signature and input example; it is not registered here.

        MLflow's ONNX flavour: it loads without this project's classes and without unpickling, and measured beside the
        others (package pt2 / pickled class / ONNX) it is saved in 0.9 s (21.5 / 0.03), loaded in 22 ms (106 / 7) and
        answers one state in 0.04 ms (0.21 / 0.10). `q_values` (N, A) are those of the example `states` (N, D), N >= 1.
        `text_embedder` travels in the model's folder: without it nobody can build the states that the policy expects.

        Returns:
            The model's URI, `models:/m-...`; its status is READY. A second call returns the first call's.

        Raises:
            InputError: the exported file is missing.
            TransientError: the store refuses the upload; the model is marked FAILED.
        """
        from mlflow.entities import LoggedModelOutput

        client = self._client()
        with _store_errors(self.tracking_uri):
            ready = _ready_model(client, run_id)
            if ready is not None:
                return f"models:/{ready.model_id}"
            run = client.get_run(run_id)
            model = client.create_logged_model(
                run.info.experiment_id,
                name=MODEL_NAME,
                source_run_id=run_id,
                params=dict(run.data.params),
                tags={"agent": spec.name, "format": "onnx"},
                model_type="DQN",
            )
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
            try:
                with tempfile.TemporaryDirectory() as scratch:
                    folder = Path(scratch) / MODEL_NAME
                    _save_model(folder, model, onnx_file, spec, states[:_EXAMPLE_ROWS], q_values[:_EXAMPLE_ROWS])
                    if text_embedder is not None:
                        text_embedder.save(folder / TEXT_EMBEDDER_FILE)
                    client.log_model_artifacts(model.model_id, str(folder))
            except BaseException:
                client.finalize_logged_model(model.model_id, "FAILED")
                raise
            client.finalize_logged_model(model.model_id, "READY")
        return f"models:/{model.model_id}"

    def finish(self, run_id: str, *, failed: bool = False) -> None:
        """End the run: FINISHED, or FAILED."""
        with _store_errors(self.tracking_uri):
            self._client().set_terminated(run_id, "FAILED" if failed else "FINISHED")

    def _client(self) -> MlflowClient:
        if self._connected is None:
            self._connected = connect(self.tracking_uri)
        return self._connected

    def _log_points(self, run_id: str, points: Sequence[tuple[str, float, int]]) -> None:
        """Log (metric, value, step), many in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value, step in points]
        with _store_errors(self.tracking_uri):
            for begin in range(0, len(metrics), _BATCH):
                self._client().log_batch(run_id, metrics=metrics[begin : begin + _BATCH])

    def _experiment(self, client: MlflowClient, name: str) -> str:
        from mlflow.exceptions import MlflowException

        known = client.get_experiment_by_name(name)
        if known is None:
            try:
                return str(client.create_experiment(name, self._artifact_location(name)))
            except MlflowException:
                # Another training of the agent may have been faster.
                known = client.get_experiment_by_name(name)
                if known is None:
                    raise
        return str(known.experiment_id)

    def _artifact_location(self, experiment: str) -> str | None:
        if self.artifact_root is None:
            return None
        root = self.artifact_root if "://" in self.artifact_root else Path(self.artifact_root).resolve().as_uri()
        return f"{root.rstrip('/')}/{experiment}"

    def _log_start(self, client: MlflowClient, run_id: str, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        logged = client.get_run(run_id).data.params
        changed = {name: (logged[name], value) for name, value in params.items() if logged.get(name, value) != value}
        if changed:
            raise InputError(
                f"MLflow run {run_id} was started with other parameters (then, now): {changed}; "
                "start a new lifecycle run"
            )
        client.log_batch(
            run_id,
            params=[Param(name, value) for name, value in params.items() if name not in logged],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )


def connect(tracking_uri: str) -> MlflowClient:
    """Return a client of an MLflow store with its usage reports switched off; a new database is migrated first.

    Processes that open a new database at the same time take turns: two first migrations at once break each other.

    Raises:
        TransientError: the store does not answer.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    from mlflow import MlflowClient

    with _store_errors(tracking_uri):
        if tracking_uri.startswith(("http://", "https://")):
            return MlflowClient(tracking_uri)
        with file_lock(_migration_lock(tracking_uri)):
            client = MlflowClient(tracking_uri)
            client.search_experiments(max_results=1)
    return client


@contextmanager
def mlflow_globals_kept() -> Iterator[None]:
    """Give back MLflow's tracking URI and experiment as they were before the block.

    MLflow's fluent API keeps them in the process and in the environment, where the next run in the process would take
    them for its own settings.
    """
    import mlflow

    before = {name: os.environ.get(name) for name in _GLOBALS}
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _migration_lock(tracking_uri: str) -> Path:
    """Lock file of a database: beside an SQLite file, else one a user and machine."""
    if tracking_uri.startswith(_SQLITE):
        database = Path(tracking_uri.removeprefix(_SQLITE))
        return database.with_name(f"{database.name}.lock")
    name = hashlib.sha256(tracking_uri.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"mlops-mlflow-{os.getuid()}-{name}.lock"


def _ready_model(client: MlflowClient, run_id: str) -> LoggedModel | None:
    outputs = client.get_run(run_id).outputs
    models = [client.get_logged_model(output.model_id) for output in (outputs.model_outputs if outputs else [])]
    return next((m for m in models if m.name == MODEL_NAME and str(m.status) == "READY"), None)


def _save_model(
    folder: Path,
    model: LoggedModel,
    onnx_file: Path,
    spec: AgentSpec,
    states: NDArray[np.float32],
    q_values: NDArray[np.float32],
) -> None:
    import mlflow.onnx
    import onnx
    from mlflow.models import Model, infer_signature

    if not onnx_file.is_file():
        raise InputError(f"no exported policy at {onnx_file}: export it before logging the model")
    mlflow.onnx.save_model(
        onnx.load(str(onnx_file)),
        str(folder),
        mlflow_model=Model(
            artifact_path=model.artifact_location,
            run_id=model.source_run_id,
            model_uuid=model.model_id,
            model_id=model.model_id,
        ),
        signature=infer_signature(states, {"q_values": q_values}),
        input_example=states,
        # Named, not inferred: inferring imports the model in a new process, which takes 5 to 11 s.
        pip_requirements=[f"{package}=={version(package)}" for package in ("onnx", "onnxruntime", "numpy")],
        onnx_execution_providers=["CPUExecutionProvider"],
        metadata={"agent": spec.name, "actions": list(spec.actions), "state_fields": list(spec.state_fields)},
        save_as_external_data=False,
    )


@contextmanager
def _store_errors(tracking_uri: str) -> Iterator[None]:
    """Turn MLflow's exceptions into the project's: what a second try may cure is a `TransientError`."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        store = make_url(tracking_uri).render_as_string(hide_password=True)
        message = str(error.message).replace(tracking_uri, store)
        if error.error_code in _PERMANENT:
            raise InputError(f"MLflow at {store} refused: {message}") from error
        raise TransientError(
            f"MLflow at {store} does not answer: {message}. "
            "Check MLFLOW_TRACKING_URI and that the server runs, then run the step again"
        ) from error
