"""The combined score: its parts, their bounds and its bands."""

import numpy as np
import pytest

from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.design_effect import INDEPENDENT
from mlops_assets.monitoring.drift_statistics import column_statistics
from mlops_assets.monitoring.prediction_drift import CombinedScore, combined_score, moment_shift, unit_share
from mlops_assets.monitoring.reference_columns import NumericReference, freeze_numbers

_POLICY = load_profile("aiwebtest").drift


def _frozen(seed: int = 40) -> NumericReference:
    return freeze_numbers(np.random.default_rng(seed).beta(8, 2, 20_000), _POLICY, INDEPENDENT)


def _score(values: np.ndarray[tuple[int], np.dtype[np.float64]], *, significant: bool = True) -> CombinedScore:
    frozen = _frozen()
    return combined_score(frozen, column_statistics("c", frozen, values), _POLICY, significant=significant)


def test_it_is_the_weighted_sum_of_its_parts() -> None:
    """0.4, 0.3 and 0.3, each from its definition and not from another's scale."""
    frozen, values = _frozen(), np.random.default_rng(41).beta(6, 3, 5000)
    found = _score(values)
    statistics = column_statistics("c", frozen, values)
    fall = (frozen.mean - values.mean()) / frozen.mean
    shift = abs(values.mean() - frozen.mean) / frozen.sigma / 2
    shift += abs(np.log(values.var() / frozen.sigma**2)) / 2
    assert found.statistical == statistics.ks
    assert found.performance == pytest.approx(fall)
    assert found.distribution == pytest.approx(min(1.0, shift))
    assert statistics.ks is not None
    assert found.score == pytest.approx(0.4 * statistics.ks + 0.3 * fall + 0.3 * min(1.0, shift))
    assert found.status == "active"


def test_it_stays_within_zero_and_one() -> None:
    """The source's parts have no bounds: a mean of 0.001 in the denominator makes any score."""
    collapsed = _score(np.zeros(2000))
    assert collapsed.score == pytest.approx(1.0)
    assert collapsed.verdict == "critical"
    better = _score(np.full(2000, 1.0))
    assert better.performance == 0.0
    assert better.score == pytest.approx(0.7)
    assert unit_share(-3) == 0.0
    assert unit_share(3) == 1.0


def test_nothing_changed() -> None:
    """The noise of a thousand rows is no drift."""
    found = _score(np.random.default_rng(42).beta(8, 2, 1000))
    assert found.score is not None
    assert found.score < _POLICY.combined_monitor
    assert found.verdict == "ok"


def test_too_few_rows_are_collecting() -> None:
    """A score of fifty predictions is not 0, it is unknown."""
    found = _score(np.zeros(999))
    assert found == CombinedScore("collecting", None, None, None, None, "insufficient_data")
    assert _score(np.full(2000, np.nan)).status == "collecting"


def test_without_significance_it_is_told_and_does_not_alarm() -> None:
    """Five hundred dependent rows can have any score."""
    found = _score(np.random.default_rng(43).beta(3, 3, 2000), significant=False)
    assert found.verdict == "ok"
    assert found.score is not None
    assert found.score > _POLICY.combined_warning


def test_moments_of_constants() -> None:
    """A constant has no variance to take the logarithm of."""
    assert moment_shift(0.5, 0.0, 0.5, 0.0) == 0.0
    assert moment_shift(0.5, 0.0, 0.6, 0.0) == 1.0
    assert moment_shift(0.5, 0.1, 0.5, 0.0) == 1.0
    assert moment_shift(0.5, 0.1, 0.55, 0.1) == pytest.approx(0.25)
    assert moment_shift(0.5, 0.1, 0.5, 0.1 * np.exp(0.2)) == pytest.approx(0.2)
