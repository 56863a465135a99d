"""What the calibration is told of a decision."""

import numpy as np

from mlops_assets.monitoring.decision_features import Features
from mlops_assets_tests.monitoring.small_decisions import decisions

RANDOM = np.random.default_rng(2)
STATE = np.concatenate([RANDOM.normal(size=(400, 3)), np.ones((400, 1))], axis=1)
SAMPLE = decisions(q_values=RANDOM.normal(size=(400, 3)), state=STATE, action=RANDOM.integers(0, 3, 400))


def test_standardised_and_bounded() -> None:
    """A feature in large units outweighs all others under one penalty, or one outlier moves a prediction without limit."""
    made = Features.fitted(SAMPLE, 1)
    features = made.of(SAMPLE)
    varying = features.std(axis=0) > 0
    np.testing.assert_allclose(features[:, varying].mean(axis=0), 0.0, atol=0.05)
    spread = features[:, varying].std(axis=0)
    assert np.median(spread) > 0.99
    # Below 1 where a feature is rare, and cut off.
    assert spread.max() < 1.01
    far = decisions(q_values=[[1e6, 0, 0]], state=[[1e6, -1e6, 0, 5]])
    assert np.abs(made.of(far)).max() <= 8.0


def test_a_constant_field_stays_silent() -> None:
    """A field that never varied in the reference divides by zero, or rules a window in which it varies."""
    features = Features.fitted(SAMPLE, 1).of(SAMPLE)
    assert np.isfinite(features).all()
    assert (features[:, 3] == 0.0).all()


def test_neither_units_nor_labels_matter() -> None:
    """Values in another currency, or a label that has come, change what is known of a decision."""
    dearer = decisions(
        q_values=SAMPLE.q_values * 100.0, state=STATE * 2.0, action=SAMPLE.action, best_action=SAMPLE.greedy
    )
    np.testing.assert_allclose(
        Features.fitted(dearer, 1).of(dearer), Features.fitted(SAMPLE, 1).of(SAMPLE), rtol=1e-3, atol=1e-3
    )
