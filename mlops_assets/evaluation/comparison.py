"""The candidate against the champion on the same held-out decisions, and the A/B test that would come next."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops_assets.evaluation.intervals import (
    Interval,
    cluster_bootstrap,
    cluster_sums,
    mcnemar,
    proportion_sample_size,
    ratio,
)
from mlops_assets.evaluation.metrics import QFunction, greedy, q_values
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.profiles import PolicyProfile

PRIMARY_METRIC = "accuracy"


@dataclass(frozen=True)
class ChampionModel:
    """The version in production: its policy, the names of its state fields in order, and its network's architecture."""

    semver: str
    run_id: str
    policy: QFunction
    state_fields: tuple[str, ...]
    architecture: str


@dataclass(frozen=True)
class ChampionComparison:
    """Candidate minus champion, on the labelled held-out decisions; figures are None where they cannot be compared.

    `improvement_percent` is relative to the champion's accuracy, None when that is 0. `accuracy_drop` is absolute, as a
    share, and 0 when there is no drop. `mcnemar_p` stands beside the interval, see `intervals.mcnemar`.
    """

    champion_version: str
    champion_run_id: str
    architecture_change: bool
    note: str
    champion_accuracy: float | None = None
    accuracy_difference: Interval | None = None
    improvement_percent: float | None = None
    accuracy_drop: float | None = None
    mcnemar_p: float | None = None


@dataclass(frozen=True)
class AbTestPlan:
    """Design of the A/B test of the candidate (treatment) against the champion (control).

    `sample_size_per_arm` finds `detectable_effect_percent` (relative to `baseline`) with the stated power;
    `planned_days` follows from the decisions per day of the held-out data; both None where they cannot be planned.
    """

    control: str
    treatment: str
    primary_metric: str
    baseline: float
    detectable_effect_percent: float
    confidence: float
    power: float
    treatment_traffic_share: float
    sample_size_per_arm: int | None
    decisions_per_day: float
    planned_days: int | None
    max_days: int
    note: str


def compare_with_champion(
    champion: ChampionModel,
    candidate_correct: NDArray[np.bool_],
    states: NDArray[np.float32],
    best_action: NDArray[np.int64],
    clusters: NDArray[np.int64],
    *,
    state_fields: tuple[str, ...],
    architecture: str,
    samples: int,
    confidence: float,
    seed: int,
) -> ChampionComparison:
    """Ask the champion for the same decisions and compare decision by decision (paired bootstrap over episodes).

    Args:
        champion: the version in production.
        candidate_correct: whether the candidate is right on the labelled decisions, (N,).
        states: states of the labelled decisions, (N, D).
        best_action: their labels, (N,).
        clusters: their episode numbers, (N,), 0..C-1.
        state_fields: names of the states' entries.
        architecture: the candidate's network.
        samples: bootstrap resamples.
        confidence: coverage of the interval.
        seed: of the bootstrap.
    """
    changed = champion.architecture != architecture

    def incomparable(note: str) -> ChampionComparison:
        return ChampionComparison(champion.semver, champion.run_id, changed, note)

    if champion.state_fields != state_fields:
        names = ", ".join(sorted(set(champion.state_fields) ^ set(state_fields))) or "their order"
        return incomparable(f"the champion reads another state vector ({names}) and cannot answer for these states")
    if not len(states):
        return incomparable("no held-out decision has a label")
    champion_correct = greedy(q_values(champion.policy, states)) == best_action
    difference = candidate_correct.astype(np.float64) - champion_correct
    pairs = cluster_sums(np.stack([difference, np.ones_like(difference)], axis=1), clusters)
    interval = cluster_bootstrap(pairs, ratio, samples=samples, confidence=confidence, seed=seed)
    baseline = float(champion_correct.mean())
    return ChampionComparison(
        champion_version=champion.semver,
        champion_run_id=champion.run_id,
        architecture_change=changed,
        note=f"paired on {len(states)} labelled decisions",
        champion_accuracy=baseline,
        accuracy_difference=interval,
        improvement_percent=100 * interval.estimate / baseline if baseline > 0 else None,
        accuracy_drop=max(0.0, -interval.estimate),
        mcnemar_p=mcnemar(
            int((candidate_correct & ~champion_correct).sum()), int((champion_correct & ~candidate_correct).sum())
        ),
    )


def plan_ab_test(
    comparison: ChampionComparison | None, profile: PolicyProfile, *, treatment: str, decisions_per_day: float
) -> AbTestPlan | None:
    """Plan the online test of candidate against champion; None without a champion to test against."""
    if comparison is None or comparison.champion_accuracy is None:
        return None
    design, effect = profile.ab_test, profile.governance.min_improvement_percent
    size, note = _sample_size(comparison.champion_accuracy, effect, profile)
    days = None
    if size is not None and decisions_per_day > 0:
        smaller_arm = min(design.traffic_share, 1 - design.traffic_share)
        days = math.ceil(size / (smaller_arm * decisions_per_day))
        if days > design.max_days:
            note = f"{note}; {days} days exceed the limit of {design.max_days}: give the treatment more traffic"
    return AbTestPlan(
        control=comparison.champion_version,
        treatment=treatment,
        primary_metric=PRIMARY_METRIC,
        baseline=comparison.champion_accuracy,
        detectable_effect_percent=effect,
        confidence=profile.evaluation.confidence,
        power=design.power,
        treatment_traffic_share=design.traffic_share,
        sample_size_per_arm=size,
        decisions_per_day=decisions_per_day,
        planned_days=days,
        max_days=design.max_days,
        note=note,
    )


def _sample_size(baseline: float, effect_percent: float, profile: PolicyProfile) -> tuple[int | None, str]:
    target = baseline * (1 + effect_percent / 100)
    try:
        needed = proportion_sample_size(
            baseline, target, confidence=profile.evaluation.confidence, power=profile.ab_test.power
        )
    except InputError as error:
        return None, f"an improvement of {effect_percent:g} % over {baseline:.4f} cannot be tested: {error}"
    least = profile.ab_test.min_samples_per_arm
    return max(needed, least), "two-sided test of two proportions" + (
        f", raised to the least of {least} per arm" if needed < least else ""
    )
