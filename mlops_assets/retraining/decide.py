"""Whether an agent is trained again now, on which of its triggers, and if not, on what account. Pure: no database, no clock.

What stands in the way is one of two kinds. Locks hold everything: a training in flight, a rollout, the day's budget, and
the shortest time between two trainings, which only a person may override. Holds are a trigger's own: it may wait for an
off-peak window, wants a person, or has shown no harm. A trigger that is held stays until it is answered, or given up.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from mlops_assets.foundation.policies import RetrainingPolicy
from mlops_assets.foundation.trigger import TriggerType
from mlops_assets.retraining.off_peak import may_wait, next_opening
from mlops_assets.retraining.signals import Settled, Signal

Suppressor = Literal[
    "in_flight",
    "rollout",
    "max_per_day",
    "min_hours",
    "off_peak",
    "confirmation",
    "new_samples",
    "loss_unknown",
    "no_loss_shown",
]
Verdict = Literal["retrain", "suppressed", "idle"]
# Which trigger a run is named after, where several are answered by it.
_PRECEDENCE: tuple[TriggerType, ...] = (
    "manual",
    "accuracy_drop",
    "error_rate",
    "drift",
    "file_arrival",
    "volume",
    "staleness",
    "schedule",
)
# What these ask for, a training of late, a run has given also when it began before them.
_REGULAR: tuple[TriggerType, ...] = ("schedule", "staleness", "volume")
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Loss:
    """Reward that is lost a day by what has changed, estimated at `at`, with the bounds of its interval."""

    low: float
    estimate: float
    high: float
    at: datetime


@dataclass(frozen=True)
class History:
    """What is known of an agent. None: not known, or none.

    `in_flight`: the training under way, in words; `rollout`: the name of the one under way. `requested_at`: when trainings
    were asked for, of the last day at least, and the newest. `succeeded_at`: end of the newest successful one. `champion`:
    version that answers users. `loss`: newest estimate for it.
    """

    in_flight: str | None = None
    rollout: str | None = None
    requested_at: tuple[datetime, ...] = ()
    succeeded_at: datetime | None = None
    champion: str | None = None
    loss: Loss | None = None

    def document(self) -> dict[str, Any]:
        """Return it as JSON values, as evaluations hold it."""
        newest = max(self.requested_at, default=None)
        return {
            "in_flight": self.in_flight,
            "rollout": self.rollout,
            "last_requested_at": None if newest is None else newest.isoformat(),
            "champion": self.champion,
            "loss_per_day": None
            if self.loss is None
            else {"low": self.loss.low, "estimate": self.loss.estimate, "high": self.loss.high},
        }


@dataclass(frozen=True)
class Decision:
    """What comes of an agent's triggers.

    `primary`: the trigger that the run is named after. `answered_by_run`: ids of all that the run answers. `settled`: ids
    of those that end without one. `waiting`: those that the decision is about.
    """

    verdict: Verdict
    reason: str
    suppressed_by: tuple[Suppressor, ...] = ()
    primary: Signal | None = None
    waiting: tuple[Signal, ...] = ()
    settled: Mapping[Settled, tuple[int, ...]] | None = None

    @property
    def answered_by_run(self) -> tuple[int, ...]:
        """Every trigger that waits, also those that might have waited longer: a training answers them all."""
        return tuple(one.id for one in self.waiting) if self.verdict == "retrain" else ()


def decide(signals: Sequence[Signal], history: History, policy: RetrainingPolicy, now: datetime) -> Decision:
    """Decide on the triggers of one agent that are not settled.

    Args:
        signals: triggers that wait.
        history: what is known of the agent.
        policy: limits.
        now: time.
    """
    settled = _over(signals, history, now)
    gone = {one for ids in settled.values() for one in ids}
    live = tuple(one for one in signals if one.id not in gone)
    if not live:
        return Decision("idle", _idle(settled), settled=settled)
    holds = {one.id: _holds(one, live, history, policy, now) for one in live}
    ready = [one for one in live if not holds[one.id]]
    locks = _locks(ready or live, history, policy, now)
    if locks or not ready:
        # Of each suppressor one sentence, also of several at once: who mends one finds out about the next.
        words = {**locks, **{name: text for one in live for name, text in holds[one.id].items()}}
        reason = f"{_summary(live)}; held: {'; '.join(f'{name}: {text}' for name, text in words.items())}"
        return Decision("suppressed", reason, tuple(words), waiting=live, settled=settled)
    primary = min(ready, key=lambda one: (_PRECEDENCE.index(one.kind), not one.override, one.id))
    others = len(live) - 1
    also = f"; answers {others} more: {_kinds([one for one in live if one != primary])}" if others else ""
    override = _overridden(ready, history, policy, now)
    return Decision("retrain", f"{primary}{also}{override}", primary=primary, waiting=live, settled=settled)


def loss_pays(loss: Loss, policy: RetrainingPolicy) -> bool:
    """Tell whether what is certainly lost exceeds what a training costs (both in reward)."""
    return loss.low * policy.payback_days > policy.training_cost


def _over(signals: Sequence[Signal], history: History, now: datetime) -> dict[Settled, tuple[int, ...]]:
    """Triggers that end without a training: too old, about a version that nobody gets any more, or answered already."""
    ends: dict[Settled, list[int]] = {"answered": [], "superseded": [], "expired": []}
    for one in signals:
        version = one.evidence.get("model_version")
        if one.kind in _REGULAR and history.succeeded_at is not None and one.raised_at <= history.succeeded_at:
            ends["answered"].append(one.id)
        elif version is not None and history.champion is not None and version != history.champion:
            ends["superseded"].append(one.id)
        elif now >= one.expires_at:
            ends["expired"].append(one.id)
    return {how: tuple(ids) for how, ids in ends.items() if ids}


def _locks(ready: Sequence[Signal], history: History, policy: RetrainingPolicy, now: datetime) -> dict[Suppressor, str]:
    locks: dict[Suppressor, str] = {}
    if history.in_flight is not None:
        locks["in_flight"] = history.in_flight
    if history.rollout is not None:
        locks["rollout"] = f"{history.rollout} is under way, and only one candidate comes to users at a time"
    lately = [at for at in history.requested_at if now - at < _DAY]
    if len(lately) >= policy.max_per_day:
        locks["max_per_day"] = (
            f"{len(lately)} trainings were asked for in the last 24 h, of {policy.max_per_day} allowed; the next may begin "
            f"{sorted(lately)[-policy.max_per_day] + _DAY:%Y-%m-%d %H:%M} UTC"
        )
    free = _free_again(history, policy)
    if free is not None and now < free and not any(one.override for one in ready):
        locks["min_hours"] = (
            f"the last training was asked for less than {policy.min_hours_between:g} h ago; the next may begin "
            f"{free:%Y-%m-%d %H:%M} UTC"
        )
    return locks


def _free_again(history: History, policy: RetrainingPolicy) -> datetime | None:
    newest = max(history.requested_at, default=None)
    return None if newest is None else newest + timedelta(hours=policy.min_hours_between)


def _overridden(ready: Sequence[Signal], history: History, policy: RetrainingPolicy, now: datetime) -> str:
    free = _free_again(history, policy)
    if free is None or now >= free:
        return ""
    users = ", ".join(sorted({one.user or "" for one in ready if one.override}))
    return f"; {users} overrides the {policy.min_hours_between:g} h between trainings"


def _holds(
    one: Signal, live: Sequence[Signal], history: History, policy: RetrainingPolicy, now: datetime
) -> dict[Suppressor, str]:
    """What holds this trigger alone; a person's is held by nothing."""
    if not one.automatic:
        return {}
    holds: dict[Suppressor, str] = {}
    if policy.require_confirmation and one.evidence.get("psi_only"):
        holds["confirmation"] = (
            "only the inputs moved, accuracy is stable: a person confirms it by asking for a training"
        )
    if one.kind == "file_arrival":
        rows = [each.evidence.get("new_samples") for each in live if each.kind == "file_arrival"]
        counted = [float(each) for each in rows if each is not None]
        # A file whose rows cannot be counted may hold any number.
        if len(counted) == len(rows) and sum(counted) < policy.min_new_samples:
            holds["new_samples"] = (
                f"{sum(counted):,.0f} new samples in files, of {policy.min_new_samples:,} that are needed"
            )
    if policy.retrain_when == "hurts":
        holds.update(_harmless(history.loss, policy, now))
    if one.deadline is not None and may_wait(policy.off_peak, one.deadline, now):
        holds["off_peak"] = (
            f"due by {one.deadline:%Y-%m-%d %H:%M} UTC, waits for off-peak hours at "
            f"{next_opening(policy.off_peak, now):%Y-%m-%d %H:%M} UTC"
        )
    return holds


