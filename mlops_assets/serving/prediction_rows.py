"""Rows of the prediction log: how they go into the operational database, once each, and how they travel as JSON."""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from mlops_assets.foundation.database import insert_missing
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.tables import Base, PredictionRecord, ShadowPredictionRecord

PREDICTION, SHADOW = "prediction", "shadow"
_TABLES: Mapping[str, type[Base]] = {PREDICTION: PredictionRecord, SHADOW: ShadowPredictionRecord}


def insert_predictions(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows of the table `prediction`; a prediction that is there already stays as it is."""
    insert_missing(session, PredictionRecord, rows)


def insert_entries(session: Session, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Insert (kind, row) entries of a journal into their tables."""
    for kind, table in _TABLES.items():
        insert_missing(session, table, [row for entry_kind, row in entries if entry_kind == kind])


def encode_entry(kind: str, row: Mapping[str, Any]) -> str:
    """Encode one entry as a line of JSON, ASCII only."""
    values = {name: _to_json(value) for name, value in row.items()}
    return json.dumps([kind, values], separators=(",", ":")) + "\n"


def decode_entry(line: str) -> tuple[str, dict[str, Any]]:
    """Decode a line that `encode_entry` made.

    Raises:
        InputError: it is something else.
    """
    try:
        kind, row = json.loads(line)
        row["event_time"] = datetime.fromisoformat(row["event_time"])
        if "state" in row:
            row["state"] = base64.b64decode(row["state"], validate=True)
            # A journal of before an upgrade does not have them, and rows of one insert have the same columns.
            row.setdefault("arms", None)
            row.setdefault("aa_arm", None)
        _TABLES[kind]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{line[:80]!r} is no entry of the prediction journal ({error})") from error
    return kind, row


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value
