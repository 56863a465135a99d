"""Candidate against champion, and the plan of their A/B test."""

import dataclasses

import numpy as np
import pytest

from mlops_assets.evaluation.comparison import ChampionComparison, ChampionModel, compare_with_champion, plan_ab_test
from mlops_assets.evaluation.intervals import Interval, cluster_numbers
from mlops_assets.evaluation.metrics import QFunction, greedy
from mlops_assets.foundation.profiles import load_profile
from mlops_assets_tests.evaluation.tables import SPEC, Always, FirstFields, decision_table

PROFILE = load_profile("aiwebtest")
TABLE = decision_table(200, 5, label_noise=0.05)


def champion(policy: QFunction, **changes: object) -> ChampionModel:
    model = ChampionModel("1.2.0", "run-1", policy, SPEC.state_fields, "dueling 64x64")
    return dataclasses.replace(model, **changes)  # type: ignore[arg-type]


def compare(candidate: QFunction, against: ChampionModel) -> ChampionComparison:
    right = greedy(candidate.q_values(TABLE.state)) == TABLE.best_action
    return compare_with_champion(
        against,
        right,
        TABLE.state,
        TABLE.best_action,
        cluster_numbers(TABLE.episode_id),
        state_fields=SPEC.state_fields,
        architecture="dueling 64x64",
        samples=300,
        confidence=0.95,
        seed=0,
    )


def test_a_better_candidate_is_better_beyond_chance() -> None:
    """The comparison has to see a difference of 70 points, in the right direction."""
    found = compare(FirstFields(), champion(Always(0)))
    assert found.champion_accuracy is not None
    assert found.champion_accuracy == pytest.approx(np.mean(TABLE.best_action == 0))
    assert found.accuracy_difference is not None
    assert found.accuracy_difference.low is not None
    assert found.accuracy_difference.low > 0.6
    expected = 100 * found.accuracy_difference.estimate / found.champion_accuracy
    assert found.improvement_percent == pytest.approx(expected)
    assert found.accuracy_drop == 0.0
    assert found.mcnemar_p is not None
    assert found.mcnemar_p < 1e-6
    assert not found.architecture_change


def test_a_worse_candidate_drops() -> None:
    """A drop counts in absolute points, whatever the champion's level."""
    found = compare(Always(0), champion(FirstFields()))
    assert found.accuracy_drop is not None
    assert found.accuracy_drop == pytest.approx(0.95 - np.mean(TABLE.best_action == 0), abs=0.03)
    assert found.improvement_percent is not None
    assert found.improvement_percent < -60


def test_the_same_policy_is_no_better() -> None:
    """Two versions that decide alike differ by exactly nothing, with an interval of no width."""
    found = compare(FirstFields(2.0), champion(FirstFields(1.0)))
    assert found.accuracy_difference == Interval(0.0, 0.0, 0.0, 0.95)
    assert found.improvement_percent == 0.0
    assert found.mcnemar_p == 1.0


def test_pairing_is_what_makes_small_differences_visible() -> None:
    """Compared as two independent rates, a candidate that is right wherever the champion is would drown in noise."""
    half_right = TABLE.state.copy()
    half_right[::10, :4] = np.roll(half_right[::10, :4], 1, axis=1)

    class Worse(FirstFields):
        def q_values(self, states: np.ndarray) -> np.ndarray:
            assert len(states) == len(half_right)
            return super().q_values(half_right)

    found = compare(FirstFields(), champion(Worse()))
    assert found.accuracy_difference is not None
    low, high = found.accuracy_difference.low, found.accuracy_difference.high
    assert low is not None
    assert high is not None
    assert 0 < low < found.accuracy_difference.estimate < high < 0.15


def test_another_state_vector_cannot_be_compared() -> None:
    """Feeding a champion the fields of another one gives numbers, and no meaning."""
    fewer = compare(FirstFields(), champion(Always(0), state_fields=SPEC.state_fields[:-1]))
    assert fewer.accuracy_difference is None
    assert SPEC.state_fields[-1] in fewer.note
    reordered = compare(FirstFields(), champion(Always(0), state_fields=SPEC.state_fields[::-1]))
    assert "their order" in reordered.note


