"""What a version's held-out decisions teach about when it is right: a frozen calibration. The estimate is in `estimate.py`.

Three targets of a decision are regressed on what is known of it at once (margins of the Q values, the greedy action, the
state): whether the greedy action is the best (logistic), the value it loses, and the reward (both ridge). Models are
cross-fitted over clusters, so that the residuals that are kept are those of decisions their model has not seen.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError
from mlops_assets.monitoring.decision_features import Features
from mlops_assets.monitoring.frozen_arrays import from_bytes, to_bytes
from mlops_assets.monitoring.linear_models import Float, linear, logistic, ridge, sigmoid
from mlops_assets.monitoring.version_decisions import VersionDecisions, some_clusters

_KIND = "calibration-1"
TARGETS = ("correct", "loss", "reward")
_FOLDS = 5
# Of standardised features: worth a row each where there are thousands of them.
_PENALTY = 3.0
# Reference decisions kept for weighting: 8,192 rows put the error of a rate near half a point at most.
_KEPT_ROWS = 8_192
# More decisions teach nothing that the kept residuals could confirm.
_FITTED_ROWS = 24_576


@dataclass(frozen=True)
class CalibrationReference:
    """Frozen calibration of one version. `kept` rows of the reference carry residuals, K of them.

    `coefficients` (folds, targets, F + 1); NaN for a target that the reference does not know. `residuals` (K, targets),
    `features` (K, F), `cluster` (K,). `means` and `mean_errors` (targets,): of the reference, with standard errors that
    respect clusters. `spread_ratio` (targets,): variance of a mean of residuals over that of independent ones.
    """

    fitting: Features
    coefficients: NDArray[np.float64]
    residuals: NDArray[np.float64]
    features: NDArray[np.float32]
    cluster: NDArray[np.int64]
    means: NDArray[np.float64]
    mean_errors: NDArray[np.float64]
    spread_ratio: NDArray[np.float64]
    rows: int

    @classmethod
    def of(cls, reference: VersionDecisions, *, min_rows: int, seed: int) -> "CalibrationReference":
        """Fit the calibration on decisions that the version took and was not trained on, of which the labelled count.

        Best are held-out episodes that the version played itself, or its first ones in service. Where another policy took the
        decisions, they show other states, and the value of what that policy knew is taken for the version's own: estimates
        are then several times as far off (benchmarks/label_free.md), and intervals too narrow.

        Raises:
            InputError: fewer than `min_rows` are labelled, or in fewer clusters than there are folds.
        """
        whole = reference.take(reference.labelled)
        clusters_known = len(np.unique(whole.cluster))
        if len(whole) < min_rows or clusters_known < _FOLDS:
            raise InputError(
                f"{len(whole)} labelled decisions in {clusters_known} clusters calibrate nothing; {min_rows} in at least "
                f"{_FOLDS} are needed: wait for labels, or lower estimate.min_reference_rows"
            )
        random = np.random.default_rng(seed)
        numbers = np.unique(whole.cluster, return_inverse=True)[1]
        fitted = whole.take(some_clusters(numbers, _FITTED_ROWS, random))
        fitting = Features.fitted(fitted, seed)
        features, targets = fitting.of(fitted), target_values(fitted)
        fold = random.permutation(numbers.max() + 1)[np.unique(fitted.cluster, return_inverse=True)[1]] % _FOLDS
        coefficients = np.stack([_fit(features[fold != k], targets[fold != k]) for k in range(_FOLDS)])
        predicted = np.empty_like(targets)
        for k in range(_FOLDS):
            predicted[fold == k] = _predict(features[fold == k], coefficients[k])
        residuals = targets - predicted
        clusters = np.unique(fitted.cluster, return_inverse=True)[1].astype(np.int64)
        kept = some_clusters(clusters, _KEPT_ROWS, random)
        every = target_values(whole)
        return cls(
            fitting=fitting,
            coefficients=coefficients,
            residuals=residuals[kept],
            features=features[kept].astype(np.float32),
            cluster=np.unique(clusters[kept], return_inverse=True)[1].astype(np.int64),
            means=_mean(every),
            mean_errors=np.array([cluster_error(column, numbers) for column in every.T]),
            spread_ratio=np.array([_spread_ratio(column, clusters) for column in residuals.T]),
            rows=len(whole),
        )

    def predict(self, features: Float) -> Float:
        """Expected targets (N, targets): mean over the folds' models."""
        return self.predict_each(features).mean(axis=0)

    def predict_each(self, features: Float) -> Float:
        """Expected targets by the model of each fold, (folds, N, targets)."""
        return np.stack([_predict(features, one) for one in self.coefficients])

    def mean_of(self, target: str) -> float:
        """Mean of a target over the reference; NaN where it is not known."""
        return float(self.means[TARGETS.index(target)])

    def to_bytes(self) -> bytes:
        """Freeze: equal references give equal bytes."""
        own = {name: value for name, value in vars(self).items() if name not in {"fitting", "rows"}}
        fitting = {f"fitting.{name}": value for name, value in vars(self.fitting).items() if name != "value_spread"}
        return to_bytes(_KIND, {"rows": self.rows, "value_spread": self.fitting.value_spread}, {**own, **fitting})

    @classmethod
    def from_bytes(cls, content: bytes) -> "CalibrationReference":
        """Read a frozen calibration.

        Raises:
            InputError: these bytes are none.
        """
        numbers, arrays = from_bytes(_KIND, content)
        fitting: dict[str, Any] = {
            name.removeprefix("fitting."): value for name, value in arrays.items() if name.startswith("fitting.")
        }
        own: dict[str, Any] = {name: value for name, value in arrays.items() if not name.startswith("fitting.")}
        return cls(fitting=Features(value_spread=numbers["value_spread"], **fitting), rows=numbers["rows"], **own)


