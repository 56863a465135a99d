"""What users have proven about a candidate so far: of harm over the whole rollout, of kept limits in its present stage.

Of harm, e-values of all limits and slices share one error budget. A limit of the present stage is kept once the opposite is
refuted: each by itself, since all have to be.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mlops_assets.experiments.batches import Batches, by_traffic_share
from mlops_assets.experiments.sequential import Evidence
from mlops_assets.experiments.srm import Assigned, check_split
from mlops_assets.experiments.units import Unit
from mlops_assets.foundation.policies import STAGE_SHARES, RolloutPolicy, StageLimits, StageName
from mlops_assets.rollout.advance import Criterion, StageFindings
from mlops_assets.rollout.harm import Harm, evidence_from
from mlops_assets.rollout.limits import (
    FAILED,
    STAGE_OF,
    Name,
    in_words,
    kept_test,
    metric_of,
    names_of,
)
from mlops_assets.rollout.state import Rate

_SPLIT_ALPHA = 0.001
_BASELINE_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Moments:
    """Number, sum and sum of squares of observations in [0, 1]."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def plus(self, values: Sequence[float]) -> "Moments":
        """Return them with more observations."""
        squares = math.fsum(map(operator.mul, values, values))
        return Moments(self.count + len(values), self.total + math.fsum(values), self.squares + squares)

    @property
    def mean(self) -> float | None:
        """Their mean, None without any."""
        return self.total / self.count if self.count else None

    def rate(self) -> Rate:
        """Return mean and upper bound: empirical Bernstein (Maurer and Pontil, 2009), exact for values in [0, 1]."""
        if self.count < 2:  # noqa: PLR2004 - a variance takes two
            return Rate(1.0, 1.0)
        mean = self.total / self.count
        variance = max(0.0, self.squares - self.count * mean * mean) / (self.count - 1)
        log_term = math.log(2.0 / (1.0 - _BASELINE_CONFIDENCE))
        slack = math.sqrt(2.0 * variance * log_term / self.count) + 7.0 * log_term / (3.0 * (self.count - 1))
        return Rate(mean, min(1.0, mean + slack))


Arm = Mapping[str, Moments]


