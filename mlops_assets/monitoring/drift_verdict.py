"""One check of a version's traffic against its frozen reference: every column, and what to make of it. Pure.

A column has drifted where three things hold together: it differs significantly (Benjamini-Hochberg over all columns), at
the number of *independent* rows; an effect is above its limit; and so is that effect's lower confidence bound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import DriftPolicy
from mlops_assets.monitoring import drift_bands as bands
from mlops_assets.monitoring.column_values import Kind
from mlops_assets.monitoring.design_effect import Dependence, cluster_codes
from mlops_assets.monitoring.divergence import benjamini_hochberg, cramers_v_bound
from mlops_assets.monitoring.drift_bands import ORDER, Verdict
from mlops_assets.monitoring.drift_statistics import ColumnStatistics, column_statistics
from mlops_assets.monitoring.prediction_drift import COLLECTING, CombinedScore, combined_score
from mlops_assets.monitoring.reference import Reference, column_rows
from mlops_assets.monitoring.reference_columns import NumericReference
from mlops_assets.monitoring.upstream import BROKEN, Finding, schema_findings, value_findings


@dataclass(frozen=True)
class ColumnDrift:
    """One column's verdict: of `measure`, whose lower confidence bound is `lower` (0 where nothing is significant)."""

    name: str
    kind: Kind
    verdict: Verdict
    adjusted_p: float
    measure: str
    lower: float
    statistics: ColumnStatistics

    def document(self) -> dict[str, Any]:
        """As JSON."""
        statistics = asdict(self.statistics)
        del statistics["name"]
        return {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in statistics.items()},
            "verdict": self.verdict,
            "adjusted_p": self.adjusted_p,
            "measure": self.measure,
            "lower": self.lower,
        }


@dataclass(frozen=True)
class DriftVerdict:
    """One check of `rows` rows. `columns` and `findings` come worst first; `psi` and `ks` are the largest measured.

    `combined` is the score of the confidence column, 0..1. None: there was no such column, or too few rows.
    """

    verdict: Verdict
    rows: int
    reference_rows: int
    reference_hash: str
    psi: float | None
    ks: float | None
    combined: float | None
    columns: tuple[ColumnDrift, ...]
    findings: tuple[Finding, ...]
    prediction: CombinedScore
    recommendation: str

    @property
    def broken(self) -> tuple[str, ...]:
        """Columns that are broken upstream: gone, of another kind, or in another unit."""
        return tuple(dict.fromkeys(one.column for one in self.findings if one.change in BROKEN))

    def document(self) -> dict[str, Any]:
        """As JSON, for the check's row and reports."""
        return {
            "verdict": self.verdict,
            "recommendation": self.recommendation,
            "broken": list(self.broken),
            "rows": self.rows,
            "reference_rows": self.reference_rows,
            "reference_hash": self.reference_hash,
            "psi": self.psi,
            "ks": self.ks,
            "combined": self.combined,
            "columns": {column.name: column.document() for column in self.columns},
            "findings": [asdict(finding) for finding in self.findings],
            "prediction": asdict(self.prediction),
        }


