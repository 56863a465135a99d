"""The outbox: whatever dies between two writes, registry, ledger and people end up with the same, each once."""

import logging
import os
import signal
import time
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text, update

from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import create_operational_engine, transaction
from mlops_assets.foundation.errors import TransientError
from mlops_assets.foundation.leases import lease
from mlops_assets.foundation.messages import Message
from mlops_assets.foundation.tables import Lease, RolloutEffect
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.rollout.controller import open_rollouts
from mlops_assets.rollout.effects import Outbox, undelivered
from mlops_assets.rollout.ledger import current, steps, verify
from mlops_assets.rollout.state import Kind
from mlops_assets_tests.foundation.mailbox import Mailbox, running
from mlops_assets_tests.foundation.processes import run_together
from mlops_assets_tests.mlflow_runs import MlflowRuns, approve
from mlops_assets_tests.rollout.conftest import Tower
from mlops_assets_tests.rollout.scenes import MODEL, NAME, Scene, dying, unique

TO_EVERYBODY: tuple[Kind, ...] = ("started", "advanced", "advanced", "advanced", "advanced")
PROMOTED = "model_promoted_to_production 1.1.0"
RETURNED = "model_rolled_back 1.0.0"
ARCHIVED = "model_archived 1.1.0"
STAGED_ALIASES = {"champion": "1.0.0", "challenger": "1.1.0"}
GIVEN_BACK = {"1.0.0": "Production", "1.1.0": "Archived"}


@pytest.fixture
def scene(mlflow_runs: MlflowRuns, sqlite_engine: Engine) -> Scene:
    return Scene(sqlite_engine, mlflow_runs).register(0, 1)


@pytest.fixture
def postgres_scene(mlflow_runs: MlflowRuns, postgres_engine: Engine) -> Scene:
    return Scene(postgres_engine, mlflow_runs).register(0, 1)


@dataclass(frozen=True)
class Ending:
    """What has to come of a rollout, whatever died on the way; `told` in the order of the first message of each."""

    stages: dict[str, str]
    aliases: dict[str, str]
    trail: list[str]
    last: str
    told: list[str]


def subject(title: str) -> str:
    return f"{title} ({MODEL})"


START = subject("INFO: Gradual rollout initiated (5% → 20% → 50% → 100%)")
BACK = subject("CRITICAL: Model Rollback")
DONE = subject("INFO: Rollout completed: 1.1.0 is champion")
COMPLETED = Ending(
    {"1.0.0": "Archived", "1.1.0": "Production"},
    {"champion": "1.1.0", "previous": "1.0.0"},
    [PROMOTED],
    "completed",
    [DONE],
)


def assert_ends(scene: Scene, ending: Ending) -> None:
    assert scene.stages() == ending.stages
    assert scene.aliases() == ending.aliases
    assert scene.trail() == ending.trail
    assert scene.kinds()[-1] == ending.last
    assert unique(scene.told) == ending.told
    assert undelivered(scene.engine) == []
    verify(scene.engine)
    assert scene.outbox().deliver() == []


