"""The live state from the audit trail alone, after everything that can happen to versions; and what a forger leaves."""

import contextlib
import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import text

from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import create_operational_engine
from mlops_assets.foundation.errors import MlopsError
from mlops_assets.foundation.settings import Settings
from mlops_assets.governance.approvals import open_approvals
from mlops_assets.governance.commands import DONE, MISSED, REFUSED, main
from mlops_assets.governance.follow_up import follow_up
from mlops_assets.governance.policy import ApprovalStatus
from mlops_assets.governance.replay import LiveState, differences, live_state, replay, replayed_state
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets_tests.governance.conftest import ML, QA, Office
from mlops_assets_tests.mlflow_runs import NOW, SPEC

NAME = SPEC.registered_model
INDEX = st.integers(0, 2)


def compare(office: Office) -> list[str]:
    return differences(replayed_state(office.engine), live_state(office.engine, office.registry))


def a_history(office: Office) -> None:
    """Champion, challenger, promotion, rollback, and a request that waits."""
    office.decide(0, "approved")
    for index in (1, 2):
        office.clock.instant = NOW + timedelta(hours=index)
        office.decide(index)
        for approver in (ML, QA):
            office.approvals.vote(
                NAME, f"1.{index}.0", approver=approver, decision="approve", comment="c", channel="cli"
            )
    office.registry.promote_to_production(NAME, "1.1.0", user="ops", reason="tested")
    office.clock.instant = NOW + timedelta(hours=5)
    office.registry.rollback_model(NAME, user="night", reason="errors")
    office.decide(3)


def test_replay_is_the_live_state(office: Office) -> None:
    """The trail cannot explain who answers users, and nobody notices until the audit."""
    a_history(office)
    assert compare(office) == []
    model = replayed_state(office.engine).models[NAME]
    assert (model.champion, model.challenger, model.previous) == ("1.0.0", "1.2.0", None)
    assert model.stages == {"1.0.0": "Production", "1.1.0": "Archived", "1.2.0": "Staging", "1.3.0": "None"}
    assert replayed_state(office.engine).requests == {1: "approved, applied", 2: "approved, applied", 3: "open"}


def test_nothing_happened() -> None:
    """An empty trail is no error."""
    assert replay([]) == LiveState()


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (
            "UPDATE model_version SET stage = 'Production' WHERE semver = '1.3.0'",
            f"{NAME} 1.3.0: the audit trail says None",
        ),
        (
            "UPDATE approval_request SET status = 'approved' WHERE id = 3",
            "approval request 3: the audit trail says open",
        ),
        ("DELETE FROM model_version WHERE semver = '1.3.0'", "the stores hold nothing"),
    ],
)
def test_what_was_done_past_the_trail_is_named(office: Office, statement: str, told: str) -> None:
    """Somebody promotes by SQL."""
    a_history(office)
    with office.engine.begin() as connection:
        connection.execute(text(statement))
    (found,) = compare(office)
    assert told in found


def test_an_alias_moved_in_mlflow_is_named(small_office: Office) -> None:
    """Somebody promotes in MLflow's own UI."""
    a_history(small_office)
    small_office.registry._store.set_alias(NAME, "champion", "3")
    assert compare(small_office) == [f"{NAME} champion: the audit trail says 1.0.0, the stores hold 1.2.0"]


