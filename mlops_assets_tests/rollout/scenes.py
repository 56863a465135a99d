"""A registry with a champion and a staged candidate, and the ledger of the candidate's rollout; nothing serves or ticks."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event, select

from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import create_operational_engine, read_transaction
from mlops_assets.foundation.messages import Message, Way
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.registry.catalogue import CANDIDATE, CHALLENGER, CHAMPION, PREVIOUS
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.rollout.effects import Outbox
from mlops_assets.rollout.ledger import NewStep, append, current, steps
from mlops_assets.rollout.state import STAGES, Kind, RolloutState, after
from mlops_assets_tests.mlflow_runs import NOW, SPEC, MlflowRuns, approve, stage_tags
from mlops_assets_tests.rollout.rollouts import rollout

MODEL = SPEC.registered_model
NAME = "rollout-requirements-1.1.0-1"


@dataclass
class Scene:
    """1.0.0 is champion, 1.1.0 is staged; `told` are the subjects that people got."""

    engine: Engine
    runs: MlflowRuns
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOW + timedelta(hours=2)))
    told: list[str] = field(default_factory=list)
    registry: ModelRegistry = field(init=False)

    def __post_init__(self) -> None:
        self.registry = ModelRegistry(self.runs.tracking_uri, self.engine, self.clock)

    def register(self, *indices: int) -> "Scene":
        """Register and approve good runs: the first becomes champion, others are staged."""
        for index in indices:
            semver = self.registry.register(self.runs.candidate(index), SPEC).semver
            approve(self.engine, MODEL, semver)
            self.registry.promote_approved(MODEL, semver, user="tests")
        return self

    def outbox(self, *, holder: str = "tests", ways: dict[str, Way] | None = None) -> Outbox:
        """As a process opens it at its start."""
        found = {"Slack": self.tell} if ways is None else ways
        return Outbox(self.engine, self.registry, self.clock, found, ("sre@company.com",), holder)

    def tell(self, message: Message) -> None:
        """Take every message."""
        self.told.append(message.subject)

    def problems(self, *, holder: str = "tests") -> list[str]:
        """Deliver, and return what did not work."""
        return [one.problem for one in self.outbox(holder=holder).deliver() if one.problem is not None]

    def write(self, *kinds: Kind, reason: str = "because") -> RolloutState:
        """Append steps to the ledger."""
        for kind in kinds:
            state = current(self.engine, MODEL)
            if kind == "started":
                number = 0 if state is None else state.number
                now = self.clock.now()
                changed = rollout(
                    name=NAME, model_name=MODEL, agent="requirements", number=number + 1, started_at=now, since=now
                )
            else:
                assert state is not None
                to = state.next_stage if kind == "advanced" else STAGES[0]
                changed = after(state, kind, self.clock.now(), to=to)
            step = NewStep(kind, changed, (reason,), "somebody", {}, expected=changed.number - 1)
            append(self.engine, step, self.clock.now())
        return changed

    def kinds(self) -> list[str]:
        """What the ledger says happened."""
        return [step.kind for step in steps(self.engine)]

    def aliases(self) -> dict[str, str]:
        """Version behind each alias."""
        store = self.registry._store
        semvers = {version.mlflow_version: version.semver for version in self.registry.versions(MODEL)}
        found = {alias: store.alias_target(MODEL, alias) for alias in (CHAMPION, CANDIDATE, CHALLENGER, PREVIOUS)}
        return {alias: semvers[number] for alias, number in found.items() if number is not None}

    def stages(self) -> dict[str, str]:
        """Stage by version, which MLflow's tags have to say as well."""
        stages = {version.semver: version.stage for version in self.registry.versions(MODEL)}
        assert stage_tags(self.runs, MODEL) == stages
        return dict(sorted(stages.items()))

    def trail(self) -> list[str]:
        """What the registry did since the versions were staged, as the audit trail has it."""
        with read_transaction(self.engine) as session:
            assert verify_chain(session).intact
            events = session.scalars(
                select(AuditEvent).where(AuditEvent.user == "rollout").order_by(AuditEvent.sequence)
            )
            found = [f"{event.event_type} {event.version}" for event in events]
        return [event for event in found if event.startswith("model_")]

    def copy(self, folder: Path) -> "Scene":
        """The same in another folder (SQLite)."""
        folder.mkdir()
        self.engine.dispose()  # the last connection's close folds the write-ahead log into the file
        operations, mlflow = folder / "operations.db", folder / "mlflow.db"
        assert self.engine.url.database is not None
        shutil.copyfile(self.engine.url.database, operations)
        shutil.copyfile(self.runs.database, mlflow)
        values = {name: getattr(self.runs, name) for name in MlflowRuns.__dataclass_fields__}
        runs = MlflowRuns(**{**values, "tracking_uri": f"sqlite:///{mlflow}", "database": mlflow})
        return Scene(create_operational_engine(f"sqlite:///{operations}"), runs, FixedClock(self.clock.instant))


@contextmanager
def dying(scene: Scene, *, survived: int) -> Iterator[None]:
    """Let what writes in this block die right before a write, but for the first `survived`: of any store, or to people."""
    left = [None] * survived

    def live() -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()

    def commit(connection: Connection) -> None:
        if not connection.get_execution_options().get("operational_read_only", False):
            live()

    def mortal(write: Callable[..., None]) -> Callable[..., None]:
        def wrote(*arguments: object) -> None:
            live()
            write(*arguments)

        return wrote

    store = scene.registry._store
    event.listen(scene.engine, "commit", commit)
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((store, "set_alias"), (store, "drop_alias"), (store, "set_tags"), (scene, "tell")):
            patch.setattr(owner, name, mortal(getattr(owner, name)))
        try:
            yield
        finally:
            event.remove(scene.engine, "commit", commit)


def unique(subjects: Sequence[str]) -> list[str]:
    """In the order in which they came first."""
    return list(dict.fromkeys(subjects))