def check_drift(
    reference: Reference,
    columns: Mapping[str, NDArray[Any]],
    policy: DriftPolicy,
    *,
    effective_rows: float | None = None,
    clusters: NDArray[Any] | None = None,
    shared: Mapping[str, NDArray[np.int64]] = MappingProxyType({}),
    confidence_column: str | None = None,
) -> DriftVerdict:
    """Compare columns of shape (rows,) with the reference.

    Args:
        reference: what they are compared with.
        columns: by name; NaN and None are missing. Columns that the reference lacks are named and not compared.
        policy: limits.
        effective_rows: independent rows that they are worth at most, where the caller knows.
        clusters: for each row what it depends on with others (an episode, a user): independent rows come from it.
        shared: of columns whose values many rows share, the number of each row's draw (`shared_draws`).
        confidence_column: of the model's confidence, 0..1, for the combined score; None: no such score.

    Raises:
        InputError: columns of different length, or no numeric column `confidence_column` in the reference.
    """
    rows = _rows(columns)
    frozen = _confidence(reference, confidence_column)
    findings = list(schema_findings(reference, columns))
    if min(rows, reference.rows) < policy.min_rows:
        return _verdict(reference, rows, (), findings, COLLECTING, policy)
    gone = {finding.column for finding in findings if finding.change != "new_column"}
    codes = None if clusters is None else cluster_codes(clusters, rows)
    measured = [
        column_statistics(
            name,
            column,
            columns[name],
            dependence=Dependence(codes, shared.get(name)),
            effective_rows=effective_rows,
        )
        for name, column in reference.columns.items()
        if name not in gone
    ]
    adjusted = _adjusted(measured, policy)
    z = _normal_quantile(policy.margin_confidence)
    judged = []
    for column in measured:
        significant = adjusted[column.name] <= policy.alpha
        own = value_findings(column, reference.columns[column.name], policy, z=z) if significant else ()
        result = _judge(column, own, adjusted[column.name], policy, z=z)
        judged.append(result)
        findings += own if _named(own) else [*own, *_sentence(result, policy)]
    prediction = COLLECTING
    for result in judged:
        if frozen is not None and result.name == confidence_column and result.verdict != "insufficient_data":
            significant = result.adjusted_p <= policy.alpha
            prediction = combined_score(frozen, result.statistics, policy, significant=significant)
            findings += _combined_sentence(prediction, result.name)
    return _verdict(reference, rows, tuple(judged), findings, prediction, policy)


def of_columns(found: DriftVerdict, names: frozenset[str], policy: DriftPolicy) -> DriftVerdict:
    """Return what a check says of some of its columns alone; the others count as ok."""
    columns = [one if one.name in names else replace(one, verdict=_calm(one.verdict)) for one in found.columns]
    findings = tuple(one for one in found.findings if one.column in names)
    prediction = found.prediction
    if not any(one.change == "combined" for one in findings):
        prediction = replace(prediction, verdict=_calm(prediction.verdict))
    worst = bands.worst(prediction.verdict, *(one.verdict for one in columns), *(one.verdict for one in findings))
    return replace(
        found,
        verdict=worst,
        columns=tuple(sorted(columns, key=lambda one: -ORDER.index(one.verdict))),
        findings=findings,
        prediction=prediction,
        recommendation=_recommendation(worst, findings, policy),
    )


def _calm(verdict: Verdict) -> Verdict:
    return verdict if verdict == "insufficient_data" else "ok"


def _adjusted(measured: list[ColumnStatistics], policy: DriftPolicy) -> dict[str, float]:
    """Adjusted p-value of each column; 1 for those with too few independent rows, which are no part of the family."""
    enough = [column for column in measured if _independent(column) >= policy.min_effective_rows]
    p_values = benjamini_hochberg(np.array([column.p_value for column in enough]))
    adjusted = dict.fromkeys((column.name for column in measured), 1.0)
    return adjusted | dict(zip((column.name for column in enough), p_values.tolist(), strict=True))


def _rows(columns: Mapping[str, NDArray[Any]]) -> int:
    """No rows are too few, not an error: a quiet window is one."""
    if not columns or any(len(values) for values in columns.values()):
        return column_rows(columns)
    return 0


def _confidence(reference: Reference, name: str | None) -> NumericReference | None:
    if name is None:
        return None
    column = reference.columns.get(name)
    if not isinstance(column, NumericReference):
        numeric = [name for name, column in reference.columns.items() if isinstance(column, NumericReference)]
        raise InputError(f"confidence_column {name!r} is no numeric column of the reference; those are {numeric}")
    return column


def _independent(column: ColumnStatistics) -> float:
    return min(column.effective_rows, column.reference_effective_rows)


def _judge(
    column: ColumnStatistics, own: tuple[Finding, ...], adjusted_p: float, policy: DriftPolicy, *, z: float
) -> ColumnDrift:
    bounds = lower_bounds(column, z)
    limits = {
        "psi": bands.psi_limits(policy),
        "ks": bands.ks_limits(policy),
        "wasserstein_sigmas": bands.wasserstein_limits(policy),
        "cramers_v": bands.cramers_v_limits(policy),
    }
    banded = {measure: limits[measure].band(value) for measure, value in bounds.items()}
    measure = max(bounds, key=lambda name: (ORDER.index(banded[name]), bounds[name] / limits[name].monitor))
    verdict: Verdict = "ok"
    if _independent(column) < policy.min_effective_rows:
        verdict = "insufficient_data"
    elif adjusted_p <= policy.alpha:
        verdict = bands.worst(banded[measure], *(finding.verdict for finding in own))
    return ColumnDrift(column.name, column.kind, verdict, adjusted_p, measure, bounds[measure], column)


