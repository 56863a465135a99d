"""One call that measures everything about a model and judges it: the composition of this room."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from mlops_assets.evaluation.comparison import (
    ChampionComparison,
    ChampionModel,
    compare_with_champion,
    plan_ab_test,
)
from mlops_assets.evaluation.gates import Gate, Measured, judge
from mlops_assets.evaluation.intervals import Interval, cluster_numbers
from mlops_assets.evaluation.latency import Latency, measure_latency, runtime_parity
from mlops_assets.evaluation.metrics import (
    ClassificationMetrics,
    QFunction,
    classification_metrics,
    greedy,
    q_values,
)
from mlops_assets.evaluation.off_policy import OffPolicyReport, off_policy_value
from mlops_assets.evaluation.report import Holdout, ModelIdentity, ValidationReport
from mlops_assets.evaluation.returns import Returns, measure_returns
from mlops_assets.evaluation.security import SecurityReport, scan_files
from mlops_assets.evaluation.slices import SliceReport, slice_metrics
from mlops_assets.experiences.environment import DecisionEnvironment
from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import EvaluationPolicy
from mlops_assets.foundation.profiles import PolicyProfile

_BYTES_PER_MB = 1_000_000
_SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True)
class ModelUnderTest:
    """A trained model: who it is, the runtime that will serve it, the same network in other runtimes, its files.

    `served_file` is the file whose size counts; `files` are all that a consumer may load, and are scanned.
    """

    identity: ModelIdentity
    policy: QFunction
    runtime: str
    served_file: Path
    files: tuple[Path, ...]
    other_runtimes: Mapping[str, QFunction] = field(default_factory=dict)


@dataclass(frozen=True)
class _Measurements:
    classification: ClassificationMetrics | None
    off_policy: OffPolicyReport | None
    returns: Returns | None
    slices: SliceReport
    latency: tuple[Latency, ...]
    security: SecurityReport
    comparison: ChampionComparison | None
    model_size_mb: float


def evaluate(
    model: ModelUnderTest,
    holdout: DecisionTable,
    spec: AgentSpec,
    profile: PolicyProfile,
    *,
    champion: ChampionModel | None,
    make_environment: Callable[[list[str]], DecisionEnvironment | None] | None,
    seed: int,
    now: datetime,
    prioritisation: Mapping[str, JsonValue] | None = None,
) -> ValidationReport:
    """Measure a model on held-out decisions, compare it with the champion and apply the gates of the policy.

    Args:
        model: the model under test.
        holdout: held-out decisions, later in time than all training data.
        spec: the agent.
        profile: policy profile with every threshold.
        champion: the version in production, None for a first model: absolute gates only.
        make_environment: gives the environment of named held-out episodes, or None; None when there is never one.
        seed: of bootstrap and random policy.
        now: time of the report.
        prioritisation: figures of replayed CI histories for the report, see `prioritisation.py`.

    Raises:
        InputError: there is no held-out decision, or a model file is missing.
    """
    if len(holdout.action) == 0:
        raise InputError(f"{spec.name}: the held-out set is empty; collect more episodes before evaluating a model")
    values = q_values(model.policy, holdout.state)
    clusters = cluster_numbers(holdout.episode_id)
    measured = _measure(model, holdout, spec, profile.evaluation, values, clusters, champion, make_environment, seed)
    gates = judge(_figures(measured), profile.evaluation)
    labelled = measured.classification.labelled if measured.classification else 0
    facts = _holdout_facts(holdout, labelled, int(clusters.max()) + 1)
    avg_reward, method = _avg_reward(measured)
    return ValidationReport(
        identity=model.identity,
        policy_profile=profile.name,
        created_at=now,
        holdout=facts,
        actions=spec.actions,
        metrics=_metrics(measured, facts, avg_reward),
        intervals=_intervals(measured, avg_reward),
        avg_reward_method=method,
        confusion=_rows(measured.classification),
        slices=measured.slices,
        latency=measured.latency,
        runtime_parity=tuple(
            runtime_parity(model.policy, other, holdout.state, runtime=name)
            for name, other in model.other_runtimes.items()
        ),
        off_policy=measured.off_policy,
        returns=measured.returns,
        security=measured.security,
        comparison=measured.comparison,
        ab_test=plan_ab_test(
            measured.comparison, profile, treatment=model.identity.run_id, decisions_per_day=_per_day(facts)
        ),
        prioritisation=dict(prioritisation) if prioritisation is not None else None,
        gates=gates,
        limitations=tuple(_limitations(measured, gates, method)),
    )


def _measure(
    model: ModelUnderTest,
    holdout: DecisionTable,
    spec: AgentSpec,
    policy: EvaluationPolicy,
    values: NDArray[np.float32],
    clusters: NDArray[np.int64],
    champion: ChampionModel | None,
    make_environment: Callable[[list[str]], DecisionEnvironment | None] | None,
    seed: int,
) -> _Measurements:
    samples, confidence = policy.bootstrap_samples, policy.confidence
    labelled = holdout.best_action >= 0
    correct = greedy(values[labelled]) == holdout.best_action[labelled]
    dimensions = {"ui_framework": holdout.ui_framework[labelled], "browser": holdout.browser[labelled]}
    return _Measurements(
        classification=classification_metrics(
            values,
            holdout.best_action,
            holdout.action_values,
            clusters,
            samples=samples,
            confidence=confidence,
            seed=seed,
        ),
        off_policy=off_policy_value(
            holdout,
            values,
            min_effective_sample_size=policy.min_effective_sample_size,
            samples=samples,
            confidence=confidence,
            seed=seed,
        ),
        returns=None
        if make_environment is None
        else measure_returns(
            model.policy, make_environment, holdout, spec, samples=samples, confidence=confidence, seed=seed
        ),
        slices=slice_metrics(correct, dimensions, min_rows=policy.min_slice_rows, confidence=confidence),
        latency=tuple(
            measure_latency(runtime, holdout.state, runtime=name)
            for name, runtime in {model.runtime: model.policy, **model.other_runtimes}.items()
        ),
        security=scan_files(list(model.files)),
        comparison=None
        if champion is None
        else compare_with_champion(
            champion,
            correct,
            holdout.state[labelled],
            holdout.best_action[labelled],
            cluster_numbers(holdout.episode_id[labelled]),
            state_fields=spec.state_fields,
            architecture=model.identity.architecture,
            samples=samples,
            confidence=confidence,
            seed=seed,
        ),
        model_size_mb=model.served_file.stat().st_size / _BYTES_PER_MB,
    )


def _figures(measured: _Measurements) -> Measured:
    classification, comparison = measured.classification, measured.comparison
    difference = comparison.accuracy_difference if comparison else None
    return Measured(
        labelled=classification.labelled if classification else 0,
        accuracy=classification.accuracy.estimate if classification else None,
        f1=classification.f1.estimate if classification else None,
        roc_auc=classification.roc_auc if classification else None,
        latency_p95_ms=measured.latency[0].p95_ms,
        model_size_mb=measured.model_size_mb,
        security_findings=len(measured.security.findings),
        max_slice_gap_points=measured.slices.max_gap_points,
        has_champion=comparison is not None,
        champion_difference_low=difference.low if difference else None,
    )


def _avg_reward(measured: _Measurements) -> tuple[Interval | None, str]:
    estimate = measured.off_policy.best() if measured.off_policy else None
    if estimate is not None:
        return estimate.value, f"off-policy, {estimate.method.replace('_', ' ')}"
    if measured.returns is not None:
        return measured.returns.policy, "measured in the source's environment"
    return None, "insufficient data: too few logged episodes agree with the policy, and there is no environment"


def _metrics(measured: _Measurements, facts: Holdout, avg_reward: Interval | None) -> dict[str, float]:
    classification, served, comparison = measured.classification, measured.latency[0], measured.comparison
    share = measured.returns.share_of_optimal if measured.returns else None
    named: dict[str, float | None] = {
        "accuracy": classification.accuracy.estimate if classification else None,
        "precision": classification.precision if classification else None,
        "recall": classification.recall if classification else None,
        "f1": classification.f1.estimate if classification else None,
        "roc_auc": classification.roc_auc if classification else None,
        "regret": classification.regret.estimate if classification and classification.regret else None,
        "avg_reward": avg_reward.estimate if avg_reward else None,
        "return_share": share.estimate if share else None,
        "latency_p50_ms": served.p50_ms,
        "latency_p95_ms": served.p95_ms,
        "latency_p99_ms": served.p99_ms,
        "throughput_qps": served.throughput_qps,
        "model_size_mb": measured.model_size_mb,
        "max_slice_gap_points": measured.slices.max_gap_points,
        "champion_accuracy": comparison.champion_accuracy if comparison else None,
        "improvement_percent": comparison.improvement_percent if comparison else None,
        "holdout_rows": facts.rows,
        "holdout_labelled": facts.labelled,
    }
    for latency in measured.latency[1:]:
        named[f"latency_p95_ms_{latency.runtime}"] = latency.p95_ms
        named[f"throughput_qps_{latency.runtime}"] = latency.throughput_qps
    return {name: float(value) for name, value in named.items() if value is not None}


def _intervals(measured: _Measurements, avg_reward: Interval | None) -> dict[str, Interval]:
    classification, comparison = measured.classification, measured.comparison
    named = {
        "accuracy": classification.accuracy if classification else None,
        "f1": classification.f1 if classification else None,
        "regret": classification.regret if classification else None,
        "avg_reward": avg_reward,
        "return_share": measured.returns.share_of_optimal if measured.returns else None,
        "accuracy_difference": comparison.accuracy_difference if comparison else None,
    }
    return {name: interval for name, interval in named.items() if interval is not None}


def _rows(classification: ClassificationMetrics | None) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in classification.confusion.tolist()) if classification else ()


def _holdout_facts(holdout: DecisionTable, labelled: int, episodes: int) -> Holdout:
    times = holdout.event_time.astype("datetime64[us]")
    first, last = (moment.item().replace(tzinfo=UTC) for moment in (times.min(), times.max()))
    return Holdout(rows=len(times), labelled=labelled, episodes=episodes, first_event=first, last_event=last)


def _per_day(facts: Holdout) -> float:
    days = (facts.last_event - facts.first_event).total_seconds() / _SECONDS_PER_DAY
    return facts.rows / days if days > 0 else 0.0


def _limitations(measured: _Measurements, gates: Sequence[Gate], method: str) -> list[str]:
    found = [f"{gate.name}: {gate.reason}" for gate in gates if gate.verdict != "pass"]
    if measured.off_policy is not None and measured.off_policy.best() is None:
        reached = measured.off_policy.estimates[-1]
        found.append(
            f"the logs support an off-policy estimate for {reached.corrected_steps} of {reached.horizon} steps only; "
            f"avg_reward is {method}"
        )
    if measured.returns is None:
        found.append("the source has no environment, so the return was not measured")
    worst = measured.slices.worst
    if worst is not None and worst.gap_points is not None and worst.gap_points > 0:
        found.append(f"weakest slice: {worst.dimension} {worst.value}, {worst.gap_points:.1f} points below the average")
    return found