def test_commands(small_office: Office, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What an auditor types."""
    a_history(small_office)
    environ = {
        "MLOPS_HOME": str(small_office.settings.home),
        "MLOPS_DATABASE_URL": small_office.engine.url.render_as_string(hide_password=False),
        "MLFLOW_TRACKING_URI": small_office.runs.tracking_uri,
    }

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["audit", *arguments], environ)
        streams = capsys.readouterr()
        return code, streams.out + streams.err

    capsys.readouterr()  # MLflow's progress bars
    code, told = run("verify")
    assert code == DONE
    assert told.startswith("intact: ")
    head = told.split()[-1]
    file = tmp_path / "trail.jsonl"
    file.write_text(run("export")[1], encoding="utf-8")
    nowhere = {"MLOPS_HOME": str(tmp_path / "nowhere")}
    assert main(["audit", "verify", "--file", str(file), "--head", head], nowhere) == DONE
    assert not (tmp_path / "nowhere").exists()
    file.write_text(file.read_text().replace("tested", "untested"), encoding="utf-8")
    code, told = run("verify", "--file", str(file))
    assert code == MISSED
    assert "broken at event" in told
    assert run("verify", "--file", str(tmp_path / "no"))[0] == REFUSED
    code, told = run("replay")
    assert code == DONE
    assert f"{NAME}: champion 1.0.0, challenger 1.2.0, previous none; 1.0.0 Production, 1.1.0 Archived" in told
    assert told.endswith("the stores hold what the audit trail says\n")

    def champion(at: str) -> str:
        return run("champion", "--model", NAME, "--at", at)[1]

    assert champion("2026-03-01T11:59:59Z") == f"{NAME} had no champion at 2026-03-01T11:59:59+00:00\n"
    assert "1.0.0 was champion" in champion("2026-03-01T12:00:00Z")
    told = champion("2026-03-01T16:00:00+02:00")
    assert "1.1.0 was champion at 2026-03-01T14:00:00+00:00: model_promoted_to_production by ops at" in told
    assert f"approved by {ML}, {QA} at 2026-03-01T13:00:00+00:00" in told
    assert "1.0.0 was champion" in run("champion", "--model", NAME)[1]
    assert "model_rolled_back by night" in run("champion", "--model", NAME)[1]
    assert run("champion", "--model", NAME, "--at", "2026-03-01T12:00:00") == (
        REFUSED,
        "--at '2026-03-01T12:00:00' has no offset; add Z for UTC\n",
    )
    assert run("champion", "--model", NAME, "--at", "monday")[0] == REFUSED
    assert run("champion", "--model", "nothing")[0] == REFUSED
    assert len(run("events", "--last", "3")[1].splitlines()) == 3
    assert "model_rolled_back" in run("events", "--model", NAME, "--type", "model_rolled_back")[1]
    with small_office.engine.begin() as connection:
        connection.execute(text("UPDATE model_version SET stage = 'Staging' WHERE semver = '1.3.0'"))
    code, told = run("replay")
    assert code == MISSED
    assert f"differs: {NAME} 1.3.0: the audit trail says None, the stores hold Staging" in told


class Life(RuleBasedStateMachine):
    """Whatever people and the policy do to three versions, also what is refused; each example in a fresh deployment."""

    new: Callable[[], Office]

    def __init__(self) -> None:
        super().__init__()
        self.office = self.new()
        self.office.decide(0, "approved")
        for index in (1, 2):
            self.office.decide(index)

    def attempt(self, action: Callable[[], object]) -> None:
        with contextlib.suppress(MlopsError):
            action()

    @rule(
        index=INDEX,
        status=st.sampled_from(["approved", "rejected", "requires_review"]),
        gap=st.sampled_from([1.0, 2.0]),
    )
    def decide(self, index: int, status: ApprovalStatus, gap: float) -> None:
        self.attempt(lambda: self.office.decide(index, status, gap=gap))

    @rule(index=INDEX, decisions=st.sampled_from(["a", "aa", "aa", "ar", "r"]))
    def vote(self, index: int, decisions: str) -> None:
        for approver, decision in zip((ML, QA), decisions, strict=False):
            self.attempt(
                lambda who=approver, said=decision: self.office.approvals.vote(  # type: ignore[misc]
                    NAME,
                    f"1.{index}.0",
                    approver=who,
                    decision="approve" if said == "a" else "reject",
                    comment="c",
                    channel="cli",
                )
            )

    @rule(index=INDEX)
    def promote(self, index: int) -> None:
        version = f"1.{index}.0"
        self.attempt(lambda: self.office.registry.promote_to_production(NAME, version, user="ops", reason="r"))

    @rule(index=st.sampled_from([None, 0, 1, 2]), override=st.booleans())
    def roll_back(self, index: int | None, override: bool) -> None:
        version = None if index is None else f"1.{index}.0"
        self.attempt(
            lambda: self.office.registry.rollback_model(NAME, version, user="n", reason="r", override=override)
        )

    @rule(index=INDEX, deleted=st.booleans())
    def retire(self, index: int, deleted: bool) -> None:
        registry = self.office.registry
        move = registry.mark_deleted if deleted else registry.archive
        self.attempt(lambda: move(NAME, f"1.{index}.0", user="ops", reason="r"))

    @rule(hours=st.sampled_from([1, 169]))
    def wait(self, hours: int) -> None:
        self.office.clock.instant += timedelta(hours=hours)
        follow_up(self.office.approvals, self.office.clock.now(), ways={})

    @invariant()
    def the_trail_explains_the_stores(self) -> None:
        assert compare(self.office) == []

    def teardown(self) -> None:
        self.office.events()
        self.office.engine.dispose()


def test_along_every_path(small_office: Office, tmp_path: Path) -> None:
    """Some order of decisions, votes, promotions and retirements is told otherwise than it happened."""
    made = itertools.count()

    def new() -> Office:
        folder = tmp_path / f"life-{next(made)}"
        folder.mkdir()
        for name in ("operations.db", "mlflow.db"):
            shutil.copyfile(tmp_path / name, folder / name)
        runs = replace(small_office.runs, tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
        engine = create_operational_engine(f"sqlite:///{folder / 'operations.db'}")
        own = Settings(home=folder / "home", mlflow_tracking_uri=runs.tracking_uri)
        clock = FixedClock(NOW)
        registry = ModelRegistry(runs.tracking_uri, engine, clock)
        return Office(engine, registry, clock, own, runs, open_approvals(own, engine, clock, registry))

    class Lives(Life):
        pass

    Lives.new = staticmethod(new)  # type: ignore[method-assign, assignment]
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=6, stateful_step_count=15, derandomize=True, suppress_health_check=list(HealthCheck)
        ),
    )
