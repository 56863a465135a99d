"""How good a version is on decisions whose labels have not come: an estimate with an interval. When to believe it: `coverage.py`.

In the spirit of confidence-based performance estimation, made doubly robust against a shift of the inputs (Shimodaira 2000;
Reddi et al. 2015): the mean prediction of the calibration over the window, plus the mean residual over the reference,
weighted by how much likelier its decisions are in the window. Either a right calibration or right weights suffice. What
no input shows, a changed relation between a decision and its worth, no such estimate sees.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mlops_assets.evaluation.intervals import Interval, normal_quantile
from mlops_assets.foundation.policies import EstimatePolicy
from mlops_assets.monitoring.calibration import TARGETS, CalibrationReference
from mlops_assets.monitoring.coverage import CoverageWatch
from mlops_assets.monitoring.linear_models import Float, linear, logistic
from mlops_assets.monitoring.version_decisions import VersionDecisions

# A weight above this says that the reference hardly has such decisions; one row must not speak for many.
_MOST_WEIGHT = 20.0
# Of window and reference alike, for the classifier that tells them apart.
_WEIGHED_ROWS = 8_192
# Weights need fewer degrees of freedom than the calibration: their noise is multiplied with the residuals.
_WEIGHT_PENALTY = 30.0
_BLOCK_ROWS = 16_384
# Of the sample: the same window gives the same estimate.
_SEED = 0

Verdict = Literal["estimated", "insufficient_data", "outside_reference", "switched_off"]


@dataclass(frozen=True)
class PerformanceEstimate:
    """Estimated means per decision of one window; None where nothing can be said.

    `accuracy`: share whose greedy action is the best. `loss`: value lost beyond what the version lost on its reference; 0
    where nothing has changed. `reward`: of the logged actions. Standard errors are in two parts, (accuracy, loss, reward)
    each: `calibration_errors`, which all windows of this reference share, and `noise_errors`, of the window's own outcomes.
    `effective_reference_rows`: (sum w)^2 / sum w^2 (Kish 1965). `outside_share`: of the window, unlike the reference.
    """

    verdict: Verdict
    rows: int
    accuracy: Interval | None
    loss: Interval | None
    reward: Interval | None
    effective_reference_rows: float
    outside_share: float
    calibration_errors: tuple[float, ...]
    noise_errors: tuple[float, ...]
    words: str

    def at(self, confidence: float) -> "PerformanceEstimate":
        """Return the same estimate with intervals of another confidence."""
        if self.accuracy is None:
            return self
        z = normal_quantile(0.5 + confidence / 2)
        half = z * float(np.hypot(self.calibration_errors[0], self.noise_errors[0]))
        factor = z / normal_quantile(0.5 + self.accuracy.confidence / 2)
        return replace(
            self,
            accuracy=_within_0_and_1(_around(self.accuracy.estimate, half, confidence)),
            loss=_scaled(self.loss, factor, confidence),
            reward=_scaled(self.reward, factor, confidence),
        )


def estimate_performance(
    reference: CalibrationReference,
    decisions: VersionDecisions,
    policy: EstimatePolicy,
    *,
    coverage: CoverageWatch | None = None,
) -> PerformanceEstimate:
    """Estimate accuracy, loss and reward without looking at a label or an outcome.

    The intervals hold the errors of calibration and weights, and the chance of the window's own outcomes, both with
    dependence within clusters. `outside_reference` when more than `max_outside_share` of the window lies where the reference
    has hardly anything; `switched_off` once `coverage` has refuted the estimate of this version.
    """
    if coverage is not None and coverage.switched_off:
        return _nothing("switched_off", decisions, coverage.words)
    if len(decisions) < policy.min_rows:
        return _nothing(
            "insufficient_data", decisions, f"{len(decisions)} decisions; {policy.min_rows} are needed for an estimate"
        )
    predicted, sample = _predictions(reference, decisions)
    weights, odds = _weights(reference.features.astype(np.float64), sample)
    outside = float(np.mean(odds > _MOST_WEIGHT))
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    if outside > policy.max_outside_share:
        words = f"{outside:.0%} of the decisions lie where the reference has hardly any: nothing is known of them"
        return _nothing("outside_reference", decisions, words, effective=effective, outside=outside)
    means, calibration, noise = _combined(reference, predicted, weights, len(decisions))
    z = normal_quantile(0.5 + policy.confidence / 2)
    halves = z * np.hypot(calibration, noise)
    accuracy, lost, reward = (
        _interval(float(mean), float(half), policy.confidence) for mean, half in zip(means, halves, strict=True)
    )
    if accuracy is None:
        return _nothing("insufficient_data", decisions, "the reference has no labels to calibrate with")
    accuracy = _within_0_and_1(accuracy)
    return PerformanceEstimate(
        verdict="estimated",
        rows=len(decisions),
        accuracy=accuracy,
        loss=_beyond_reference(reference, lost, calibration, noise, z),
        reward=reward,
        effective_reference_rows=effective,
        outside_share=outside,
        calibration_errors=tuple(calibration.tolist()),
        noise_errors=tuple(noise.tolist()),
        words=f"accuracy is estimated at {accuracy.estimate:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f})",
    )


def _predictions(reference: CalibrationReference, decisions: VersionDecisions) -> tuple[Float, Float]:
    """Mean predictions over the window by fold, (folds, targets), and features of a random sample of it for the weights."""
    total = np.zeros((len(reference.coefficients), len(TARGETS)))
    # Not every k-th row: where sessions have a multiple of k steps, that would be some of the steps only.
    drawn = np.zeros(len(decisions), dtype=bool)
    drawn[np.random.default_rng(_SEED).permutation(len(decisions))[:_WEIGHED_ROWS]] = True
    sample = []
    for start in range(0, len(decisions), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        features = reference.fitting.of(decisions.take(rows))
        total += reference.predict_each(features).sum(axis=1)
        sample.append(features[drawn[rows]])
    return total / len(decisions), np.concatenate(sample)


def _weights(reference: Float, window: Float) -> tuple[Float, Float]:
    """Likelihood ratios window : reference of the reference's rows (mean 1) and of the window's, by a classifier."""
    both = np.concatenate([reference, window])
    of_window = np.r_[np.zeros(len(reference)), np.ones(len(window))]
    found = logistic(both, of_window, _WEIGHT_PENALTY)
    odds = np.exp(np.clip(linear(both, found), -30.0, 30.0)) * len(reference) / len(window)
    weights = np.minimum(odds[: len(reference)], _MOST_WEIGHT)
    return weights / weights.mean(), odds[len(reference) :]


def _combined(
    reference: CalibrationReference, predicted: Float, weights: Float, rows: int
) -> tuple[Float, Float, Float]:
    """Means (targets,) and the standard errors of calibration and of the window's own chance.

    The calibration's error has two parts: that of the weighted residuals, and that of the models themselves, by the delete-a-fold
    jackknife over their mean predictions.
    """
    known = np.isfinite(reference.residuals)
    residuals = np.where(known, reference.residuals, 0.0)
    weighed = weights[:, None] * residuals
    total = np.where(known.any(axis=0), (weights[:, None] * known).sum(axis=0), np.nan)
    correction = weighed.sum(axis=0) / total
    off = np.where(known, weights[:, None] * (residuals - correction), 0.0)
    sums = np.stack([np.bincount(reference.cluster, weights=column) for column in off.T], axis=1)
    folds = len(predicted)
    fitting = np.sqrt(((predicted - predicted.mean(axis=0)) ** 2).sum(axis=0) * (folds - 1) / folds)
    calibration = np.hypot(np.sqrt((sums**2).sum(axis=0)) / total, fitting)
    variance = (weights[:, None] * residuals**2).sum(axis=0) / total
    return predicted.mean(axis=0) + correction, calibration, np.sqrt(reference.spread_ratio * variance / rows)


def _beyond_reference(
    reference: CalibrationReference, lost: Interval | None, calibration: Float, noise: Float, z: float
) -> Interval | None:
    if lost is None:
        return None
    place = TARGETS.index("loss")
    # The reference's own mean and the calibration rest on the same decisions; taking their errors as independent is the wide side.
    error = float(np.sqrt(calibration[place] ** 2 + noise[place] ** 2 + reference.mean_errors[place] ** 2))
    return _interval(lost.estimate - reference.mean_of("loss"), z * error, lost.confidence)


def _interval(estimate: float, half: float, confidence: float) -> Interval | None:
    if not (np.isfinite(estimate) and np.isfinite(half)):
        return None
    return _around(estimate, half, confidence)


def _scaled(interval: Interval | None, factor: float, confidence: float) -> Interval | None:
    if interval is None or interval.high is None:
        return interval
    half = (interval.high - interval.estimate) * factor
    return _around(interval.estimate, half, confidence)


def _around(estimate: float, half: float, confidence: float) -> Interval:
    return Interval(estimate, estimate - half, estimate + half, confidence)


def _within_0_and_1(interval: Interval) -> Interval:
    low, estimate, high = np.clip([interval.low, interval.estimate, interval.high], 0.0, 1.0).tolist()
    return Interval(estimate, low, high, interval.confidence)


def _nothing(
    verdict: Verdict, decisions: VersionDecisions, words: str, *, effective: float = 0.0, outside: float = 0.0
) -> PerformanceEstimate:
    return PerformanceEstimate(verdict, len(decisions), None, None, None, effective, outside, (), (), words)


def with_labels(
    watch: CoverageWatch, reference: CalibrationReference, decisions: VersionDecisions, policy: EstimatePolicy
) -> CoverageWatch:
    """Return the coverage's watch after one more window whose labels have come.

    The labelled decisions are estimated again as if they had no label: it does not matter which part got one. Give each
    window once.
    """
    labelled = decisions.take(decisions.labelled)
    if not len(labelled):
        return watch
    return watch.after(estimate_performance(reference, labelled, policy), float(labelled.correct.mean()))
