"""Triggers in the database: stored once, settled, opened again."""

import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import InputError, SettingsError
from mlops_assets.retraining.signals import manual, regular_key, reopen, scheduled, settle, submit, waiting
from mlops_assets_tests.retraining.triggers import NOW, hours, new_signal


def test_a_key_is_stored_once(engine: Engine) -> None:
    """The same drift, seen every five minutes, becomes a training every six hours."""
    with transaction(engine) as session:
        assert submit(session, [new_signal(key="a"), new_signal(key="a"), new_signal(key="b")], NOW, 168.0) == 2
    with transaction(engine) as session:
        assert submit(session, [new_signal(key="b"), new_signal(key="c")], NOW + hours(1), 168.0) == 1
        found = waiting(session, "execution")
    assert [one.dedupe_key for one in found] == [f"drift:execution:{key}" for key in "abc"]
    assert [one.raised_at for one in found] == [NOW, NOW, NOW + hours(1)]
    assert found[0].expires_at == NOW + hours(168)


def test_what_was_given_comes_back(engine: Engine) -> None:
    """A deadline in another timezone, or a person's name that is gone."""
    given = new_signal(
        kind="manual", deadline=NOW + hours(24), user="ana@company.com", override=True, evidence={"drift_score": 0.41}
    )
    with transaction(engine) as session:
        submit(session, [given], NOW, 168.0)
        (found,) = waiting(session, "execution")
        assert waiting(session, "generation") == []
    assert (found.kind, found.reason, found.deadline) == ("manual", "because of manual 1", NOW + hours(24))
    assert (found.user, found.override, found.automatic) == ("ana@company.com", True, False)
    assert found.evidence == {"drift_score": 0.41}


def test_settled_and_opened_again(engine: Engine) -> None:
    """A training fails, and the drift that it was for is forgotten; or a person's request is repeated without him."""
    with transaction(engine) as session:
        submit(session, [new_signal(key=str(n)) for n in range(1200)], NOW, 168.0)
        submit(session, [new_signal(kind="manual", user="ana@company.com")], NOW, 168.0)
        settle(session, [one.id for one in waiting(session, "execution")], "retrain-execution-1", NOW)
        assert waiting(session, "execution") == []
        reopen(session, "retrain-execution-2")
        assert waiting(session, "execution") == []
        reopen(session, "retrain-execution-1")
        assert len(waiting(session, "execution")) == 1200
    # What was settled keeps its key: it is not raised a second time.
    with transaction(engine) as session:
        assert submit(session, [new_signal(key="7")], NOW, 168.0) == 0


def test_the_week_is_asked_for_once() -> None:
    """The weekly schedule and `no more than seven days` train twice on a Sunday."""
    sunday = NOW.replace(day=29, hour=2)
    assert scheduled("execution", sunday).dedupe_key == regular_key("execution", sunday) == "weekly:execution:2026-W48"
    assert regular_key("execution", sunday) == regular_key("execution", NOW)
    assert regular_key("execution", sunday + hours(24)) == "weekly:execution:2026-W49"
    assert regular_key("generation", sunday) != regular_key("execution", sunday)


@pytest.mark.parametrize(("reason", "user", "key"), [(" ", "a@b.c", "1"), ("why", " ", "1"), ("why", "a@b.c", "")])
def test_nobody_asks_for_nothing(reason: str, user: str, key: str) -> None:
    """The launchpad opens with empty fields, and somebody launches them."""
    with pytest.raises(InputError, match="needs who asks for it, a reason and a key"):
        manual("execution", reason=reason, user=user, override=False, key=key)


def test_unknown_agents_and_endless_keys(sqlite_engine: Engine) -> None:
    """A trigger that no sensor ever looks at, or one that PostgreSQL alone refuses."""
    with pytest.raises(SettingsError, match="executions"):
        manual("executions", reason="why", user="a@b.c", override=False, key="1")
    with pytest.raises(InputError, match="use at most 200"), transaction(sqlite_engine) as session:
        submit(session, [new_signal(key="x" * 200)], NOW, 168.0)
    with read_transaction(sqlite_engine) as session:
        assert waiting(session, "execution") == []
