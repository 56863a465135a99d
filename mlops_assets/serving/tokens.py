"""Bearer tokens of the serving API: `python -m mlops_assets.serving.tokens create | revoke | list`.

A token's text is shown once, when it is made; the database holds its sha256. A slow, salted hash protects what people
choose; against 256 random bits there is nothing to guess, and the server looks a token up at every request. The text is
in no log, no error message and no audit event. Exit codes: 0 done, 2 refused (the reason goes to standard error).
"""

import argparse
import getpass
import hashlib
import math
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from sqlalchemy import Engine, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import create_operational_engine, read_transaction, transaction, upgrade
from mlops_assets.foundation.errors import InputError, MlopsError
from mlops_assets.foundation.settings import load_settings
from mlops_assets.foundation.tables import ApiTokenRecord

DONE, REFUSED = 0, 2
PREFIX: Final = "mlops_"
_RANDOM_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
# Audit events name a model and a version; those of tokens are about neither.
_NO_MODEL: Final = ""


@dataclass(frozen=True)
class ApiToken:
    """What the server knows of a caller by its token; `rate_per_second` None is the policy profile's rate."""

    name: str
    rate_per_second: float | None
    expires_at: datetime | None


@dataclass(frozen=True)
class ListedToken:
    """One token as the command shows it; neither its text nor its hash."""

    name: str
    rate_per_second: float | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def state(self, now: datetime) -> Literal["active", "expired", "revoked"]:
        """Return whether the token opens anything at `now`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


def token_hash(token: str) -> str:
    """Return the sha256 by which a token is stored and looked up, 64 hex digits."""
    return hashlib.sha256(token.encode()).hexdigest()


def create_token(
    engine: Engine,
    name: str,
    *,
    rate_per_second: float | None = None,
    expires_at: datetime | None = None,
    user: str,
    now: datetime,
) -> str:
    """Make a token and return its text, which nobody can read again.

    Args:
        engine: operational database.
        name: whose it is; a name is given once, so that logs and the audit trail stay unambiguous.
        rate_per_second: requests a second, instead of the policy profile's.
        expires_at: from when on it is refused; None is never.
        user: who answers for it.
        now: time of the change.

    Raises:
        InputError: the name is taken or unsuited, the rate is not positive, or the end lies in the past.
    """
    _check_name(name)
    if rate_per_second is not None and not (math.isfinite(rate_per_second) and rate_per_second > 0.0):
        raise InputError(f"rate {rate_per_second} is no rate; expected requests a second, more than 0")
    if expires_at is not None and expires_at <= now:
        raise InputError(
            f"the token would have expired at {expires_at.isoformat()}; expected a time after {now.isoformat()}"
        )
    token = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    record = ApiTokenRecord(
        name=name, token_hash=token_hash(token), rate_per_second=rate_per_second, created_at=now, expires_at=expires_at
    )
    try:
        with transaction(engine) as session:
            session.add(record)
            session.flush()
            details = {"rate_per_second": rate_per_second, "expires_at": expires_at}
            _audit(session, "api_token_created", name, user=user, now=now, **details)
    except IntegrityError:
        # Not chained: the driver's message holds the row that was refused.
        raise InputError(f"the name {name!r} is taken; choose another one, revoked tokens keep theirs") from None
    return token


def revoke_token(engine: Engine, name: str, *, user: str, now: datetime) -> bool:
    """End a token; servers refuse it once they have looked again (`registry_poll_ms` of the policy profile).

    Returns:
        False when it was revoked before, which changes nothing.

    Raises:
        InputError: no such token.
    """
    _check_name(name)
    with transaction(engine) as session:
        ended = session.execute(
            update(ApiTokenRecord)
            .where(ApiTokenRecord.name == name, ApiTokenRecord.revoked_at.is_(None))
            .values(revoked_at=now)
            .returning(ApiTokenRecord.name)
        ).one_or_none()
        if ended is not None:
            _audit(session, "api_token_revoked", name, user=user, now=now)
        elif session.get(ApiTokenRecord, name) is None:
            raise InputError(f"no token is named {name!r}; `list` shows all names")
    return ended is not None


def list_tokens(engine: Engine) -> tuple[ListedToken, ...]:
    """Return all tokens, also expired and revoked ones, by name."""
    with read_transaction(engine) as session:
        records = session.scalars(select(ApiTokenRecord).order_by(ApiTokenRecord.name)).all()
    return tuple(
        ListedToken(
            name=record.name,
            rate_per_second=record.rate_per_second,
            created_at=record.created_at,
            expires_at=record.expires_at,
            revoked_at=record.revoked_at,
        )
        for record in records
    )


def active_tokens(engine: Engine, now: datetime) -> Mapping[str, ApiToken]:
    """Return the tokens that are neither revoked nor expired at `now`, by the hash of their text."""
    query = select(ApiTokenRecord).where(
        ApiTokenRecord.revoked_at.is_(None),
        or_(ApiTokenRecord.expires_at.is_(None), ApiTokenRecord.expires_at > now),
    )
    with read_transaction(engine) as session:
        return {
            record.token_hash: ApiToken(record.name, record.rate_per_second, record.expires_at)
            for record in session.scalars(query)
        }


def bearer_token(engine: Engine, authorization: str | None, now: datetime) -> ApiToken | None:
    """Return the valid token of an `Authorization` header; None where it holds none.

    Raises:
        StorageError: the database does not answer.
    """
    scheme, _, text = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    return active_tokens(engine, now).get(token_hash(text.strip()))


def _check_name(name: str) -> None:
    """Refuse unsuited names; one that looks like a token's text is not repeated: it may be one."""
    if name.startswith(PREFIX):
        raise InputError(f"a token's name does not begin with {PREFIX!r}; give the name, not the text")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is no name for a token; expected 1 to 128 of the characters A-Z a-z 0-9 . _ @ -, "
            "the first one a letter or digit"
        )


