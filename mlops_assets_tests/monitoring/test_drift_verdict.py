"""The verdict of a check: effect, significance and margin together; and what it says."""

import json
from typing import Any

import numpy as np
import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.drift_verdict import DriftVerdict, check_drift, lower_bounds
from mlops_assets.monitoring.reference import Reference

_POLICY = load_profile("aiwebtest").drift
Table = dict[str, np.ndarray[Any, Any]]


def _table(rows: int, seed: int, shift: float = 0.0) -> Table:
    random = np.random.default_rng(seed)
    return {
        "a": random.normal(size=rows) + shift,
        "b": random.lognormal(size=rows),
        "c": random.choice(np.array(["x", "y", "z"]), rows, p=[0.6, 0.3, 0.1]),
        "confidence": random.beta(8, 2, rows),
    }


_REFERENCE = Reference.freeze(_table(20_000, 1), _POLICY)


def _check(columns: Table, **options: Any) -> DriftVerdict:
    return check_drift(_REFERENCE, columns, _POLICY, **options)


def test_unchanged_traffic_is_ok() -> None:
    """A check that always finds something is switched off."""
    found = _check(_table(2000, 2), confidence_column="confidence")
    assert (found.verdict, found.findings, found.recommendation) == ("ok", (), "Nothing to do.")
    assert found.combined is not None
    assert found.combined < 0.1


def test_a_drifted_column_is_first_and_in_words() -> None:
    """The column that matters must not be the nineteenth of twenty."""
    found = _check(_table(5000, 3, shift=1.0))
    assert (found.verdict, found.columns[0].name, found.columns[0].verdict) == ("critical", "a", "critical")
    assert [column.verdict for column in found.columns[1:]] == ["ok", "ok", "ok"]
    assert found.recommendation == "Retrain now."
    assert found.psi == found.columns[0].statistics.psi
    assert found.ks == found.columns[0].statistics.ks
    (finding,) = found.findings
    assert finding.text.startswith("Column a has another distribution: ")


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.2, "ok"), (0.38, "monitor"), (0.51, "warning"), (0.7, "critical"), (-0.7, "critical")]
)
def test_the_band_grows_with_the_drift(shift: float, verdict: str) -> None:
    """One size of alarm for every drift retrains at once for what can wait."""
    assert _check(_table(50_000, 4, shift=shift)).verdict == verdict


def test_significance_alone_is_no_drift() -> None:
    """At 100,000 rows a shift of 0.05 sigma has p < 1e-6, and a D that nobody needs to hear of."""
    reference = Reference.freeze({"a": np.random.default_rng(5).normal(size=100_000)}, _POLICY)
    found = check_drift(reference, {"a": np.random.default_rng(6).normal(0.05, 1, 100_000)}, _POLICY)
    assert found.columns[0].adjusted_p < 1e-6
    assert found.ks is not None
    assert found.ks < 0.03
    assert found.verdict == "ok"


def test_an_effect_alone_is_no_drift() -> None:
    """A hundred users of twenty rows each: a PSI over 0.1 that is noise of the users."""
    random = np.random.default_rng(7)
    owners = np.repeat(np.arange(120), 20)
    columns = _table(2400, 8) | {"a": np.repeat(random.normal(size=120), 20)}
    naive, honest = _check(columns), _check(columns, clusters=owners)
    assert honest.columns[0].statistics.psi > 0.05
    assert honest.verdict in {"ok", "insufficient_data"}
    assert naive.columns[0].adjusted_p < _POLICY.alpha


@pytest.mark.parametrize("rows", [0, 1, 999])
def test_too_few_rows_are_insufficient(rows: int) -> None:
    """With 100 rows the PSI of unchanged traffic is 0.19; of none, there is no maximum."""
    found = _check(_table(rows, 9, shift=3.0), confidence_column="confidence")
    assert (found.verdict, found.psi, found.ks, found.combined) == ("insufficient_data", None, None, None)
    assert found.columns == ()


def test_too_few_independent_rows_are_insufficient() -> None:
    """Two thousand rows of fifty users are fifty."""
    found = _check(_table(2000, 10, shift=3.0), effective_rows=50)
    assert found.verdict == "insufficient_data"
    assert {column.verdict for column in found.columns} == {"insufficient_data"}
    assert found.psi is not None


