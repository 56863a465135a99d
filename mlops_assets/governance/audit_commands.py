"""`python -m mlops_assets.governance.commands audit …`: verify, export, replay, and ask the audit trail."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from mlops_assets.foundation.audit import AuditVerdict, champion_event_at, export_lines, verify_chain, verify_lines
from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import canonical_json
from mlops_assets.foundation.settings import Settings
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.governance.approval_events import APPROVED
from mlops_assets.governance.evidence import spec_of
from mlops_assets.governance.replay import LiveState, differences, live_state, replayed_state
from mlops_assets.registry.model_registry import ModelRegistry

HOLDS, BROKEN = 0, 1


def add_audit_commands(parser: argparse.ArgumentParser) -> None:
    """Add the commands below `audit`."""
    commands = parser.add_subparsers(required=True)
    verify = commands.add_parser("verify", help="recompute every hash, and name the first event that does not fit")
    verify.add_argument("--file", type=Path, help="an exported trail; no database is opened")
    verify.add_argument("--head", help="hash of an event that has to be there, as an earlier verify printed it")
    verify.set_defaults(run=_verify)
    export = commands.add_parser("export", help="print the trail, one event a line, for verify --file")
    export.set_defaults(run=_export)
    rebuilt = commands.add_parser(
        "replay", help="rebuild the live state from the trail, and compare it with the stores"
    )
    rebuilt.set_defaults(run=_replay)
    champion = commands.add_parser("champion", help="who was champion at a time, and who put it there")
    champion.add_argument("--model", required=True, help="registered model")
    champion.add_argument("--at", help="ISO 8601 with its offset, such as 2026-03-01T12:00:00Z; by default now")
    champion.set_defaults(run=_champion)
    events = commands.add_parser("events", help="print the newest events, the last one last")
    events.add_argument("--model", help="of one registered model")
    events.add_argument("--type", help="of one kind, such as approval_refused")
    events.add_argument("--last", type=int, default=20, help="how many")
    events.set_defaults(run=_events)


def _verify(arguments: argparse.Namespace, _settings: Settings, engine: Engine) -> int:
    if arguments.file is None:
        with read_transaction(engine) as session:
            verdict = verify_chain(session, head=arguments.head)
    else:
        try:
            content = arguments.file.read_bytes()
        except OSError as error:
            raise InputError(f"{arguments.file}: {error.strerror}; give a file that `audit export` wrote") from error
        verdict = verify_lines(content, head=arguments.head)
    sys.stdout.write(f"{_verdict(verdict)}\n")
    return HOLDS if verdict.intact else BROKEN


def _verdict(verdict: AuditVerdict) -> str:
    if verdict.intact:
        return f"intact: {verdict.entries} events, head {verdict.head}"
    return f"broken at event {verdict.broken_at}: {verdict.reason}; {verdict.entries} events before it hold"


def _export(_arguments: argparse.Namespace, _settings: Settings, engine: Engine) -> int:
    with read_transaction(engine) as session:
        for line in export_lines(session):
            sys.stdout.write(f"{line}\n")
    return HOLDS


def _replay(_arguments: argparse.Namespace, settings: Settings, engine: Engine) -> int:
    with read_transaction(engine) as session:
        verdict = verify_chain(session)
    if not verdict.intact:
        sys.stdout.write(f"{_verdict(verdict)}\n")
        return BROKEN
    replayed = replayed_state(engine)
    found = differences(replayed, live_state(engine, ModelRegistry(settings.tracking_uri, engine, SystemClock())))
    sys.stdout.write(_state(replayed))
    sys.stdout.write("".join(f"differs: {line}\n" for line in found) or "the stores hold what the audit trail says\n")
    return BROKEN if found else HOLDS


def _state(state: LiveState) -> str:
    lines = []
    for name, model in sorted(state.models.items()):
        stages = ", ".join(f"{version} {stage}" for version, stage in model.stages.items())
        aliases = f"champion {model.champion or 'none'}, challenger {model.challenger or 'none'}"
        lines.append(f"{name}: {aliases}, previous {model.previous or 'none'}; {stages}\n")
    return "".join(lines)


def _champion(arguments: argparse.Namespace, _settings: Settings, engine: Engine) -> int:
    name = spec_of(arguments.model).registered_model
    at = SystemClock().now() if arguments.at is None else _instant(arguments.at)
    with read_transaction(engine) as session:
        event = champion_event_at(session, name, at)
        approved = None if event is None else _approval_before(session, event)
    when = at.isoformat()
    if event is None:
        sys.stdout.write(f"{name} had no champion at {when}\n")
        return HOLDS
    reason = event.details.get("reason", "")
    sys.stdout.write(
        f"{name} {event.version} was champion at {when}: {event.event_type} by {event.user} at "
        f"{event.occurred_at.isoformat()} (event {event.sequence}){f', {reason}' if reason else ''}\n"
    )
    if approved is not None:
        people = ", ".join(approved.details.get("approved_by", [])) or approved.user
        sys.stdout.write(f"approved by {people} at {approved.occurred_at.isoformat()} (event {approved.sequence})\n")
    return HOLDS


def _approval_before(session: Session, event: AuditEvent) -> AuditEvent | None:
    query = (
        select(AuditEvent)
        .where(
            AuditEvent.event_type == APPROVED,
            AuditEvent.model_name == event.model_name,
            AuditEvent.version == event.version,
            AuditEvent.sequence < event.sequence,
        )
        .order_by(AuditEvent.sequence.desc())
        .limit(1)
    )
    return session.scalars(query).one_or_none()


def _events(arguments: argparse.Namespace, _settings: Settings, engine: Engine) -> int:
    query = select(AuditEvent).order_by(AuditEvent.sequence.desc()).limit(max(0, arguments.last))
    if arguments.model is not None:
        query = query.where(AuditEvent.model_name == arguments.model)
    if arguments.type is not None:
        query = query.where(AuditEvent.event_type == arguments.type)
    with read_transaction(engine) as session:
        for event in reversed(session.scalars(query).all()):
            head = f"{event.sequence}\t{event.occurred_at.isoformat()}\t{event.event_type}"
            sys.stdout.write(
                f"{head}\t{event.model_name} {event.version}\t{event.user}\t{canonical_json(event.details)}\n"
            )
    return HOLDS


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"--at {text!r} is no time; write ISO 8601 such as 2026-03-01T12:00:00Z") from None
    if at.tzinfo is None:
        raise InputError(f"--at {text!r} has no offset; add Z for UTC")
    return at.astimezone(UTC)
