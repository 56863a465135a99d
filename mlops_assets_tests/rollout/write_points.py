"""Daemons killed at every write of every look at a rollout: `python -m mlops_assets_tests.rollout.write_points`.

For test_write_points.py. A write is a commit that changes something, in the operational database or in the registry, or
a message to people; a process dies right before each, and right after the last. Between two writes there is one state of
all stores, so these are all that a crash can leave. A process of its own, since forks of one that has threads are unsafe:
it has opened all that a daemon needs, and its forks start with connections of their own.
"""

import gc
import json
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, Engine, event, select, update
from sqlalchemy.engine.default import DefaultDialect

from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.clock import FixedClock, SystemClock
from mlops_assets.foundation.database import create_operational_engine, read_transaction, transaction
from mlops_assets.foundation.messages import Message
from mlops_assets.foundation.policies import DeploymentCalendar, RolloutPolicy
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import load_settings
from mlops_assets.foundation.tables import AuditEvent, Lease
from mlops_assets.governance.approvals import Approvals, open_approvals
from mlops_assets.registry.catalogue import CANDIDATE, CHALLENGER, CHAMPION, PREVIOUS
from mlops_assets.registry.mlflow_store import SEMVER_TAG, STAGE_TAG
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.rollout.advance import Observation
from mlops_assets.rollout.controller import Rollouts
from mlops_assets.rollout.effects import Outbox, undelivered
from mlops_assets.rollout.ledger import current, splits, steps, verify
from mlops_assets.rollout.observation import Observer
from mlops_assets.rollout.platform import PlatformWatch
from mlops_assets.rollout.start import Starter
from mlops_assets.rollout.state import STAGES, RolloutState
from mlops_assets_tests.programs import wait_for
from mlops_assets_tests.rollout.crowds import crowd
from mlops_assets_tests.rollout.rollouts import POLICY
from mlops_assets_tests.rollout.test_advance import GOOD_SHADOW, GOOD_STAGE, HARM

MODEL = "requirements-agent-dqn"
WORKERS = 2
# Longer than any stage, also on a clock that is an hour behind.
STAGE = timedelta(hours=30)
USERS = 20
# Every day is one to go on, and no stage is shorter than two clocks may be apart.
PATIENT = POLICY.model_copy(
    update={
        "calendar": DeploymentCalendar(timezone="UTC", hours=None, blocked_days=()),
        "shadow": POLICY.shadow.model_copy(update={"hours": 6.0}),
    }
)
LAST = "nothing more"
_ANOTHER_WRITE = 4
_CHANGES = {"INSERT": 2, "UPDATE": 1, "DELETE": 2}
_STORES = ("operations.db", "mlflow.db")


@dataclass(frozen=True)
class Look:
    """One look at a rollout, in the order of time; `harm`: it finds that the candidate does some."""

    number: int
    harm: bool = False

    @property
    def name(self) -> str:
        """What comes of it."""
        if self.number == 0:
            return "started"
        return f"{STAGES[self.number - 1]} {'taken back' if self.harm else 'passed'}"


LOOKS = tuple(Look(number, harm) for number in range(len(STAGES) + 1) for harm in (False, True) if number or not harm)


@dataclass
class Reaper:
    """Notes the writes of a process, and kills it at the one after the first `survived`, which has to be `victim`."""

    survived: int | None = None
    victim: str = ""
    names: list[str] = field(default_factory=list)
    _changed: dict[int, dict[str, None]] = field(default_factory=dict)

    def point(self, name: str) -> None:
        """Die here, or note it."""
        if len(self.names) == self.survived:
            if name != self.victim:
                os._exit(_ANOTHER_WRITE)
            os.kill(os.getpid(), signal.SIGKILL)
        self.names.append(name)

    def done(self, dialect: DefaultDialect) -> None:
        """Right after a commit."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See every write of this process in the block."""
        commit = DefaultDialect.do_commit

        def committing(dialect: DefaultDialect, connection: Any) -> None:
            tables = ", ".join(self._changed.pop(id(connection.dbapi_connection), ()))
            if tables:
                self.point(f"commit of {tables}")
            commit(dialect, connection)
            if tables:
                self.done(dialect)

        event.listen(Engine, "before_cursor_execute", self._statement)
        DefaultDialect.do_commit = committing
        try:
            yield
        finally:
            DefaultDialect.do_commit = commit
            event.remove(Engine, "before_cursor_execute", self._statement)

    def _statement(self, _connection: object, cursor: Any, statement: str, *_: object) -> None:
        words = statement.split(maxsplit=3)
        if words[0] in _CHANGES:
            self._changed.setdefault(id(cursor.connection), {})[words[_CHANGES[words[0]]]] = None


