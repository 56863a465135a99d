"""Experiments as the operational database has them: created, ramped, paused, stopped; each step audited.

An experiment sends shares of one agent's users to the versions behind one alias or two. Analysis is not here.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from mlops_assets.experiments.assignment import CONTROL, TREATMENT, assign
from mlops_assets.experiments.segments import EVERYBODY, Segment
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.database import lock_name, read_transaction, transaction
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.foundation.tables import ExperimentRecord, RolloutEvent
from mlops_assets.registry.catalogue import CHALLENGER

Status = Literal["running", "paused", "stopped"]
CREATED, CHANGED = "experiment_created", "experiment_changed"
# What servers load beside the champion.
TREATMENT_ALIASES = (CHALLENGER, "shadow")
_NAME_LENGTH = 100
# Rollouts count their users under names of their own, in the same log.
_ROLLOUTS = "rollout-"


@dataclass(frozen=True)
class Treatment:
    """A registry alias, and the share of the users that the version behind it answers."""

    alias: str
    share: float


@dataclass(frozen=True)
class Experiment:
    """One experiment and its traffic split; a paused one gives everybody the control, and keeps its salt.

    `more`: the treatments beside the first. `treatment_version`: the only version that the first treatment's users may get;
    None: whatever stands behind the alias. `splits_anonymous`: who names no user is split by the test that is asked about,
    without one by the request itself.
    `completed`: its treatment won, and is about to be the champion.
    """

    name: str
    agent: str
    salt: str
    treatment_alias: str
    treatment_share: float
    status: Status
    created_at: datetime
    segment: Segment = EVERYBODY
    more: tuple[Treatment, ...] = ()
    treatment_version: str | None = None
    splits_anonymous: bool = False
    completed: bool = False

    @property
    def treatments(self) -> dict[str, Treatment]:
        """By arm: `treatment` where there is one, else each by its alias."""
        first = Treatment(self.treatment_alias, self.treatment_share)
        return {one.alias: one for one in (first, *self.more)} if self.more else {TREATMENT: first}

    @property
    def shares(self) -> dict[str, float]:
        """Treatment to its share of the users, as `assign` takes them."""
        return {arm: one.share for arm, one in self.treatments.items()}

    def public(self) -> dict[str, Any]:
        """Return what everybody may know: not the salt, with which users could be put into an arm."""
        return {
            **{name: value for name, value in vars(self).items() if name not in {"salt", "more"}},
            "treatments": {arm: vars(one) for arm, one in self.treatments.items()},
            "segment": self.segment.document(),
        }

    def variant(self, user_id: str) -> str:
        """Return the user's arm: `control`, or one of `treatments`."""
        return assign(self.salt, user_id, self.shares) if self.status == "running" else CONTROL


def create_experiment(
    engine: Engine,
    name: str,
    agent: str,
    *,
    treatment_share: float,
    user: str,
    now: datetime,
    treatment_alias: str = CHALLENGER,
    more: Sequence[Treatment] = (),
    salt: str | None = None,
    segment: Segment = EVERYBODY,
) -> Experiment:
    """Start an experiment; only one of an agent runs or pauses at a time. `salt` is drawn when it is not given.

    Users outside `segment` get the control and are not counted. `more` are treatments beside the first.

    Raises:
        InputError: the name is taken, too long or a rollout's, a share is no share, the shares add up to more than 1, no
            server follows an alias or two treatments have the same, or the agent has an experiment already.
        NotReadyError: the agent has a rollout under way.
        SettingsError: no such agent.
    """
    agent_spec(agent)
    treatments = (Treatment(treatment_alias, treatment_share), *more)
    _require_aliases([one.alias for one in treatments])
    if not name.strip() or len(name) > _NAME_LENGTH or not name.isprintable():
        raise InputError(f"an experiment cannot be called {name!r}; take 1 to {_NAME_LENGTH} printable characters")
    if name.startswith(_ROLLOUTS):
        raise InputError(
            f"the experiment cannot be called {name!r}: names that begin with {_ROLLOUTS!r} are those of rollouts"
        )
    _require_shares(treatments)
    record = ExperimentRecord(
        name=name,
        agent=agent,
        salt=salt or secrets.token_hex(16),
        treatment_alias=treatment_alias,
        treatment_share=treatment_share,
        more_treatments=_documents(more),
        segment=None if segment == EVERYBODY else segment.document(),
        status="running",
        created_at=now,
        updated_at=now,
    )
    try:
        with transaction(engine) as session:
            # A rollout starts under the same lock.
            lock_name(session, f"traffic:{agent}")
            _require_no_rollout(session, agent)
            other = _unfinished(session, agent)
            if other is not None:
                raise InputError(
                    f"agent {agent!r} has the experiment {other.name!r} ({other.status}); stop it first: two at once "
                    "would share their users"
                )
            session.add(record)
            session.flush()
            _audit(session, CREATED, record, user, now)
    except IntegrityError:
        if name in {one.name for one in all_experiments(engine)}:
            raise InputError(f"there is an experiment {name!r} already; a name is never used twice") from None
        raise InputError(f"another experiment of agent {agent!r} was created at the same moment; look at it") from None
    return _experiment(record)


