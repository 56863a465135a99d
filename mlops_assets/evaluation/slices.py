"""Is the policy as good for every UI framework and browser? Accuracy by slice, and the widest gap."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlops_assets.evaluation.intervals import Interval, wilson


@dataclass(frozen=True)
class Slice:
    """Accuracy in one slice; `gap_points` is overall accuracy minus the slice's, in percentage points.

    It is None for a slice with too few labelled decisions, or whose dimension leaves nothing to compare it with.
    """

    dimension: str
    value: str
    labelled: int
    accuracy: Interval
    gap_points: float | None


@dataclass(frozen=True)
class SliceReport:
    """All slices, and the widest gap; None when no dimension has two slices that are large enough."""

    slices: tuple[Slice, ...]
    max_gap_points: float | None

    @property
    def worst(self) -> Slice | None:
        """The slice with the widest gap."""
        judged = [part for part in self.slices if part.gap_points is not None]
        return max(judged, key=lambda part: part.gap_points or 0.0, default=None)


def slice_metrics(
    correct: NDArray[np.bool_],
    dimensions: Mapping[str, NDArray[np.str_] | NDArray[np.object_]],
    *,
    min_rows: int,
    confidence: float,
) -> SliceReport:
    """Cut labelled decisions by each dimension.

    Args:
        correct: whether the greedy action is the labelled best, (N,).
        dimensions: name of the dimension to the value of each decision, (N,); the empty value means unknown.
        min_rows: labelled decisions below which a slice is shown and not judged.
        confidence: coverage of the Wilson intervals.
    """
    slices = tuple(
        part
        for dimension, values in dimensions.items()
        for part in _dimension(correct, dimension, np.asarray(values, dtype=str), min_rows, confidence)
    )
    gaps = [part.gap_points for part in slices if part.gap_points is not None]
    return SliceReport(slices, max(gaps) if gaps else None)


def _dimension(
    correct: NDArray[np.bool_], dimension: str, values: NDArray[np.str_], min_rows: int, confidence: float
) -> list[Slice]:
    names, numbers = np.unique(values, return_inverse=True)
    rows = np.bincount(numbers, minlength=len(names))
    hits = np.bincount(numbers, weights=correct, minlength=len(names)).astype(np.int64)
    judged = (rows >= min_rows) & (names != "")
    comparable = judged.sum() >= 2  # noqa: PLR2004 - one slice has nothing to differ from
    overall = float(correct.mean()) if len(correct) else 0.0
    return [
        Slice(
            dimension=dimension,
            value=str(names[i]),
            labelled=int(rows[i]),
            accuracy=wilson(int(hits[i]), int(rows[i]), confidence),
            gap_points=100 * (overall - float(hits[i] / rows[i])) if comparable and judged[i] else None,
        )
        for i in range(len(names))
    ]
