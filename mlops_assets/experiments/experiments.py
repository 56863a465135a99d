"""Experiments as the operational database has them: created, ramped, paused, stopped; each step audited.

An experiment sends a share of one agent's users to the version behind an alias. Analysis is not here.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from mlops_assets.experiments.assignment import CONTROL, assign
from mlops_assets.experiments.segments import EVERYBODY, Segment
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.tables import ExperimentRecord
from mlops_assets.registry.catalogue import CHALLENGER

Status = Literal["running", "paused", "stopped"]
CREATED, CHANGED = "experiment_created", "experiment_changed"
# What servers load beside the champion.
TREATMENT_ALIASES = (CHALLENGER, "shadow")
_NAME_LENGTH = 100


@dataclass(frozen=True)
class Experiment:
    """One experiment and its traffic split; a paused one gives everybody the control, and keeps its salt."""

    name: str
    agent: str
    salt: str
    treatment_alias: str
    treatment_share: float
    status: Status
    created_at: datetime
    segment: Segment = EVERYBODY

    def public(self) -> dict[str, Any]:
        """Return what everybody may know: not the salt, with which users could be put into an arm."""
        return {
            **{name: value for name, value in vars(self).items() if name != "salt"},
            "segment": self.segment.document(),
        }

    def variant(self, user_id: str) -> str:
        """Return the user's arm, `control` or `treatment`."""
        return assign(self.salt, user_id, self.treatment_share) if self.status == "running" else CONTROL


def create_experiment(
    engine: Engine,
    name: str,
    agent: str,
    *,
    treatment_share: float,
    user: str,
    now: datetime,
    treatment_alias: str = CHALLENGER,
    salt: str | None = None,
    segment: Segment = EVERYBODY,
) -> Experiment:
    """Start an experiment; only one of an agent runs or pauses at a time. `salt` is drawn when it is not given.

    Users outside `segment` get the control and are not counted.

    Raises:
        InputError: the name is taken or too long, the share is no share, no server follows the alias, or the agent has
            an experiment already.
        SettingsError: no such agent.
    """
    agent_spec(agent)
    if treatment_alias not in TREATMENT_ALIASES:
        raise InputError(f"no server has the alias {treatment_alias!r}; take one of {', '.join(TREATMENT_ALIASES)}")
    if not name.strip() or len(name) > _NAME_LENGTH or not name.isprintable():
        raise InputError(f"an experiment cannot be called {name!r}; take 1 to {_NAME_LENGTH} printable characters")
    _require_share(treatment_share)
    record = ExperimentRecord(
        name=name,
        agent=agent,
        salt=salt or secrets.token_hex(16),
        treatment_alias=treatment_alias,
        treatment_share=treatment_share,
        segment=None if segment == EVERYBODY else segment.document(),
        status="running",
        created_at=now,
        updated_at=now,
    )
    try:
        with transaction(engine) as session:
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
    status: Status | None = None,
) -> Experiment:
    """Change the split or the status; a stopped experiment stays stopped. The same call twice changes nothing more.

    Raises:
        InputError: no such experiment, it is stopped, or the share is no share.
    """
    if treatment_share is not None:
        _require_share(treatment_share)
    with transaction(engine) as session:
        record = _record(session, name, lock=True)
        wanted = (record.treatment_share if treatment_share is None else treatment_share, status or record.status)
        if wanted == (record.treatment_share, record.status):
            return _experiment(record)
        if record.status == "stopped":
            raise InputError(f"experiment {name!r} is stopped; create another one")
        record.treatment_share, record.status = wanted
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
    return {one.agent: one for one in all_experiments(engine) if one.status != "stopped"}


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
    )


def _require_share(share: float) -> None:
    if not 0.0 <= share <= 1.0:
        raise InputError(f"the treatment's share is {share}; expected 0 to 1, such as 0.05 for 5 %")


def _audit(session: Session, event: str, record: ExperimentRecord, user: str, now: datetime) -> None:
    append_event(
        session,
        event_type=event,
        model_name=agent_spec(record.agent).registered_model,
        version=record.treatment_alias,
        user=user,
        details={"experiment": record.name, "treatment_share": record.treatment_share, "status": record.status},
        now=now,
    )
