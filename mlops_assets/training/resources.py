"""The trainer and the parent MLflow run as Dagster resources."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import dagster as dg
from pydantic import Field

from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.settings import Settings
from mlops_assets.training.config import DqnConfig, load_config, parse_config

if TYPE_CHECKING:
    from mlops_assets.training.tracking import TrainingTracker


class DqnTrainer(dg.ConfigurableResource["DqnTrainer"]):
    """Where and with which hyper-parameters agents are trained."""

    device: str | None = Field(
        default=None, description="Device of this run: auto, cpu or cuda; by default the setting MLOPS_DEVICE."
    )
    config_file: str | None = Field(
        default=None, description="YAML of hyper-parameters, such as configs/dqn.yaml; by default the built-in ones."
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Single hyper-parameters over those of the file, by name."
    )

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 - Dagster's signature
        """Check the hyper-parameters when the run starts, and not only when its data are ready.

        Raises:
            SettingsError: the file is missing, or a key or value is not valid.
        """
        self.config()

    def config(self) -> DqnConfig:
        """Return the hyper-parameters of the run.

        Raises:
            SettingsError: the file is missing, or a key or value is not valid.
        """
        base = load_config(Path(self.config_file)) if self.config_file else DqnConfig()
        return parse_config({**base.model_dump(), **self.overrides}, origin="resource `trainer`, overrides")

    def device_for(self, settings: Settings) -> Literal["auto", "cpu", "cuda"]:
        """Return the device asked for: the resource's own, else the setting's.

        Raises:
            SettingsError: there is no such device.
        """
        if self.device is None:
            return settings.device
        if self.device in {"auto", "cpu", "cuda"}:
            return cast("Literal['auto', 'cpu', 'cuda']", self.device)
        raise SettingsError(f"resource `trainer`, device {self.device!r} is unknown; use auto, cpu or cuda")


class MlflowParentRun(dg.ConfigurableResource["MlflowParentRun"]):
    """One MLflow run per Dagster run, made by dagster-mlflow; the agents' runs are its children.

    dagster-mlflow works through MLflow's global active run, finds its run by tag and leaves it RUNNING. So it is opened
    just long enough to know its id, and closed here with a status of its own.
    """

    experiment: str = Field(default="model-lifecycle", description="MLflow experiment of the parent runs.")

    @contextmanager
    def open(self, context: dg.AssetExecutionContext, tracker: "TrainingTracker") -> Iterator[str]:
        """Yield the id of the Dagster run's MLflow run; it ends FINISHED, or FAILED when the body raises."""
        # First: dagster-mlflow would make the experiment with its artifacts in the working directory.
        tracker.ensure_experiment(self.experiment)
        from dagster_mlflow.resources import MlFlow

        from mlops_assets.training.tracking import mlflow_globals_kept

        config = {
            "experiment_name": self.experiment,
            "mlflow_tracking_uri": tracker.tracking_uri,
            "env": {},
            "extra_tags": {},
        }
        with mlflow_globals_kept():
            parent = MlFlow(_InitContext(context.log, context.run, context.run.run_id, config))
            run_id: str = parent.active_run().info.run_id
            parent.end_run()
        try:
            yield run_id
        except BaseException:
            parent.tracking_client.set_terminated(run_id, "FAILED")
            raise
        parent.tracking_client.set_terminated(run_id, "FINISHED")


class _InitContext(NamedTuple):
    """What dagster-mlflow reads from the context that Dagster would initialise its resource with."""

    log: dg.DagsterLogManager
    dagster_run: dg.DagsterRun
    run_id: str
    resource_config: dict[str, Any]
