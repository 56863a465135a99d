"""The platform resource: settings, profile, operational database and clock of a run, and the run's own heartbeat."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr
from sqlalchemy import Engine

from mlops_assets.foundation.clock import Clock, SystemClock, deployment_clock
from mlops_assets.foundation.database import create_operational_engine, upgrade
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.profiles import PolicyProfile, load_profile
from mlops_assets.foundation.records import read_record, write_record
from mlops_assets.foundation.run_guard import ReportDead, RunGuard
from mlops_assets.foundation.settings import Settings, load_settings


class Platform(dg.ConfigurableResource["Platform"]):
    """Everything that a step needs to know about where it runs.

    `settings_override` overrides environment variables by name, so that any setting can also be given in the run config:
    `{"MLOPS_EXPERIENCE_SOURCE": "ci_history", "MLOPS_SOURCE_PATH": "history.csv"}`.
    """

    settings_override: dict[str, str] = Field(
        default_factory=dict, description="MLOPS_* settings of this run, over those of the environment."
    )

    heartbeat_ttl_seconds: float = Field(
        default=RunGuard.ttl_seconds,
        gt=0,
        description="A run counts as dead, and its pool slots are freed, when nothing was heard of it for so long.",
    )

    _settings: Settings = PrivateAttr()
    _profile: PolicyProfile = PrivateAttr()
    _engine: Engine = PrivateAttr()
    _clock: Clock = PrivateAttr(default_factory=SystemClock)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["Platform"]:
        """Open the operational database for the run and keep the run's heartbeat until it ends."""
        self._settings = load_settings({**os.environ, **self.settings_override})
        self._profile = load_profile(self._settings.policy_profile)
        self._engine = create_operational_engine(self._settings.database)
        self._clock = deployment_clock(self._settings.clock)
        with ExitStack() as stack:
            stack.callback(self._engine.dispose)
            upgrade(self._engine)
            if context.run is not None and context.instance is not None:
                # Whether a process lives is a matter of the machine's time, whatever time the lifecycle is in.
                guard = RunGuard(self._engine, SystemClock(), self.heartbeat_ttl_seconds)
                stack.enter_context(guard.guard(context.run.run_id, _fail_dead_runs(context.instance)))
            yield self

    @property
    def settings(self) -> Settings:
        """Settings of the run."""
        return self._settings

    @property
    def profile(self) -> PolicyProfile:
        """Policy profile of the run."""
        return self._profile

    @property
    def engine(self) -> Engine:
        """Engine of the operational database, migrated."""
        return self._engine

    @property
    def clock(self) -> Clock:
        """The run's clock."""
        return self._clock

    @property
    def paths(self) -> ArtifactPaths:
        """Where artifacts lie."""
        return self._settings.paths

    def write_record(self, asset: str, partition: str, run_id: str, record: Mapping[str, Any]) -> None:
        """Hand `record` to the assets downstream."""
        write_record(
            self._engine, asset=asset, partition=partition, run_id=run_id, payload=record, now=self._clock.now()
        )

    def record(self, asset: str, partition: str, run_id: str) -> dict[str, Any]:
        """Return what `asset` handed down: this run's record, else the newest.

        Raises:
            NotReadyError: the asset was never materialised for this partition.
        """
        return read_record(self._engine, asset=asset, partition=partition, run_id=run_id)


def _fail_dead_runs(instance: dg.DagsterInstance) -> ReportDead:
    def report(run_id: str) -> bool:
        run = instance.get_run_by_id(run_id)
        if run is None:  # another Dagster instance on the same operational database
            return False
        if not run.is_finished:
            message = "The run's process died: its heartbeat stopped. Start the run again."
            instance.report_run_failed(run, message=message)
        # Also of a run that was marked as failed by hand or by Dagster's daemon: neither needs to have freed them.
        instance.event_log_storage.free_concurrency_slots_for_run(run_id)
        return True

    return report
