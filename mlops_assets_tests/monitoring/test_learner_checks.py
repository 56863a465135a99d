"""Checks of a version that serves: what is lost and how the learner is, from rows of the log to alerts."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from mlops_assets.experiences.simulator.config import Drift
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.tables import DriftCheckRecord, LearnerReferenceRecord
from mlops_assets.monitoring.alerts import alerts
from mlops_assets.monitoring.coverage import CoverageWatch
from mlops_assets.monitoring.drift_checks import keep
from mlops_assets.monitoring.findings import Routing
from mlops_assets.monitoring.learner_references import keep_coverage
from mlops_assets.monitoring.version_decisions import VersionDecisions
from mlops_assets_tests.monitoring.faults import FAULT_DAYS, FAULTS
from mlops_assets_tests.monitoring.logged import Served, day, log
from mlops_assets_tests.monitoring.simulated import DAY, Agent, agent, play, world_of

NAME = "execution"
PROFILE = load_profile("aiwebtest")
ROUTING = Routing(PROFILE.alerting, frozenset({"log"}))
# Service begins on day 27, and its first day is over, with all labels, on day 29; faults are of the days 30 and 31.
BEGIN = FAULT_DAYS.start - 3
MODEL = agent(NAME).spec.registered_model


def served(engine: Engine, home: Path, decisions: VersionDecisions, name: str = NAME) -> Served:
    """A version with three days of good service, and then these decisions."""
    own = agent(name)
    made = Served(engine, own.spec, PROFILE, home)
    made.freeze(play(world_of(own.spec), range(15, 20), own.policy))
    log(engine, own.spec, play(world_of(own.spec), range(BEGIN, BEGIN + 3), own.policy), prefix="well")
    log(engine, own.spec, decisions, prefix="now")
    return made


def well(own: Agent) -> VersionDecisions:
    return play(world_of(own.spec), FAULT_DAYS, own.policy)


def references(engine: Engine) -> dict[str, LearnerReferenceRecord]:
    with read_transaction(engine) as session:
        return {one.kind: one for one in session.scalars(select(LearnerReferenceRecord))}


@pytest.mark.parametrize("alarm", [*FAULTS, None])
def test_each_fault_is_its_own_alert_and_ends(sqlite_engine: Engine, tmp_path: Path, alarm: str | None) -> None:
    """An illness of the learner reaches nobody, or sends people to look for another; an alert never ends."""
    own = agent(NAME)
    made = served(sqlite_engine, tmp_path, well(own) if alarm is None else FAULTS[alarm](own))
    assert made.check(day(BEGIN + 1)).learner.health is None
    frozen = made.check(day(FAULT_DAYS.start))
    assert frozen.learner.health is not None
    assert frozen.learner.health.alarms == ()
    end = day(FAULT_DAYS.stop)
    ill = made.check(end)
    assert ill.learner.health is not None
    assert ill.learner.health.alarms == (() if alarm is None else (alarm,))
    keep(sqlite_engine, own.spec, ill, PROFILE, ROUTING, end)
    keys = {f"{MODEL}:{name}" for name in FAULTS}
    raised = {one.finding.key: one for one in alerts(sqlite_engine) if one.finding.key in keys}
    assert raised.keys() == (set() if alarm is None else {f"{MODEL}:{alarm}"})
    for one in raised.values():
        assert one.finding.severity == "WARNING"
        assert one.finding.details["model_version"] == "1.0.0"
    with read_transaction(sqlite_engine) as session:
        (row,) = session.scalars(select(DriftCheckRecord))
    assert row.document["health"]["verdict"] == ("ok" if alarm is None else "alarm")
    # The window of before is well: what was raised is over.
    keep(sqlite_engine, own.spec, frozen, PROFILE, ROUTING, end + timedelta(hours=24))
    assert {one.state.status for one in alerts(sqlite_engine) if one.finding.key in keys} <= {"recovered"}


def test_loss_of_a_day_in_words_and_numbers(sqlite_engine: Engine, tmp_path: Path) -> None:
    """What a world that pays less costs is not in the row that retraining reads, or a good day costs something."""
    own = agent("generation")
    fine = play(world_of(own.spec), range(FAULT_DAYS.start, FAULT_DAYS.start + 1), own.policy)
    made = served(sqlite_engine, tmp_path, fine, "generation")
    bad = play(world_of(own.spec, drift=Drift(0, reward_change=1.0)), range(60, 61), own.policy)
    moved = replace(bad, event_time=bad.event_time - (60 - FAULT_DAYS.start - 1) * DAY)
    log(sqlite_engine, own.spec, moved, prefix="bad")
    before, after = (made.check(day(number)).learner for number in (FAULT_DAYS.start + 1, FAULT_DAYS.start + 2))
    assert before.loss_per_day is not None
    assert before.loss_per_day.low is not None
    assert before.loss_per_day.low < 0.1 * PROFILE.retraining.training_cost
    assert before.estimate is not None
    assert before.estimate.verdict == "estimated"
    assert after.loss is not None
    assert after.loss.source == "outcomes"
    assert after.loss_per_day is not None
    assert after.loss_per_day.low is not None
    assert after.loss_per_day.low > PROFILE.retraining.training_cost
    assert after.loss.per_decision is not None
    assert after.loss_per_day.estimate == pytest.approx(after.loss.per_decision.estimate * len(moved), rel=0.05)
    assert after.document()["loss_per_day"] == {
        "low": after.loss_per_day.low,
        "estimate": after.loss_per_day.estimate,
        "high": after.loss_per_day.high,
    }
    # A day later the labels have come, whatever the outcomes of that day say.
    labelled = made.check(day(FAULT_DAYS.start + 3)).learner.loss
    assert labelled is not None
    assert labelled.source == "labels"


def test_before_there_is_a_reference(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A new version is called well, harmless or ill by comparison with nothing."""
    made = served(sqlite_engine, tmp_path, well(agent(NAME)))
    learner = made.check(day(BEGIN + 1)).learner
    assert (learner.estimate, learner.loss, learner.loss_per_day, learner.health) == (None, None, None, None)
    assert any("are over, with all labels, at" in words for words in learner.words)
    assert references(sqlite_engine) == {}
    document = learner.document()
    assert document["loss_per_day"] is None
    assert document["health"] is None


