"""The servers' guard: harm in errors and latency, found in answers as they come, and acted on by the same pure decision.

Every server process runs one; of those that have read the same answers, one writes. What it counts is each user's first
answer at the present traffic share. Answers that reach the database later than it reads are lost to it (those of a server
whose clock is behind another's, of a batch that took long, of a journal), not to the looks at users' outcomes, which are
the other half of the error budget.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, Row, and_, case, false, func, literal, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from mlops_assets.experiments.assignment import CONTROL, TREATMENT, chances
from mlops_assets.experiments.units import Unit
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.policies import RolloutPolicy
from mlops_assets.foundation.tables import PredictionRecord, RolloutWatch
from mlops_assets.rollout.advance import guard_decision
from mlops_assets.rollout.harm import Harm
from mlops_assets.rollout.ledger import SERVICE, NewStep, StaleRolloutError, append, newest_states, pinned_policy
from mlops_assets.rollout.limits import FAILED, slow_thresholds
from mlops_assets.rollout.state import RolloutState, after

# The log reaches the database some 100 ms after the answer.
_LAG_SECONDS = 0.5
# Answers that are read at a time: a server's other threads wait while they are judged.
_ROWS = 1_000
# Without answers at the present share, the cursor follows at a distance: what it has to pass (the whole shadow stage, at
# first) is read once, not at every poll.
_IDLE_SECONDS = 30.0
_NOTHING = Harm(names=("errors", "latency"), sliced=False)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Watch:
    """What was found in the answers up to `read_to` (None: nothing was read yet), after `version` writes."""

    version: int = 0
    read_to: datetime | None = None
    harm: Harm = _NOTHING


class RolloutGuard:
    """Watches every rollout that has users.

    Args:
        engine: operational database.
        live: the deployment's policy; a rollout goes by the one that it began with.
        served: time of decisions.
        clock: time of the ledger's steps.
        taken_back: called after a rollback by this guard, for what follows from it elsewhere; traffic follows by itself.
    """

    def __init__(
        self,
        engine: Engine,
        live: RolloutPolicy,
        *,
        served: Clock,
        clock: Clock,
        taken_back: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._live = live
        self._served = served
        self._clock = clock
        self._taken_back = taken_back
        self._policies: dict[str, RolloutPolicy] = {}

    def refresh(self) -> None:
        """Read what has come since the last time, and take back what is proven to harm.

        Raises:
            StorageError: the operational database does not answer; nothing was counted.
            Exception: whatever the first rollout that could not be watched met, after all others were.
        """
        states = [state for state in newest_states(self._engine) if state.active and state.share > 0.0]
        self._policies = {state.name: self._policies[state.name] for state in states if state.name in self._policies}
        problems: list[Exception] = []
        for state in states:
            try:
                policy = self._policy(state)
                self._judge(state, self._read(state, policy), policy)
            except Exception as error:  # noqa: BLE001 - what one rollout meets must not leave the others unwatched
                problems.append(error)
        if problems:
            raise problems[0]

    def _policy(self, state: RolloutState) -> RolloutPolicy:
        if state.name not in self._policies:
            self._policies[state.name] = pinned_policy(self._engine, state.name, self._live)
        return self._policies[state.name]

    def _read(self, state: RolloutState, policy: RolloutPolicy) -> Harm:
        until = self._served.now() - self._served.speed * timedelta(seconds=_LAG_SECONDS)
        idle = self._served.speed * timedelta(seconds=_IDLE_SECONDS)
        with read_transaction(self._engine) as session:
            watch = _watch_of(session, state.name)
            rows = _answers(session, state, watch.read_to, until)
            units = _units(session, state, rows, watch.read_to, policy) if rows else []
        if rows:
            read_to, harm = rows[-1].event_time, watch.harm.updated(units, policy, state.baseline)
        elif watch.read_to is None or until - watch.read_to > 2 * idle:
            read_to, harm = until - idle, watch.harm
        else:
            return watch.harm
        # Another server was faster: what it has found is read the next time.
        return harm if _write(self._engine, state.name, _Watch(watch.version + 1, read_to, harm)) else watch.harm

    def _judge(self, state: RolloutState, harm: Harm, policy: RolloutPolicy) -> None:
        decision = guard_decision(harm.log_e, harm.words(policy), policy)
        if decision is None:
            return
        now = self._clock.now()
        step = NewStep(
            kind="rolled_back",
            state=after(state, "rolled_back", now),
            reasons=decision.reasons,
            user=SERVICE,
            evidence={"guard": _numbers(harm)},
            expected=state.number,
        )
        try:
            append(self._engine, step, now)
        except StaleRolloutError as error:
            _log.info("the guard looks again: %s", error)
            return
        _log.critical("%s is taken back: %s", state.name, "; ".join(decision.reasons))
        self._taken_back()


def watched_harm(engine: Engine, rollout: str) -> Harm:
    """Return what the servers' guard has found so far."""
    with read_transaction(engine) as session:
        return _watch_of(session, rollout).harm


