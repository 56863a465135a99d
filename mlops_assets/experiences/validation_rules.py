"""The rules of a snapshot as data: which Great Expectations expectation, on which frame, with which bounds, how severe.

Bounds come from the policy profile, the agent catalogue and the previous snapshot. The vendor is called elsewhere.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mlops_assets.experiences.validation_data import (
    CATEGORIES,
    FailingRow,
    FrameStatistics,
    NumberStatistics,
    number_columns,
    rows_missing,
    rows_not_in,
    rows_outside,
    rows_repeated,
    state_column,
)
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.policies import DataPolicy

if TYPE_CHECKING:
    import pandas as pd

Severity = Literal["critical", "warning"]
Sampler = Callable[["pd.DataFrame"], list[FailingRow]]

# A bound such as 0.1 has no float32: values computed in float32 may miss it by a rounding error.
_ROUNDING = 1e-6


def _no_rows(_: "pd.DataFrame") -> list[FailingRow]:
    return []


@dataclass(frozen=True)
class Rule:
    """One expectation. `kind` is the name of its class, `details` numbers that a reader of the report needs beside it.

    Only a broken critical rule rejects a snapshot. `failing_rows` finds the rows that break it, where rows do.
    """

    name: str
    kind: str
    arguments: Mapping[str, Any]
    severity: Severity = "critical"
    details: Mapping[str, float] = field(default_factory=dict)
    failing_rows: Sampler = _no_rows


@dataclass(frozen=True)
class Undecided:
    """A rule that cannot be judged, and why: the verdict is `insufficient_data`."""

    name: str
    reason: str


@dataclass(frozen=True)
class Facts:
    """What is known of a snapshot beside its rows: age of the newest decision in hours, rows that were new."""

    new_rows: int
    age_hours: float

    def frame(self) -> "pd.DataFrame":
        """One row with one column a fact."""
        import pandas as pd

        return pd.DataFrame({"new_rows": [self.new_rows], "age_hours": [self.age_hours]})


def fact_rules(policy: DataPolicy) -> Iterator[Rule]:
    """Rules of the collection itself. New rows are bounded before the window cuts, where a flood would not show."""
    yield Rule("new_rows", "ExpectColumnMaxToBeBetween", {"column": "new_rows", "max_value": policy.max_rows})
    if policy.max_age_hours is not None:
        bound = {"column": "age_hours", "max_value": policy.max_age_hours}
        yield Rule("freshness_hours", "ExpectColumnMaxToBeBetween", bound)


def snapshot_rules(
    spec: AgentSpec, policy: DataPolicy, columns: list[str], baseline: FrameStatistics | None
) -> list[Rule]:
    """Rules of every snapshot: size, columns, types, uniqueness, nulls, ranges, missing values.

    `baseline` holds the statistics of the previous snapshot; without one the baseline of missing values is zero.
    """
    rules = [
        Rule(
            "row_count", "ExpectTableRowCountToBeBetween", {"min_value": policy.min_rows, "max_value": policy.max_rows}
        ),
        Rule("columns", "ExpectTableColumnsToMatchSet", {"column_set": columns, "exact_match": True}),
        Rule(
            "experience_id.unique",
            "ExpectColumnValuesToBeUnique",
            {"column": "experience_id"},
            failing_rows=lambda frame: rows_repeated(frame, "experience_id"),
        ),
        *(_not_null(column) for column in ("state_length", "action", "reward")),
        *(
            _type(column, dtype)
            for column, dtype in (("action", "int32"), ("reward", "float32"), ("propensity", "float32"))
        ),
        *_range("state_length", len(spec.context), len(spec.context)),
        *_range("action", 0, len(spec.actions) - 1),
        *_range(
            "reward",
            max(policy.reward_low, spec.reward_low),
            min(policy.reward_high, spec.reward_high),
            rounding=_ROUNDING,
        ),
        *_range("propensity", 0, 1),
    ]
    for context in spec.context:
        rules += _range(state_column(context.name), context.low, context.high, rounding=_ROUNDING)
    for column in number_columns(spec)[1:]:
        share = 0.0 if baseline is None else baseline.numbers[column].missing_share
        rules.append(_missing(f"{column}.missing", column, policy, share))
    return rules


def shift_rules(
    spec: AgentSpec, policy: DataPolicy, baseline: FrameStatistics, new: FrameStatistics
) -> tuple[list[Rule], list[Undecided]]:
    """Rules of the new decisions against the previous snapshot: mean, spread, missing values, new categories.

    A new category is a warning: a new browser or UI framework is news, not an error. Mean and spread follow
    |mean - mu| / sigma <= limit, and limits on the ratio of standard deviations.
    """
    rules: list[Rule] = []
    undecided: list[Undecided] = []
    for column in number_columns(spec):
        found, open_ = _shift(column, policy, baseline.numbers[column], new.numbers[column])
        rules += found
        undecided += open_
    by_rows = [
        *(
            _missing(f"{c}.missing_increase", c, policy, baseline.numbers[c].missing_share)
            for c in number_columns(spec)
        ),
        *(_categories(column, baseline) for column in (*CATEGORIES, "action")),
    ]
    if min(baseline.rows, new.rows) < policy.min_shift_rows:
        reason = _too_few(policy, baseline.rows, new.rows)
        return rules, undecided + [Undecided(rule.name, reason) for rule in by_rows]
    return rules + by_rows, undecided


def _shift(
    column: str, policy: DataPolicy, baseline: NumberStatistics, new: NumberStatistics
) -> tuple[list[Rule], list[Undecided]]:
    names = (f"{column}.mean_shift", f"{column}.std_ratio")
    counts = [round(side.rows * (1 - side.missing_share)) for side in (baseline, new)]
    if min(counts) < policy.min_shift_rows:
        return [], [Undecided(name, _too_few(policy, *counts)) for name in names]
    if baseline.std == 0:
        reason = (
            f"the previous snapshot holds one value, {baseline.mean:g}, which gives no scale to measure a shift with"
        )
        return [], [Undecided(name, reason) for name in names]
    sigmas = abs(new.mean - baseline.mean) / baseline.std
    reach = policy.max_mean_shift_sigmas * baseline.std
    mean = Rule(
        names[0],
        "ExpectColumnMeanToBeBetween",
        {"column": column, "min_value": baseline.mean - reach, "max_value": baseline.mean + reach},
        # z, in standard errors, is for the reader: with many rows it rejects differences that do not matter.
        details={"sigmas": sigmas, "z_of_mean": sigmas * math.sqrt(counts[1])},
    )
    spread = Rule(
        names[1],
        "ExpectColumnStdevToBeBetween",
        {
            "column": column,
            "min_value": policy.min_std_ratio * baseline.std,
            "max_value": policy.max_std_ratio * baseline.std,
        },
        details={"std_ratio": new.std / baseline.std},
    )
    return [mean, spread], []


def _too_few(policy: DataPolicy, previous: int, new: int) -> str:
    return f"{previous} previous and {new} new values; a comparison needs {policy.min_shift_rows} on each side"


def _categories(column: str, baseline: FrameStatistics) -> Rule:
    known = baseline.categories[column]
    return Rule(
        f"{column}.new_categories",
        "ExpectColumnValuesToBeInSet",
        {"column": column, "value_set": list(known)},
        severity="warning",
        failing_rows=lambda frame: rows_not_in(frame, column, known),
    )


def _missing(name: str, column: str, policy: DataPolicy, baseline: float) -> Rule:
    allowed = min(1.0, baseline + policy.max_missing_rate_increase_points / 100)
    return Rule(
        name,
        "ExpectColumnProportionOfNonNullValuesToBeBetween",
        {"column": column, "min_value": 1 - allowed},
        details={"baseline_missing_share": baseline, "allowed_missing_share": allowed},
        failing_rows=lambda frame: rows_missing(frame, column),
    )


def _not_null(column: str) -> Rule:
    return Rule(
        f"{column}.not_null",
        "ExpectColumnValuesToNotBeNull",
        {"column": column},
        failing_rows=lambda frame: rows_missing(frame, column),
    )


def _type(column: str, dtype: str) -> Rule:
    return Rule(f"{column}.type", "ExpectColumnValuesToBeOfType", {"column": column, "type_": dtype})


def _range(column: str, low: float, high: float, *, rounding: float = 0.0) -> tuple[Rule, Rule]:
    # Two aggregates and not ExpectColumnValuesToBeBetween, which calls Python once a value: 2 s a column of 1M rows.
    margin = rounding * max(1.0, abs(low), abs(high))
    lowest, highest = low - margin, high + margin
    return (
        Rule(
            f"{column}.minimum",
            "ExpectColumnMinToBeBetween",
            {"column": column, "min_value": lowest},
            failing_rows=lambda frame: rows_outside(frame, column, lowest, math.inf),
        ),
        Rule(
            f"{column}.maximum",
            "ExpectColumnMaxToBeBetween",
            {"column": column, "max_value": highest},
            failing_rows=lambda frame: rows_outside(frame, column, -math.inf, highest),
        ),
    )
