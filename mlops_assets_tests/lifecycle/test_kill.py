"""`kill -9` of a lifecycle, again and again: the run that is let through ends where an undisturbed one ends."""

import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import yaml
from sqlalchemy import func, select

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import Lease, SnapshotRecord
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets_tests.lifecycle.conftest import FirstLifecycle
from mlops_assets_tests.lifecycle.worlds import BIN, ROOT, SMALL, TRAINING, World, read_run

JOB = ("-m", "mlops_assets.definitions", "-j", "model_lifecycle")
_AGENT = f"({'|'.join(AGENTS)})"
# What is logged right before the kill: the first agent is done in that step, and the second one is at work.
MOMENTS = {
    "training_experiences": rf"{_AGENT}: \d+ rows, \d+ new",
    "dqn_model": rf"{_AGENT}: trained MLflow run",
    "registered_model": rf"{_AGENT}: registered \1-agent-dqn 1\.0\.0",
}
_TTL_SECONDS = 6.0
_PATIENCE_SECONDS = 900


@dataclass(frozen=True)
class Lifecycle:
    """`dagster job execute` on one home, as `make run` calls it."""

    world: World
    config: Path

    def start(self) -> subprocess.Popen[str]:
        """Start the job in a process group of its own, the log on its standard output."""
        # OPENBLAS_CORETYPE chooses the kernels, and with them the last bit of what they compute.
        kept = {
            name: value
            for name, value in os.environ.items()
            if name.endswith(("_TRACK", "_TELEMETRY")) or name.startswith("OPENBLAS_")
        }
        return subprocess.Popen(
            [BIN / "dagster", "job", "execute", *JOB, "-c", self.config],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.world.root),
                "DAGSTER_HOME": str(self.world.root / "dagster"),
                "OMP_NUM_THREADS": "1",
                **kept,
                **self.world.variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def kill_at(self, moment: str) -> None:
        """Start the job, and kill all of its processes as soon as its log has `moment`."""
        log: list[str] = []
        with self.start() as process:
            assert process.stdout is not None
            for line in process.stdout:
                log.append(line)
                if re.search(moment, line):
                    os.killpg(process.pid, signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL, f"it ended before {moment!r}:\n{''.join(log[-40:])}"

    def finish(self) -> None:
        """Run the job to its end."""
        with self.start() as process:
            log, _ = process.communicate(timeout=_PATIENCE_SECONDS)
        assert process.returncode == 0, log[-4000:]


@pytest.mark.slow
def test_killed_three_times_it_ends_as_if_nothing_had_happened(first_lifecycle: FirstLifecycle, tmp_path: Path) -> None:
    """Half a snapshot that is trained on, a version that exists twice, a slot that stays taken for ever."""
    world = World.create(tmp_path, SMALL)
    config = tmp_path / "run.yaml"
    resources = {
        "platform": {"config": {"heartbeat_ttl_seconds": _TTL_SECONDS}},
        "trainer": {"config": {"overrides": TRAINING}},
    }
    config.write_text(yaml.safe_dump({"resources": resources}), encoding="utf-8")
    lifecycle = Lifecycle(world, config)

    for moment in MOMENTS.values():
        lifecycle.kill_at(moment)
    lifecycle.finish()

    assert world.identity() == first_lifecycle.identity
    assert world.versions() == {agent: ["1.0.0"] for agent in AGENTS}
    _nothing_is_left_over(world)
    with world.instance() as instance:
        last, *killed = instance.get_runs()
        assert last.status is dg.DagsterRunStatus.SUCCESS
        assert [run.status for run in killed] == [dg.DagsterRunStatus.FAILURE] * len(MOMENTS)
        reached = [set(MOMENTS) & _started(instance, run.run_id) for run in reversed(killed)]
        assert reached == [set(list(MOMENTS)[: number + 1]) for number in range(len(MOMENTS))]
        storage = instance.event_log_storage
        pools = storage.get_concurrency_keys()
        assert {"data_versions", "features", "training_device"} <= pools
        assert [storage.get_concurrency_info(pool).claimed_slots for pool in pools] == [[]] * len(pools)
        done = read_run(instance, last.run_id)
    for agent in AGENTS:
        assert done.facts("training_experiences", agent)["new_rows"] == 0
        assert done.facts("registered_model", agent)["semver"] == "1.0.0"


def _started(instance: dg.DagsterInstance, run_id: str) -> set[str]:
    stats = instance.get_run_step_stats(run_id)
    return {step.step_key for step in stats if step.start_time is not None}


def _nothing_is_left_over(world: World) -> None:
    from mlflow import MlflowClient

    with world.database() as engine, read_transaction(engine) as session:
        assert verify_chain(session).intact
        assert list(session.scalars(select(Lease.holder).where(Lease.resource.startswith("dagster-run:")))) == []
        snapshots = select(SnapshotRecord.agent, func.count()).group_by(SnapshotRecord.agent)
        assert dict(session.execute(snapshots).tuples().all()) == dict.fromkeys(AGENTS, 1)
    paths = world.settings.paths
    assert [path for path in (world.root / "home").rglob("*.tmp") if ".dvc" not in path.parts] == []
    uri = world.settings.tracking_uri
    client = MlflowClient(tracking_uri=uri)
    for agent, spec in AGENTS.items():
        assert len([path for path in paths.snapshots(agent).iterdir() if path.is_dir()]) == 1
        assert len(MlflowStore(uri).versions(spec.registered_model)) == 1
        experiment = client.get_experiment_by_name(spec.experiment).experiment_id
        assert {run.info.status for run in client.search_runs([experiment])} <= {"FINISHED", "KILLED"}