def change_experiment(
    engine: Engine,
    name: str,
    *,
    user: str,
    now: datetime,
    treatment_share: float | None = None,
    shares: Mapping[str, float] | None = None,
    status: Status | None = None,
) -> Experiment:
    """Change the split or the status; a stopped experiment stays stopped. The same call twice changes nothing more.

    `treatment_share` is for an experiment with one treatment, `shares` (alias to share) for any; others stay as they are.

    Raises:
        InputError: no such experiment, it is stopped, it has no such treatment, a share is no share, or they add up to more
            than 1.
    """
    with transaction(engine) as session:
        record = _record(session, name, lock=True)
        before = _experiment(record)
        treatments = _changed(before, treatment_share, shares or {})
        wanted = (treatments, status or record.status)
        if wanted == (tuple(before.treatments.values()), record.status):
            return before
        if record.status == "stopped":
            raise InputError(f"experiment {name!r} is stopped; create another one")
        record.treatment_share, record.more_treatments = treatments[0].share, _documents(treatments[1:])
        record.status = wanted[1]
        record.updated_at = now
        _audit(session, CHANGED, record, user, now)
        return _experiment(record)


def experiment_named(engine: Engine, name: str) -> Experiment:
    """Look one up.

    Raises:
        InputError: no such experiment; the known ones are named.
    """
    with read_transaction(engine) as session:
        return _experiment(_record(session, name))


def all_experiments(engine: Engine) -> list[Experiment]:
    """Return every experiment, the newest first."""
    with read_transaction(engine) as session:
        query = select(ExperimentRecord).order_by(ExperimentRecord.created_at.desc(), ExperimentRecord.name)
        return [_experiment(record) for record in session.scalars(query)]


def unfinished_experiments(engine: Engine) -> Mapping[str, Experiment]:
    """Return the running or paused experiment of each agent that has one."""
    with read_transaction(engine) as session:
        query = select(ExperimentRecord).where(ExperimentRecord.status != "stopped")
        return {record.agent: _experiment(record) for record in session.scalars(query)}


def _require_no_rollout(session: Session, agent: str) -> None:
    model_name = agent_spec(agent).registered_model
    query = select(RolloutEvent).where(RolloutEvent.model_name == model_name).order_by(RolloutEvent.number.desc())
    newest = session.scalars(query.limit(1)).one_or_none()
    if newest is not None and newest.active:
        raise NotReadyError(
            f"agent {agent!r} has the rollout {newest.rollout} under way, which would share its users with an experiment; "
            "wait until it is over, or abort it"
        )


def _unfinished(session: Session, agent: str) -> ExperimentRecord | None:
    query = select(ExperimentRecord).where(ExperimentRecord.agent == agent, ExperimentRecord.status != "stopped")
    return session.scalars(query.limit(1)).one_or_none()


def _record(session: Session, name: str, *, lock: bool = False) -> ExperimentRecord:
    record = session.get(ExperimentRecord, name, with_for_update=lock)
    if record is None:
        known = ", ".join(session.scalars(select(ExperimentRecord.name).order_by(ExperimentRecord.name))) or "none"
        raise InputError(f"there is no experiment {name!r}; known experiments: {known}")
    return record


def _experiment(record: ExperimentRecord) -> Experiment:
    return Experiment(
        name=record.name,
        agent=record.agent,
        salt=record.salt,
        treatment_alias=record.treatment_alias,
        treatment_share=record.treatment_share,
        status=cast("Status", record.status),
        created_at=record.created_at,
        segment=EVERYBODY if record.segment is None else Segment.from_document(record.segment),
        more=tuple(Treatment(**one) for one in (record.more_treatments or {}).get("treatments", ())),
    )


def _documents(more: Sequence[Treatment]) -> dict[str, Any] | None:
    return {"treatments": [vars(one) for one in more]} if more else None


def _changed(before: Experiment, treatment_share: float | None, shares: Mapping[str, float]) -> tuple[Treatment, ...]:
    """The treatments with their new shares."""
    present = tuple(before.treatments.values())
    aliases = [one.alias for one in present]
    if treatment_share is not None and before.more:
        raise InputError(
            f"experiment {before.name!r} has the treatments {' and '.join(aliases)}; say whose share {treatment_share} is"
        )
    wanted = shares if treatment_share is None else {before.treatment_alias: treatment_share, **shares}
    unknown = [alias for alias in wanted if alias not in aliases]
    if unknown:
        raise InputError(
            f"experiment {before.name!r} has no treatment {unknown[0]!r}; it has {', '.join(aliases)}: treatments are set "
            "at its beginning"
        )
    treatments = tuple(Treatment(one.alias, wanted.get(one.alias, one.share)) for one in present)
    _require_shares(treatments)
    return treatments


def _require_aliases(aliases: Sequence[str]) -> None:
    for alias in aliases:
        if alias not in TREATMENT_ALIASES:
            raise InputError(f"no server has the alias {alias!r}; take one of {', '.join(TREATMENT_ALIASES)}")
        if aliases.count(alias) > 1:
            raise InputError(
                f"two treatments have the alias {alias!r}; each needs its own, of {', '.join(TREATMENT_ALIASES)}"
            )


def _require_shares(treatments: Sequence[Treatment]) -> None:
    for one in treatments:
        if not 0.0 <= one.share <= 1.0:
            raise InputError(f"the treatment's share is {one.share}; expected 0 to 1, such as 0.05 for 5 %")
    total = sum(one.share for one in treatments)
    if total > 1.0:
        shares = ", ".join(f"{one.alias} {one.share:g}" for one in treatments)
        raise InputError(
            f"the treatments' shares add up to {total:g} ({shares}); expected 1 at most: the control gets the rest"
        )


def _audit(session: Session, event: str, record: ExperimentRecord, user: str, now: datetime) -> None:
    append_event(
        session,
        event_type=event,
        model_name=agent_spec(record.agent).registered_model,
        version=record.treatment_alias,
        user=user,
        details={
            "experiment": record.name,
            "treatment_share": record.treatment_share,
            "status": record.status,
            **(record.more_treatments or {}),
        },
        now=now,
    )