@dataclass(frozen=True)
class RolloutEvidence:
    """Evidence of one rollout after some looks; plain numbers, so that the next look goes on where the last one ended.

    `kept` has a test for each limit of the present stage. `control` and `treatment` are the users' metrics in that stage,
    `champion` the control's in all stages. `users`: of (control, treatment) in the stage. `assigned`: users of both arms
    by the probability with which they were treated.
    """

    stage: StageName = "shadow"
    harm: Harm = field(default_factory=Harm)
    kept: Mapping[str, Evidence] = field(default_factory=dict)
    control: Arm = field(default_factory=dict)
    treatment: Arm = field(default_factory=dict)
    champion: Arm = field(default_factory=dict)
    users: tuple[int, int] = (0, 0)
    assigned: Mapping[float, tuple[int, int]] = field(default_factory=dict)

    def in_stage(self, stage: StageName) -> "RolloutEvidence":
        """Return the evidence with which a stage begins: nothing is kept yet, harm stays found."""
        if stage == self.stage:
            return self
        return replace(self, stage=stage, kept={}, control={}, treatment={}, users=(0, 0))

    def updated(self, units: Sequence[Unit], policy: RolloutPolicy, baseline: Rate | None) -> "RolloutEvidence":
        """Return the evidence with the users of one more look.

        Args:
            units: users, each with his outcomes at one traffic share.
            policy: of the rollout.
            baseline: the champion's rate of failed requests before the last stage, needed in that stage alone.
        """
        present = [unit for unit in units if STAGE_OF.get(unit.treatment_share) == self.stage]
        treated = sum(unit.treatment for unit in present)
        looked = by_traffic_share(units)
        return replace(
            self,
            harm=self.harm.updated(units, policy, baseline, looked),
            kept=self._kept(looked.get(STAGE_SHARES[self.stage]), policy, baseline),
            control=_plus(self.control, [unit for unit in present if not unit.treatment]),
            treatment=_plus(self.treatment, [unit for unit in present if unit.treatment]),
            champion=_plus(self.champion, [unit for unit in units if not unit.treatment]),
            users=(self.users[0] + len(present) - treated, self.users[1] + treated),
            assigned=_assigned(self.assigned, units),
        )

    def findings(self, policy: RolloutPolicy) -> StageFindings:
        """Say what the evidence comes to for the decision."""
        criteria: tuple[Criterion, ...] = ()
        if self.stage != "shadow":
            limits = policy.stages[self.stage]
            criteria = tuple(
                Criterion(name, self._words(name, limits, policy), self.kept[name].log_e if name in self.kept else 0.0)
                for name in names_of(self.stage)
            )
        return StageFindings(
            control_users=self.users[0],
            treatment_users=self.users[1],
            log_e_harm=self.harm.log_e,
            harm=self.harm.words(policy),
            criteria=criteria,
            split=self._split(),
            baseline=self.champion[FAILED].rate() if FAILED in self.champion else None,
        )

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "stage": self.stage,
            "harm": self.harm.document(),
            "kept": {name: asdict(one) for name, one in self.kept.items()},
            **{arm: {name: asdict(one) for name, one in getattr(self, arm).items()} for arm in _ARMS},
            "users": list(self.users),
            "assigned": [[share, *arms] for share, arms in self.assigned.items()],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "RolloutEvidence":
        """Read what `document` wrote."""
        return cls(
            stage=document["stage"],
            harm=Harm.from_document(document["harm"]),
            kept={name: evidence_from(one) for name, one in document["kept"].items()},
            **{arm: {name: Moments(**one) for name, one in document[arm].items()} for arm in _ARMS},
            users=(document["users"][0], document["users"][1]),
            assigned={share: (control, treated) for share, control, treated in document["assigned"]},
        )

    def _kept(self, present: Batches | None, policy: RolloutPolicy, baseline: Rate | None) -> Mapping[str, Evidence]:
        if self.stage == "shadow" or present is None:
            return self.kept
        limits, kept = policy.stages[self.stage], dict(self.kept)
        for name in names_of(self.stage):
            evidence = kept.get(name) or kept_test(
                name, limits, policy, baseline if self.stage == "100_percent" else None
            )
            for batch in present.of(metric_of(name, limits)):
                if batch.share < 1.0 or evidence.limit.fixed:
                    evidence = evidence.updated(batch)
            kept[name] = evidence
        return kept

    def _split(self) -> str | None:
        check = check_split(
            [Assigned(share, *arms) for share, arms in sorted(self.assigned.items())], alpha=_SPLIT_ALPHA
        )
        if not check.alarm:
            return None
        loser = "candidate" if check.leaks == "treatment" else "champion"
        return (
            f"{check.treatment:,} users came to the candidate where {check.expected_treatment:,.0f} were due: the {loser} "
            "loses users on the way, so nothing can be compared"
        )

    def _words(self, name: Name, limits: StageLimits, policy: RolloutPolicy) -> str:
        metric = metric_of(name, limits)
        treated, control = (arm[metric].mean if metric in arm else None for arm in (self.treatment, self.control))
        return in_words(name, limits, policy, treated, control)


_ARMS = ("control", "treatment", "champion")


def _plus(known: Arm, units: Sequence[Unit]) -> Arm:
    found = dict(known)
    for metric in sorted(set().union(*(unit.outcomes for unit in units))):
        if metric.startswith("wrong["):
            continue
        values = [unit.outcomes[metric] for unit in units if metric in unit.outcomes]
        found[metric] = found.get(metric, Moments()).plus(values)
    return found


def _assigned(known: Mapping[float, tuple[int, int]], units: Sequence[Unit]) -> Mapping[float, tuple[int, int]]:
    found = dict(known)
    for unit in units:
        control, treated = found.get(unit.share, (0, 0))
        found[unit.share] = (control + (not unit.treatment), treated + unit.treatment)
    return found
