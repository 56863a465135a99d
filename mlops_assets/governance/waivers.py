"""Waivers: a check that a model may miss, why, who decided so, and until when. What one changes is in `policy.py`."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, select

from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.foundation.tables import WaiverRecord
from mlops_assets.governance.approval_state import canonical
from mlops_assets.governance.evidence import spec_of
from mlops_assets.governance.policy import waivable

GRANTED, REVOKED = "waiver_granted", "waiver_revoked"
_MAX_REASON = 2000


@dataclass(frozen=True)
class Waiver:
    """One waiver; it holds from `granted_at` to before `ends_at`."""

    id: int
    model_name: str
    check_name: str
    reason: str
    granted_by: str
    granted_at: datetime
    ends_at: datetime
    revoked_at: datetime | None

    def __str__(self) -> str:
        """Say who decided, until when and why."""
        return f"{self.granted_by} until {self.ends_at:%Y-%m-%d}: {self.reason}"

    def holds(self, now: datetime) -> bool:
        """Tell whether it counts at `now`."""
        return self.granted_at <= now < self.ends_at and (self.revoked_at is None or now < self.revoked_at)


def grant_waiver(
    engine: Engine,
    profile: PolicyProfile,
    *,
    model_name: str,
    check_name: str,
    days: float,
    user: str,
    reason: str,
    now: datetime,
) -> Waiver:
    """Let versions of a model miss one check for some days; only a required approver may decide that.

    Raises:
        InputError: no such model or check, the security scan, no reason, nobody who may, or no number of days.
    """
    spec_of(model_name)
    if not waivable(check_name, profile.evaluation):
        raise InputError(
            f"{check_name!r} cannot be waived; checks are named in a decision's reasons, such as "
            "governance_latency_p95_ms, and findings of the security scan always count"
        )
    approvers = profile.governance.required_approvers_high_risk
    if canonical(user) not in {canonical(person) for person in approvers}:
        raise InputError(f"{user!r} may not grant waivers; required approvers may: {', '.join(approvers)}")
    reason = reason.replace("\x00", "").strip()[:_MAX_REASON]
    if not reason:
        raise InputError("a waiver needs a reason: say why the check does not count")
    try:
        ends_at = now + timedelta(days=days)
    except (OverflowError, ValueError):
        ends_at = now
    if ends_at <= now:
        raise InputError(f"a waiver of {days} days does not end after now; give a number of days, more than 0")
    record = WaiverRecord(
        model_name=model_name,
        check_name=check_name,
        reason=reason,
        granted_by=canonical(user),
        granted_at=now,
        ends_at=ends_at,
    )
    with transaction(engine) as session:
        session.add(record)
        session.flush()
        append_event(
            session,
            event_type=GRANTED,
            model_name=model_name,
            version="",
            user=canonical(user),
            details={"waiver": record.id, "check": check_name, "reason": reason, "ends_at": ends_at},
            now=now,
        )
        return _waiver(record)


def revoke_waiver(engine: Engine, number: int, *, user: str, now: datetime) -> Waiver:
    """End a waiver now; one that has ended stays as it is.

    Raises:
        InputError: no such waiver.
    """
    with transaction(engine) as session:
        record = session.get(WaiverRecord, number, with_for_update=True)
        if record is None:
            raise InputError(f"there is no waiver {number}; `waivers` lists them")
        if _waiver(record).holds(now):
            record.revoked_at = now
            append_event(
                session,
                event_type=REVOKED,
                model_name=record.model_name,
                version="",
                user=user,
                details={"waiver": number, "check": record.check_name},
                now=now,
            )
        return _waiver(record)


def all_waivers(engine: Engine, model_name: str | None = None) -> list[Waiver]:
    """Return every waiver, ended ones too, the newest first."""
    query = select(WaiverRecord).order_by(WaiverRecord.id.desc())
    if model_name is not None:
        query = query.where(WaiverRecord.model_name == model_name)
    with read_transaction(engine) as session:
        return [_waiver(record) for record in session.scalars(query)]


def waivers_at(engine: Engine, model_name: str, now: datetime) -> list[Waiver]:
    """Return the waivers of a model that hold at `now`."""
    return [waiver for waiver in all_waivers(engine, model_name) if waiver.holds(now)]


def _waiver(record: WaiverRecord) -> Waiver:
    return Waiver(**{name: getattr(record, name) for name in Waiver.__dataclass_fields__})
