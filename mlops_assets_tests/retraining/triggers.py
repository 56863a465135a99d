"""Makers of triggers, histories and policies for this room's tests."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from mlops_assets.foundation.policies import RetrainingPolicy
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.trigger import TriggerType
from mlops_assets.retraining.signals import NewSignal, Signal

# A Wednesday, outside of the off-peak window of 02:00 to 04:00.
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
POLICY = load_profile("aiwebtest").retraining


def policy(**changes: Any) -> RetrainingPolicy:
    """The default policy, changed."""
    return POLICY.model_copy(update=changes)


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


def signal(
    kind: TriggerType = "drift",
    *,
    number: int = 1,
    raised: datetime = NOW,
    deadline: datetime | None = None,
    expires: datetime | None = None,
    evidence: Mapping[str, Any] | None = None,
    override: bool = False,
) -> Signal:
    """One trigger that waits."""
    return Signal(
        id=number,
        agent="execution",
        kind=kind,
        dedupe_key=f"{kind}:{number}",
        reason=f"because of {kind}",
        evidence=evidence or {},
        raised_at=raised,
        expires_at=expires or raised + hours(POLICY.signal_expiry_hours),
        deadline=deadline,
        user="ana@company.com" if kind == "manual" else None,
        override=override,
    )


def new_signal(agent: str = "execution", kind: TriggerType = "drift", key: str = "1", **changes: Any) -> NewSignal:
    """One trigger to be submitted."""
    return NewSignal(agent, kind, f"{kind}:{agent}:{key}", f"because of {kind} {key}", **changes)
