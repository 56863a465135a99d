"""Service levels of the platform itself, each with formula, window, value, target, and where its numbers come from.

What cannot be measured from the operational database is told (`declared.py`), or said to be unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.policies import MonitoringPolicy
from mlops_assets.monitoring import lifecycle_facts as facts
from mlops_assets.monitoring.declared import DECLARABLE, Fact, declared
from mlops_assets.monitoring.figures import Comparison, Figure, Standing, overall

_MANUAL = "manual"
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class ServiceLevels:
    """All of them with `start <= time < end`."""

    start: datetime
    end: datetime
    figures: tuple[Figure, ...]

    @property
    def verdict(self) -> Standing:
        """Missed if any is, unknown if any is, else met."""
        return overall(self.figures)

    def figure(self, name: str) -> Figure:
        """Return the level of that name."""
        return next(figure for figure in self.figures if figure.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        figures = [figure.to_json() for figure in self.figures]
        return {"start": self.start, "end": self.end, "verdict": self.verdict, "service_levels": figures}


def service_levels(
    engine: Engine, policy: MonitoringPolicy, *, now: datetime, triggers: Mapping[str, str]
) -> ServiceLevels:
    """Compute every service level over the last `slo.window_days`.

    Args:
        engine: operational database.
        policy: the targets.
        now: on the deployment's clock.
        triggers: Dagster run of a training to the type of what started it, `manual` for people; those not in it are unknown.

    Raises:
        StorageError: the database does not answer.
    """
    start = now - timedelta(days=policy.slo.window_days)
    made = _Levels(engine, policy, start, now, declared(engine))
    return ServiceLevels(
        start,
        now,
        (
            made.tracking(),
            made.datasets(),
            made.told("feature_read_ms", policy.slo.feature_read_ms, "<=", "ms"),
            made.drift_checks(),
            *made.retraining(triggers),
            made.told("drift_detection_accuracy", policy.slo.drift_detection_accuracy, ">", "share"),
            made.power(),
            made.governance(),
            made.told("ci_cd_success", policy.slo.ci_cd_success, ">", "share"),
            made.time_to_deploy(),
            made.monitored(),
            made.accuracy(),
            made.incidents(),
        ),
    )


class _Levels:
    def __init__(
        self, engine: Engine, policy: MonitoringPolicy, start: datetime, end: datetime, told: Mapping[str, Fact]
    ) -> None:
        self._engine, self._policy, self._targets = engine, policy, policy.slo
        self._span = (start, end)
        self._window = f"the {policy.slo.window_days} days to {end:%Y-%m-%d %H:%M} UTC"
        self._told = told

    def tracking(self) -> Figure:
        """Share of trainings whose record names everything that made them."""
        found = facts.trainings(self._engine, *self._span)
        value = _share(sum(one.tracked for one in found), len(found))
        return self._figure(
            "tracking_coverage",
            "trainings with MLflow run, data, training and weights hash / trainings",
            value,
            self._targets.tracking_coverage,
            ">=",
            f"records of dqn_model: {len(found)} trainings",
        )

    def datasets(self) -> Figure:
        """Share of snapshots that DVC has."""
        total, versioned = facts.snapshots_versioned(self._engine, *self._span)
        return self._figure(
            "datasets_versioned", "snapshots with a DVC hash / snapshots", _share(versioned, total),
            self._targets.datasets_versioned, ">=", f"table snapshot: {versioned} of {total}",
        )  # fmt: skip

    def drift_checks(self) -> Figure:
        """Share of the last hours in which the agent that was checked least was checked; agents without champion are left out."""
        hours = int(self._policy.window_hours)
        champions = {one.model_name for one in facts.promotions(self._engine, _EVER, self._span[1])}
        agents = [spec.name for spec in AGENTS.values() if spec.registered_model in champions]
        found = facts.hours_checked(self._engine, agents, self._span[1], hours)
        words = ", ".join(f"{agent} {count} of {hours}" for agent, count in found.items()) or "no agent has a champion"
        return self._figure(
            "hourly_drift_checks",
            f"hours with a drift check / last {hours} hours, of the agent with the fewest",
            min((count / hours for count in found.values()), default=None),
            self._targets.hourly_drift_checks,
            ">=",
            f"table drift_check: {words}",
            window=f"the {hours} hours to {self._span[1]:%Y-%m-%d %H:%M} UTC",
        )

    def retraining(self, triggers: Mapping[str, str]) -> tuple[Figure, Figure]:
        """Share of retrainings that a trigger started, and how many people did; an agent's first training is none."""
        again = [one for one in facts.trainings(self._engine, *self._span) if not one.first]
        known = [triggers[one.dagster_run] for one in again if one.dagster_run in triggers]
        manual = known.count(_MANUAL)
        words = (
            f"trigger tags of the Dagster runs of {len(again)} retrainings, {len(again) - len(known)} of them unknown"
        )
        return (
            self._figure(
                "retraining_automation", "retrainings started by a trigger / retrainings",
                _share(len(known) - manual, len(known)), self._targets.retraining_automation, ">=", words,
            ),
            self._figure(
                "manual_retrainings", "retrainings started by people", float(manual) if len(known) == len(again) else None,
                float(self._targets.manual_retrainings), "<=", words, unit="",
            ),
        )  # fmt: skip

    def power(self) -> Figure:
        """Smallest power of an experiment that ended."""
        found = facts.ended_experiments(self._engine, *self._span)
        known = [power for power in found.values() if power is not None]
        words = ", ".join(f"{name} {'unknown' if power is None else f'{power:.0%}'}" for name, power in found.items())
        return self._figure(
            "ab_power",
            "chance to find the design's harmful effect with the users that were there, smallest of the experiments",
            min(known, default=None),
            self._targets.ab_power,
            ">",
            f"tables experiment_look and experiment_unit: {words or 'no experiment ended'}",
        )

    def governance(self) -> Figure:
        """Share of promotions that follow an approval, on a trail that can be believed."""
        found = facts.promotions(self._engine, *self._span)
        problem = facts.trail_problem(self._engine)
        value = _share(sum(one.approved for one in found), len(found))
        return self._figure(
            "governance_compliance",
            "promotions after an approval of that version / promotions; 0 when the audit trail is broken",
            0.0 if problem is not None else value,
            self._targets.governance_compliance,
            ">=",
            f"audit trail: {problem or f'{len(found)} promotions, every event follows from the one before it'}",
        )

    def time_to_deploy(self) -> Figure:
        """Mean hours from registration to the first users."""
        found = facts.deployment_times(self._engine, *self._span)
        return self._figure(
            "time_to_deploy_hours",
            "mean hours from a version's registration to its first users (stage of 5 %, or promotion without a rollout)",
            _mean_hours(list(found.values())),
            self._targets.time_to_deploy_hours,
            "<=",
            f"tables model_version, rollout_event and audit_event: {_names(found)}",
            unit="h",
        )

    def monitored(self) -> Figure:
        """Fewest hours between a version's first users and its promotion by a rollout."""
        found = facts.monitored_before_promotion(self._engine, *self._span)
        shortest = min(found.values(), default=None)
        return self._figure(
            "monitored_hours",
            "hours from a version's first users to its promotion, fewest of the completed rollouts",
            None if shortest is None else shortest / timedelta(hours=1),
            self._targets.monitored_hours,
            ">=",
            f"table rollout_event: {_names(found)}",
            unit="h",
        )

    def accuracy(self) -> Figure:
        """Largest drop of accuracy below a version's own baseline."""
        newest = facts.newest_records(self._engine, "performance_report", *self._span)
        drops = {agent: record.get("accuracy_drop") for agent, record in newest.items()}
        known = {agent: drop for agent, drop in drops.items() if isinstance(drop, float)}
        words = ", ".join(f"{agent} {drop:+.2%}" for agent, drop in known.items())
        return self._figure(
            "accuracy_within",
            "(baseline - accuracy) / baseline, largest of the agents",
            max(known.values(), default=None),
            self._policy.max_accuracy_drop,
            "<=",
            f"newest performance reports: {words or 'none has labels and a baseline'}",
        )

    def incidents(self) -> Figure:
        """Champions that were taken back."""
        found = facts.champions_taken_back(self._engine, *self._span)
        words = ", ".join(f"{model} {version}" for model, version in found) or "no champion was rolled back"
        return self._figure(
            "bad_model_incidents", "champions that were rolled back", float(len(found)),
            float(self._targets.bad_model_incidents), "<=", f"audit trail: {words}", unit="",
        )  # fmt: skip

    def told(self, name: str, target: float, comparison: Comparison, unit: str) -> Figure:
        """A fact that people or CI told."""
        fact = self._told.get(name)
        source = f"not told; tell it with `python -m mlops_assets.monitoring.declared {name} ...`"
        if fact is not None:
            source = fact.words
        value = None if fact is None else fact.value
        return Figure(name, DECLARABLE[name], "as told", value, target, comparison, unit, source)

    def _figure(
        self,
        name: str,
        formula: str,
        value: float | None,
        target: float,
        comparison: Comparison,
        source: str,
        *,
        unit: str = "share",
        window: str | None = None,
    ) -> Figure:
        return Figure(name, formula, window or self._window, value, target, comparison, unit, source)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean_hours(found: Sequence[timedelta]) -> float | None:
    return sum(found, timedelta()) / len(found) / timedelta(hours=1) if found else None


def _names(found: Mapping[tuple[str, str], timedelta]) -> str:
    words = (f"{model} {version} {hours / timedelta(hours=1):.1f} h" for (model, version), hours in found.items())
    return ", ".join(words) or "no version"
