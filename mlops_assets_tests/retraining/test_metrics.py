"""Gauges of triggers, decisions and trainings, against what was decided in a real database."""

from typing import get_args

from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import read_transaction
from mlops_assets.retraining.decide import Verdict
from mlops_assets.retraining.evaluate import evaluate
from mlops_assets.retraining.metrics import retraining_families
from mlops_assets.retraining.requests import RunStatus, SeenRun, reconcile
from mlops_assets_tests.retraining.triggers import NOW, POLICY, hours, new_signal

Samples = dict[tuple[str, ...], float]


def read(engine: Engine, later: float = 0.0) -> dict[str, Samples]:
    """Every family by name, so many hours after NOW: label values to value."""
    with read_transaction(engine) as session:
        families = retraining_families(session, NOW + hours(later))
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples} for family in families
    }


def known(samples: Samples) -> Samples:
    """Those that are not 0."""
    return {labels: value for labels, value in samples.items() if value}


def test_a_training_from_its_trigger_to_its_end(engine: Engine) -> None:
    """A training that failed is shown as one that goes on, or its trigger as answered."""
    evaluate(engine, "execution", POLICY, NOW, signals=[new_signal()])
    for minutes in (5, 10):
        signals = [new_signal(key="2"), new_signal(kind="volume")]
        evaluate(engine, "execution", POLICY, NOW + hours(minutes / 60), signals=signals)
    found = read(engine)
    assert known(found["mlops_retraining_signals_pending"]) == {("execution",): 2.0}
    assert known(found["mlops_retraining_runs"]) == {("execution", "requested"): 1.0}
    # Looks in a row that came to the same are one.
    assert known(found["mlops_retraining_decisions"]) == {
        ("execution", "retrain"): 1.0,
        ("execution", "suppressed"): 1.0,
    }
    assert found["mlops_retraining_last_success_age_seconds"] == {}
    reconcile(engine, lambda _: SeenRun("run-1", "failed"), NOW + hours(1))
    failed = read(engine, 1)
    assert known(failed["mlops_retraining_signals_pending"]) == {("execution",): 3.0}
    assert known(failed["mlops_retraining_runs"]) == {("execution", "failed"): 1.0}
    evaluate(engine, "execution", POLICY, NOW + hours(12))
    reconcile(engine, lambda _: SeenRun("run-2", "succeeded"), NOW + hours(13))
    done = read(engine, 15)
    assert known(done["mlops_retraining_runs"]) == {("execution", "failed"): 1.0, ("execution", "succeeded"): 1.0}
    assert known(done["mlops_retraining_signals_pending"]) == {}
    assert done["mlops_retraining_last_success_age_seconds"] == {("execution",): 7200.0}


def test_decisions_are_those_of_seven_days(sqlite_engine: Engine) -> None:
    """Last winter's trainings are on the board of this week."""
    evaluate(sqlite_engine, "execution", POLICY, NOW, signals=[new_signal()])
    week = 7 * 24
    assert read(sqlite_engine, week)["mlops_retraining_decisions"]["execution", "retrain"] == 1.0
    assert known(read(sqlite_engine, week + 1)["mlops_retraining_decisions"]) == {}
    assert known(read(sqlite_engine, week + 1)["mlops_retraining_runs"]) == {("execution", "requested"): 1.0}


def test_nothing_is_a_number_and_unknown_is_none(sqlite_engine: Engine) -> None:
    """An alert on "no training failed" finds no series, and never fires; one on the age of a training fires before the first."""
    found = read(sqlite_engine)
    assert found["mlops_retraining_signals_pending"] == {(agent,): 0.0 for agent in AGENTS}
    assert found["mlops_retraining_runs"] == {(agent, one): 0.0 for agent in AGENTS for one in get_args(RunStatus)}
    assert found["mlops_retraining_decisions"] == {(agent, one): 0.0 for agent in AGENTS for one in get_args(Verdict)}
    assert found["mlops_retraining_last_success_age_seconds"] == {}