def dies(scene: Scene, survived: int) -> bool:
    """Deliver, and die at a write; false when there were fewer writes than that."""
    try:
        with dying(scene, survived=survived):
            scene.outbox().deliver()
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("delivered", "waiting", "ending"),
    [
        pytest.param(
            (),
            ("started",),
            Ending(
                {"1.0.0": "Production", "1.1.0": "Staging"},
                {**STAGED_ALIASES, "candidate": "1.1.0"},
                [],
                "started",
                [START],
            ),
            id="started",
        ),
        pytest.param(TO_EVERYBODY, ("promoting",), COMPLETED, id="promoted"),
        pytest.param(
            ("started", "advanced"),
            ("rolled_back",),
            Ending(GIVEN_BACK, {"champion": "1.0.0"}, [ARCHIVED], "rolled_back", [BACK]),
            id="rolled back",
        ),
        pytest.param(
            (),
            ("started", "rolled_back"),
            Ending(GIVEN_BACK, {"champion": "1.0.0"}, [ARCHIVED], "rolled_back", [START, BACK]),
            id="rolled back at once",
        ),
        pytest.param(
            ("started",),
            ("aborted",),
            Ending(
                {"1.0.0": "Production", "1.1.0": "Staging"},
                STAGED_ALIASES,
                [],
                "aborted",
                [subject("WARNING: Rollout aborted")],
            ),
            id="aborted",
        ),
    ],
)
def test_a_crash_at_any_write_changes_nothing_in_the_end(
    scene: Scene, tmp_path: Path, delivered: tuple[Kind, ...], waiting: tuple[Kind, ...], ending: Ending
) -> None:
    """Half delivered: a candidate without its alias, two champions, a promotion that nobody closes."""
    if delivered:
        scene.write(*delivered)
        assert scene.problems() == []
    scene.write(*waiting)
    survived = 0
    while dies(crashed := scene.copy(tmp_path / str(survived)), survived):
        # A process that starts again has its old name, and its lease.
        assert crashed.problems() == []
        assert_ends(crashed, ending)
        # The message whose mark was lost comes twice, and no other.
        assert len(crashed.told) <= len(ending.told) + 1
        crashed.engine.dispose()
        survived += 1
    assert_ends(crashed, ending)
    assert crashed.told == ending.told
    # Leases, renewals, registry, marks: fewer than these and the test dies of nothing.
    assert survived >= 12


@pytest.mark.slow
def test_a_rollback_while_it_is_promoted_gives_production_back(scene: Scene, tmp_path: Path) -> None:
    """The guard takes it back, and the promotion that died half way leaves the alias with the version that harms."""
    scene.write(*TO_EVERYBODY)
    assert scene.problems() == []
    scene.write("promoting")
    trails = set()
    survived = 0
    while dies(crashed := scene.copy(tmp_path / str(survived)), survived):
        state = current(crashed.engine, MODEL)
        assert state is not None
        if state.status == "promoting":
            crashed.write("rolled_back", reason="errors")
            assert crashed.problems() == []
            trail = crashed.trail()
            assert_ends(crashed, Ending(GIVEN_BACK, {"champion": "1.0.0"}, trail, "rolled_back", [BACK]))
            (tags,) = [one.tags for one in MlflowStore(crashed.runs.tracking_uri).versions(MODEL) if one.number == "2"]
            assert tags["rollback_reason"] == "errors"
            trails.add(tuple(trail))
        else:
            assert crashed.problems() == []
            assert_ends(crashed, COMPLETED)
        crashed.engine.dispose()
        survived += 1
    assert trails == {(ARCHIVED,), (RETURNED, ARCHIVED), (PROMOTED, RETURNED)}


def test_on_postgresql(postgres_scene: Scene) -> None:
    """Locks and leases are the server's there."""
    scene = postgres_scene
    scene.write(*TO_EVERYBODY, "promoting")
    assert dies(scene, 12)
    assert scene.problems() == []
    assert scene.kinds() == [*TO_EVERYBODY, "promoting", "completed"]
    advanced = [subject(f"INFO: Rollout at {share}") for share in ("5%", "20%", "50%", "100%")]
    assert_ends(scene, replace(COMPLETED, told=[START, *advanced, DONE]))


def test_taken_back_between_promotion_and_its_record(scene: Scene) -> None:
    """Two processes at the same moment: who promotes must not leave the other's rollback for the next look."""
    scene.write(*TO_EVERYBODY, "promoting")
    promote = scene.registry.promote_to_production

    class Slow(ModelRegistry):
        def promote_to_production(self, model_name: str, version: str, *, user: str, reason: str):
            found = promote(model_name, version, user=user, reason=reason)
            scene.write("rolled_back", reason="errors")
            return found

    registry = Slow(scene.runs.tracking_uri, scene.engine, scene.clock)
    delivered = Outbox(scene.engine, registry, scene.clock, {}, (), "tests").deliver()
    assert [one.problem for one in delivered] == [None] * len(delivered)
    (promotion,) = [one for one in delivered if one.kind == "promote"]
    assert promotion.note == f"{NAME} ended meanwhile"
    assert_ends(scene, Ending(GIVEN_BACK, {"champion": "1.0.0"}, [PROMOTED, RETURNED], "rolled_back", []))


