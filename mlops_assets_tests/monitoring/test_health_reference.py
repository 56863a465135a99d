"""A frozen reference of health."""

from dataclasses import replace

import numpy as np
import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.health_reference import HealthReference, tail_of
from mlops_assets_tests.monitoring.small_decisions import decisions

POLICY = load_profile("aiwebtest").health
RANDOM = np.random.default_rng(0)
ROWS = 1200
SAMPLE = decisions(
    q_values=RANDOM.normal(size=(ROWS, 3)), state=RANDOM.normal(size=(ROWS, 4)), reward=RANDOM.normal(size=ROWS)
)


def test_frozen_and_back() -> None:
    """A reference that was read judges otherwise than the one that was frozen, or its hash changes by itself."""
    made = HealthReference.of(SAMPLE, POLICY, discount=0.9, seed=1)
    again = HealthReference.from_bytes(made.to_bytes())
    assert again.to_bytes() == made.to_bytes()
    assert again.to_bytes() == HealthReference.of(SAMPLE, POLICY, discount=0.9, seed=1).to_bytes()
    assert again.overestimation == made.overestimation
    np.testing.assert_array_equal(again.seen.unseen(SAMPLE.state), made.seen.unseen(SAMPLE.state))


def test_what_it_holds() -> None:
    """Over-estimation or tail is of something else."""
    made = HealthReference.of(SAMPLE, POLICY, discount=0.9, seed=1)
    over = SAMPLE.q_values.max(axis=1).astype(float) - SAMPLE.reward
    assert made.overestimation == pytest.approx(over.mean())
    assert made.overestimation_error == pytest.approx(over.std(ddof=1) / np.sqrt(ROWS))
    assert made.tail == pytest.approx(np.quantile(np.abs(over - np.median(over)), POLICY.tail_quantile))
    assert made.counts.tolist() == np.bincount(SAMPLE.action).tolist()
    assert made.action_effect == 1.0


def test_without_outcomes() -> None:
    """A reference whose rewards are not known has over-estimation 0, or does not freeze."""
    blind = replace(SAMPLE, reward=np.full(ROWS, np.nan, dtype=np.float32))
    made = HealthReference.from_bytes(HealthReference.of(blind, POLICY, discount=0.9, seed=1).to_bytes())
    assert np.isnan(made.overestimation)
    assert made.episodes == made.td_rows == 0


def test_too_little() -> None:
    """A few decisions pass as a reference."""
    with pytest.raises(InputError, match="999 decisions in 999 clusters are no reference"):
        HealthReference.of(SAMPLE.take(slice(999)), POLICY, discount=0.9, seed=1)
    with pytest.raises(InputError, match="1 clusters"):
        HealthReference.of(replace(SAMPLE, cluster=np.zeros(ROWS, np.int64)), POLICY, discount=0.9, seed=1)


def test_a_common_shift_is_no_tail() -> None:
    """Over-estimation, which has its own alarm, raises the tail's too."""
    errors = RANDOM.normal(size=1000)
    assert tail_of(errors + 50.0, 0.99) == pytest.approx(tail_of(errors, 0.99))
