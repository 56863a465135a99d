"""Fixtures of the rooms that read MLflow: a real SQLite store with real small models, filled once per process."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Connection, Engine, event

from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.tables import DecisionRecord
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.registry.registration import Candidate
from mlops_assets.training.tracking import TrainingTracker

SPEC = agent_spec("requirements")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
GOOD_RUNS = 4


@dataclass(frozen=True)
class MlflowRuns:
    """A private copy of the store, and its runs; metrics of good run i: accuracy 0.90 + i/100, latency 10 - i ms."""

    tracking_uri: str
    database: Path
    good: tuple[str, ...]
    other_agent: str
    without_model: str
    failed: str
    with_failed_model: str
    diverged: str

    def candidate(self, index: int = 0, **changes: str) -> Candidate:
        """Candidate of a good run; by default each run trained something else."""
        values = {
            "run_id": self.good[index],
            "training_hash": f"training-{index}",
            "data_hash": f"data-{index}",
            "description": "weekly retraining",
            "user": "tests",
        }
        return Candidate(**{**values, **changes}, metrics={"accuracy": 0.9 + index / 100}, tags={"git_sha": "abc"})


def write_constant_policy(path: Path, *, actions: int, value: float) -> None:
    """Write an exported policy that gives every action the same value, in every state."""
    from onnx import TensorProto, helper, numpy_helper, save

    size = len(SPEC.state_fields)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["states", "weight", "bias"], ["q_values"])],
        SPEC.registered_model,
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", size])],
        [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", actions])],
        [
            numpy_helper.from_array(np.zeros((size, actions), dtype=np.float32), "weight"),
            numpy_helper.from_array(np.full(actions, value, dtype=np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    names = (*SPEC.actions, "another")[:actions]
    facts = {"actions": names, "state_fields": SPEC.state_fields, "weights_hash": f"constant-{value}"}
    helper.set_model_props(model, {name: json.dumps(fact) for name, fact in facts.items()})
    save(model, str(path))


@dataclass
class _Store:
    """The template: one run per call, logged through MLflow's own API."""

    folder: Path
    experiment: str = field(init=False)

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def __post_init__(self) -> None:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        self.experiment = client.create_experiment("agents", artifact_location=(self.folder / "artifacts").as_uri())

    def run(
        self,
        *,
        actions: int | None = 4,
        metrics: dict[str, float] | None = None,
        status: str = "FINISHED",
        fill: float = 1.0,
    ) -> str:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        run_id: str = client.create_run(self.experiment).info.run_id
        for name, value in (metrics or {}).items():
            client.log_metric(run_id, name, value)
        if actions is not None:
            policy = self.folder / f"{run_id}.onnx"
            write_constant_policy(policy, actions=actions, value=fill)
            states = np.zeros((2, len(SPEC.state_fields)), dtype=np.float32)
            values = np.full((2, actions), fill, dtype=np.float32)
            TrainingTracker(self.uri).log_model(run_id, policy, SPEC, states, values)
        client.set_terminated(run_id, status)
        return run_id

    def failed_model(self) -> str:
        """A run whose logging of the model broke, as MLflow itself leaves it behind."""
        from mlflow import MlflowClient
        from mlflow.entities import LoggedModelStatus

        run_id = self.run(actions=None)
        client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        model = client.create_logged_model(self.experiment, name="model", source_run_id=run_id)
        client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        return run_id


@cache
def _filled_template(folder: Path) -> MlflowRuns:
    import mlflow

    folder.mkdir()
    store = _Store(folder)
    runs = MlflowRuns(
        tracking_uri=store.uri,
        database=store.folder / "mlflow.db",
        good=tuple(
            store.run(metrics={"accuracy": 0.9 + i / 100, "latency_p95_ms": 10.0 - i, f"only_{i}": 1.0}, fill=i + 1.0)
            for i in range(GOOD_RUNS)
        ),
        other_agent=store.run(actions=5),
        without_model=store.run(actions=None),
        failed=store.run(status="FAILED"),
        with_failed_model=store.failed_model(),
        diverged=store.run(fill=float("nan")),
    )
    mlflow.set_tracking_uri(None)
    return runs


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> MlflowRuns:
    """Migrating an MLflow database takes seconds, so it is done once for all folders of tests, and copied."""
    return _filled_template(tmp_path_factory.getbasetemp() / "mlflow-template")


@pytest.fixture
def mlflow_runs(mlflow_template: MlflowRuns, tmp_path: Path) -> MlflowRuns:
    """A store of the test's own; the models' files are shared, nothing writes to them."""
    copy = tmp_path / "mlflow.db"
    shutil.copyfile(mlflow_template.database, copy)
    values = {name: getattr(mlflow_template, name) for name in MlflowRuns.__dataclass_fields__}
    return MlflowRuns(**{**values, "tracking_uri": f"sqlite:///{copy}", "database": copy})


@pytest.fixture
def clock() -> FixedClock:
    """A clock that stands at `NOW`."""
    return FixedClock(NOW)


@pytest.fixture
def registry(mlflow_runs: MlflowRuns, engine: Engine, clock: FixedClock) -> ModelRegistry:
    """A registry on a fresh MLflow store and a fresh operational database, once for each database engine."""
    return ModelRegistry(mlflow_runs.tracking_uri, engine, clock)


def approve(engine: Engine, model_name: str, semver: str, *, status: str = "approved") -> None:
    """Store a decision on a version, as `governance/` does."""
    with transaction(engine) as session:
        session.add(
            DecisionRecord(
                model_name=model_name,
                semver=semver,
                run_id="run",
                risk="low",
                status=status,
                reasons=["tests"],
                evidence_hash=f"{semver}-{status}",
                decided_at=NOW,
                decided_by="tests",
            )
        )


def stage_tags(runs: MlflowRuns, model_name: str) -> dict[str, str]:
    """Stage by semantic version as MLflow's tags have it."""
    return {
        version.tags["semantic_version"]: version.tags["stage"]
        for version in MlflowStore(runs.tracking_uri).versions(model_name)
    }


@contextmanager
def dying_at_commit(engine: Engine, *, survived: int = 0) -> Iterator[None]:
    """Let writes of this block die at their commit, but for the first `survived`: killed between the two stores."""
    left = [None] * survived

    def die(connection: Connection) -> None:
        if connection.get_execution_options().get("operational_read_only", False):
            return
        if not left:
            raise KeyboardInterrupt
        left.pop()

    event.listen(engine, "commit", die)
    try:
        yield
    finally:
        event.remove(engine, "commit", die)
