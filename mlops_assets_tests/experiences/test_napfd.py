"""The metric against numbers worked out by hand, its closed form, and the published table of the real histories."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.experiences.napfd import napfd, order_by
from mlops_assets.experiences.replay.baselines import rule_napfd
from mlops_assets.experiences.replay.history import cycle_histories
from mlops_assets.foundation.errors import InputError
from mlops_assets_tests.experiences.histories import real_executions

# Mean NAPFD of the data's README; its random and its rules' ties are draws, so random is given its noise.
REFERENCE = {
    "iofrol.csv": {
        "cycles": 271,
        "random": 0.302,
        "shortest": 0.317,
        "sorting": 0.427,
        "recency_rate": 0.440,
        "oracle": 0.602,
    },
    "paintcontrol_partial.csv": {
        "cycles": 66,
        "random": 0.394,
        "shortest": 0.411,
        "sorting": 0.577,
        "recency_rate": 0.582,
        "oracle": 0.858,
    },
    "deeplearning4j.csv": {
        "cycles": 243,
        "random": 0.452,
        "shortest": 0.338,
        "sorting": 0.794,
        "recency_rate": 0.787,
        "oracle": 0.863,
    },
    "agm_web_e2e.csv": {
        "cycles": 24,
        "random": 0.381,
        "shortest": 0.284,
        "sorting": 0.544,
        "recency_rate": 0.619,
        "oracle": 0.935,
    },
}


def test_ranks_count_scheduled_tests_and_the_formula_is_met() -> None:
    """A wrong constant in the formula: five tests of 10 s, budget 25 s, two run; the failures are ranks 2 and none."""
    durations, failed = np.full(5, 10.0), np.array([False, True, False, False, True])
    # p = 1/2, ranks 2: 1/2 - 2 / (2 * 5) + (1/2) / (2 * 5)
    assert napfd([0, 1, 2, 3, 4], durations, failed) == pytest.approx(0.5 - 0.2 + 0.05)
    assert napfd([4, 1, 0, 2, 3], durations, failed) == pytest.approx(1.0 - 3 / 10 + 0.1)
    assert napfd([0, 2, 3, 1, 4], durations, failed) == 0.0


def test_a_test_that_does_not_fit_is_passed_over_and_takes_no_rank() -> None:
    """A scheduler that stops at the first test too long would lose the failure behind it."""
    durations, failed = np.array([60.0, 10.0, 20.0, 10.0]), np.array([False, False, False, True])
    # Budget 50: 60 does not fit; 10, 20, 10 do. The failure has rank 3 of 4 tests.
    assert napfd([0, 1, 2, 3], durations, failed) == pytest.approx(1.0 - 3 / 4 + 1 / 8)
    assert napfd([3, 0, 1, 2], durations, failed) == pytest.approx(1.0 - 1 / 4 + 1 / 8)


def test_a_test_that_just_fits_runs_in_spite_of_rounding() -> None:
    """Ten tests of 0.1 s: half of their sum is not exactly five times 0.1 in floating point."""
    durations, failed = np.full(10, 0.1), np.arange(10) == 4
    assert napfd(list(range(10)), durations, failed) == pytest.approx(1.0 - 5 / 10 + 1 / 20)


def test_it_is_apfd_when_every_test_takes_no_time() -> None:
    """APFD = 1 - sum(ranks) / (n m) + 1 / (2 n) is the value when nothing is cut off."""
    failed = np.array([False, True, False, True])
    assert napfd([1, 3, 0, 2], np.zeros(4), failed) == pytest.approx(1.0 - 3 / 8 + 1 / 8)


def test_tests_left_out_of_the_order_do_not_run() -> None:
    """A skipped failure must count as missed, not as found last."""
    assert napfd([0], np.zeros(2), np.array([False, True])) == 0.0


def test_it_is_undefined_without_a_failure() -> None:
    """A cycle without failures counted as 0 or 1 would move every mean."""
    assert np.isnan(napfd([0, 1], np.ones(2), np.zeros(2, dtype=bool)))


@pytest.mark.parametrize("durations", [np.array([1.0, -1.0]), np.array([1.0, np.nan]), np.ones(3)])
def test_bad_durations_are_refused(durations: np.ndarray) -> None:
    """A negative duration would give time back to the budget, and a NaN would silently run nothing."""
    with pytest.raises(InputError):
        napfd([0, 1], durations, np.array([True, False]))


@given(
    st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=12).filter(
        lambda tests: any(failed for _, failed in tests)
    ),
    st.randoms(use_true_random=False),
)
def test_no_order_beats_failing_first_short_first(tests: list[tuple[int, bool]], random: object) -> None:
    """The oracle that reports compare with must be a bound, and the metric must stay within 0..1."""
    durations = np.array([float(duration) for duration, _ in tests])
    failed = np.array([verdict for _, verdict in tests])
    order = list(range(len(tests)))
    random.shuffle(order)  # type: ignore[attr-defined]
    value = napfd(order, durations, failed)
    assert 0.0 <= value <= napfd(order_by(failed.astype(float), -durations), durations, failed) <= 1.0


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_the_real_histories_give_the_reference_numbers(name: str, shared_data: Path) -> None:
    """A history that leaks the cycle, a wrong budget or wrong padding would each move these means by more than 0.01."""
    expected = REFERENCE[name]
    cycles = [cycle for cycle in cycle_histories(real_executions(shared_data, name)) if cycle.has_failure]
    assert len(cycles) == expected["cycles"]
    rules = [rule_napfd(cycle, random_orders=5, seed=1) for cycle in cycles]
    measured = {rule: float(np.mean([figures[rule] for figures in rules])) for rule in rules[0]}
    measured["shortest"] = float(
        np.mean([napfd(order_by(-cycle.durations), cycle.durations, cycle.failed) for cycle in cycles])
    )
    for rule in ("shortest", "sorting", "recency_rate", "oracle"):
        assert measured[rule] == pytest.approx(expected[rule], abs=0.01), rule
    noise = 3.0 * float(np.std([figures["random"] for figures in rules])) / np.sqrt(len(cycles))
    assert measured["random"] == pytest.approx(expected["random"], abs=min(noise, 0.05))