class Persuaded(Observer):
    """Takes its looks for real, at users that prove nothing, and is told what they have proven."""

    harm = False

    def observe(self, state: RolloutState, policy: RolloutPolicy) -> Observation:
        """Return what a look has to find for the step that is next."""
        found = replace(GOOD_STAGE, log_e_harm=HARM) if self.harm else GOOD_STAGE
        return replace(super().observe(state, policy), shadow=GOOD_SHADOW, stage=found)


class Deployment:
    """The two databases in a folder, opened, with no connection left open; each process forked from here is a daemon.

    Other databases are put into their place, so that every process has what the first one prepared. With `database_url` the
    operational one is elsewhere.
    """

    def __init__(self, folder: Path, begin: datetime, database_url: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.begin = begin
        self.clock = FixedClock(begin)
        operations, mlflow = (f"sqlite:///{folder / name}" for name in _STORES)
        changes = {"database_url": SecretStr(database_url or operations), "mlflow_tracking_uri": SecretStr(mlflow)}
        settings = load_settings().model_copy(update=changes)
        self.engine = create_operational_engine(settings.database)
        self.registry = ModelRegistry(settings.tracking_uri, self.engine, self.clock)
        self.approvals: Approvals = open_approvals(settings, self.engine, self.clock, self.registry)

    @property
    def told(self) -> Path:
        """What people were told, a line each."""
        return self.folder / "told"

    def put(self, folder: Path) -> None:
        """Let it be what lies there."""
        shutil.rmtree(self.folder)
        shutil.copytree(folder, self.folder)

    def at(self, look: Look, hours: int) -> None:
        """Let it be the time of a look, on a clock that is off by some hours."""
        self.clock.instant = self.begin + look.number * STAGE + timedelta(hours=hours)

    def daemon(self, name: str, look: Look, hours: int, reaper: Reaper) -> Rollouts:
        """Start one at the time of a look."""
        self.at(look, hours)
        platform = PlatformWatch(self.engine, load_profile("aiwebtest"), self.clock, data_clock=False)
        observer = Persuaded(self.engine, self.registry, self.approvals, platform, self.clock, data_clock=False)
        observer.harm = look.harm

        def tell(message: Message) -> None:
            reaper.point("message")
            with self.told.open("a", encoding="utf-8") as file:
                file.write(f"{message.subject}\n")

        outbox = Outbox(self.engine, self.registry, self.clock, {"Slack": tell}, ("sre@company.com",), name)
        starter = Starter(self.engine, self.registry, self.approvals, platform, PATIENT)
        return Rollouts(self.engine, self.registry, starter, observer, outbox, PATIENT, self.clock)

    def facts(self) -> dict[str, Any]:
        """What ledger, router, registry, audit trail and people have."""
        state = current(self.engine, MODEL)
        assert state is not None
        ledger, split, store = steps(self.engine), splits(self.engine).get(state.agent), self.registry._store
        semvers = {version.tags[SEMVER_TAG]: version for version in store.versions(MODEL)}
        numbers = {version.number: semver for semver, version in semvers.items()}
        with read_transaction(self.engine) as session:
            intact = verify_chain(session).intact
            query = select(AuditEvent).where(AuditEvent.event_type.startswith("model_"), AuditEvent.user == "rollout")
            events = session.scalars(query.order_by(AuditEvent.sequence))
            trail = [f"{event.event_type} {event.version}" for event in events]
        return {
            "kinds": [step.kind for step in ledger],
            "stages": [step.state.stage for step in ledger if step.kind in {"started", "advanced"}],
            "share": state.share,
            "routed": None if split is None else split.treatment_share,
            "replayed": verify(self.engine) == [state],
            "intact": intact,
            "registry": {version.semver: version.stage for version in self.registry.versions(MODEL)},
            "tags": {semver: version.tags[STAGE_TAG] for semver, version in semvers.items()},
            "aliases": {
                alias: numbers[number]
                for alias, number in store.aliases(MODEL).items()
                if alias in {CHAMPION, CANDIDATE, CHALLENGER, PREVIOUS}
            },
            "trail": trail,
            "told": self.told.read_text(encoding="utf-8").splitlines() if self.told.exists() else [],
            "left": [str(one) for one in undelivered(self.engine)],
        }


def forked(body: Callable[[], None]) -> int:
    """Run it in a child; its id."""
    child = os.fork()
    if child:
        return child
    try:
        body()
    except BaseException:  # noqa: BLE001 - whatever it is, the child must not go on as its parent
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(3)
    os._exit(0)


def ended(child: int) -> int:
    """Wait for it, and return its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def opened(body: Callable[[], Any]) -> None:
    """Do what opens things, and close every connection that it left, which no fork may share."""
    engines: list[Engine] = []

    def note(connection: Connection) -> None:
        engines.append(connection.engine)

    event.listen(Engine, "engine_connect", note)
    body()
    event.remove(Engine, "engine_connect", note)
    for engine in engines:
        engine.dispose()
    # MLflow's threads end with the objects that they work for.
    gc.collect()
    wait_for(lambda: threading.active_count() == 1)


def tick(deployment: Deployment, name: str, look: Look, hours: int) -> None:
    """Look once."""
    deployment.daemon(name, look, hours, Reaper()).tick(MODEL)


def count(deployment: Deployment, look: Look) -> None:
    """Look once, and write down the names of all writes of it."""
    reaper = Reaper()
    with reaper.watching():
        deployment.daemon("daemon 1", look, 0, reaper).tick(MODEL)
    reaper.point(LAST)
    (deployment.folder / "names").write_text(json.dumps(reaper.names), encoding="utf-8")


def let_users_come(deployment: Deployment, number: int) -> None:
    """A few, into the stage that has begun."""
    state = current(deployment.engine, MODEL)
    assert state is not None
    if state.active:
        crowd(deployment.engine, state, range(1000 * number, 1000 * number + USERS), state.since)


def die(deployment: Deployment, look: Look, hours: int, survived: int, name: str) -> None:
    """Look once, and die at a write."""
    reaper = Reaper(survived, name)
    with reaper.watching():
        deployment.daemon("daemon 1", look, hours, reaper).tick(MODEL)
    reaper.point(LAST)


def go_on(deployment: Deployment, look: Look, hours: int) -> None:
    """Look at the same time as the one that died, started again, then alone, then on to the end; write down what came of it."""
    again = forked(partial(tick, deployment, "daemon 1", look, hours))
    daemon = deployment.daemon("daemon 2", look, -hours, Reaper())
    daemon.tick(MODEL)
    assert ended(again) == 0
    deployment.at(look, 0)
    daemon.tick(MODEL)
    found = {"then": deployment.facts()}
    with transaction(deployment.engine) as session:
        # Hours later, a lease that a dead process held is nobody's.
        session.execute(update(Lease).values(expires_at=SystemClock().now()))
    for number in range(look.number + 1, len(STAGES) + 1):
        deployment.at(Look(number), 0)
        daemon.tick(MODEL)
    found["end"] = deployment.facts()
    (deployment.folder / "found").write_text(json.dumps(found), encoding="utf-8")


def killed_at(deployment: Deployment, look: Look, survived: int, name: str) -> dict[str, Any]:
    """Kill one at a write, whose clock is off as the other's is in the other direction, and let both go on."""
    hours = survived % 3 - 1
    status = ended(forked(partial(die, deployment, look, hours, survived, name)))
    assert ended(forked(partial(go_on, deployment, look, hours))) == 0, f"{look.name}, {survived}: {name}"
    found = json.loads((deployment.folder / "found").read_text(encoding="utf-8"))
    return {"look": look.name, "survived": survived, "write": name, "status": status, **found}


def prepare(deployment: Deployment, folder: Path) -> Iterator[tuple[Look, Path, int, str]]:
    """Take every look once, with nobody dying: each of its writes, and the folder of the deployment before it."""
    for look in LOOKS:
        before = folder / f"before {look.number}"
        deployment.put(before)
        assert ended(forked(partial(count, deployment, look))) == 0
        names = json.loads((deployment.folder / "names").read_text(encoding="utf-8"))
        for survived, name in enumerate(names):
            yield look, before, survived, name
        if not look.harm:
            assert ended(forked(partial(let_users_come, deployment, look.number))) == 0
            shutil.copytree(deployment.folder, folder / f"before {look.number + 1}")


def main() -> int:
    """Kill one process for each write of each look, and print what came of it."""
    folder, begin = Path(sys.argv[1]), datetime.fromisoformat(sys.argv[2])
    settings = load_settings()
    (folder / "before 0").mkdir(parents=True)
    for name, url in zip(_STORES, (settings.database, settings.tracking_uri), strict=True):
        shutil.copyfile(url.removeprefix("sqlite:///"), folder / "before 0" / name)
    deployment = Deployment(folder / "deployment", begin)
    deployment.put(folder / "before 0")
    opened(partial(deployment.registry.champion, MODEL))
    points = list(prepare(deployment, folder))

    def work(mine: int) -> None:
        deployment = Deployment(folder / f"deployment {mine}", begin)
        deployment.put(folder / "before 5")
        # Whatever is done once in a process is done before the forks.
        for look in LOOKS:
            deployment.put(folder / f"before {look.number}")
            opened(partial(tick, deployment, "daemon 1", look, 0))
            opened(deployment.facts)
        gc.disable()
        gc.freeze()
        found = []
        for look, before, survived, name in points[mine::WORKERS]:
            deployment.put(before)
            found.append(killed_at(deployment, look, survived, name))
        (folder / f"found {mine}").write_text(json.dumps(found), encoding="utf-8")

    workers = [forked(partial(work, mine)) for mine in range(WORKERS)]
    codes = [ended(worker) for worker in workers]
    if any(codes):
        return 1
    found = [one for mine in range(WORKERS) for one in json.loads((folder / f"found {mine}").read_text("utf-8"))]
    sys.stdout.write(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
