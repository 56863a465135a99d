"""Ridge and logistic regression as plain arrays: small, deterministic, and frozen without pickle. No measure here."""

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

# Newton's steps of the logistic fit; it mostly takes six, and the ridge keeps separable data from running away.
_MOST_STEPS, _SMALL_STEP = 25, 1e-6
# Of the log-likelihood: far below what one decision says.
_SMALL_GAIN = 1e-4
# Probabilities are kept away from 0 and 1, where Newton's weights vanish.
_EDGE = 1e-6


def ridge(features: Float, target: Float, penalty: float) -> Float:
    """Coefficients (F + 1,), the intercept last and not penalised, of min sum (y - xb)^2 + penalty |b|^2."""
    design = with_intercept(features)
    gram = design.T @ design + _penalty(design, penalty)
    return np.asarray(np.linalg.solve(gram, design.T @ target), dtype=np.float64)


def logistic(features: Float, target: NDArray[np.bool_] | Float, penalty: float) -> Float:
    """Coefficients (F + 1,), the intercept last and not penalised, of the ridge-penalised log-likelihood (Newton)."""
    design = with_intercept(features)
    wanted = np.asarray(target, dtype=np.float64)
    punished = _penalty(design, penalty)
    found = np.zeros(design.shape[1])
    share = np.clip(wanted.mean(), _EDGE, 1 - _EDGE)
    found[-1] = np.log(share / (1 - share))
    before = _penalised(design, wanted, found, penalty)
    for _ in range(_MOST_STEPS):
        chance = sigmoid(design @ found)
        weight = np.maximum(chance * (1 - chance), _EDGE)
        slope = design.T @ (wanted - chance) - punished @ found
        step = np.linalg.solve((design * weight[:, None]).T @ design + punished, slope)
        # Newton overshoots where almost everything is certain; half of a step that does not help is tried.
        after = _penalised(design, wanted, found + step, penalty)
        while after < before and np.abs(step).max() > _SMALL_STEP:
            step = step / 2
            after = _penalised(design, wanted, found + step, penalty)
        found = found + step
        if after - before < _SMALL_GAIN:
            break
        before = after
    return found


def _penalised(design: Float, wanted: Float, coefficients: Float, penalty: float) -> float:
    scores = design @ coefficients
    likelihood = wanted * scores - np.logaddexp(0.0, scores)
    return float(likelihood.sum() - 0.5 * penalty * (coefficients[:-1] ** 2).sum())


def with_intercept(features: Float) -> Float:
    """Features (N, F) with a last column of ones."""
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def linear(features: Float, coefficients: Float) -> Float:
    """Linear predictions (N,) or, of coefficients (F + 1, M), (N, M)."""
    return features @ coefficients[:-1] + coefficients[-1]


def sigmoid(scores: Float) -> Float:
    """1 / (1 + exp(-score)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * scores))


def _penalty(design: Float, penalty: float) -> Float:
    diagonal = np.full(design.shape[1], penalty)
    diagonal[-1] = 0.0
    return np.diag(diagonal)
