"""A home of the project beside a Dagster instance of its own: runs of the real jobs in it, and what they left behind."""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine

from mlops_assets.definitions import build_definitions
from mlops_assets.features.offline import groups_of, read_rows
from mlops_assets.features.views import CREATED_TIMESTAMP, VIEWS
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import create_operational_engine
from mlops_assets.foundation.files import digest
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.foundation.records import newest_run, read_record
from mlops_assets.foundation.resources import Platform
from mlops_assets.foundation.settings import Settings, load_settings
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.training.resources import DqnTrainer

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# An earlier run's weights are taken up only when the commit says which code ran, and a tree under work is not clean.
COMMITTED = "0" * 40
TRAINING = {"updates": 320, "report_every": 80}
SMALL = {"MLOPS_SIMULATOR_ROWS": "3000", "MLOPS_DATA_PROFILE": "bootstrap", "MLOPS_DEVICE": "cpu"}


class SmallWorldPlatform(Platform):
    """The platform with thresholds that a second's training meets on some hundred held-out decisions."""

    @property
    def profile(self) -> PolicyProfile:
        """The profile of the run, made lenient; whether a threshold is right is not this folder's business."""
        strict = super().profile
        evaluation = {
            "min_holdout_rows": 50,
            "min_accuracy": 0.1,
            "max_latency_ms": 10_000.0,
            "min_slice_rows": 5,
            "max_slice_gap_points": 100.0,
        }
        governance = {"min_accuracy": 0.1, "max_latency_ms": 10_000.0, "min_off_policy_gain": None}
        return strict.model_copy(
            update={
                "evaluation": strict.evaluation.model_copy(update=evaluation),
                "governance": strict.governance.model_copy(update=governance),
            }
        )


@dataclass(frozen=True)
class Materialization:
    """One materialisation: Dagster's data version, and the plain values of its metadata."""

    data_version: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """What a Dagster run left in the event log, by (asset, partition) and by check name."""

    run_id: str
    success: bool
    tags: Mapping[str, str]
    made: Mapping[tuple[str, str], Materialization]
    checks: Mapping[str, bool]
    failures: Mapping[str, str]

    def facts(self, asset: str, partition: str = "") -> Mapping[str, Any]:
        """Metadata of one materialisation."""
        return self.made[asset, partition].metadata

    @property
    def assets(self) -> set[str]:
        """Names of what was materialised."""
        return {asset for asset, _ in self.made}


