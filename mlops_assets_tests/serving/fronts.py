"""A real serving runtime without its HTTP, its mirror and the online store: what stands behind aliases is given."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import read_transaction, upgrade
from mlops_assets.foundation.settings import load_settings
from mlops_assets.foundation.tables import ShadowPredictionRecord
from mlops_assets.serving.models import ServedModel, ServedModels
from mlops_assets.serving.requests import request_model
from mlops_assets.serving.runtime import ServingRuntime
from mlops_assets_tests.programs import wait_for
from mlops_assets_tests.rollout.rollouts import BEGIN
from mlops_assets_tests.serving.live import run_async
from mlops_assets_tests.serving.served import request_of

# The time in which traffic has to follow the ledger.
FOLLOWS_SECONDS = 1.0


@dataclass(frozen=True)
class Front:
    """A runtime that answers, logs, asks shadows and follows the operational database."""

    runtime: ServingRuntime
    spec: AgentSpec

    @property
    def engine(self) -> Engine:
        """Its operational database."""
        return self.runtime.engine

    def serve(self, **behind: ServedModel) -> None:
        """Let these versions stand behind the agent's aliases, as one picture."""
        self.runtime.registry.models = ServedModels({(self.spec.name, alias): model for alias, model in behind.items()})

    def ask(self, **changes: Any) -> dict[str, Any]:
        """One request; return its row of the log."""
        return self.ask_all([changes])[0]

    def ask_all(self, changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Requests that come one by one; return their rows of the log."""
        requests = [request_model(self.spec.name).model_validate(request_of(self.spec, **one)) for one in changes]

        async def asked() -> list[dict[str, Any]]:
            return [(await self.runtime.decide([one], time.perf_counter()))[0].row for one in requests]

        return run_async(asked())

    def follow(self, share: float | None, status: str = "running") -> None:
        """Wait, no longer than traffic may take, until the agent's split is this; None: until there is none."""
        wait_for(lambda: self._split() == (None if share is None else (share, status)), FOLLOWS_SECONDS)

    def shadows(self, prediction_id: str, count: int) -> list[str]:
        """Wait for so many answers of shadows to a request; return their versions."""

        def versions() -> list[str]:
            with read_transaction(self.engine) as session:
                query = select(ShadowPredictionRecord.model_version).where(
                    ShadowPredictionRecord.prediction_id == prediction_id
                )
                return sorted(session.scalars(query))

        wait_for(lambda: len(versions()) >= count)
        return versions()

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value, 0 before its first count."""
        return self.runtime.metrics.registry.get_sample_value(name, labels) or 0.0

    def _split(self) -> tuple[float, str] | None:
        found = self.runtime.experiments.get(self.spec.name)
        return None if found is None else (found.treatment_share, found.status)


@contextmanager
def open_front(home: Path, spec: AgentSpec, **behind: ServedModel) -> Iterator[Front]:
    """Open a front on a new home."""
    runtime = ServingRuntime(load_settings({"MLOPS_HOME": str(home)}), clock=FixedClock(BEGIN), mirror=False)
    upgrade(runtime.engine)
    front = Front(runtime, spec)
    front.serve(**behind)
    runtime._add_gauges()
    runtime.log.start()
    runtime.shadows.start()
    runtime.database_poll.start()
    assert runtime.database_poll.wait_first(10.0)
    try:
        yield front
    finally:
        runtime.stop()