def _audit(session: Session, event_type: str, name: str, *, user: str, now: datetime, **details: object) -> None:
    append_event(
        session,
        event_type=event_type,
        model_name=_NO_MODEL,
        version=_NO_MODEL,
        user=user,
        details={"token": name, **details},
        now=now,
    )


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        settings = load_settings(environ)
        engine = create_operational_engine(settings.database)
        try:
            upgrade(engine)
            return int(arguments.run(arguments, engine, SystemClock().now()))
        finally:
            engine.dispose()
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mlops_assets.serving.tokens", description=__doc__)
    commands = parser.add_subparsers(required=True)
    create = commands.add_parser("create", help="make a token and print its text, once")
    create.add_argument("--rate", type=float, help="requests a second; by default the policy profile's")
    create.add_argument("--expires-days", type=float, help="days until it is refused; by default never")
    create.set_defaults(run=_create)
    revoke = commands.add_parser("revoke", help="refuse a token from now on")
    revoke.set_defaults(run=_revoke)
    for command in (create, revoke):
        command.add_argument("name", metavar="NAME", help="whose token it is")
        command.add_argument("--user", help="who answers for it; by default the account that runs the command")
    commands.add_parser("list", help="show all tokens, without their texts").set_defaults(run=_list)
    return parser


def _user(arguments: argparse.Namespace) -> str:
    if arguments.user:
        return str(arguments.user)
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in /etc/passwd; OSError from Python 3.13 on
        raise InputError("this account has no name; give --user, who answers for the change") from None


def _create(arguments: argparse.Namespace, engine: Engine, now: datetime) -> int:
    expires_at = None if arguments.expires_days is None else _in_days(now, arguments.expires_days)
    token = create_token(
        engine,
        arguments.name,
        rate_per_second=arguments.rate,
        expires_at=expires_at,
        user=_user(arguments),
        now=now,
    )
    sys.stdout.write(f"{token}\n")
    sys.stderr.write("Keep it now: it is not shown again.\n")
    return DONE


def _in_days(now: datetime, days: float) -> datetime:
    try:
        return now + timedelta(days=days)
    except (OverflowError, ValueError):
        raise InputError(
            f"--expires-days {days}: expected a number of days, more than 0, that the calendar holds"
        ) from None


def _revoke(arguments: argparse.Namespace, engine: Engine, now: datetime) -> int:
    ended = revoke_token(engine, arguments.name, user=_user(arguments), now=now)
    sys.stdout.write(f"{arguments.name} {'is revoked' if ended else 'was revoked before'}\n")
    return DONE


def _list(_arguments: argparse.Namespace, engine: Engine, now: datetime) -> int:
    for token in list_tokens(engine):
        rate = "policy rate" if token.rate_per_second is None else f"{token.rate_per_second:g}/s"
        end = "never expires" if token.expires_at is None else f"expires {token.expires_at.isoformat()}"
        sys.stdout.write(f"{token.name}\t{token.state(now)}\t{rate}\t{end}\tcreated {token.created_at.isoformat()}\n")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
