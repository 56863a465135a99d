"""Looks at a rollout's users, and the evidence that is kept with them; what follows from it is `advance.py`'s.

A look keeps the stage and the champion's rate that its users are judged by, in the transaction that stores the look. So
its evidence follows from stored rows alone: whoever finds it, and whenever, finds the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, func, select, update

from mlops_assets.experiments.metrics import EARLIER, MetricScale
from mlops_assets.experiments.units import Look, read_looks, take_look
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.policies import RolloutPolicy, StageName
from mlops_assets.foundation.tables import ExperimentLook, PredictionRecord, ShadowPredictionRecord
from mlops_assets.rollout.evidence import RolloutEvidence
from mlops_assets.rollout.limits import pair_of, slow_thresholds
from mlops_assets.rollout.state import RolloutState, baseline_from

# Within each of their values, a candidate must not be wrong more often than it may be over all users.
SLICES = ("browser", "ui_framework", "test_type")
# What a stored document looks like; one of another format is made again from the stored users.
_FORMAT = 2
_BEFORE_ALL_DATA = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class _StageDesign:
    """How the users of a rollout are looked at; a rollout compares nobody with what he was before."""

    policy: RolloutPolicy
    state: RolloutState
    at: datetime
    pre_period_days: float = 0.0

    @property
    def user_window_minutes(self) -> float:
        return self.policy.user_window_minutes

    @property
    def outcome_delay_minutes(self) -> float:
        return self.policy.outcome_delay_minutes

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        baseline = self.state.baseline
        return {
            "policy": self.policy.model_dump(mode=mode),
            "stage": self.state.stage,
            "baseline": None if baseline is None else asdict(baseline),
            "slow_ms": self.state.slow_ms,
            "at": self.at.isoformat(),
        }


@dataclass(frozen=True)
class Looked:
    """What one look had found, as natural logarithms of e-values: of harm, and of each limit kept in its stage.

    `at`: time of the rollout's clock.
    """

    at: datetime
    stage: StageName
    log_e_harm: float
    log_e_kept: Mapping[str, float]


def look_at(
    engine: Engine,
    state: RolloutState,
    policy: RolloutPolicy,
    spec: AgentSpec,
    now: datetime,
    *,
    at: datetime | None = None,
) -> RolloutEvidence:
    """Store the users whose outcomes are over, and return what all users have proven, in the state's stage.

    Two that look at the same moment store the same once, and both return it.

    Args:
        engine: operational database.
        state: of the rollout at `now`.
        policy: that it began with.
        spec: of its agent.
        now: time of the look, on the clock of the decisions (see `served_now`); no later than the last look's, it is none.
        at: time of the rollout's clock, where that is another one.
    """
    # The champion's latency is known after the shadow stage; before it ends, nobody has the candidate.
    slow = {} if state.slow_ms is None else slow_thresholds(policy, state.slow_ms)
    # Also in other stages: a look after a jump back from the last one has users of it.
    pair = pair_of(state, policy, _earlier_ms(engine, state))
    scale = MetricScale(spec.reward_low, spec.reward_high, slow, SLICES, pair)
    take_look(engine, state.name, _StageDesign(policy, state, at or now), scale, now=now)
    return _kept_evidence(engine, state.name, policy).in_stage(state.stage)


def replayed(looks: Sequence[Look], policy: RolloutPolicy) -> RolloutEvidence:
    """Find the evidence of a rollout's looks from the first on; the same looks give the same evidence."""
    evidence = RolloutEvidence()
    for look in looks:
        evidence = _after(evidence, look, policy)
    return evidence


def looked(engine: Engine, rollout: str) -> list[Looked]:
    """Return what every look at a rollout had found, in order; those whose evidence nobody asked for are left out."""
    design, evidence = ExperimentLook.design, ExperimentLook.evidence
    query = (
        select(design["at"].as_string(), design["stage"].as_string(), evidence["log_e"])
        .where(ExperimentLook.experiment == rollout, evidence["format"].as_integer() == _FORMAT)
        .order_by(ExperimentLook.look)
    )
    with read_transaction(engine) as session:
        return [
            Looked(datetime.fromisoformat(at), stage, log_e["harm"], log_e["kept"])
            for at, stage, log_e in session.execute(query)
        ]


def served_now(engine: Engine, data_clock: bool, agent: str, clock: Clock) -> datetime:  # noqa: FBT001
    """Return the time on the clock of an agent's decisions.

    With `data_clock` (see `Settings.data_clock`) that is the newest decision's, never the machine's: a look from there would
    take every later decision for one of the past. Before the first decision it is 1970, when nothing was over yet.
    """
    if not data_clock:
        return clock.now()
    with read_transaction(engine) as session:
        query = select(func.max(PredictionRecord.event_time)).where(PredictionRecord.agent == agent)
        newest: datetime | None = session.scalar(query)
    return newest or _BEFORE_ALL_DATA


def _earlier_ms(engine: Engine, state: RolloutState) -> list[float]:
    """What the former champion's newest answers in the last stage took, up to where the newest look ended."""
    if state.stage != "100_percent":
        return []
    asked, decision = ShadowPredictionRecord, PredictionRecord
    ended = select(func.max(ExperimentLook.cutoff)).where(ExperimentLook.experiment == state.name).scalar_subquery()
    query = (
        select(asked.latency_ms)
        .join(decision, decision.prediction_id == asked.prediction_id)
        .where(
            decision.experiment == state.name,
            decision.treatment_share == 1.0,
            decision.event_time <= ended,
            asked.model_name == state.model_name,
            asked.model_version == state.champion,
        )
        .order_by(decision.event_time.desc(), decision.prediction_id.desc())
        .limit(EARLIER)
    )
    with read_transaction(engine) as session:
        return list(reversed(session.scalars(query).all()))


def _kept_evidence(engine: Engine, rollout: str, policy: RolloutPolicy) -> RolloutEvidence:
    """Go on from the newest stored evidence over the looks after it, and store what each of them leads to."""
    with read_transaction(engine) as session:
        known = session.execute(
            select(ExperimentLook.look, ExperimentLook.evidence)
            .where(ExperimentLook.experiment == rollout, ExperimentLook.evidence["format"].as_integer() == _FORMAT)
            .order_by(ExperimentLook.look.desc())
            .limit(1)
        ).one_or_none()
    last, evidence = (None, RolloutEvidence()) if known is None else (known.look, _read(known.evidence))
    for look in read_looks(engine, rollout, after=last):
        evidence = _after(evidence, look, policy)
        kept = {name: one.log_e for name, one in evidence.kept.items()}
        log_e = {"harm": evidence.harm.log_e, "kept": kept}
        document = {"format": _FORMAT, "log_e": log_e, "rollout": evidence.document()}
        with transaction(engine) as session:
            session.execute(
                update(ExperimentLook)
                .where(ExperimentLook.experiment == rollout, ExperimentLook.look == look.number)
                .values(evidence=document)
            )
    return evidence


def _read(document: Mapping[str, Any]) -> RolloutEvidence:
    return RolloutEvidence.from_document(document["rollout"])


def _after(evidence: RolloutEvidence, look: Look, policy: RolloutPolicy) -> RolloutEvidence:
    design = look.design
    return evidence.in_stage(design["stage"]).updated(look.units, policy, baseline_from(design["baseline"]))
