"""What the operational database says of trainings, versions, deployments, experiments and approvals; counted, not judged.

All times are on the deployment's clock. What follows from it for service levels is in `slo.py`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from mlops_assets.experiments.units import first_design
from mlops_assets.foundation.audit import PROMOTED_TO_PRODUCTION, ROLLED_BACK, verify_chain
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.policies import AbTestDesign
from mlops_assets.foundation.tables import (
    AssetRecord,
    AuditEvent,
    DriftCheckRecord,
    ExperimentRecord,
    ExperimentUnit,
    ModelVersionRecord,
    RolloutEvent,
    SnapshotRecord,
)
from mlops_assets.governance.decisions import DECIDED

_TRACKED = ("run_id", "data_hash", "training_hash", "weights_hash")
_FIRST_USERS = "5_percent"
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Training:
    """One training: the Dagster run that did it, and whether its record names MLflow run, data, training and weights."""

    agent: str
    dagster_run: str
    at: datetime
    tracked: bool
    first: bool


@dataclass(frozen=True)
class Promotion:
    """A version that became champion, and whether it had been approved before."""

    model_name: str
    version: str
    at: datetime
    approved: bool


def trainings(engine: Engine, start: datetime, end: datetime) -> list[Training]:
    """Return the trainings with `start <= time < end`; those that reused an earlier one's weights are none."""
    query = (
        select(AssetRecord).where(AssetRecord.asset == "dqn_model").order_by(AssetRecord.recorded_at, AssetRecord.id)
    )
    found, seen = [], set()
    with read_transaction(engine) as session:
        for record in session.scalars(query):
            if not record.payload.get("trained"):
                continue
            if start <= record.recorded_at < end:
                tracked = all(record.payload.get(name) for name in _TRACKED)
                first = record.partition not in seen
                found.append(Training(record.partition, record.run_id, record.recorded_at, tracked, first))
            seen.add(record.partition)
    return found


def training_runs(engine: Engine) -> list[str]:
    """Return the Dagster runs of all trainings there ever were."""
    query = select(AssetRecord.run_id.distinct()).where(AssetRecord.asset == "dqn_model")
    with read_transaction(engine) as session:
        return list(session.scalars(query))


def snapshots_versioned(engine: Engine, start: datetime, end: datetime) -> tuple[int, int]:
    """Return how many snapshots were published with `start <= time < end`, and how many of them DVC has."""
    inside = [SnapshotRecord.created_at >= start, SnapshotRecord.created_at < end]
    query = select(func.count(), func.count(SnapshotRecord.dvc_md5)).where(*inside)
    with read_transaction(engine) as session:
        total, versioned = session.execute(query).one()
    return int(total), int(versioned)


def promotions(engine: Engine, start: datetime, end: datetime) -> list[Promotion]:
    """Return who became champion with `start <= time < end`, other than by a rollback."""
    with read_transaction(engine) as session:
        approved = _events(session, [DECIDED["approved"]], _EVER, end)
        sequences: dict[tuple[str, str], int] = {}
        for event in approved:
            sequences.setdefault((event.model_name, event.version), event.sequence)
        return [
            Promotion(
                event.model_name,
                event.version,
                event.occurred_at,
                sequences.get((event.model_name, event.version), math.inf) < event.sequence,
            )
            for event in _events(session, [PROMOTED_TO_PRODUCTION], start, end)
        ]


def trail_problem(engine: Engine) -> str | None:
    """Return why the audit trail cannot be believed, None when every event follows from the one before it."""
    with read_transaction(engine) as session:
        verdict = verify_chain(session)
    return None if verdict.intact else verdict.reason


def champions_taken_back(engine: Engine, start: datetime, end: datetime) -> list[tuple[str, str]]:
    """Return model and version of champions that were rolled back with `start <= time < end`."""
    with read_transaction(engine) as session:
        events = _events(session, [ROLLED_BACK], start, end)
        return [(event.model_name, str(event.details.get("from_version"))) for event in events]


def deployment_times(engine: Engine, start: datetime, end: datetime) -> dict[tuple[str, str], timedelta]:
    """Return how long each version took from its registration to its first users, where these came in `start..end`.

    First users: the rollout's first stage with users, or without a rollout its promotion.
    """
    with read_transaction(engine) as session:
        first = _first_users(session)
        for event in _events(session, [PROMOTED_TO_PRODUCTION], _EVER, end):
            first.setdefault((event.model_name, event.version), event.occurred_at)
        registered = {
            (record.model_name, record.semver): record.created_at
            for record in session.scalars(select(ModelVersionRecord))
        }
    return {key: at - registered[key] for key, at in first.items() if start <= at < end and key in registered}