def _harmless(loss: Loss | None, policy: RetrainingPolicy, now: datetime) -> dict[Suppressor, str]:
    if loss is None or now - loss.at > timedelta(hours=policy.evidence_max_age_hours):
        return {
            "loss_unknown": f"what it costs users was not estimated in the last {policy.evidence_max_age_hours:g} h"
        }
    if loss_pays(loss, policy):
        return {}
    return {
        "no_loss_shown": (
            f"at least {loss.low:,.4g} of reward is lost a day (estimate {loss.estimate:,.4g}), which in "
            f"{policy.payback_days:g} days does not exceed the {policy.training_cost:,.4g} that a training costs"
        )
    }


def _summary(live: Sequence[Signal]) -> str:
    first = min(live, key=lambda one: (_PRECEDENCE.index(one.kind), one.id))
    count = "1 trigger waits" if len(live) == 1 else f"{len(live)} triggers wait ({_kinds(live)})"
    return f"{count}: {first}"


def _kinds(signals: Sequence[Signal]) -> str:
    counts = Counter(one.kind for one in signals)
    return ", ".join(f"{kind} {counts[kind]}" for kind in _PRECEDENCE if counts[kind])


def _idle(settled: Mapping[Settled, tuple[int, ...]]) -> str:
    ended = ", ".join(f"{len(ids)} {how}" for how, ids in settled.items())
    return f"no trigger waits{f'; ended without a training: {ended}' if ended else ''}"