def _numbers(harm: Harm) -> dict[str, Any]:
    """What the ledger keeps of the evidence: users and, by limit, (users, sum of outcomes) of both arms."""
    tests = {
        name: {
            "log_e": test.log_e,
            "control": [test.control_users, test.control_sum],
            "treatment": [test.treatment_users, test.treatment_sum],
        }
        for name, test in harm.tests.items()
    }
    return {"users": harm.counted, "log_e_harm": harm.log_e, "tests": tests}


def _watch_of(session: Session, rollout: str) -> _Watch:
    record = session.get(RolloutWatch, rollout)
    if record is None:
        return _Watch()
    return _Watch(record.version, record.read_to, Harm.from_document(record.evidence))


def _answers(session: Session, state: RolloutState, begin: datetime | None, until: datetime) -> Sequence[Row[Any]]:
    """Answers at the present share, in their order; those of one moment are never parted, since the cursor is a time."""
    one = PredictionRecord
    query = (
        select(one.event_time, one.user_hash, one.variant, one.fallback, one.latency_ms)
        .where(
            one.experiment == state.name,
            one.event_time <= until,
            one.treatment_share == state.share,
            one.user_hash.is_not(None),
        )
        .order_by(one.event_time, one.prediction_id)
    )
    if begin is not None:
        query = query.where(one.event_time > begin)
    rows = session.execute(query.limit(_ROWS)).all()
    if len(rows) < _ROWS:
        return rows
    last = rows[-1].event_time
    return [row for row in rows if row.event_time < last] or session.execute(query.where(one.event_time == last)).all()


def _units(
    session: Session, state: RolloutState, rows: Sequence[Row[Any]], begin: datetime | None, policy: RolloutPolicy
) -> list[Unit]:
    """The users among the answers who are there for the first time at this share, with the chance that they were drawn by."""
    slow = {} if state.slow_ms is None else slow_thresholds(policy, state.slow_ms)
    first = {row.user_hash: row for row in reversed(rows)}
    known = _known(session, state, list(first), begin, rows[-1].event_time)
    drawn = {share: _chance(state.share, share) for share in {0.0, *(earlier.share for earlier in known.values())}}
    units = []
    for user in dict.fromkeys(row.user_hash for row in rows):
        earlier = known.get(user, _Earlier())
        chance = drawn[earlier.share]
        if earlier.here or earlier.treated or chance is None:
            continue
        row = first[user]
        outcomes = {
            FAILED: float(row.fallback == "failed"),
            **{metric: float(row.latency_ms > ms) for metric, ms in slow.items()},
        }
        units.append(Unit(0, row.variant != CONTROL, chance, outcomes, state.share))
    return units


def _chance(share: float, before: float) -> float | None:
    """With which probability a user is treated who was in the control while the share was up to `before`; None: with none."""
    return chances({TREATMENT: share}, {TREATMENT: before} if before else {}).get(TREATMENT)


@dataclass(frozen=True)
class _Earlier:
    """What is known of a user from before: there at this share already, treated at another one, the largest of these."""

    here: bool = False
    treated: bool = False
    share: float = 0.0


def _known(
    session: Session, state: RolloutState, users: Sequence[str], begin: datetime | None, end: datetime
) -> Mapping[str, _Earlier]:
    one = PredictionRecord
    # As a query: of a name that is newer than its statistics, PostgreSQL expects no rows, and would look for the users among
    # all answers of the rollout rather than in the index of users.
    name = select(literal(state.name)).scalar_subquery()
    other = one.treatment_share != state.share
    here = false() if begin is None else and_(one.treatment_share == state.share, one.event_time <= begin)
    query = (
        select(
            one.user_hash,
            func.max(case((here, 1), else_=0)),
            func.max(case((and_(other, one.variant != CONTROL), 1), else_=0)),
            func.max(case((other, one.treatment_share), else_=0.0)),
        )
        .where(one.experiment == name, one.user_hash.in_(users), one.event_time <= end)
        .group_by(one.user_hash)
    )
    return {user: _Earlier(bool(here), bool(treated), share) for user, here, treated, share in session.execute(query)}


def _write(engine: Engine, rollout: str, watch: _Watch) -> bool:
    """Keep what was found, if nobody else has since."""
    values = {"version": watch.version, "read_to": watch.read_to, "evidence": watch.harm.document()}
    try:
        with transaction(engine) as session:
            if watch.version == 1:
                session.add(RolloutWatch(rollout=rollout, **values))
                return True
            kept = session.execute(
                update(RolloutWatch)
                .where(RolloutWatch.rollout == rollout, RolloutWatch.version == watch.version - 1)
                .values(**values)
                .returning(RolloutWatch.version)
            )
            return kept.one_or_none() is not None
    except IntegrityError:
        return False