def test_a_promotion_whose_record_was_refused_is_recorded_by_the_next_look(postgres_scene: Scene) -> None:
    """Restored with its sequences behind, the ledger refuses a step: taken for somebody else's, it is promoted for ever."""
    scene = postgres_scene
    scene.write(*TO_EVERYBODY)
    assert scene.problems() == []
    scene.write("promoting")
    scene.told.clear()
    with scene.engine.begin() as connection:
        connection.execute(text("SELECT setval(pg_get_serial_sequence('rollout_event', 'id'), 6, false)"))
    assert scene.problems() == [f"{MODEL}: another step was written at the same moment; look again"]
    assert scene.kinds()[-1] == "promoting"
    assert scene.problems() == []
    assert_ends(scene, COMPLETED)


@pytest.mark.parametrize("why", ["approval", "champion"])
def test_a_promotion_that_is_refused_takes_it_back(scene: Scene, why: str) -> None:
    """Tried again for ever, all users stay with a version that may not be champion, or it overthrows one nobody compared."""
    scene.write(*TO_EVERYBODY)
    assert scene.problems() == []
    scene.write("promoting")
    champion = "1.0.0"
    if why == "approval":
        approve(scene.engine, MODEL, "1.1.0", status="rejected")
    else:
        scene.register(2).registry.promote_to_production(MODEL, "1.2.0", user="sre", reason="a hotfix")
        champion = "1.2.0"
    scene.told.clear()
    assert scene.problems() == []
    assert scene.kinds()[-2:] == ["promoting", "rolled_back"]
    (reason,) = steps(scene.engine)[-1].reasons
    assert reason.startswith("it cannot be promoted: ")
    assert ("is rejected" if why == "approval" else "1.2.0 is champion where 1.0.0 was") in reason
    assert (scene.aliases()["champion"], scene.stages()["1.1.0"]) == (champion, "Archived")
    assert scene.told == [BACK]


def test_people_who_promote_during_a_rollout_are_not_undone(scene: Scene) -> None:
    """The candidate is champion by hand, so the rollout ends; its abort blames nobody, and takes nothing from them."""
    scene.write("started")
    assert scene.problems() == []
    scene.registry.promote_to_production(MODEL, "1.1.0", user="sre", reason="an incident")
    scene.write("aborted")
    assert scene.problems() == []
    assert scene.aliases() == {"champion": "1.1.0", "previous": "1.0.0"}
    assert scene.trail() == []


def test_what_became_of_the_candidate_by_hand_stays(scene: Scene) -> None:
    """A deleted version that comes back, or one that cannot be archived, stops all that follows."""
    scene.write("started")
    assert scene.problems() == []
    for change in (scene.registry.archive, scene.registry.mark_deleted):
        change(MODEL, "1.1.0", user="sre", reason="by hand")
    scene.write("rolled_back")
    delivered = scene.outbox(ways={}).deliver()
    assert [(one.kind, one.problem, one.note) for one in delivered] == [
        ("withdraw", None, None),
        ("archive", None, "1.1.0 is in stage Deleted"),
        ("alert", None, None),
    ]
    assert scene.stages() == {"1.0.0": "Production", "1.1.0": "Deleted"}
    assert scene.aliases() == {"champion": "1.0.0"}


def test_a_failed_effect_stops_those_after_it_and_no_alert(scene: Scene) -> None:
    """Withdrawn before it is pointed to, the alias stays for ever; and silence is not what a failure needs."""
    scene.write("started")

    def broken(*_: object) -> None:
        raise TransientError("MLflow is away")

    point, scene.registry.point_candidate = scene.registry.point_candidate, broken
    for attempts in (1, 2):
        delivered = scene.outbox().deliver()
        assert delivered[0].problem == "MLflow is away"
        (waiting,) = undelivered(scene.engine)
        assert (waiting.kind, waiting.rollout, waiting.attempts, waiting.problem) == (
            "point_candidate",
            NAME,
            attempts,
            "MLflow is away",
        )
    assert str(waiting) == f"point candidate of step 1 of {NAME} after 2 tries: MLflow is away"
    assert scene.told == [START]
    scene.registry.point_candidate = point
    scene.write("rolled_back")
    (first, *_) = scene.outbox().deliver()
    assert (first.attempts, first.note) == (3, f"{NAME} is over")
    assert_ends(scene, Ending(GIVEN_BACK, {"champion": "1.0.0"}, [ARCHIVED], "rolled_back", [START, BACK]))
    with transaction(scene.engine) as session:
        assert session.get_one(RolloutEffect, 1).problem == f"{NAME} is over"