def test_a_small_reference_is_insufficient_too() -> None:
    """The bias has a term of each side."""
    small = Reference.freeze(_table(500, 11), _POLICY)
    assert check_drift(small, _table(5000, 12, shift=2.0), _POLICY).verdict == "insufficient_data"


def test_a_missing_column_alarms_also_in_a_quiet_hour() -> None:
    """What the schema says needs no sample; a new column says nothing of the others."""
    columns = _table(50, 13)
    del columns["b"]
    found = _check(columns)
    assert (found.verdict, found.findings[0].change) == ("critical", "missing_column")
    assert _check(_table(50, 13) | {"new": np.zeros(50)}).verdict == "insufficient_data"
    assert _check(_table(2000, 14) | {"new": np.zeros(2000)}).verdict == "ok"


def test_another_unit_is_said_instead_of_another_distribution() -> None:
    """Retraining on milliseconds that came as seconds teaches the model the mistake."""
    columns = _table(2000, 15)
    found = _check(columns | {"b": columns["b"] * 1000})
    assert [finding.change for finding in found.findings] == ["changed_unit"]
    assert (found.verdict, found.broken) == ("critical", ("b",))
    assert found.recommendation == "Mend the source of b: what is trained on it now learns the fault."
    assert found.document()["broken"] == ["b"]
    assert _check(_table(5000, 3, shift=1.0)).broken == ()


def test_changed_kind_leaves_the_others_compared() -> None:
    """One column of texts must not end the check of the rest."""
    columns = _table(5000, 16, shift=1.0)
    found = _check(columns | {"b": columns["b"].astype(str)})
    assert {finding.change for finding in found.findings} == {"changed_kind", "distribution"}
    assert {column.name for column in found.columns} == {"a", "c", "confidence"}


def test_confidence_that_falls_alarms_by_its_own_score() -> None:
    """The combined score is a metric of its own, with its own bands."""
    columns = _table(3000, 17) | {"confidence": np.random.default_rng(18).beta(3, 3, 3000)}
    found = _check(columns, confidence_column="confidence")
    assert found.combined == found.prediction.score
    assert found.prediction.verdict in {"warning", "critical"}
    assert "combined" in {finding.change for finding in found.findings}
    with pytest.raises(InputError, match=r"'c' is no numeric column of the reference; those are \['a', 'b', 'con"):
        _check(columns, confidence_column="c")


def test_bounds_lie_below_what_was_measured() -> None:
    """A margin of the wrong sign turns noise into drift."""
    for column in _check(_table(1500, 19, shift=0.5)).columns:
        bounds = lower_bounds(column.statistics, 1.645)
        assert set(bounds) == ({"psi", "cramers_v"} if column.kind == "text" else {"psi", "ks", "wasserstein_sigmas"})
        for name, bound in bounds.items():
            assert 0 <= bound < getattr(column.statistics, name)


def test_the_document_is_strict_json() -> None:
    """NaN is no JSON: PostgreSQL refuses the row, and the check is lost."""
    odd = _table(2000, 20) | {"a": np.full(2000, np.nan), "b": np.full(2000, np.inf)}
    for columns in (_table(2000, 21, shift=1.0), odd, _table(10, 22)):
        found = _check(columns, confidence_column="confidence")
        document = json.loads(json.dumps(found.document(), allow_nan=False))
        assert document["verdict"] == found.verdict
        assert document["ks"] == found.ks
        assert document["reference_hash"] == _REFERENCE.content_hash
        for column in found.columns:
            part = document["columns"][column.name]
            assert (part["psi"], part["ks"]) == (column.statistics.psi, column.statistics.ks)
            assert part["verdict"] == column.verdict
        assert [finding["text"] for finding in document["findings"]] == [finding.text for finding in found.findings]


def test_columns_that_stop_coming_alarm() -> None:
    """All of a column missing: whatever type it then has, it has drifted, and nothing raises."""
    found = _check(_table(2000, 24) | {"a": np.full(2000, None), "c": np.full(2000, np.nan)})
    drifted = {column.name: column.verdict for column in found.columns if column.verdict != "ok"}
    assert drifted == {"a": "critical", "c": "critical"}
    assert [finding.change for finding in found.findings] == ["distribution"] * 2 + ["missing_values"] * 2


def test_columns_of_different_length_are_refused() -> None:
    """Rows that are not of one table are no window."""
    with pytest.raises(InputError, match="of one length"):
        _check(_table(2000, 23) | {"a": np.zeros(3)})