def target_values(decisions: VersionDecisions) -> Float:
    """Targets (N, 3) of labelled decisions: right (1 or 0), value lost, reward; NaN where unknown."""
    return np.stack(
        [decisions.correct.astype(np.float64), decisions.regret, decisions.reward.astype(np.float64)], axis=1
    )


def cluster_error(values: Float, clusters: NDArray[np.int64]) -> float:
    """Standard error of the mean of the known among values (N,), whole clusters being independent; NaN for none."""
    known = np.isfinite(values)
    if not known.any():
        return float("nan")
    centred = np.where(known, values - values[known].mean(), 0.0)
    sums = np.bincount(clusters, weights=centred)
    groups = len(np.unique(clusters[known]))
    return float(np.sqrt((sums**2).sum() * groups / max(groups - 1, 1)) / known.sum())


def _mean(targets: Float) -> Float:
    known = np.isfinite(targets)
    counts = known.sum(axis=0)
    sums = np.where(known, targets, 0.0).sum(axis=0)
    return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def _fit(features: Float, targets: Float) -> Float:
    """Coefficients (targets, F + 1) on the rows where each target is known; NaN where it never is."""
    found = np.full((len(TARGETS), features.shape[1] + 1), np.nan)
    for index in range(len(TARGETS)):
        known = np.isfinite(targets[:, index])
        if known.any():
            fit = logistic if index == 0 else ridge
            found[index] = fit(features[known], targets[known, index], _PENALTY)
    return found


def _predict(features: Float, coefficients: Float) -> Float:
    predicted = linear(features, coefficients.T)
    predicted[:, 0] = sigmoid(predicted[:, 0])
    return predicted


def _spread_ratio(residuals: Float, clusters: NDArray[np.int64]) -> float:
    known = np.isfinite(residuals)
    deviation = float(residuals[known].std()) if known.any() else 0.0
    if deviation == 0.0:
        return 1.0
    independent = deviation / np.sqrt(known.sum())
    return max(1.0, (cluster_error(residuals, clusters) / independent) ** 2)
