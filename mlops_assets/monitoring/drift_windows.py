"""Drift in two windows with the same end: the whole one, and its newest hours. Pure, but for the reader that it is given.

A sudden change fills the newest hours at once, where the whole window dilutes it for half of a day; a small one takes the
rows of the whole window to be seen. Hours are not like days: the newest count only in columns that also differ from the
same hours of the day before, so that an evening is no drift.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.policies import DriftPolicy
from mlops_assets.monitoring.drift_bands import ORDER
from mlops_assets.monitoring.drift_verdict import DriftVerdict, check_drift, of_columns
from mlops_assets.monitoring.reference import Reference
from mlops_assets.monitoring.reference_columns import NumericReference

Columns = Mapping[str, NDArray[Any]]
_HOUR: Final = np.timedelta64(3_600_000_000, "us")


@dataclass(frozen=True)
class Rows:
    """Columns of N decisions, when each was taken (N,), datetime64, ascending, and what each depends on with others (N,).

    `shared`: of columns whose values many rows share, the number of each row's draw (`shared_draws`).
    """

    columns: Columns
    event_time: NDArray[np.datetime64]
    clusters: NDArray[Any] | None
    shared: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return N."""
        return len(self.event_time)

    def last(self, rows: int) -> "Rows":
        """Return the newest ones."""
        part = slice(len(self) - rows, None)
        columns = {name: values[part] for name, values in self.columns.items()}
        clusters = None if self.clusters is None else self.clusters[part]
        shared = {name: _renumbered(draws[part]) for name, draws in self.shared.items()}
        return Rows(columns, self.event_time[part], clusters, shared)


@dataclass(frozen=True)
class DriftWindows:
    """The verdict that counts, and the hours that it is of; `newest` says that they are not the whole window."""

    drift: DriftVerdict
    hours: float
    newest: bool


# Gives the rows of the day before from the first to the second time; both datetime64.
ReadBefore = Callable[[np.datetime64, np.datetime64], Rows]


def check_windows(
    reference: Reference,
    rows: Rows,
    end: np.datetime64,
    window_hours: float,
    policy: DriftPolicy,
    *,
    read: ReadBefore,
    confidence_column: str | None = None,
) -> DriftWindows:
    """Compare the whole window with the reference, and its newest hours; the worse of the two verdicts counts.

    The newest hours are at least `newest_min_hours`, and as many as it takes for `min_rows`.

    Args:
        reference: what both are compared with.
        rows: of the window.
        end: of the window.
        window_hours: its length.
        policy: limits.
        read: reads the same hours of the day before, when the newest show drift.
        confidence_column: as `check_drift`.

    Raises:
        InputError: as `check_drift`.
    """
    # Either of two looks may raise a false alarm: each has half of the chance.
    half = policy.model_copy(update={"alpha": policy.alpha / 2})
    whole = _checked(reference, rows, half, confidence_column)
    newest, begin = _newest(rows, end, policy), end
    if newest is not None:
        begin = newest.event_time[0]
        found = _checked(reference, newest, half, confidence_column)
        if ORDER.index(found.verdict) > max(ORDER.index(whole.verdict), ORDER.index("ok")):
            drift = _unlike_the_day_before(found, newest, read(begin - 24 * _HOUR, end - 24 * _HOUR), reference, half)
            if ORDER.index(drift.verdict) > ORDER.index(whole.verdict):
                return DriftWindows(drift, float((end - begin) / _HOUR), newest=True)
    return DriftWindows(whole, window_hours, newest=False)


def _checked(reference: Reference, rows: Rows, policy: DriftPolicy, confidence_column: str | None) -> DriftVerdict:
    return check_drift(
        reference,
        rows.columns,
        policy,
        clusters=rows.clusters,
        shared=rows.shared,
        confidence_column=confidence_column,
    )


def _renumbered(draws: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(draws, return_inverse=True)[1].astype(np.int64)


def _newest(rows: Rows, end: np.datetime64, policy: DriftPolicy) -> Rows | None:
    """The newest hours; None where the window has no other hours, or too few rows, or that is switched off."""
    if policy.newest_min_hours is None:
        return None
    minimum = np.timedelta64(round(policy.newest_min_hours * 3_600_000_000), "us")
    within = len(rows) - int(np.searchsorted(rows.event_time, end - minimum))
    count = max(within, policy.min_rows)
    return rows.last(count) if count < len(rows) else None


def _unlike_the_day_before(
    found: DriftVerdict, newest: Rows, before: Rows, reference: Reference, policy: DriftPolicy
) -> DriftVerdict:
    """What was found, in columns that differ from the same hours of the day before as well; nothing where too few are known."""
    if len(before) < policy.min_rows:
        return of_columns(found, frozenset(), policy)
    texts = [
        name
        for name, column in reference.columns.items()
        if name in before.columns and not isinstance(column, NumericReference)
    ]
    yesterday = Reference.freeze(
        before.columns, policy, clusters=before.clusters, shared=before.shared, categorical=texts
    )
    since = _checked(yesterday, newest, policy, None)
    drifted = {one.name for one in since.columns if ORDER.index(one.verdict) > ORDER.index("ok")}
    drifted |= {one.column for one in since.findings if ORDER.index(one.verdict) > ORDER.index("ok")}
    return of_columns(found, frozenset(drifted), policy)