@dataclass(frozen=True)
class World:
    """Home, Dagster instance and settings of one user."""

    root: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def create(cls, root: Path, variables: Mapping[str, str], *, instance: str = "dagster.yaml") -> "World":
        """Lay out the folder, with one of the project's own instance files."""
        (root / "dagster").mkdir(parents=True)
        shutil.copyfile(ROOT / instance, root / "dagster" / "dagster.yaml")
        return cls(root, {"MLOPS_HOME": str(root / "home"), **variables})

    @property
    def settings(self) -> Settings:
        """The settings that its runs see."""
        return load_settings(self.variables)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Open the Dagster instance."""
        with dg.DagsterInstance.from_config(str(self.root / "dagster")) as opened:
            yield opened

    @contextmanager
    def database(self) -> Iterator[Engine]:
        """Open the operational database."""
        engine = create_operational_engine(self.settings.database)
        yield engine
        engine.dispose()

    def run(
        self,
        job: str,
        agent: str | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        git_sha: str = COMMITTED,
        tags: Mapping[str, str] | None = None,
        training: Mapping[str, Any] = TRAINING,
    ) -> Run:
        """Run a job in this process; `settings` are for this run only, over those of the home."""
        definitions = build_definitions(resources=self._resources(training, settings or {}))
        with pytest.MonkeyPatch.context() as patch, self.instance() as instance:
            patch.setattr("mlops_assets.training.lifecycle.git_sha", lambda _root: git_sha)
            result = definitions.resolve_job_def(job).execute_in_process(
                instance=instance, partition_key=agent, tags=dict(tags or {}), raise_on_error=False
            )
            return read_run(instance, result.run_id)

    def materialize(self, selection: Sequence[str], agent: str, *, settings: Mapping[str, str] | None = None) -> Run:
        """Materialise single assets, with their checks and without a job's retries."""
        definitions = build_definitions(resources=self._resources(TRAINING, settings or {}))
        everything: list[Any] = [*(definitions.assets or []), *(definitions.asset_checks or [])]
        with self.instance() as instance:
            result = dg.materialize(
                everything,
                selection=dg.AssetSelection.assets(*selection),
                partition_key=agent,
                instance=instance,
                resources=definitions.resources,
                raise_on_error=False,
            )
            return read_run(instance, result.run_id)

    def record(self, asset: str, agent: str, run_id: str | None = None) -> dict[str, Any]:
        """Read what an asset handed to the next one."""
        with self.database() as engine:
            return read_record(engine, asset=asset, partition=agent, run_id=run_id)

    @contextmanager
    def registry(self) -> Iterator[ModelRegistry]:
        """Open the model registry."""
        with self.database() as engine:
            yield ModelRegistry(self.settings.tracking_uri, engine, SystemClock())

    def versions(self) -> dict[str, list[str]]:
        """Semantic versions of every agent, the highest first."""
        with self.registry() as registry:
            return {
                name: [version.semver for version in registry.versions(spec.registered_model)]
                for name, spec in AGENTS.items()
            }

    def identity(self) -> dict[str, Any]:
        """Everything that two homes with the same inputs have to have in common."""
        with self.database() as engine:
            made = {}
            for name in AGENTS:
                run_id = newest_run(engine, asset="approval", partition=name)
                model = read_record(engine, asset="dqn_model", partition=name, run_id=run_id)
                made[name] = {key: model[key] for key in ("data_hash", "training_hash", "weights_hash")}
        return {"agents": made, "features": self._features(), "versions": self.versions()}

    def _features(self) -> dict[str, str]:
        """Digest of the offline rows by view and group, without the time at which they were computed."""
        found = {}
        for view in VIEWS:
            names = [name for name in view.schema.names if name != CREATED_TIMESTAMP]
            for group in groups_of(self.settings.paths, view):
                rows = read_rows(self.settings.paths, view, groups=[group], columns=names)
                found[f"{view.name}/{group}"] = digest([rows.num_rows, str(rows.to_pylist())])
        return found

    def _resources(self, training: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, object]:
        return {
            "platform": SmallWorldPlatform(settings_override={**self.variables, **settings}),
            "trainer": DqnTrainer(overrides=dict(training)),
        }


def read_run(instance: dg.DagsterInstance, run_id: str) -> Run:
    """Read a run back from the event log, which is what people and sensors see of it."""
    run = instance.get_run_by_id(run_id)
    assert run is not None
    made: dict[tuple[str, str], Materialization] = {}
    checks: dict[str, bool] = {}
    failures: dict[str, str] = {}
    for event in (entry.dagster_event for entry in instance.all_logs(run_id)):
        if event is None:
            continue
        if event.is_step_materialization:
            found = event.step_materialization_data.materialization
            key = found.asset_key.to_user_string(), found.partition or ""
            assert key not in made, f"{key} was materialised twice"
            version = (found.tags or {}).get("dagster/data_version", "")
            made[key] = Materialization(version, {name: value.value for name, value in found.metadata.items()})
        elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            checks[evaluation.check_name] = evaluation.passed
        elif event.is_step_failure:
            data = event.step_failure_data
            shown = data.user_failure_data.description if data.user_failure_data else ""
            failures[event.step_key or ""] = shown or (data.error.to_string() if data.error else "")
        elif event.is_run_failure and event.job_failure_data.error is not None:
            failures["run"] = event.job_failure_data.error.to_string()
    return Run(run_id, run.is_success, run.tags, made, checks, failures)
