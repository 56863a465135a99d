"""Looks at a rollout's users: taken as an experiment's are, their evidence kept with each look, so that none counts twice."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, func, select, update

from mlops_assets.experiments.units import Look, MetricScale, read_looks, take_look
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.profiles import RolloutPolicy, StageName
from mlops_assets.foundation.tables import ExperimentLook, PredictionRecord
from mlops_assets.rollout.evidence import RolloutEvidence
from mlops_assets.rollout.limits import slow_thresholds
from mlops_assets.rollout.state import RolloutState

SLICES = ("browser", "ui_framework", "test_type")


@dataclass(frozen=True)
class Looked:
    """What one look had found, as natural logarithms of e-values: of harm, and of each limit kept in its stage.

    `at`: time of the rollout's clock; `step`: the ledger's number then.
    """

    at: datetime
    step: int
    stage: StageName
    log_e_harm: float
    log_e_kept: Mapping[str, float]


def look_at(
    engine: Engine, state: RolloutState, policy: RolloutPolicy, spec: AgentSpec, *, now: datetime, at: datetime
) -> RolloutEvidence:
    """Take a look at a rollout's users, and return the evidence of all looks so far.

    A look's users count in the stage in which it was taken up, each in the limits of the share that he had. Of two that
    take up the same look, the first to write counts.

    Args:
        engine: operational database.
        state: of the rollout.
        policy: that it began with.
        spec: its agent.
        now: time of served decisions, see `served_now`.
        at: time of the rollout's clock.
    """
    slow_ms = {} if state.slow_ms is None else slow_thresholds(policy, state.slow_ms)
    scale = MetricScale(spec.reward_low, spec.reward_high, slow_ms, SLICES)
    take_look(engine, state.name, policy, scale, now=now)
    evidence, newest = _newest(engine, state.name)
    for look in read_looks(engine, state.name, after=newest):
        evidence = taken_up(evidence, look, state, policy)
        if not _store(engine, state, look.number, evidence, at):
            return look_at(engine, state, policy, spec, now=now, at=at)
    return evidence.in_stage(state.stage)


def taken_up(evidence: RolloutEvidence, look: Look, state: RolloutState, policy: RolloutPolicy) -> RolloutEvidence:
    """Return the evidence after one more look, taken up while the rollout was in `state`."""
    return evidence.in_stage(state.stage).updated(look.units, policy, state.baseline)


def looked(engine: Engine, rollout: str) -> list[Looked]:
    """Return what every look at a rollout had found, in order."""
    document = ExperimentLook.evidence
    query = (
        select(document["at"], document["step"], document["stage"], document["log_e"])
        .where(ExperimentLook.experiment == rollout, document.is_not(None))
        .order_by(ExperimentLook.look)
    )
    with read_transaction(engine) as session:
        return [
            Looked(datetime.fromisoformat(at), step, stage, log_e["harm"], log_e["kept"])
            for at, step, stage, log_e in session.execute(query)
        ]


def served_now(engine: Engine, agent: str, clock: Clock, *, data_clock: bool) -> datetime:
    """Return what time it is for served decisions: the clock's, or that of the agent's newest one in the data's time."""
    if not data_clock:
        return clock.now()
    with read_transaction(engine) as session:
        query = select(func.max(PredictionRecord.event_time)).where(PredictionRecord.agent == agent)
        newest: datetime | None = session.execute(query).scalar_one()
    return newest or clock.now()


def _newest(engine: Engine, rollout: str) -> tuple[RolloutEvidence, int | None]:
    """The evidence of the newest look that has some, and the look's number."""
    query = (
        select(ExperimentLook.look, ExperimentLook.evidence)
        .where(ExperimentLook.experiment == rollout, ExperimentLook.evidence.is_not(None))
        .order_by(ExperimentLook.look.desc())
        .limit(1)
    )
    with read_transaction(engine) as session:
        found = session.execute(query).one_or_none()
    if found is None or found.evidence is None:
        return RolloutEvidence(), None
    return RolloutEvidence.from_document(found.evidence["rollout"]), found.look


def _store(engine: Engine, state: RolloutState, look: int, evidence: RolloutEvidence, at: datetime) -> bool:
    """Keep what a look came to; False when another process has, from which one has to go on."""
    document: dict[str, Any] = {
        "at": at.isoformat(),
        "step": state.number,
        "stage": state.stage,
        "log_e": {"harm": evidence.harm.log_e, "kept": {name: one.log_e for name, one in evidence.kept.items()}},
        "rollout": evidence.document(),
    }
    with transaction(engine) as session:
        kept = session.execute(
            update(ExperimentLook)
            .where(
                ExperimentLook.experiment == state.name, ExperimentLook.look == look, ExperimentLook.evidence.is_(None)
            )
            .values(evidence=document)
            .returning(ExperimentLook.look)
        )
        return kept.one_or_none() is not None
