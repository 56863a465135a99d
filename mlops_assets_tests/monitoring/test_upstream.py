"""Upstream drift: each change of the data themselves is named, and noise is not."""

from typing import Any

import numpy as np
import pytest

from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.drift_statistics import column_statistics
from mlops_assets.monitoring.reference import Reference
from mlops_assets.monitoring.upstream import Finding, schema_findings, value_findings

_POLICY = load_profile("aiwebtest").drift
_Z = 1.645


def _reference(**columns: np.ndarray[Any, Any]) -> Reference:
    return Reference.freeze(columns, _POLICY)


def _found(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> list[Finding]:
    frozen = _reference(x=before).columns["x"]
    return list(value_findings(column_statistics("x", frozen, after), frozen, _POLICY, z=_Z))


def test_missing_new_and_changed_columns() -> None:
    """A framework's new version renames a field, or sends its numbers as texts."""
    reference = _reference(gone=np.zeros(5), kind=np.zeros(5), same=np.array(["a"] * 5), flag=np.zeros(5, dtype=bool))
    current = {
        "kind": np.array(["1"] * 5),
        "same": np.array(["b"] * 5, dtype=object),
        "flag": np.zeros(5, dtype=np.int8),
        "extra": np.zeros(5),
    }
    found = {finding.column: (finding.change, finding.verdict) for finding in schema_findings(reference, current)}
    assert found == {
        "gone": ("missing_column", "critical"),
        "kind": ("changed_kind", "critical"),
        "flag": ("changed_kind", "critical"),
        "extra": ("new_column", "ok"),
    }


def test_a_column_of_nothing_known_is_named_not_raised() -> None:
    """One column of dates must not end the check of all others."""
    (found,) = schema_findings(_reference(x=np.zeros(3)), {"x": np.array(["2026-01-01"] * 3, dtype="datetime64[D]")})
    assert found.change == "changed_kind"
    assert "datetime64" in found.text


def test_integers_that_become_floats_are_the_same_kind() -> None:
    """A first missing value turns a whole column of integers to floats."""
    assert schema_findings(_reference(x=np.arange(9)), {"x": np.arange(9.0)}) == ()


def test_a_column_without_values_has_no_kind() -> None:
    """A text column that is missing throughout comes as floats, and one of an empty window as objects."""
    reference = _reference(x=np.arange(9.0), k=np.array(["a"] * 9), flag=np.zeros(9, dtype=bool))
    nothing = np.full(9, None)
    assert schema_findings(reference, {"x": nothing, "k": np.full(9, np.nan), "flag": nothing}) == ()
    assert schema_findings(reference, dict.fromkeys(("x", "k", "flag"), nothing[:0])) == ()


def test_new_categories_have_their_share_and_names() -> None:
    """A new browser in the tests is told by its name, and alarms once it is a share of the rows."""
    before = np.array(["chrome", "firefox"] * 1000)
    many = np.array(["chrome"] * 900 + ["safari"] * 80 + ["edge"] * 20)
    (found,) = _found(before, many)
    assert (found.change, found.verdict, found.value) == ("unseen_categories", "warning", pytest.approx(0.1))
    assert "2 new categories in 10.00% of rows: 'safari', 'edge'." in found.text
    (few,) = _found(before, np.array(["chrome"] * 9995 + ["safari"] * 5))
    assert few.verdict == "monitor"
    (ids,) = _found(before, np.array([f"id-{i:03}" for i in range(100)]))
    assert "and 95 more" in ids.text


@pytest.mark.parametrize(("missing", "found"), [(40, False), (60, False), (90, True), (400, True)])
def test_missing_rate_needs_a_jump_beyond_noise(missing: int, found: bool) -> None:
    """5 points, and a margin at 1,000 rows: 6 % is not surely more than 5."""
    before, after = np.arange(20_000.0), np.arange(1000.0)
    after[:missing] = np.nan
    assert [finding.change for finding in _found(before, after)] == (["missing_values"] if found else [])


@pytest.mark.parametrize(("factor", "unit"), [(1000, "1000"), (1 / 1000, "1/1000"), (60, "60"), (3600, "3600")])
def test_another_unit_is_recognised(factor: float, unit: str) -> None:
    """Milliseconds for seconds: retraining on them would be the wrong answer."""
    random = np.random.default_rng(30)
    before, after = random.lognormal(size=20_000), random.lognormal(size=2000) * factor
    (found,) = _found(before, after)
    assert (found.change, found.verdict) == ("changed_unit", "critical")
    assert f"about {unit} of the reference's" in found.text


@pytest.mark.parametrize("rise", [1.0, 1.2])
def test_another_unit_does_not_hide_a_rise(rise: float) -> None:
    """Milliseconds that are a fifth longer are taken for milliseconds alone."""
    random = np.random.default_rng(33)
    before, after = 10.0 + random.normal(size=20_000), 1000.0 * rise * (10.0 + random.normal(size=5000))
    assert [one.change for one in _found(before, after)] == (["changed_unit"] if rise == 1.0 else [])


@pytest.mark.parametrize("factor", [1.0, 3.0, 9.0, 20.0, 200.0])
def test_other_factors_are_no_unit(factor: float) -> None:
    """A load three times as high is drift, not another unit."""
    random = np.random.default_rng(31)
    assert _found(random.lognormal(size=20_000), random.lognormal(size=2000) * factor) == []


@pytest.mark.parametrize("change", ["moved", "mixed", "two groups"])
def test_another_shape_is_no_unit(change: str) -> None:
    """A new group of far larger values is called another unit, and the drift that it is goes unsaid."""
    random = np.random.default_rng(32)
    before, after = random.lognormal(size=20_000), random.lognormal(size=5000)
    new = {
        "moved": after + 100.0,
        "mixed": np.where(random.random(5000) < 0.6, 100.0 + 5.0 * random.normal(size=5000), after),
        "two groups": np.where(random.random(5000) < 0.55, 100.0 * after, 0.01 * after),
    }[change]
    assert _found(before, new) == []
