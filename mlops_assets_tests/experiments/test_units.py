"""Users become observations once, with what was known of them, and stay as they were."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import Engine

from mlops_assets.experiments.units import MetricScale, read_looks, take_look
from mlops_assets.foundation.profiles import load_profile
from mlops_assets_tests.experiences.served import SERVED_AT, outcome_row, prediction_row, write
from mlops_assets_tests.experiments.served_users import NAME, SPEC, serve

DESIGN = load_profile("aiwebtest").ab_test.model_copy(
    update={"user_window_minutes": 10.0, "outcome_delay_minutes": 5.0}
)
SCALE = MetricScale(reward_low=-50.0, reward_high=150.0, slow_ms=100.0)
LATER = timedelta(minutes=15)


def look(engine: Engine, minutes: float) -> int:
    """Look `minutes` after the first request."""
    return take_look(engine, NAME, DESIGN, SCALE, now=SERVED_AT + timedelta(minutes=minutes))


def test_a_user_is_one_observation_however_many_requests(engine: Engine) -> None:
    """Requests of a user are correlated: counted one by one, a busy user looks like proof."""
    arms = serve(engine, range(30), share=0.5, requests=4, seconds_apart=1.0)
    assert look(engine, 60) == 30
    units = read_looks(engine, NAME)[0].units
    assert sum(unit.treatment for unit in units) == sum(arms)
    assert {unit.share for unit in units} == {0.5}
    assert look(engine, 120) == 0
    assert [len(one.units) for one in read_looks(engine, NAME)] == [30, 0]


def test_metrics_are_means_over_the_first_window(engine: Engine) -> None:
    """A failure on the third day is held against the first hour, or an absent label counts as right."""
    rows = [
        prediction_row(
            SPEC,
            f"p{minute}",
            event_time=SERVED_AT + timedelta(minutes=minute),
            user_hash="ann",
            experiment=NAME,
            variant="treatment",
            treatment_share=0.2,
            **changes,
        )
        for minute, changes in (
            (0, {"fallback": "failed"}),
            (1, {"latency_ms": 101.0}),
            (2, {"fallback": "absent"}),
            (3, {}),
            (11, {"fallback": "failed", "latency_ms": 900.0}),
        )
    ]
    outcomes = [outcome_row(rows[0], 100.0, best_action=1), outcome_row(rows[1], 50.0, best_action=0)]
    write(engine, [*rows, *outcomes, outcome_row(rows[4], -50.0, best_action=3)])
    assert look(engine, 14.9) == 0
    assert look(engine, 15.1) == 1
    (unit,) = [unit for one in read_looks(engine, NAME) for unit in one.units]
    assert unit.outcomes == pytest.approx({"failed": 0.25, "slow": 0.25, "wrong": 0.5, "loss": 75 / 200})
    unlabelled = prediction_row(
        SPEC, "q", user_hash="bob", experiment=NAME, variant="control", treatment_share=0.2,
        event_time=SERVED_AT + timedelta(minutes=20),
    )  # fmt: skip
    write(engine, [unlabelled])
    look(engine, 40)
    assert read_looks(engine, NAME)[-1].units[0].outcomes == {"failed": 0.0, "slow": 0.0}


def test_what_was_known_stays(engine: Engine) -> None:
    """A late outcome changes evidence that was looked at: looking again is then choosing the better answer."""
    serve(engine, range(5), share=0.5, labelled=False, seconds_apart=1.0)
    look(engine, 20)
    before = read_looks(engine, NAME)
    late = prediction_row(
        SPEC, "late", event_time=SERVED_AT + timedelta(minutes=2), user_hash="user-0", experiment=NAME,
        variant="control", treatment_share=0.5, fallback="failed",
    )  # fmt: skip
    write(engine, [late, outcome_row(late, 0.0, best_action=0)])
    look(engine, 60)
    assert read_looks(engine, NAME)[0] == before[0]
    assert read_looks(engine, NAME)[1].units == ()


def test_a_ramp_draws_the_control_again_with_the_chance_it_has(engine: Engine) -> None:
    """At 20 % those who were treated at 5 % are treated for certain: counted, they break the split and the test."""
    first = serve(engine, range(400), share=0.05, seconds_apart=0.1)
    look(engine, 30)
    second = serve(engine, range(400), share=0.2, seconds_apart=0.1, at=SERVED_AT + timedelta(hours=1))
    look(engine, 90)
    units = read_looks(engine, NAME)[1].units
    assert len(units) == 400 - sum(first)
    assert {round(unit.share, 12) for unit in units} == {round(0.15 / 0.95, 12)}
    assert sum(unit.treatment for unit in units) == sum(second) - sum(first)
    third = serve(engine, range(400), share=0.1, seconds_apart=0.1, at=SERVED_AT + timedelta(hours=2))
    assert any(third)
    assert look(engine, 150) == 0


def test_chances_of_a_ramp_are_those_of_the_assignment() -> None:
    """The share of the once more drawn is computed by a formula that the assignment does not follow."""
    from mlops_assets.experiments.assignment import assignment_fraction

    fractions = np.array([assignment_fraction("salt", f"u{i}") for i in range(40_000)])
    again = fractions[fractions >= 0.05]
    assert (again < 0.2).mean() == pytest.approx(0.15 / 0.95, abs=4 * np.sqrt(0.16 * 0.84 / len(again)))


def test_two_looks_at_one_moment_are_one(engine: Engine) -> None:
    """Two daemons that tick at once bet twice on the same users."""
    serve(engine, range(50), share=0.5)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: look(engine, 60), range(4)))
    assert sorted(found) == [0, 0, 0, 50]
    assert look(engine, 60) == 0
    assert [len(one.units) for one in read_looks(engine, NAME)] == [50]
