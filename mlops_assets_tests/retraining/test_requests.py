"""The outbox of trainings: handed over until seen, followed to the end, and triggers wait again where it failed."""

from datetime import datetime

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.trigger import RETRAINING_TAG, TriggerReason
from mlops_assets.retraining.evaluate import evaluate
from mlops_assets.retraining.requests import (
    RunRequest,
    SeenRun,
    all_requests,
    new_request,
    open_request,
    reconcile,
    success_rate,
)
from mlops_assets.retraining.signals import waiting
from mlops_assets_tests.retraining.triggers import NOW, POLICY, hours, new_signal, signal


def asked(engine: Engine, agent: str = "execution", key: str = "1", at: datetime = NOW) -> RunRequest:
    """Ask for a training."""
    evidence = {"model_version": "1.2.0", "drift_score": 0.41, "else": "x"}
    found = evaluate(engine, agent, POLICY, at, signals=[new_signal(agent, key=key, evidence=evidence)])
    assert found.request is not None
    return found.request


def keys(requests: list[RunRequest]) -> list[str]:
    return [one.run_key for one in requests]


def waits(engine: Engine, agent: str = "execution") -> list[str]:
    with read_transaction(engine) as session:
        return [one.dedupe_key for one in waiting(session, agent)]


def test_a_request_is_handed_over_until_its_run_is_seen(engine: Engine) -> None:
    """The daemon dies between decision and run, and the training never happens."""
    request = asked(engine)
    other = asked(engine, "generation")
    assert keys(reconcile(engine, lambda _: None, NOW)) == [request.run_key, other.run_key]
    seen = {request.run_key: SeenRun("run-1", "started")}
    assert keys(reconcile(engine, seen.get, NOW)) == [other.run_key]
    with read_transaction(engine) as session:
        found = open_request(session, "execution")
    assert found is not None
    assert (found.status, found.dagster_run_id) == ("started", "run-1")


@pytest.mark.parametrize(
    ("status", "again"), [("succeeded", False), ("canceled", False), ("failed", True), ("lost", True)]
)
def test_the_end_of_a_run(engine: Engine, status: str, again: bool) -> None:
    """A training that failed counts as one, and the drift that it was for is forgotten; what a person ends begins again."""
    request = asked(engine)
    reconcile(engine, lambda _: SeenRun("run-1", "started"), NOW)
    end = None if status == "lost" else SeenRun("run-1", status)  # type: ignore[arg-type]
    for _ in range(2):
        assert reconcile(engine, lambda _: end, NOW + hours(1)) == []
    (found,) = all_requests(engine, since=NOW)
    assert (found.run_key, found.status, found.ended_at) == (request.run_key, status, NOW + hours(1))
    assert waits(engine) == (["drift:execution:1"] if again else [])
    # The second try is one more training, with a key of its own.
    decided = evaluate(engine, "execution", POLICY, NOW + hours(6))
    assert decided.decision.verdict == ("retrain" if again else "idle")
    if again:
        assert decided.request is not None
        assert decided.request.run_key == "retrain-execution-2"


def test_a_retry_by_dagster_is_the_same_training(sqlite_engine: Engine) -> None:
    """The run's process dies, Dagster starts it again under another id, and it is followed no longer."""
    asked(sqlite_engine)
    for run_id in ("run-1", "run-2"):
        reconcile(sqlite_engine, lambda _, found=run_id: SeenRun(found, "started"), NOW)  # type: ignore[misc]
    assert all_requests(sqlite_engine, since=NOW)[0].dagster_run_id == "run-2"


def test_two_open_ones_of_an_agent_cannot_be(engine: Engine) -> None:
    """Two that decide at once, in spite of every lock."""
    asked(engine)
    with pytest.raises(IntegrityError), transaction(engine) as session:
        new_request(session, signal(), NOW)


def test_tags_say_why(sqlite_engine: Engine) -> None:
    """Run, MLflow run and model card know another cause than the decision, or break on its evidence."""
    request = asked(sqlite_engine)
    tags = request.tags()
    assert tags[RETRAINING_TAG] == "execution"
    assert TriggerReason.from_tags(tags) == TriggerReason(
        trigger_type="drift",
        reason="because of drift 1",
        evidence={"drift_score": 0.41},
        request="retrain-execution-1",
    )
    with transaction(sqlite_engine) as session:
        long = new_request(session, signal("manual", number=2).__class__(
            id=9, agent="generation", kind="manual", dedupe_key="k", reason="x" * 4000, evidence={}, raised_at=NOW,
            expires_at=NOW,
        ), NOW)  # fmt: skip
    assert TriggerReason.from_tags(long.tags()).reason == "x" * 480


def test_how_many_end_well(sqlite_engine: Engine) -> None:
    """A rate of 100 % before anything has ended, or one that counts what people stopped."""
    assert success_rate([]) is None
    for number, status in enumerate(("succeeded", "failed", "canceled", "succeeded", "started")):
        at = NOW + hours(24 * number)
        asked(sqlite_engine, key=str(number), at=at)
        reconcile(sqlite_engine, lambda _, end=status: SeenRun("r", end), at + hours(1))  # type: ignore[misc, arg-type]
    requests = all_requests(sqlite_engine, since=NOW)
    assert [one.status for one in requests] == ["started", "succeeded", "canceled", "failed", "succeeded"]
    assert success_rate(requests) == pytest.approx(2 / 3)
    assert len(all_requests(sqlite_engine, since=NOW + hours(24))) == 4
    assert all_requests(sqlite_engine, since=NOW, agent="generation") == []