def test_a_new_architecture_is_noticed_even_so() -> None:
    """It raises the risk whether or not the figures can be compared."""
    assert compare(FirstFields(), champion(Always(0), architecture="dueling 128")).architecture_change


def test_without_labels_there_is_no_comparison() -> None:
    """No label, no figure: not a difference of 0."""
    nothing = compare_with_champion(
        champion(Always(0)),
        np.zeros(0, dtype=bool),
        TABLE.state[:0],
        TABLE.best_action[:0],
        np.zeros(0, dtype=np.int64),
        state_fields=SPEC.state_fields,
        architecture="dueling 64x64",
        samples=100,
        confidence=0.95,
        seed=0,
    )
    assert nothing.accuracy_difference is None
    assert nothing.improvement_percent is None


def test_a_champion_that_is_never_right_has_no_percentage() -> None:
    """Dividing by its accuracy of 0 ended the whole evaluation."""
    table = dataclasses.replace(TABLE, best_action=np.zeros_like(TABLE.best_action))
    found = compare_with_champion(
        champion(Always(1)),
        np.ones(len(table.action), dtype=bool),
        table.state,
        table.best_action,
        cluster_numbers(table.episode_id),
        state_fields=SPEC.state_fields,
        architecture="dueling 64x64",
        samples=100,
        confidence=0.95,
        seed=0,
    )
    assert (found.champion_accuracy, found.improvement_percent) == (0.0, None)
    assert found.accuracy_difference is not None
    assert found.accuracy_difference.estimate == 1.0


def a_comparison(accuracy: float | None) -> ChampionComparison:
    return ChampionComparison("1.2.0", "run-1", architecture_change=False, note="", champion_accuracy=accuracy)


def test_ab_test_plan() -> None:
    """Control, treatment, size and days have to be planned before the test, not read off it."""
    plan = plan_ab_test(a_comparison(0.90), PROFILE, treatment="run-2", decisions_per_day=5000.0)
    assert plan is not None
    assert (plan.control, plan.treatment, plan.primary_metric) == ("1.2.0", "run-2", "accuracy")
    # R: power.prop.test(p1 = 0.90, p2 = 0.918, power = 0.8) gives n = 4006.8 by the pooled formula.
    assert plan.sample_size_per_arm == pytest.approx(4007, rel=0.005)
    assert plan.planned_days == 8
    assert plan.note == "two-sided test of two proportions"


def test_ab_test_plan_has_a_least_size_and_flags_long_tests() -> None:
    """A size below the profile's minimum, or a test of a year, is no plan."""
    slow = plan_ab_test(a_comparison(0.90), PROFILE, treatment="run-2", decisions_per_day=100.0)
    assert slow is not None
    assert slow.planned_days == 400
    assert "exceed the limit of 14" in slow.note
    easy = PROFILE.model_copy(
        update={"governance": PROFILE.governance.model_copy(update={"min_improvement_percent": 9.0})}
    )
    small = plan_ab_test(a_comparison(0.90), easy, treatment="run-2", decisions_per_day=0.0)
    assert small is not None
    assert (small.sample_size_per_arm, small.planned_days) == (1000, None)
    assert "raised to the least of 1000" in small.note


def test_an_improvement_that_cannot_exist_is_not_planned() -> None:
    """Two percent above 0.99 is more than 1; the formula answers NaN."""
    plan = plan_ab_test(a_comparison(0.99), PROFILE, treatment="run-2", decisions_per_day=100.0)
    assert plan is not None
    assert plan.sample_size_per_arm is None
    assert "cannot be tested" in plan.note


def test_without_a_champion_there_is_no_test_to_plan() -> None:
    """A first model has nobody to be tested against."""
    assert plan_ab_test(None, PROFILE, treatment="run-2", decisions_per_day=1.0) is None
    assert plan_ab_test(a_comparison(None), PROFILE, treatment="run-2", decisions_per_day=1.0) is None