def test_without_labels_health_alone(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Where nobody gives labels, nothing is judged at all, or an estimate is made up."""
    own = agent(NAME)
    made = Served(sqlite_engine, own.spec, PROFILE, tmp_path)
    made.freeze(play(world_of(own.spec), range(15, 20), own.policy))
    log(sqlite_engine, own.spec, play(world_of(own.spec), range(BEGIN, BEGIN + 3), own.policy, label_share=0.0))
    learner = made.check(day(BEGIN + 3)).learner
    assert learner.health is not None
    assert {one.verdict for one in learner.health.findings} == {"ok"}
    assert (learner.estimate, learner.loss_per_day) == (None, None)
    assert learner.words == ("estimate without labels: 0 labelled decisions; 1000 of its first are needed",)
    assert references(sqlite_engine).keys() == {"health"}


def test_outcomes_that_come_late_are_judged_when_they_have_come(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Where outcomes take a day, over-estimation and TD errors are for ever unknown."""
    own = agent(NAME)
    made = Served(sqlite_engine, own.spec, PROFILE, tmp_path)
    made.freeze(play(world_of(own.spec), range(15, 20), own.policy))
    log(sqlite_engine, own.spec, play(world_of(own.spec), range(BEGIN, BEGIN + 3), own.policy), label_hours=23.0)
    sick = FAULTS["overestimation"](own)
    log(sqlite_engine, own.spec, sick, label_hours=23.0, prefix="sick")
    early = made.check(day(FAULT_DAYS.start + 1)).learner.health
    late = made.check(day(FAULT_DAYS.start + 2)).learner.health
    assert early is not None
    assert late is not None
    assert "overestimation" not in early.alarms
    assert late.alarms == ("overestimation",)


def test_references_are_frozen_once_and_checked_when_read(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A reference follows its traffic, so that nothing ever drifts; or a damaged file judges."""
    own = agent(NAME)
    made = served(sqlite_engine, tmp_path, FAULTS["action_mix"](own))
    made.check(day(FAULT_DAYS.start))
    frozen = {kind: one.content_hash for kind, one in references(sqlite_engine).items()}
    assert frozen.keys() == {"calibration", "health"}
    made.check(day(FAULT_DAYS.stop))
    assert {kind: one.content_hash for kind, one in references(sqlite_engine).items()} == frozen
    assert references(sqlite_engine)["health"].until == references(sqlite_engine)["health"].first_at + timedelta(
        hours=24
    )
    file = made.paths.monitoring(NAME) / "references" / f"{frozen['health']}.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(InputError, match="is damaged"):
        made.check(day(FAULT_DAYS.stop))
    file.unlink()
    with pytest.raises(NotReadyError, match="delete its row of learner_reference"):
        made.check(day(FAULT_DAYS.stop))
    file.write_bytes(content)
    assert made.check(day(FAULT_DAYS.stop)).learner.health is not None


def test_a_window_counts_once_in_the_coverage(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Each hourly check bets on the same labels again, and an estimate that keeps its promise is switched off."""
    own = agent(NAME)
    made = served(sqlite_engine, tmp_path, play(world_of(own.spec), range(30, 32), own.policy))
    windows = []
    for hours in (0, 1, 23, 47):
        made.check(day(FAULT_DAYS.start) + timedelta(hours=hours))
        watch = references(sqlite_engine)["calibration"].coverage
        assert watch is not None
        windows.append(CoverageWatch.from_document(watch).windows)
    assert windows == [0, 1, 1, 2]


def test_two_checks_at_once_store_one_watch(engine: Engine) -> None:
    """The slower of two checks takes back what the faster one has counted."""
    row = LearnerReferenceRecord(
        model_name=MODEL,
        model_version="1.0.0",
        kind="calibration",
        agent=NAME,
        content_hash="a" * 64,
        rows=1000,
        first_at=day(1),
        until=day(2),
        created_at=day(3),
        coverage=CoverageWatch.start(PROFILE.estimate).document(),
        covered_until=day(2),
    )
    with transaction(engine) as session:
        session.add(row)
    faster = replace(CoverageWatch.start(PROFILE.estimate), windows=1, misses=1)
    assert keep_coverage(engine, row, faster, day(3))
    assert not keep_coverage(engine, row, CoverageWatch.start(PROFILE.estimate), day(4))
    kept = references(engine)["calibration"]
    assert kept.covered_until == day(3)
    assert kept.coverage is not None
    assert CoverageWatch.from_document(kept.coverage) == faster
