"""The offline verifier: whatever is done to an exported trail, the first event that does not fit is named."""

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from mlops_assets.foundation.audit import (
    GENESIS_HASH,
    AuditVerdict,
    append_event,
    export_lines,
    verify_chain,
    verify_lines,
)
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.files import canonical_json, digest
from mlops_assets_tests.mlflow_runs import NOW

LENGTH = 6


@cache
def exported() -> bytes:
    """A trail of six events, made as `append_event` makes them; the test below holds it against the database's."""
    lines, previous = [], GENESIS_HASH
    for number in range(1, LENGTH + 1):
        content = {
            "sequence": number,
            "event_type": "model_approved",
            "model_name": "execution-agent-dqn",
            "version": f"1.{number}.0",
            "user": "ml-lead@company.com",
            "timestamp": NOW,
            "details": {"comment": "größer \n ja", "accuracy": 0.9 + number / 1000, "tiny": -0.0, "request": number},
            "previous_hash": previous,
        }
        previous = digest(content)
        lines.append(canonical_json({**content, "hash": previous}) + "\n")
    return "".join(lines).encode()


def events() -> list[bytes]:
    return exported().splitlines(keepends=True)


def event_of(position: int) -> int:
    """Number of the event that a byte belongs to."""
    return 1 + exported()[:position].count(b"\n")


def head() -> str:
    return verify_lines(exported()).head


def test_the_export_is_what_the_database_holds(engine: Engine) -> None:
    """The file verifies, and is about something else."""
    with transaction(engine) as session:
        for number in range(1, LENGTH + 1):
            append_event(
                session,
                event_type="model_approved",
                model_name="execution-agent-dqn",
                version=f"1.{number}.0",
                user="ml-lead@company.com",
                details={"comment": "größer \n ja", "accuracy": 0.9 + number / 1000, "tiny": -0.0, "request": number},
                now=NOW,
            )
    with read_transaction(engine) as session:
        assert "".join(f"{line}\n" for line in export_lines(session)).encode() == exported()
        assert verify_chain(session) == verify_lines(exported())
        assert verify_chain(session, head=head()).intact
        cut = verify_chain(session, head="f" * 64)
    assert (cut.broken_at, cut.entries) == (LENGTH + 1, LENGTH)
    assert "was cut or replaced" in cut.reason


def test_an_empty_trail() -> None:
    """Nothing was done yet, which is not an incident, unless something is known to have been done."""
    assert verify_lines(b"") == AuditVerdict(0, None, "every event follows from the one before it", GENESIS_HASH)
    assert verify_lines(b"", head=head()).broken_at == 1


@given(st.integers(0, len(exported()) - 1), st.integers(1, 255))
def test_any_flipped_byte_is_named(position: int, change: int) -> None:
    """An edit that keeps the JSON readable, or that moves a line's end, goes unseen."""
    content = bytearray(exported())
    content[position] ^= change
    assert verify_lines(bytes(content)).broken_at == event_of(position)


@given(st.integers(0, LENGTH - 1))
def test_any_dropped_event_is_named(index: int) -> None:
    """A refused try, or the newest decision, is taken out of the trail."""
    left = b"".join(event for number, event in enumerate(events()) if number != index)
    assert verify_lines(left, head=head()).broken_at == index + 1
    assert verify_lines(left).intact == (index == LENGTH - 1)


@given(st.lists(st.integers(0, LENGTH - 1), min_size=2, max_size=2, unique=True))
def test_any_swapped_events_are_named(pair: list[int]) -> None:
    """Approval and promotion change places, so that the one seems to come before the other."""
    order = list(range(LENGTH))
    order[pair[0]], order[pair[1]] = order[pair[1]], order[pair[0]]
    assert verify_lines(b"".join(events()[number] for number in order)).broken_at == min(pair) + 1


@given(st.integers(0, LENGTH - 1), st.integers(0, LENGTH))
def test_any_repeated_event_is_named(index: int, at: int) -> None:
    """An event is told twice."""
    told = events()
    told.insert(at, told[index])
    assert verify_lines(b"".join(told)).broken_at == (at + 1 if at != index else at + 2)


@given(st.integers(1, len(exported()) - 1))
def test_a_file_that_was_cut_is_named(length: int) -> None:
    """A download that broke off verifies as a shorter trail."""
    found = verify_lines(exported()[:length], head=head())
    assert found.broken_at == event_of(length)


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(b'{"details"', b'{ "details"'),
        lambda line: line.replace(b"}\n", b',"more":1}\n'),
        lambda line: line.replace(b'"tiny":-0.0', b'"tiny":0.0'),
        lambda _: b"[]\n",
        lambda _: b"[" * 100_000 + b"\n",
        lambda _: b"\n",
    ],
)
def test_other_spellings_are_named(change: Callable[[bytes], bytes]) -> None:
    """Two files that say the same are told apart only to the byte; one that says more passes."""
    told = events()
    changed = change(told[2])
    assert changed != told[2]
    told[2] = changed
    assert verify_lines(b"".join(told)).broken_at == 3
