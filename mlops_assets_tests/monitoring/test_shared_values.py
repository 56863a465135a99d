"""A feature of an agent's day is one draw, however many decisions see it."""

import numpy as np
import pytest

from mlops_assets.features.vector import column_name
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.drift_verdict import check_drift
from mlops_assets.monitoring.drift_windows import Rows
from mlops_assets.monitoring.reference import Reference
from mlops_assets.monitoring.shared_values import shared_draws

SPEC = AGENTS["execution"]
POLICY = load_profile("aiwebtest").drift
OF_AGENT = [column_name(field) for field in SPEC.features if field.view == "agent_context_features"]
OF_TEST = [column_name(field) for field in SPEC.features if field.view == "test_execution_features"]
Table = dict[str, np.ndarray]


def served(days: int, agents: int, rows_a_day: int, seed: int) -> Table:
    """Decisions of some agents, each with the same features all day; features of many tests; one field of each decision."""
    random = np.random.default_rng(seed)
    rows = days * rows_a_day
    draw = np.arange(rows) // rows_a_day * agents + random.integers(agents, size=rows)
    test = random.integers(5000, size=rows)
    found: Table = {name: random.normal(size=days * agents)[draw] for name in OF_AGENT}
    found |= {name: np.random.default_rng(7).normal(size=5000)[test] for name in OF_TEST}
    return found | {"recency": random.normal(size=rows)}


def test_draws_are_rows_with_the_same_values_of_a_view() -> None:
    """Two agents with one equal feature count as one, or views are thrown together."""
    nan = np.nan
    columns = {name: np.array([1.0, 1.0, 2.0, nan, nan, 1.0]) for name in OF_AGENT}
    columns[OF_AGENT[-1]] = np.array([5.0, 5.0, 5.0, nan, nan, 6.0])
    columns |= {name: np.arange(6.0) for name in OF_TEST}
    columns["recency"] = np.zeros(6)
    found = shared_draws(columns, SPEC)
    assert found.keys() == {*OF_AGENT, *OF_TEST}
    for name in OF_AGENT:
        draws = found[name]
        assert draws[0] == draws[1]
        # What is missing is shared by nobody.
        assert len({draws[0], *draws[2:].tolist()}) == 5
        assert sorted(set(draws.tolist())) == [0, 1, 2, 3, 4]
    assert found[OF_TEST[0]].tolist() == [0, 1, 2, 3, 4, 5]
    assert shared_draws({"recency": np.zeros(6)}, SPEC) == {}
    assert all(len(draws) == 0 for draws in shared_draws({name: np.zeros(0) for name in OF_AGENT}, SPEC).values())


def test_a_day_of_a_dozen_agents_is_no_drift() -> None:
    """Every day of every deployment with few agents is critical: twelve values are not those of the twelve days before."""
    before, today = served(12, 12, 2000, 1), served(1, 12, 2400, 2)
    naive = check_drift(Reference.freeze(before, POLICY), today, POLICY)
    assert naive.verdict == "critical"
    assert {one.name for one in naive.columns if one.verdict == "critical"} == set(OF_AGENT)
    reference = Reference.freeze(before, POLICY, shared=shared_draws(before, SPEC))
    found = check_drift(reference, today, POLICY, shared=shared_draws(today, SPEC))
    assert found.verdict == "ok"
    verdicts = {one.name: one.verdict for one in found.columns}
    assert {verdicts[name] for name in OF_AGENT} == {"insufficient_data"}
    assert {verdicts[name] for name in (*OF_TEST, "recency")} == {"ok"}


@pytest.mark.parametrize("where", ["beyond", "missing"])
def test_all_in_one_cell(where: str) -> None:
    """A dozen values beyond all that were there count as thousands of rows; or features that are gone count as a dozen."""
    before, today = served(12, 40, 2000, 1), served(1, 12, 2400, 2)
    for name in OF_AGENT:
        today[name] = np.full(2400, np.nan) if where == "missing" else today[name] + 100.0
    reference = Reference.freeze(before, POLICY, shared=shared_draws(before, SPEC))
    found = check_drift(reference, today, POLICY, shared=shared_draws(today, SPEC))
    verdicts = {one.name: one.verdict for one in found.columns}
    if where == "missing":
        assert {one.column for one in found.findings if one.change == "missing_values"} == set(OF_AGENT)
        return
    assert {verdicts[name] for name in OF_AGENT} == {"insufficient_data"}
    assert found.verdict == "ok"


@pytest.mark.parametrize("moved", [False, True])
def test_of_many_agents_a_drift_is_found(moved: bool) -> None:
    """Features of agents are never judged at all."""
    before, today = served(12, 800, 4000, 3), served(1, 2000, 8000, 4)
    if moved:
        today[OF_AGENT[0]] = today[OF_AGENT[0]] + 1.5
    reference = Reference.freeze(before, POLICY, shared=shared_draws(before, SPEC))
    found = check_drift(reference, today, POLICY, shared=shared_draws(today, SPEC))
    assert found.verdict == ("critical" if moved else "ok")
    assert [one.column for one in found.findings] == ([OF_AGENT[0]] if moved else [])


def test_the_newest_rows_have_their_own_numbers() -> None:
    """A part of a window has draws that nobody made, or too many of them."""
    columns = served(2, 12, 500, 5)
    rows = Rows(columns, np.arange(1000).astype("datetime64[s]"), None, shared_draws(columns, SPEC))
    last = rows.last(300)
    for name in OF_AGENT:
        draws = last.shared[name]
        assert len(draws) == 300
        assert sorted(set(draws.tolist())) == list(range(len(set(draws.tolist()))))
        for value in set(last.columns[name].tolist()):
            assert len(set(draws[last.columns[name] == value].tolist())) == 1
