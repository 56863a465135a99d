"""Slices and their gap."""

import numpy as np
import pytest

from mlops_assets.evaluation.slices import SliceReport, slice_metrics


def cut(groups: dict[str, tuple[int, int]], *, min_rows: int = 100) -> SliceReport:
    """Slice one dimension; each group has (right, wrong) decisions."""
    correct = np.concatenate([np.repeat([True, False], counts) for counts in groups.values()])
    names = np.concatenate([np.repeat(name, sum(counts)) for name, counts in groups.items()])
    return slice_metrics(correct, {"ui_framework": names.astype(object)}, min_rows=min_rows, confidence=0.95)


def test_gap_is_the_distance_to_the_average() -> None:
    """87 % on one framework under an average of 93 % is a gap of 6 points, not of 7 to the best one."""
    found = cut({"react": (960, 40), "angular": (870, 130), "vue": (960, 40)})
    assert found.max_gap_points == pytest.approx(6.0)
    assert found.worst is not None
    assert (found.worst.dimension, found.worst.value, found.worst.labelled) == ("ui_framework", "angular", 1000)
    assert found.worst.accuracy.estimate == pytest.approx(0.87)
    best = next(part for part in found.slices if part.value == "react")
    assert best.gap_points == pytest.approx(-3.0)


def test_small_slices_are_shown_and_not_judged() -> None:
    """Three wrong decisions of four on a rare browser are no verdict on the model."""
    found = cut({"react": (95, 5), "vue": (96, 4), "rare": (1, 3)})
    rare = next(part for part in found.slices if part.value == "rare")
    assert rare.gap_points is None
    assert rare.accuracy.estimate == 0.25
    assert found.max_gap_points == pytest.approx(100 * (192 / 204 - 0.95))


@pytest.mark.parametrize(
    "groups", [{"react": (95, 5)}, {"react": (95, 5), "vue": (9, 1)}, {"": (90, 10), "react": (95, 5)}]
)
def test_nothing_to_compare_is_unknown(groups: dict[str, tuple[int, int]]) -> None:
    """One slice cannot differ from itself; its gap of 0 would read as "no bias"."""
    found = cut(groups)
    assert found.max_gap_points is None
    assert found.worst is None


def test_no_labelled_decision_at_all() -> None:
    """Without labels there are no slices and no division by zero."""
    found = slice_metrics(np.zeros(0, dtype=bool), {"browser": np.zeros(0, dtype=object)}, min_rows=1, confidence=0.9)
    assert found == SliceReport((), None)


def test_the_widest_gap_over_all_dimensions() -> None:
    """A gap by browser must not hide behind an even split by framework."""
    correct = np.concatenate([np.repeat([True, False], (95, 5)), np.repeat([True, False], (75, 25))])
    browser = np.repeat(np.array(["chromium", "webkit"], dtype=object), 100)
    framework = np.tile(np.array(["react", "vue"], dtype=object), 100)
    found = slice_metrics(correct, {"ui_framework": framework, "browser": browser}, min_rows=50, confidence=0.95)
    assert found.max_gap_points == pytest.approx(10.0)
    assert found.worst is not None
    assert found.worst.value == "webkit"
