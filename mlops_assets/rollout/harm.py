"""Evidence that a candidate breaks a limit: one test a limit and slice, and one e-value over all of them. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mlops_assets.experiments.batches import Batches, by_traffic_share
from mlops_assets.experiments.sequential import Evidence, Limit, log_sum
from mlops_assets.experiments.units import Unit
from mlops_assets.foundation.policies import RolloutPolicy, StageName
from mlops_assets.rollout.limits import NAMES, STAGE_OF, Name, harm_test, in_words, limit_of, metric_of, names_of
from mlops_assets.rollout.state import Rate

# The servers' guard and the looks at users' outcomes: half of the error budget each.
_WATCHES = 2
# Slices that harm is looked for in: the first that are seen.
_MOST_SLICES = 32
# Of the budget: the same requests soon prove harm, so that these can do with less.
_PARTS: Mapping[str, float] = {"slower": 0.25, "worse": 0.25}
# Harm may begin late: every so many users, a part of the stake is bet anew.
_USERS_A_PLACING = 1000


@dataclass(frozen=True)
class Harm:
    """Tests of the limits `names`, and, with `sliced`, of accuracy within each slice, after `counted` users.

    `stages`: of each test, the stage of whose limit its newest users were.
    """

    names: tuple[Name, ...] = NAMES
    sliced: bool = True
    tests: Mapping[str, Evidence] = field(default_factory=dict)
    counted: int = 0
    stages: Mapping[str, StageName] = field(default_factory=dict)

    def updated(
        self,
        units: Sequence[Unit],
        policy: RolloutPolicy,
        baseline: Rate | None,
        known: Mapping[float, Batches] | None = None,
    ) -> "Harm":
        """Return it with more users, each with outcomes at one traffic share; limits are those of that share's stage.

        The baseline is needed for failures in the last stage; without it these are passed over. `known`: the users by traffic
        share, where they are looked at for more than harm.
        """
        looked = by_traffic_share(units) if known is None else known
        shares = [share for share in looked if STAGE_OF.get(share, "shadow") != "shadow"]
        if not shares:
            return self
        counted = self.counted + len(units)
        tests, stages = {**self.tests}, {**self.stages}
        limited_there = {name for share in shares for name in names_of(STAGE_OF[share])}
        names = [name for name in self.names if name in limited_there]
        for name in [*names, *(self._slices(units) if self.sliced else [])]:
            limited: Name = name if name in NAMES else "accuracy"
            test = tests.get(name) or harm_test(limited, policy).placed_again()
            for share in shares:
                before, test = test, _with_share(test, looked[share], share, name, limited, policy, baseline)
                if test is not before:
                    stages[name] = STAGE_OF[share]
            tests[name] = test
        if counted // _USERS_A_PLACING > self.counted // _USERS_A_PLACING:
            tests = {name: test.placed_again() for name, test in tests.items()}
        return replace(self, tests=tests, counted=counted, stages=stages)

    @property
    def log_e(self) -> float:
        """Logarithm of the e-value over all tests and watches; weights are fixed beforehand, the unseen has a value of 1."""
        weights = self._weights()
        rest = max(0.0, 1.0 - sum(weights.values()))
        terms = [test.log_e + math.log(weights[name]) for name, test in self.tests.items()]
        return log_sum([*terms, *([math.log(rest)] if rest > 0.0 else [])]) - math.log(_WATCHES)

    def words(self, policy: RolloutPolicy) -> str:
        """Say what is worst; empty before the first user."""
        if not self.stages:
            return ""
        weights = self._weights()
        name = max(self.stages, key=lambda one: self.tests[one].log_e + math.log(weights[one]))
        test = self.tests[name]
        treated = test.treatment_sum / test.treatment_users if test.treatment_users else None
        control = test.control_sum / test.control_users if test.control_users else None
        known: Name = name if name in NAMES else "accuracy"
        where = "" if name in NAMES else f" where {name.removeprefix('wrong[').removesuffix(']').replace('=', ' is ')}"
        return f"harm{where}: {in_words(known, policy.stages[self.stages[name]], policy, treated, control)}"

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "names": list(self.names),
            "sliced": self.sliced,
            "tests": {name: asdict(test) for name, test in self.tests.items()},
            "counted": self.counted,
            "stages": dict(self.stages),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Harm":
        """Read what `document` wrote."""
        tests = {name: evidence_from(test) for name, test in document["tests"].items()}
        return cls(tuple(document["names"]), document["sliced"], tests, document["counted"], document["stages"])

    def _slices(self, units: Sequence[Unit]) -> list[str]:
        known = [name for name in self.tests if name not in NAMES]
        seen = {metric for metric in set().union(*(unit.outcomes for unit in units)) if metric.startswith("wrong[")}
        return [*known, *sorted(seen - set(known))][:_MOST_SLICES]

    def _weights(self) -> dict[str, float]:
        part = 1.0 / (sum(_PARTS.get(name, 1.0) for name in self.names) + self.sliced)
        return {name: part * (_PARTS.get(name, 1.0) if name in NAMES else 1.0 / _MOST_SLICES) for name in self.tests}


def evidence_from(document: Mapping[str, Any]) -> Evidence:
    """Read what dataclasses.asdict made of an Evidence, and JSON of that."""
    values = dict(document)
    values["limit"] = Limit(**values["limit"])
    for name in ("sizes", "weights", "log_wealth"):
        values[name] = tuple(values[name])
    return Evidence(**values)


def _with_share(
    test: Evidence,
    looked: Batches,
    share: float,
    name: str,
    limited: Name,
    policy: RolloutPolicy,
    baseline: Rate | None,
) -> Evidence:
    stage = STAGE_OF[share]
    last = stage == "100_percent"
    # Slices are of accuracy, which the last stage does not have: nothing is known that they could be held against there.
    if limited not in names_of(stage) or (last and name == "errors" and baseline is None):
        return test
    limits = policy.stages[stage]
    limit = limit_of(limited, limits, policy, baseline if last else None)
    batches = looked.of(metric_of(limited, limits) if name in NAMES else name)
    if batches:
        test = replace(test, limit=limit)
    for batch in batches:
        if 0.0 < batch.share < 1.0 or (batch.share == 1.0 and limit.fixed):
            test = test.updated(batch)
    return test