def monitored_before_promotion(engine: Engine, start: datetime, end: datetime) -> dict[tuple[str, str], timedelta]:
    """Return how long each version that a rollout completed in `start..end` had users before it."""
    with read_transaction(engine) as session:
        first = _first_users(session)
        completed = select(RolloutEvent).where(
            RolloutEvent.kind == "completed", RolloutEvent.occurred_at >= start, RolloutEvent.occurred_at < end
        )
        ended = {(one.model_name, one.state["candidate"]): one.occurred_at for one in session.scalars(completed)}
    return {key: at - first[key] for key, at in ended.items() if key in first}


def ended_experiments(engine: Engine, start: datetime, end: datetime) -> dict[str, float | None]:
    """Return each experiment that ended with `start <= time < end`, and the power it had; None: it had no users to say."""
    query = select(ExperimentRecord.name).where(
        ExperimentRecord.status == "stopped", ExperimentRecord.updated_at >= start, ExperimentRecord.updated_at < end
    )
    with read_transaction(engine) as session:
        names = list(session.scalars(query.order_by(ExperimentRecord.name)))
    return {name: _power(engine, name) for name in names}


def achieved_power(design: AbTestDesign, baseline: float, control_users: int, treatment_users: int) -> float | None:
    """Return the chance that so many users show the primary metric's harm by `effect` beyond its limit, two-sided.

    Phi(|h| sqrt(n_c n_t / (n_c + n_t)) - z_alpha/2) with Cohen's h between the allowed rate and the harmful one
    (Cohen 1988, chapter 6), which is what `required_sample_size` solves for the users. None: the rates are none.
    """
    from scipy import stats

    limit = design.limits[design.primary_metric]
    allowed = limit.ratio * baseline + limit.delta
    harmful = allowed + limit.effect
    if min(control_users, treatment_users) < 1 or not 0.0 < allowed < harmful < 1.0:
        return None
    effect = 2.0 * math.asin(math.sqrt(harmful)) - 2.0 * math.asin(math.sqrt(allowed))
    pairs = control_users * treatment_users / (control_users + treatment_users)
    return float(stats.norm.cdf(abs(effect) * math.sqrt(pairs) - stats.norm.isf(design.alpha / 2.0)))


def hours_checked(engine: Engine, agents: Iterable[str], end: datetime, hours: int) -> dict[str, int]:
    """Return in how many of the last hours each agent's decisions were checked for drift."""
    found = {}
    with read_transaction(engine) as session:
        for agent in agents:
            query = select(DriftCheckRecord.checked_at).where(
                DriftCheckRecord.agent == agent,
                DriftCheckRecord.checked_at > end - timedelta(hours=hours),
                DriftCheckRecord.checked_at <= end,
            )
            found[agent] = len({(end - at) // timedelta(hours=1) for at in session.scalars(query)})
    return found


def newest_records(engine: Engine, asset: str, start: datetime, end: datetime) -> Mapping[str, Mapping[str, object]]:
    """Return what an asset recorded last for each partition with `start <= time <= end`."""
    query = (
        select(AssetRecord)
        .where(AssetRecord.asset == asset, AssetRecord.recorded_at >= start, AssetRecord.recorded_at <= end)
        .order_by(AssetRecord.recorded_at, AssetRecord.id)
    )
    with read_transaction(engine) as session:
        return {record.partition: dict(record.payload) for record in session.scalars(query)}


def _power(engine: Engine, name: str) -> float | None:
    design = first_design(engine, name)
    if design is None:
        return None
    with read_transaction(engine) as session:
        units = session.execute(
            select(ExperimentUnit.treatment, ExperimentUnit.outcomes).where(ExperimentUnit.experiment == name)
        ).all()
    observed = [(treated, outcomes.get(design.primary_metric)) for treated, outcomes in units]
    arms = {
        arm: [value for treated, value in observed if treated is arm and value is not None] for arm in (False, True)
    }
    if not arms[False] or not arms[True]:
        return None
    return achieved_power(design, sum(arms[False]) / len(arms[False]), len(arms[False]), len(arms[True]))


def _first_users(session: Session) -> dict[tuple[str, str], datetime]:
    first: dict[tuple[str, str], datetime] = {}
    query = select(RolloutEvent).where(RolloutEvent.kind == "advanced").order_by(RolloutEvent.id)
    for step in session.scalars(query):
        if step.state["stage"] == _FIRST_USERS:
            first.setdefault((step.model_name, step.state["candidate"]), step.occurred_at)
    return first


def _events(session: Session, kinds: Sequence[str], start: datetime, end: datetime) -> list[AuditEvent]:
    query = select(AuditEvent).where(
        AuditEvent.event_type.in_(kinds), AuditEvent.occurred_at >= start, AuditEvent.occurred_at < end
    )
    return list(session.scalars(query.order_by(AuditEvent.sequence)))
