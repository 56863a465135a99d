"""What the served decisions, the volume of new data, and the age of the model ask for."""

from datetime import datetime, timedelta

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from mlops_assets.experiments.assignment import TREATMENT
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.policies import RetrainingPolicy
from mlops_assets.foundation.tables import (
    ModelVersionRecord,
    OutcomeRecord,
    PredictionRecord,
    RetrainingRunRecord,
    SnapshotRecord,
)
from mlops_assets.retraining.signals import NewSignal, regular_key

_LONG_AGO = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def champion_of(session: Session, agent: str) -> str | None:
    """Return the version in production, None before the first."""
    query = select(ModelVersionRecord.semver).where(
        ModelVersionRecord.model_name == agent_spec(agent).registered_model, ModelVersionRecord.stage == "Production"
    )
    return session.scalars(query.order_by(ModelVersionRecord.updated_at.desc()).limit(1)).one_or_none()


def trained_at(session: Session, agent: str) -> datetime | None:
    """Return when the agent was last trained: by its newest version, or a retraining that ended well. None: never."""
    name = agent_spec(agent).registered_model
    version = session.scalar(
        select(func.max(ModelVersionRecord.created_at)).where(
            ModelVersionRecord.model_name == name, ModelVersionRecord.mlflow_version.is_not(None)
        )
    )
    run = session.scalar(
        select(func.max(RetrainingRunRecord.ended_at)).where(
            RetrainingRunRecord.agent == agent, RetrainingRunRecord.status == "succeeded"
        )
    )
    return max((at for at in (version, run) if at is not None), default=None)


def staleness(session: Session, agent: str, policy: RetrainingPolicy, now: datetime) -> list[NewSignal]:
    """Ask for a training of a model that is too old; one that was never trained is not old."""
    trained = trained_at(session, agent)
    if trained is None or now - trained <= timedelta(days=policy.max_days_without):
        return []
    days = (now - trained) / timedelta(days=1)
    reason = f"last trained {days:.1f} days ago ({trained:%Y-%m-%d}), more than {policy.max_days_without:g}"
    # The key of the week's regular training: what the schedule asked for is not asked for again.
    return [NewSignal(agent, "staleness", regular_key(agent, now), reason, {"days_without": round(days, 3)})]


def new_samples(session: Session, agent: str, since: datetime | None) -> int:
    """Count what has come since `since`: served decisions with an outcome, or rows that published snapshots had new.

    The larger of the two, since snapshots may be made of served decisions.
    """
    begin = since or _LONG_AGO
    outcomes = session.scalar(
        select(func.count()).where(OutcomeRecord.agent == agent, OutcomeRecord.received_at > begin)
    )
    rows = session.scalar(
        select(func.sum(SnapshotRecord.new_rows)).where(
            SnapshotRecord.agent == agent, SnapshotRecord.created_at > begin, SnapshotRecord.status != "rejected"
        )
    )
    return max(int(outcomes or 0), int(rows or 0))


def volume(session: Session, agent: str, policy: RetrainingPolicy, now: datetime) -> list[NewSignal]:
    """Ask for a training on new data, of an agent that was trained before."""
    trained = trained_at(session, agent)
    if trained is None:
        return []
    count = new_samples(session, agent, trained)
    if count < policy.min_new_samples:
        return []
    reason = f"{count:,} new samples since the last training, {policy.min_new_samples:,} are enough"
    key = f"volume:{agent}:{trained:%Y-%m-%dT%H:%M}:{now:%Y-%m-%d}"
    return [NewSignal(agent, "volume", key, reason, {"new_samples": float(count)})]


def error_rate(
    session: Session, agent: str, version: str | None, policy: RetrainingPolicy, now: datetime
) -> list[NewSignal]:
    """Ask for a training of a champion that fails on what it is asked: it was late, or gave no answer.

    It is seen where the log has it, in the treatment of the A/A test, whose calls of the champion are bounded: what a
    candidate fails on is logged as the champion's answer too. Decisions without online features are no fault of a version:
    no training mends the feature store. `now` is on the clock of the decisions. Too few of them ask for nothing.
    """
    limits = policy.limits
    if version is None:
        return []
    failed = PredictionRecord.fallback == "failed"
    asked, errors = session.execute(
        select(func.count(), func.sum(case((failed, 1), else_=0))).where(
            PredictionRecord.agent == agent,
            PredictionRecord.event_time > now - timedelta(hours=limits.error_rate_hours),
            PredictionRecord.event_time <= now,
            PredictionRecord.model_version == version,
            PredictionRecord.aa_arm == TREATMENT,
        )
    ).one()
    if asked < limits.min_requests or errors / asked <= limits.max_error_rate:
        return []
    reason = (
        f"{errors / asked:.1%} of {asked:,} decisions of version {version} in {limits.error_rate_hours:g} h failed, more than "
        f"{limits.max_error_rate:.1%}"
    )
    key = f"error_rate:{agent_spec(agent).registered_model}:{version}:{now:%Y-%m-%d}"
    evidence = {"model_version": version, "error_rate": errors / asked}
    return [NewSignal(agent, "error_rate", key, reason, evidence)]
