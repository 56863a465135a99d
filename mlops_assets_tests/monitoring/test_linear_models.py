"""Regressions against scikit-learn's."""

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from mlops_assets.monitoring.linear_models import linear, logistic, ridge, sigmoid

RANDOM = np.random.default_rng(3)
FEATURES = RANDOM.normal(size=(500, 6)) * np.array([1.0, 5.0, 0.2, 1.0, 2.0, 1.0])
SCORES = FEATURES @ np.array([1.0, -0.5, 2.0, 0.0, 0.3, 0.0]) - 1.0


def test_ridge_is_scikit_learns() -> None:
    """A sign, the intercept's penalty or the penalty's scale is wrong."""
    target = SCORES + RANDOM.normal(size=500)
    theirs = Ridge(alpha=3.0).fit(FEATURES, target)
    found = ridge(FEATURES, target, 3.0)
    np.testing.assert_allclose(found, [*theirs.coef_, theirs.intercept_], rtol=1e-8)


def test_logistic_is_scikit_learns() -> None:
    """Newton's method stops short, or maximises something else."""
    target = RANDOM.random(500) < sigmoid(SCORES)
    theirs = LogisticRegression(C=1 / 3.0, tol=1e-10, max_iter=10_000).fit(FEATURES, target)
    found = logistic(FEATURES, target, 3.0)
    np.testing.assert_allclose(found, [*theirs.coef_[0], theirs.intercept_[0]], atol=1e-3)
    np.testing.assert_allclose(sigmoid(linear(FEATURES, found)), theirs.predict_proba(FEATURES)[:, 1], atol=1e-4)


def test_separable_and_constant_targets_end() -> None:
    """An agent that is always right, or a score that tells right from wrong exactly, never ends or gives NaN."""
    apart = logistic(FEATURES, SCORES > 0, 1.0)
    assert np.isfinite(apart).all()
    assert ((linear(FEATURES, apart) > 0) == (SCORES > 0)).mean() > 0.98
    always = logistic(FEATURES, np.ones(500, dtype=bool), 1.0)
    assert sigmoid(linear(FEATURES, always)).min() > 0.99


def test_sigmoid_does_not_overflow() -> None:
    """Far scores warn, or become NaN."""
    np.testing.assert_allclose(sigmoid(np.array([-1e4, 0.0, 1e4])), [0.0, 0.5, 1.0])
