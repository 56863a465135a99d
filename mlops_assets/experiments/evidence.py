"""What the looks at an experiment have found so far: all that the next look needs to go on, kept with each look.

Evidence is bet on once: a look's users are read when they are new, never again. What it proves is judged in `analysis.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, select, update

from mlops_assets.experiments.batches import batches
from mlops_assets.experiments.cuped import CoMoments
from mlops_assets.experiments.frequentist import Moments
from mlops_assets.experiments.sequential import Evidence, Limit
from mlops_assets.experiments.srm import Assigned
from mlops_assets.experiments.units import Look, Unit, read_looks
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.policies import AbTestDesign, MetricLimit
from mlops_assets.foundation.tables import ExperimentLook

# What a stored document looks like; one of another format is made again from the stored users.
_FORMAT = 1


@dataclass(frozen=True)
class MetricEvidence:
    """One metric of a treatment: evidence of harm beyond its limit, of its being kept, of better; moments of both arms.

    `yes_or_no`: every outcome so far was 0 or 1. `*_before`: moments together with the metric before the experiment.
    """

    harm: Evidence
    kept: Evidence
    better: Evidence
    control: Moments = field(default_factory=Moments)
    treatment: Moments = field(default_factory=Moments)
    yes_or_no: bool = True
    control_before: CoMoments = field(default_factory=CoMoments)
    treatment_before: CoMoments = field(default_factory=CoMoments)

    @classmethod
    def begin(cls, limit: MetricLimit) -> "MetricEvidence":
        """Return what is known before the first user: nothing."""
        return cls(
            harm=Evidence(Limit(limit.ratio, limit.delta), limit.effect, relative=False),
            kept=Evidence(
                Limit(limit.ratio, limit.delta, above=True),
                limit.delta if limit.delta > 0 else limit.effect,
                relative=False,
            ),
            better=Evidence(Limit(delta=-limit.better_by, above=True), limit.effect, relative=False),
        )

    def after(self, name: str, units: Sequence[Unit]) -> "MetricEvidence":
        """Return it after the users of one look."""
        harm, kept, better = self.harm, self.kept, self.better
        for _, batch in batches(units, name):
            if 0.0 < batch.share < 1.0:
                harm, kept, better = harm.updated(batch), kept.updated(batch), better.updated(batch)
        outcomes: tuple[list[float], list[float]] = ([], [])
        before: tuple[list[float | None], list[float | None]] = ([], [])
        for unit in units:
            if name in unit.outcomes:
                outcomes[unit.treatment].append(unit.outcomes[name])
                before[unit.treatment].append((unit.before or {}).get(name))
        control, treatment = outcomes
        return MetricEvidence(
            harm,
            kept,
            better,
            self.control.plus(Moments.of(control)),
            self.treatment.plus(Moments.of(treatment)),
            self.yes_or_no and {*control, *treatment} <= {0.0, 1.0},
            self.control_before.plus(CoMoments.of(control, before[0])),
            self.treatment_before.plus(CoMoments.of(treatment, before[1])),
        )

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "MetricEvidence":
        """Return what `asdict` gave, after its way through JSON."""
        return cls(
            _evidence(document["harm"]),
            _evidence(document["kept"]),
            _evidence(document["better"]),
            Moments(**document["control"]),
            Moments(**document["treatment"]),
            document["yes_or_no"],
            CoMoments.from_document(document["control_before"]),
            CoMoments.from_document(document["treatment_before"]),
        )


@dataclass(frozen=True)
class ArmEvidence:
    """One treatment against the control: its metrics, and the users that were assigned at each chance of it."""

    metrics: Mapping[str, MetricEvidence]
    assigned: tuple[Assigned, ...] = ()

    @classmethod
    def begin(cls, design: AbTestDesign) -> "ArmEvidence":
        """Return what is known before the first user."""
        return cls({name: MetricEvidence.begin(limit) for name, limit in design.limits.items()})

    @property
    def users(self) -> tuple[int, int]:
        """Of the control and of the treatment."""
        return sum(one.control for one in self.assigned), sum(one.treatment for one in self.assigned)

    def after(self, units: Sequence[Unit]) -> "ArmEvidence":
        """Return it after the users of one look."""
        counts = {one.share: [one.control, one.treatment] for one in self.assigned}
        for unit in units:
            counts.setdefault(unit.share, [0, 0])[unit.treatment] += 1
        return ArmEvidence(
            {name: one.after(name, units) for name, one in self.metrics.items()},
            tuple(Assigned(share, *arms) for share, arms in counts.items()),
        )

    def log_e(self) -> dict[str, list[float]]:
        """Return harm and limit kept of each metric, as natural logarithms of e-values."""
        return {name: [one.harm.log_e, one.kept.log_e] for name, one in self.metrics.items()}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "ArmEvidence":
        """Return what `asdict` gave, after its way through JSON."""
        metrics = {name: MetricEvidence.from_document(one) for name, one in document["metrics"].items()}
        return cls(metrics, tuple(Assigned(**one) for one in document["assigned"]))


ArmsEvidence = Mapping[str, ArmEvidence]
# Treatment, metric, [harm, limit kept]: what is drawn over the looks.
LogE = Mapping[str, Mapping[str, list[float]]]


@dataclass(frozen=True)
class History:
    """Every look of an experiment: where the newest ended, what it knew of each treatment, and what each look had found."""

    cutoff: datetime | None
    arms: ArmsEvidence
    over_time: tuple[LogE, ...]

    def over_looks(self, arm: str, metric: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return (harm, limit kept) at every look; 0 (nothing) at those before the treatment's first user."""
        found = [look.get(arm, {}).get(metric, [0.0, 0.0]) for look in self.over_time]
        return tuple(harm for harm, _ in found), tuple(kept for _, kept in found)