def test_an_error_that_nobody_thought_of_is_on_record(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """One model's defect keeps every other model's rollback from the registry."""
    scene.write("started")

    def broken(*_: object) -> None:
        raise KeyError("stage")

    scene.registry.point_candidate = broken
    assert scene.problems() == ["KeyError: 'stage'"]
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.exc_info
    assert scene.told == [START]


def test_a_way_that_fails_neither_silences_nor_repeats_another(scene: Scene) -> None:
    """A dead mail server keeps the rollback from Slack, or Slack gets it again with every look."""
    mails: list[str] = []
    tries: list[str] = []

    def mail(message: Message) -> None:
        tries.append(message.subject)
        raise TransientError("SMTP server mail:25 did not take the message")

    scene.write("started", "rolled_back")
    for _ in range(3):
        outbox = scene.outbox(ways={"e-mail": mail, "Slack": scene.tell})
        problems = [one.problem for one in outbox.deliver() if one.problem]
        assert problems == [
            "SMTP server mail:25 did not take the message",
            "e-mail did not take the message before this one",
        ]
    assert scene.told == [START, BACK]
    # It is asked once in a delivery: ten seconds for each message would be a minute soon.
    assert tries == [START] * 3
    assert [one.kind for one in undelivered(scene.engine)] == ["alert", "alert"]
    scene.outbox(ways={"e-mail": lambda message: mails.append(message.subject), "Slack": scene.tell}).deliver()
    assert (mails, scene.told) == ([START, BACK], [START, BACK])
    assert undelivered(scene.engine) == []


def test_without_a_way_the_log_has_it(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """A laptop has no Slack; its operator has the log."""
    scene.write("started", "rolled_back", reason="errors")
    with caplog.at_level(logging.INFO, logger="mlops_assets.rollout.alerts"):
        assert [one.problem for one in scene.outbox(ways={}).deliver()] == [None] * 5
    said = {record.levelno: record.message for record in caplog.records if record.name.endswith("alerts")}
    assert "Gradual rollout initiated" in said[logging.INFO]
    assert "Model Rollback" in said[logging.CRITICAL]
    assert "from 1.1.0 to 1.0.0" in said[logging.CRITICAL]
    assert "errors" in said[logging.CRITICAL]


def test_one_model_only(scene: Scene) -> None:
    """A command for one model must not wait for another one's registry."""
    scene.write("started")
    assert scene.outbox().deliver("another-agent-dqn") == []
    assert [one.kind for one in scene.outbox().deliver(MODEL)] == ["point_candidate", "alert"]


def test_what_somebody_else_delivers_is_left_to_them(scene: Scene) -> None:
    """Two that deliver the same tell people twice."""
    scene.write("started")
    with lease(scene.engine, f"rollout-alerts:{MODEL}", "another", 60.0, SystemClock()):
        # Registry effects do not wait for who waits for a mail server.
        assert [one.kind for one in scene.outbox().deliver()] == ["point_candidate"]
    with lease(scene.engine, f"rollout-effects:{MODEL}", "another", 60.0, SystemClock()):
        assert [one.kind for one in scene.outbox().deliver()] == ["alert"]
    assert scene.told == [START]


def deliver(url: str, runs: MlflowRuns, folder: Path, barrier: Barrier) -> None:
    """Deliver as a daemon does; each message is a line of the daemon's file."""
    engine = create_operational_engine(url)
    scene = Scene(engine, runs)

    def write(message: Message) -> None:
        time.sleep(0.05)  # as long as a message takes: the other one has the same to say
        with (folder / str(os.getpid())).open("a", encoding="utf-8") as file:
            file.write(f"{message.subject}\n")

    scene.registry.champion(MODEL)  # MLflow's import takes longer than all that follows
    barrier.wait()
    for _ in range(5):
        scene.outbox(holder=f"daemon {os.getpid()}", ways={"file": write}).deliver()
    engine.dispose()


@pytest.mark.slow
def test_two_daemons_deliver_once(scene: Scene, tmp_path: Path) -> None:
    """Each message twice is one that people stop reading."""
    scene.write("started", "advanced", "paused", "resumed", "rolled_back")
    url = scene.engine.url.render_as_string(hide_password=False)
    folder = tmp_path / "told"
    folder.mkdir()
    assert run_together(deliver, [(url, scene.runs, folder)] * 2) == [0, 0]
    lines = [line for file in folder.iterdir() for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 5
    assert_ends(scene, Ending(GIVEN_BACK, {"champion": "1.0.0"}, [ARCHIVED], "rolled_back", []))


def deliver_and_die(url: str, runs: MlflowRuns, holder: str, told: Path, barrier: Barrier) -> None:
    """`kill -9` once a message was sent, before anything says so."""

    def write_and_die(message: Message) -> None:
        told.write_text(message.subject, encoding="utf-8")
        os.kill(os.getpid(), signal.SIGKILL)

    barrier.wait()
    Scene(create_operational_engine(url), runs).outbox(holder=holder, ways={"Slack": write_and_die}).deliver()


def test_killed_between_a_message_and_its_mark(scene: Scene, tmp_path: Path) -> None:
    """Never told is worse than told twice."""
    scene.write("started")
    url = scene.engine.url.render_as_string(hide_password=False)
    told = tmp_path / "told"
    assert run_together(deliver_and_die, [(url, scene.runs, "sensor 1", told)]) == [-signal.SIGKILL]
    assert told.read_text(encoding="utf-8") == START
    # The dead one's lease has not run out.
    assert scene.outbox(holder="sensor 2").deliver() == []
    (alert,) = scene.outbox(holder="sensor 1").deliver()
    assert (alert.kind, alert.problem) == ("alert", None)
    assert scene.told == [START]
    assert scene.aliases()["candidate"] == "1.1.0"


def test_a_lost_lease_ends_the_delivery(scene: Scene) -> None:
    """A daemon that slept through its lease goes on beside the one that took it."""
    scene.write("started", "rolled_back")
    leave = scene.registry.leave_candidate

    def leave_late(model_name: str, version: str) -> None:
        leave(model_name, version)
        with transaction(scene.engine) as session:
            taken = update(Lease).where(Lease.resource == f"rollout-effects:{MODEL}")
            session.execute(taken.values(holder="another", token=Lease.token + 1))

    scene.registry.leave_candidate = leave_late
    delivered = [one.kind for one in scene.outbox(ways={}).deliver()]
    assert delivered == ["point_candidate", "withdraw", "alert", "alert"]
    assert [one.kind for one in undelivered(scene.engine)] == ["archive"]


def test_mails_go_to_who_can_act(small_tower: Tower, tmp_path: Path) -> None:
    """A rollback that only those are told of who may do nothing about it waits for the morning."""
    roles = tmp_path / "roles.yaml"
    roles.write_text("ml@company.com: [ml_engineer]\nops@company.com: [mlops]\nsre@company.com: [sre, ml_engineer]\n")
    office, mailbox = small_tower.office, Mailbox()
    with running(mailbox):
        settings = office.settings.model_copy(update={"smtp_url": SecretStr(mailbox.url), "roles_file": roles})
        rollouts = open_rollouts(settings, office.engine, office.clock, office.registry, holder="tests")
        rollouts.start(MODEL, user="ops@company.com", reason="better")
    assert mailbox.recipients == ["ops@company.com", "sre@company.com"]
    (message,) = mailbox.messages
    assert "by ops@company.com" in message
    assert undelivered(office.engine) == []
