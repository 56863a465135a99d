"""Upstream drift: what changed in the data themselves before any distribution did. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import DriftPolicy
from mlops_assets.monitoring.column_values import kind_of, nothing_there
from mlops_assets.monitoring.drift_bands import Verdict
from mlops_assets.monitoring.drift_statistics import ColumnStatistics
from mlops_assets.monitoring.reference import Reference
from mlops_assets.monitoring.reference_columns import ColumnReference, NumericReference
from mlops_assets.monitoring.units import unit_factor

Change = Literal[
    "missing_column",
    "new_column",
    "changed_kind",
    "unseen_categories",
    "missing_values",
    "changed_unit",
    "distribution",
    "combined",
]
# What is broken before the data come here: no training mends it.
BROKEN: frozenset[Change] = frozenset({"missing_column", "changed_kind", "changed_unit"})
_MOST_NAMED = 5


@dataclass(frozen=True)
class Finding:
    """One thing that changed in a column, with its size and a sentence for people."""

    column: str
    change: Change
    verdict: Verdict
    value: float | None
    text: str


def schema_findings(reference: Reference, columns: Mapping[str, NDArray[Any]]) -> tuple[Finding, ...]:
    """Columns that are gone, new, or of another kind."""
    found = []
    for name, frozen in reference.columns.items():
        if name not in columns:
            found.append(Finding(name, "missing_column", "critical", None, f"Column {name} is gone."))
            continue
        if nothing_there(columns[name]):
            # A type without a value is that of a data frame, not of the column.
            continue
        kind = _kind_or_words(name, columns[name])
        if kind != frozen.kind:
            text = f"Column {name} has {kind} where the reference has {frozen.kind}."
            found.append(Finding(name, "changed_kind", "critical", None, text))
    for name in sorted(set(columns) - set(reference.columns)):
        text = f"Column {name} is new: the reference does not have it, so it is not compared."
        found.append(Finding(name, "new_column", "ok", None, text))
    return tuple(found)


def _kind_or_words(name: str, values: NDArray[Any]) -> str:
    try:
        return kind_of(name, values)
    except InputError:
        return f"values of type {values.dtype} that nothing can be told of"


def value_findings(
    statistics: ColumnStatistics, frozen: ColumnReference, policy: DriftPolicy, *, z: float
) -> tuple[Finding, ...]:
    """New categories, more missing values, another unit.

    Args:
        statistics: of a column whose change is significant.
        frozen: the same column of the reference.
        policy: limits.
        z: standard errors that an effect has to be above its limit.
    """
    found = (
        _unseen(statistics, policy, z=z),
        _missing(statistics, frozen, policy, z=z),
        _unit(statistics, frozen, policy),
    )
    return tuple(finding for finding in found if finding is not None)


def _unseen(statistics: ColumnStatistics, policy: DriftPolicy, *, z: float) -> Finding | None:
    if not statistics.unseen:
        return None
    share, count = statistics.unseen_rows / statistics.rows, statistics.unseen_categories
    named = ", ".join(repr(name) for name in list(statistics.unseen)[:_MOST_NAMED])
    more = f" and {count - _MOST_NAMED} more" if count > _MOST_NAMED else ""
    text = f"Column {statistics.name} has {count} new categories in {share:.2%} of rows: {named}{more}."
    error = math.sqrt(share * (1 - share) / statistics.effective_rows)
    verdict: Verdict = "warning" if share - z * error > policy.max_unseen_share else "monitor"
    return Finding(statistics.name, "unseen_categories", verdict, share, text)


def _missing(statistics: ColumnStatistics, frozen: ColumnReference, policy: DriftPolicy, *, z: float) -> Finding | None:
    before, after = frozen.missing_rate, statistics.missing_rate
    variance = before * (1 - before) / statistics.reference_effective_rows
    variance += after * (1 - after) / statistics.effective_rows
    jump = (after - before) * 100
    if jump - z * math.sqrt(variance) * 100 <= policy.max_missing_rate_increase_points:
        return None
    text = f"Column {statistics.name} is missing in {after:.1%} of rows, {before:.1%} in the reference."
    return Finding(statistics.name, "missing_values", "warning", jump, text)


def _unit(statistics: ColumnStatistics, frozen: ColumnReference, policy: DriftPolicy) -> Finding | None:
    if not isinstance(frozen, NumericReference) or not statistics.scale or not frozen.scale > 0:
        return None
    ratio = statistics.scale / frozen.scale
    factor = unit_factor(ratio)
    if factor is None or max(ratio, 1 / ratio) <= policy.min_unit_factor:
        return None
    # What another unit does not explain, such as a new group of far larger values, is another distribution.
    if statistics.rescaled_ks is None or statistics.rescaled_ks > policy.ks_monitor:
        return None
    text = (
        f"Column {statistics.name} has a median magnitude of {statistics.scale:.4g}, about "
        f"{'' if ratio > 1 else '1/'}{max(factor, 1 / factor):g} of the reference's {frozen.scale:.4g}: it looks like another unit."
    )
    return Finding(statistics.name, "changed_unit", "critical", ratio, text)
