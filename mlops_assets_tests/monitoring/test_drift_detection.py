"""A smaller run of benchmarks/drift_detection.py: drift of a stated size is found at once, and nothing is not."""

import pytest

from benchmarks.drift_detection import POLICY, STREAMS, alarms, hourly, judge, small_p
from benchmarks.drift_scenarios import DRIFTS, QUIET, Scenario, columns_of, scenarios

_ROWS = (1000, 5000)


@pytest.mark.parametrize("kind", DRIFTS)
def test_every_kind_of_drift_is_found_at_the_next_check(kind: str) -> None:
    """A kind that only its own metric sees is lost with that metric; 1,000 rows, in one column of twenty or in five."""
    for rows in _ROWS:
        for drifted in columns_of(kind):
            found = judge(Scenario(kind, drifted, rows, seed=1), POLICY)
            assert alarms(found), (rows, drifted, found.verdict)
            named = {finding.column for finding in found.findings if finding.verdict in {"warning", "critical"}}
            assert named <= set(drifted)


@pytest.mark.parametrize("kind", QUIET)
def test_nothing_is_not_found(kind: str) -> None:
    """Ten checks of twenty columns; the 5 % rule finds something in most of them."""
    verdicts = [judge(Scenario(kind, (), rows, seed), POLICY) for rows in _ROWS for seed in range(5)]
    assert {found.verdict for found in verdicts} == {"ok"}
    assert sum(small_p(found) for found in verdicts) >= 4


@pytest.mark.parametrize("kind", STREAMS)
def test_a_day_of_hourly_checks_are_quiet(kind: str) -> None:
    """Overlapping windows repeat the same noise twenty-four times."""
    ours, monitor, *_ = hourly(kind, 24, 5, with_evidently=False)
    assert (ours, monitor) == (0, 0)


def test_the_scenarios_are_many_and_of_every_kind() -> None:
    """A table of few scenarios shows what its author wants."""
    every = list(scenarios())
    assert len(every) >= 400
    assert {scenario.kind for scenario in every} == {*QUIET, *DRIFTS}
    assert {scenario.rows for scenario in every} >= {500, 1000, 1_000_000}
    assert len(set(every)) == len(every)
