"""A burst of forged votes: all of them counted, few events, nothing lost while the database is away."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, event, select

from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import StorageError
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.serving.forged_votes import ForgedVotes

NOW = datetime(2026, 3, 9, tzinfo=UTC)
MODEL = "execution-agent-dqn"


def events(engine: Engine) -> list[AuditEvent]:
    with read_transaction(engine) as session:
        assert verify_chain(session).intact
        return list(session.scalars(select(AuditEvent).order_by(AuditEvent.sequence)))


def test_five_hundred_at_once_are_two_events(engine: Engine) -> None:
    """One event a try fills the trail at the attacker's will; one event alone hides how many there were."""
    votes = ForgedVotes(engine, lambda: NOW)

    def forge(number: int) -> None:
        if votes.add(MODEL, f"1.{number % 30}.0", f"10.0.0.{number % 50}"):
            votes.write()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(forge, range(500)))
    assert len(events(engine)) == 1
    votes.write()
    found = events(engine)
    assert sum(one.details["tries"] for one in found) == 500
    assert {one.details["reason"] for one in found} == {"forged_token"}
    last = found[-1].details
    assert len(last["addresses"]) <= 20
    assert sum(last["addresses"].values()) + last["tries_from_other_addresses"] == last["tries"]
    assert sum(last["asked"].values()) + last["tries_on_other_versions"] == last["tries"]
    assert (last["first_at"], last["last_at"]) == (NOW.isoformat(), NOW.isoformat())


def test_a_quiet_while_ends_the_burst(engine: Engine) -> None:
    """The next attack would be noticed ten seconds late, or every try of a slow one be written."""
    votes = ForgedVotes(engine, lambda: NOW)
    assert [votes.add(MODEL, "1.0.0", "a"), votes.add(MODEL, "1.0.0", "a")] == [True, False]
    votes.write()
    assert not votes.add(MODEL, "1.0.0", "a")
    votes.write()
    votes.write()
    assert votes.add(MODEL, "1.0.0", "a")
    assert [one.details["tries"] for one in events(engine)] == [2, 1]


def test_what_cannot_be_written_is_in_the_next_event(sqlite_engine: Engine) -> None:
    """An attacker who also slows the database down would leave no trace."""
    votes = ForgedVotes(sqlite_engine, lambda: NOW)
    votes.add(MODEL, "1.0.0", "a")

    def refuse(*_: object) -> None:
        raise StorageError("no space left")

    event.listen(sqlite_engine, "before_cursor_execute", refuse)
    with pytest.raises(StorageError, match="no space left"):
        votes.write()
    event.remove(sqlite_engine, "before_cursor_execute", refuse)
    assert not votes.add("\x00" * 5000, "\ud800", "b" * 9000)
    votes.write()
    (found,) = events(sqlite_engine)
    assert found.details["tries"] == 2
    assert found.model_name == MODEL
    assert set(found.details["addresses"]) == {"a", "b" * 200}
