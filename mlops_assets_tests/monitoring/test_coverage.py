"""The watch over estimates keeps its own error rate and finds a broken promise soon, also a late one."""

import json
from dataclasses import replace

import numpy as np

from mlops_assets.evaluation.intervals import Interval, normal_quantile
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.coverage import CoverageWatch
from mlops_assets.monitoring.estimate import PerformanceEstimate

POLICY = load_profile("aiwebtest").estimate
CALIBRATION, NOISE = 0.004, 0.01
ESTIMATE = PerformanceEstimate(
    "estimated", 1000, Interval(0.9, 0.88, 0.92, 0.95), None, None, 1000.0, 0.0, (CALIBRATION,) * 3, (NOISE,) * 3, ""
)


def windows(watch: CoverageWatch, realised: np.ndarray) -> CoverageWatch:
    for one in realised:
        watch = watch.after(ESTIMATE, float(one))
    return watch


def test_a_kept_promise_is_hardly_ever_called_broken() -> None:
    """One unlucky calibration, whose error all windows share, counts as ever new evidence: 300 versions, 120 days."""
    random = np.random.default_rng(1)
    off = 0
    for _ in range(300):
        shared = CALIBRATION * random.normal()
        off += windows(CoverageWatch.start(POLICY), 0.9 + shared + NOISE * random.normal(size=120)).switched_off
    assert off <= 300 * POLICY.coverage_alpha + 3 * np.sqrt(300 * POLICY.coverage_alpha)


def test_a_broken_promise_is_found_at_once_and_also_late() -> None:
    """A hundred good windows pay for as many bad ones."""
    new = windows(CoverageWatch.start(POLICY), np.full(3, 0.8))
    assert new.switched_off
    assert (new.windows, new.misses) == (3, 3)
    old = windows(CoverageWatch.start(POLICY), np.full(100, 0.9))
    assert not old.switched_off
    assert windows(old, np.full(8, 0.8)).switched_off


def test_where_a_window_misses() -> None:
    """The slack is another than the calibration's bound plus the noise's."""
    slack = normal_quantile(1 - POLICY.coverage_alpha / 4) * CALIBRATION + normal_quantile(0.975) * NOISE
    watch = CoverageWatch.start(POLICY)
    assert watch.after(ESTIMATE, 0.9 + slack - 1e-9).misses == 0
    assert watch.after(ESTIMATE, 0.9 + slack + 1e-9).misses == 1


def test_no_estimate_is_no_window() -> None:
    """What was not estimated counts as kept."""
    watch = CoverageWatch.start(POLICY)
    assert watch.after(replace(ESTIMATE, accuracy=None), 0.1) == watch


def test_document() -> None:
    """A watch that was stored goes on elsewhere than where it stood."""
    watch = windows(CoverageWatch.start(POLICY), np.array([0.9, 0.8]))
    again = CoverageWatch.from_document(json.loads(json.dumps(watch.document())))
    assert again == watch
    assert again.after(ESTIMATE, 0.8) == watch.after(ESTIMATE, 0.8)
