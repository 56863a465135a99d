"""Votes under tokens that are not valid, for the audit trail: a burst of them is one event at once, and one every ten seconds.

A forged request costs no write of its own, so that nobody can fill the trail, nor hold up the database; none is lost as long
as the process lives, and its regular end writes the rest.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Engine

from mlops_assets.foundation.database import transaction
from mlops_assets.governance.approval_events import MODEL_WIDTH, VERSION_WIDTH, audit_refusal, clean
from mlops_assets.governance.approval_state import ApprovalRefusedError

SUMMARY_MS = 10_000.0
# Addresses and versions that a summary names; it says how many others there were.
_NAMED = 20
_WIDTH = 200


@dataclass
class _Tries:
    """What was counted since the last event; of addresses and versions the first are kept, with how often others came."""

    count: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    addresses: dict[str, int] = field(default_factory=dict)
    asked: dict[tuple[str, str], int] = field(default_factory=dict)
    other_addresses: int = 0
    other_versions: int = 0

    def add(self, model_name: str, version: str, address: str, now: datetime) -> None:
        self.count += 1
        self.first_at = self.first_at or now
        self.last_at = now
        address = clean(address, _WIDTH)
        asked = clean(model_name, MODEL_WIDTH), clean(version, VERSION_WIDTH)
        if address in self.addresses or len(self.addresses) < _NAMED:
            self.addresses[address] = self.addresses.get(address, 0) + 1
        else:
            self.other_addresses += 1
        if asked in self.asked or len(self.asked) < _NAMED:
            self.asked[asked] = self.asked.get(asked, 0) + 1
        else:
            self.other_versions += 1

    def details(self) -> dict[str, object]:
        return {
            "channel": "http",
            "tries": self.count,
            "first_at": None if self.first_at is None else self.first_at.isoformat(),
            "last_at": None if self.last_at is None else self.last_at.isoformat(),
            "addresses": self.addresses,
            "tries_from_other_addresses": self.other_addresses,
            "asked": {f"{model_name} {version}": count for (model_name, version), count in self.asked.items()},
            "tries_on_other_versions": self.other_versions,
        }


class ForgedVotes:
    """Counts them in one process; `now` gives the time of a try."""

    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now
        self._counting, self._writing = threading.Lock(), threading.Lock()
        self._tries = _Tries()
        self._burst = False

    def add(self, model_name: str, version: str, address: str) -> bool:
        """Count a try; True when it is the first of a burst, which is to be written now (`write`)."""
        with self._counting:
            self._tries.add(model_name, version, address, self._now())
            first, self._burst = not self._burst, True
            return first

    def write(self) -> None:
        """Write one event of what was counted since the last one; without any, the burst is over.

        Raises:
            StorageError, SQLAlchemyError: the database did not take it; it is in the next one.
        """
        with self._writing:
            with self._counting:
                tries, self._tries = self._tries, _Tries()
                self._burst = tries.count > 0
            if not tries.count:
                return
            try:
                self._store(tries)
            except BaseException:
                with self._counting:
                    self._tries = _merged(tries, self._tries)
                raise

    def _store(self, tries: _Tries) -> None:
        model_name, version = next(iter(tries.asked))
        refusal = ApprovalRefusedError("forged_token", "the token is unknown, expired or revoked")
        with transaction(self._engine) as session:
            audit_refusal(session, model_name, version, "unknown", refusal, tries.details(), self._now())


def _merged(older: _Tries, newer: _Tries) -> _Tries:
    """What could not be written, and what came meanwhile."""
    older.count += newer.count
    older.last_at = newer.last_at or older.last_at
    older.other_addresses += newer.other_addresses
    older.other_versions += newer.other_versions
    for address, count in newer.addresses.items():
        if address in older.addresses or len(older.addresses) < _NAMED:
            older.addresses[address] = older.addresses.get(address, 0) + count
        else:
            older.other_addresses += count
    for asked, count in newer.asked.items():
        if asked in older.asked or len(older.asked) < _NAMED:
            older.asked[asked] = older.asked.get(asked, 0) + count
        else:
            older.other_versions += count
    return older
