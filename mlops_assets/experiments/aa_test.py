"""The A/A test that is always on: two small arms of the champion's users, which differ in nothing but the way through the server.

Users of the treatment are answered by the champion as users of a candidate are by theirs: behind its time limit and circuit
breaker. So what the arms differ by is the platform's doing (assignment, routing, log, outcomes, analysis), and would be
taken for the doing of every candidate. It is stateless, counts in no experiment, and nobody is told that he is in it.

Evidence is of one champion, and begins anew with the next one, or when people say that what was wrong is mended.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, literal, null, select

from mlops_assets.experiments.assignment import TREATMENT
from mlops_assets.experiments.decisions import Drawn
from mlops_assets.experiments.evidence import ArmEvidence, kept_history
from mlops_assets.experiments.metrics import MetricScale
from mlops_assets.experiments.odds import odds_in_words
from mlops_assets.experiments.sequential import log_sum
from mlops_assets.experiments.srm import check_split
from mlops_assets.experiments.units import first_design, newest_look, take_look
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.audit import append_event
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.policies import AbTestDesign
from mlops_assets.foundation.tables import AuditEvent, PredictionRecord

RESET = "aa_test_reset"
# Both arms are of the same size.
_SHARE = 0.5
# Its looks are kept for as long as the champion is, and nothing waits for the next one.
_EVERY = timedelta(hours=1)


@dataclass(frozen=True)
class AaTest:
    """What the A/A test of one champion has found. `log_e`: natural logarithm of the e-value that its arms differ.

    `alarm` says what differs, None while nothing is proven.
    """

    name: str
    control_users: int
    treatment_users: int
    log_e: float
    alarm: str | None

    def __str__(self) -> str:
        """Say it in a sentence."""
        users = f"{self.control_users:,} and {self.treatment_users:,} users of the same version"
        if self.alarm is not None:
            return f"the A/A test {self.name} alarms: {self.alarm}"
        return f"the A/A test {self.name}: {users}, no proof of a difference (evidence {odds_in_words(self.log_e)})"


def look_at_aa_test(
    engine: Engine, design: AbTestDesign, slow_ms: float, agent: str, champion: str, now: datetime
) -> AaTest:
    """Return what the looks at the A/A test of an agent's champion have found, after one more if the last is an hour old.

    Args:
        engine: operational database.
        design: of A/B tests; the points of its limits are those beyond which the arms must not differ, its `split_alpha` is
            the chance of a false alarm, ever.
        slow_ms: latency from which on a request is slow.
        agent: whose champion.
        champion: semantic version.
        now: time of the look, on the clock of the decisions.
    """
    spec = agent_spec(agent)
    number, since = _resets(engine, spec.registered_model)
    name = f"aa-{agent}-{champion}-{number}"
    design = first_design(engine, name) or _both_ways(design)
    scale = MetricScale(spec.reward_low, spec.reward_high, {"slow": slow_ms})
    newest = newest_look(engine, name)
    if newest is None or now - newest >= _EVERY:
        take_look(engine, name, design, scale, now=now, drawn=_drawn(agent, champion, since))
    found = kept_history(engine, name, design).arms.get(TREATMENT, ArmEvidence.begin(design))
    control, treatment = found.users
    log_e, alarm = _judged(found, design.split_alpha)
    return AaTest(name, control, treatment, log_e, alarm)


def reset_aa_test(engine: Engine, agent: str, served_at: datetime, *, user: str, reason: str, now: datetime) -> None:
    """Begin an agent's A/A test anew: what made it alarm is mended. What came before stays stored, and audited.

    Args:
        engine: operational database.
        agent: whose test.
        served_at: the time on the clock of the decisions; those after it count.
        user: who says so.
        reason: goes to the audit trail.
        now: time of the audit trail.
    """
    with transaction(engine) as session:
        append_event(
            session,
            event_type=RESET,
            model_name=agent_spec(agent).registered_model,
            version="",
            user=user,
            details={"reason": reason, "served_at": served_at.isoformat()},
            now=now,
        )


def _both_ways(design: AbTestDesign) -> AbTestDesign:
    """Allow the treatment to be better by as much as it may be worse: no platform treats two arms exactly alike."""
    limits = {
        name: limit.model_copy(update={"ratio": 1.0, "better_by": max(limit.delta, 0.0)})
        for name, limit in design.limits.items()
    }
    return design.model_copy(update={"pre_period_days": 0.0, "limits": limits})


def _judged(found: ArmEvidence, alpha: float) -> tuple[float, str | None]:
    """The evidence over all metrics, in both directions, and over the split; and what differs."""
    split = check_split(found.assigned, alpha=alpha)
    tests = [(name, test.log_e) for name, one in found.metrics.items() for test in (one.harm, one.better)]
    weight = math.log(1.0 + len(tests))
    log_e = log_sum([split.log_e, *(one for _, one in tests)]) - weight
    if log_e < -math.log(alpha):
        return log_e, None
    name, strongest = max(tests, key=lambda one: one[1])
    if split.log_e >= strongest:
        return log_e, (
            f"{split.treatment:,} users came to an arm in which {split.expected_treatment:,.0f} were due: the log loses users"
        )
    metric = found.metrics[name]
    means = [f"{arm.mean:.2%}" for arm in (metric.treatment, metric.control)]
    return log_e, (
        f"of the same version, {name} is {means[0]} on the way of a candidate and {means[1]} on the champion's "
        f"(evidence {odds_in_words(strongest)})"
    )


def _drawn(agent: str, champion: str, since: datetime | None) -> Drawn:
    one = PredictionRecord
    where = [one.agent == agent, one.aa_arm.is_not(None), one.model_version == champion]
    if since is not None:
        where.append(one.event_time > since)
    # Arms are not logged beside it: the version is the same, and said by the query.
    return Drawn(tuple(where), one.aa_arm, literal(_SHARE), null())


def _resets(engine: Engine, model_name: str) -> tuple[int, datetime | None]:
    """How often it was begun anew, and the last time of that, on the clock of the decisions."""
    query = select(AuditEvent.details["served_at"].as_string()).where(
        AuditEvent.event_type == RESET, AuditEvent.model_name == model_name
    )
    with read_transaction(engine) as session:
        found = session.scalars(query.order_by(AuditEvent.sequence)).all()
    return len(found), datetime.fromisoformat(found[-1]) if found else None
