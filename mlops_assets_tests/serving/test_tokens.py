"""API tokens: made, found, ended, audited; their text is nowhere but in the one answer."""

import io
import logging
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text

from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.tables import ApiTokenRecord, AuditEvent
from mlops_assets.serving.tokens import (
    DONE,
    REFUSED,
    ApiToken,
    active_tokens,
    create_token,
    list_tokens,
    main,
    revoke_token,
    token_hash,
)

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
TOKEN = re.compile(r"mlops_[A-Za-z0-9_-]{43}")


def _events(engine: Engine) -> list[AuditEvent]:
    with read_transaction(engine) as session:
        assert verify_chain(session).intact
        return list(session.scalars(select(AuditEvent).order_by(AuditEvent.sequence)))


def _everything(engine: Engine) -> str:
    """All rows of the tables that a token touches, as text."""
    with engine.connect() as connection:
        rows = [connection.execute(text(f"SELECT * FROM {name}")).all() for name in ("api_token", "audit_event")]
    return repr(rows)


def test_a_token_is_found_by_its_hash_and_stored_as_nothing_else(engine: Engine) -> None:
    """A database that leaks would hand out the keys of the API."""
    token = create_token(engine, "ci", rate_per_second=20.0, user="qa-lead", now=NOW)
    assert TOKEN.fullmatch(token)
    assert active_tokens(engine, NOW) == {token_hash(token): ApiToken("ci", 20.0, None)}
    with read_transaction(engine) as session:
        assert session.get_one(ApiTokenRecord, "ci").token_hash == token_hash(token)
    assert token not in _everything(engine)
    assert token.removeprefix("mlops_") not in _everything(engine)


def test_tokens_differ(sqlite_engine: Engine) -> None:
    """A token made of a name or a time could be guessed."""
    made = {create_token(sqlite_engine, f"ci-{n}", user="qa-lead", now=NOW) for n in range(20)}
    assert len(made) == 20
    assert len({token[6:10] for token in made}) > 15


def test_an_expired_token_is_active_up_to_its_end(engine: Engine) -> None:
    """A token for a week would open the API for ever, or not at all."""
    end = NOW + timedelta(days=7)
    token = create_token(engine, "week", expires_at=end, user="qa-lead", now=NOW)
    assert active_tokens(engine, end - timedelta(microseconds=1)) == {token_hash(token): ApiToken("week", None, end)}
    assert active_tokens(engine, end) == {}
    assert [listed.state(end) for listed in list_tokens(engine)] == ["expired"]


def test_revoking_ends_a_token_once(engine: Engine) -> None:
    """A lost token would stay valid, or every repeated command would write another audit event."""
    create_token(engine, "lost", user="qa-lead", now=NOW)
    kept = create_token(engine, "kept", user="qa-lead", now=NOW)
    later = NOW + timedelta(hours=1)
    assert revoke_token(engine, "lost", user="on-call", now=later) is True
    assert revoke_token(engine, "lost", user="on-call", now=later + timedelta(hours=1)) is False
    assert set(active_tokens(engine, later)) == {token_hash(kept)}
    listed = {token.name: token for token in list_tokens(engine)}
    assert (listed["lost"].state(later), listed["lost"].revoked_at) == ("revoked", later)
    assert [event.event_type for event in _events(engine)] == ["api_token_created"] * 2 + ["api_token_revoked"]


def test_every_change_names_who_answers_for_it(engine: Engine) -> None:
    """Nobody could tell who let a caller in, and on what terms."""
    create_token(engine, "ci", rate_per_second=5.0, expires_at=NOW + timedelta(days=1), user="qa-lead", now=NOW)
    revoke_token(engine, "ci", user="on-call", now=NOW)
    created, revoked = _events(engine)
    assert (created.user, revoked.user) == ("qa-lead", "on-call")
    assert created.details["token"] == revoked.details["token"] == "ci"
    assert created.details["rate_per_second"] == 5.0
    assert "2026-01-06" in created.details["expires_at"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "no name for a token"),
        ({"name": "two\nlines"}, "no name for a token"),
        ({"name": "n" * 129}, "no name for a token"),
        ({"rate_per_second": 0.0}, "more than 0"),
        ({"rate_per_second": -1.0}, "more than 0"),
        ({"rate_per_second": float("nan")}, "more than 0"),
        ({"rate_per_second": float("inf")}, "more than 0"),
        ({"expires_at": NOW}, "expected a time after"),
    ],
)
def test_bad_tokens_are_refused_and_nothing_is_written(
    engine: Engine, arguments: dict[str, object], message: str
) -> None:
    """A rate of zero locks a caller out, a name with a line break forges a line of the log."""
    values: dict[str, object] = {"name": "ci", **arguments}
    with pytest.raises(InputError, match=message):
        create_token(engine, user="qa-lead", now=NOW, **values)  # type: ignore[arg-type]
    assert list_tokens(engine) == ()
    assert _events(engine) == []