def lower_bounds(column: ColumnStatistics, z: float) -> dict[str, float]:
    """Effects that decide, each less its bias and `z` standard errors, and at least 0."""
    bounds = {"psi": column.psi - column.psi_bias - z * column.psi_error}
    if column.ks is not None and column.ks_error is not None:
        bounds["ks"] = column.ks - z * column.ks_error
    if column.wasserstein_sigmas is not None and column.wasserstein_error is not None:
        bounds["wasserstein_sigmas"] = column.wasserstein_sigmas - z * column.wasserstein_error
    if column.unseen is not None:
        p, q = np.array(column.reference_shares), np.array(column.shares)
        bounds["cramers_v"] = cramers_v_bound(p, q, column.reference_effective_rows, column.effective_rows, z)
    return {name: max(0.0, value) for name, value in bounds.items()}


def _named(findings: tuple[Finding, ...]) -> bool:
    """Whether another unit explains the rest of what a column shows."""
    return any(finding.change == "changed_unit" for finding in findings)


def _sentence(column: ColumnDrift, policy: DriftPolicy) -> list[Finding]:
    if ORDER.index(column.verdict) < ORDER.index("monitor"):
        return []
    words = {
        "psi": "PSI",
        "ks": "Kolmogorov-Smirnov's D",
        "wasserstein_sigmas": "Wasserstein's distance in sigmas",
        "cramers_v": "Cramér's V",
    }
    value = getattr(column.statistics, column.measure)
    text = (
        f"Column {column.name} has another distribution: {words[column.measure]} is {value:.3f}, at least "
        f"{column.lower:.3f} with {policy.margin_confidence:.0%} confidence (adjusted p = {column.adjusted_p:.2g})."
    )
    return [Finding(column.name, "distribution", column.verdict, value, text)]


def _combined_sentence(prediction: CombinedScore, name: str) -> list[Finding]:
    if prediction.score is None or ORDER.index(prediction.verdict) < ORDER.index("monitor"):
        return []
    text = (
        f"The combined score of {name} is {prediction.score:.3f}: D {prediction.statistical:.3f}, fall "
        f"{prediction.performance:.3f}, shift {prediction.distribution:.3f}."
    )
    return [Finding(name, "combined", prediction.verdict, prediction.score, text)]


def _verdict(
    reference: Reference,
    rows: int,
    columns: tuple[ColumnDrift, ...],
    findings: list[Finding],
    prediction: CombinedScore,
    policy: DriftPolicy,
) -> DriftVerdict:
    def severity(verdict: Verdict) -> int:
        return -ORDER.index(verdict)

    # A finding that is only told says nothing of what could not be measured.
    found = [finding.verdict for finding in findings if finding.verdict != "ok"]
    verdict = bands.worst(prediction.verdict, *(column.verdict for column in columns), *found)
    return DriftVerdict(
        verdict=verdict,
        rows=rows,
        reference_rows=reference.rows,
        reference_hash=reference.content_hash,
        psi=max((column.statistics.psi for column in columns), default=None),
        ks=max((column.statistics.ks for column in columns if column.statistics.ks is not None), default=None),
        combined=prediction.score,
        columns=tuple(sorted(columns, key=lambda c: (severity(c.verdict), -c.statistics.psi, c.name))),
        findings=tuple(sorted(findings, key=lambda finding: (severity(finding.verdict), finding.column))),
        prediction=prediction,
        recommendation=_recommendation(verdict, findings, policy),
    )


def _recommendation(verdict: Verdict, findings: Sequence[Finding], policy: DriftPolicy) -> str:
    broken = dict.fromkeys(one.column for one in findings if one.change in BROKEN)
    if broken:
        return f"Mend the source of {', '.join(broken)}: what is trained on it now learns the fault."
    return bands.recommendation(verdict, policy)


def _normal_quantile(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))