def replay(looks: Sequence[Look], design: AbTestDesign) -> History:
    """Find the evidence of looks from the first on; the same looks give the same evidence."""
    arms: ArmsEvidence = {}
    over_time = []
    for look in looks:
        arms = _after(arms, look, design)
        over_time.append(_log_e(arms))
    return History(looks[-1].cutoff if looks else None, arms, tuple(over_time))


def kept_history(engine: Engine, experiment: str, design: AbTestDesign) -> History:
    """Return an experiment's evidence: what is stored, gone on with by the looks that have none yet, and stored.

    Equal to the replay of all looks. Two that store the same look store the same.
    """
    with read_transaction(engine) as session:
        stored = session.execute(
            select(
                ExperimentLook.look,
                ExperimentLook.cutoff,
                ExperimentLook.evidence["format"],
                ExperimentLook.evidence["log_e"],
            )
            .where(ExperimentLook.experiment == experiment)
            .order_by(ExperimentLook.look)
        ).all()
        known = next((i for i, (_, _, form, _) in enumerate(stored) if form != _FORMAT), len(stored))
        newest = session.get(ExperimentLook, (experiment, stored[known - 1][0])) if known else None
    arms: ArmsEvidence = {}
    if newest is not None and newest.evidence is not None:
        arms = {name: ArmEvidence.from_document(one) for name, one in newest.evidence["arms"].items()}
    cutoff = newest.cutoff if newest is not None else None
    over_time = [log_e for _, _, _, log_e in stored[:known]]
    fresh = read_looks(engine, experiment, after=stored[known - 1][0] if known else None) if known < len(stored) else []
    for look in fresh:
        arms, cutoff = _after(arms, look, design), look.cutoff
        over_time.append(_log_e(arms))
        document = {
            "format": _FORMAT,
            "log_e": over_time[-1],
            "arms": {name: asdict(one) for name, one in arms.items()},
        }
        with transaction(engine) as session:
            session.execute(
                update(ExperimentLook)
                .where(ExperimentLook.experiment == experiment, ExperimentLook.look == look.number)
                .values(evidence=document)
            )
    return History(cutoff, arms, tuple(over_time))


def _after(arms: ArmsEvidence, look: Look, design: AbTestDesign) -> ArmsEvidence:
    names = dict.fromkeys([*arms, *(arm for unit in look.units for arm in unit.arms)])
    return {
        name: (arms.get(name) or ArmEvidence.begin(design)).after(
            [one.of(name) for one in look.units if name in one.arms]
        )
        for name in names
    }


def _log_e(arms: ArmsEvidence) -> LogE:
    return {name: one.log_e() for name, one in arms.items()}


def _evidence(document: Mapping[str, Any]) -> Evidence:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
    }
    return Evidence(**{**values, "limit": Limit(**document["limit"])})