def test_a_name_is_given_once_even_after_its_token_was_revoked(engine: Engine) -> None:
    """Two tokens of one name cannot be told apart in the log, and the driver's message would quote the new row."""
    create_token(engine, "ci", user="qa-lead", now=NOW)
    revoke_token(engine, "ci", user="qa-lead", now=NOW)
    with pytest.raises(InputError, match="'ci' is taken") as refused:
        create_token(engine, "ci", user="qa-lead", now=NOW)
    assert refused.value.__suppress_context__
    assert len(_events(engine)) == 2


def test_revoking_an_unknown_name_says_so(engine: Engine) -> None:
    """A typing error would look like a revoked token."""
    with pytest.raises(InputError, match="'cj'"):
        revoke_token(engine, "cj", user="qa-lead", now=NOW)


def test_a_text_given_as_a_name_is_not_repeated(engine: Engine) -> None:
    """Who pastes the token where its name belongs would find it in the terminal's log."""
    token = create_token(engine, "ci", user="qa-lead", now=NOW)
    for attempt in (
        lambda: revoke_token(engine, token, user="qa-lead", now=NOW),
        lambda: create_token(engine, token, user="qa-lead", now=NOW),
    ):
        with pytest.raises(InputError) as refused:
            attempt()
        assert token[6:] not in str(refused.value)


def test_the_text_is_in_no_log(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """The audit log goes to a file that more people may read than may call the API."""
    with caplog.at_level(logging.DEBUG):
        token = create_token(engine, "ci", user="qa-lead", now=NOW)
        revoke_token(engine, "ci", user="qa-lead", now=NOW)
    assert "api_token_created" in caplog.text
    assert token[6:] not in caplog.text


def run(home: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments, {"MLOPS_HOME": str(home)})
    return code, out.getvalue(), err.getvalue()


def test_the_command_prints_the_text_once(tmp_path: Path) -> None:
    """The text would be on the screen of everybody who lists tokens."""
    code, out, _ = run(tmp_path, "create", "ci", "--rate", "20", "--expires-days", "30", "--user", "qa-lead")
    assert code == DONE
    assert TOKEN.fullmatch(out.strip())
    code, listed, _ = run(tmp_path, "list")
    assert code == DONE
    assert listed.split("\t")[:3] == ["ci", "active", "20/s"]
    assert out.strip() not in listed
    assert token_hash(out.strip()) not in listed
    assert run(tmp_path, "revoke", "ci", "--user", "qa-lead")[:2] == (DONE, "ci is revoked\n")
    assert run(tmp_path, "revoke", "ci")[:2] == (DONE, "ci was revoked before\n")
    assert run(tmp_path, "list")[1].split("\t")[:2] == ["ci", "revoked"]


@pytest.mark.parametrize("days", ["0", "-1", "nan", "1e300"])
def test_the_command_refuses_an_end_that_is_none(tmp_path: Path, days: str) -> None:
    """A traceback, or a token that never ends, for a slip of the keyboard."""
    code, out, err = run(tmp_path, "create", "ci", f"--expires-days={days}")
    assert (code, out) == (REFUSED, "")
    assert err.count("\n") == 1


def test_the_command_runs_as_a_program(tmp_path: Path) -> None:
    """The documented line would fail on an import that the tests have done before."""
    result = subprocess.run(
        [sys.executable, "-m", "mlops_assets.serving.tokens", "create", "ci", "--user", "qa-lead"],
        env={"PATH": os.environ["PATH"], "MLOPS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert TOKEN.fullmatch(result.stdout.strip())
