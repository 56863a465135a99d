"""Users become observations once, with what was known of them, and stay as they were."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import Engine

from mlops_assets.experiments.assignment import assign
from mlops_assets.experiments.metrics import MetricScale
from mlops_assets.experiments.units import read_looks, take_look
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.tables import Base
from mlops_assets_tests.experiences.served import SERVED_AT, outcome_row, prediction_row, write
from mlops_assets_tests.experiments.served_users import NAME, SALT, SPEC, serve

DESIGN = load_profile("aiwebtest").ab_test.model_copy(
    update={"user_window_minutes": 10.0, "outcome_delay_minutes": 5.0}
)
SCALE = MetricScale(reward_low=-50.0, reward_high=150.0, slow={"slow": 100.0})
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


def test_several_treatments_are_observed_against_one_control(engine: Engine) -> None:
    """Users of one treatment are the other's control, or one's ramp draws the other's users again."""
    stages = [
        {"challenger": 0.1, "shadow": 0.2},
        {"challenger": 0.3, "shadow": 0.2},
        {"challenger": 0.3, "shadow": 0.1},
    ]
    where = [[assign(SALT, f"user-{user}", shares) for user in range(600)] for shares in stages]
    for number, shares in enumerate(stages):
        serve(engine, range(600), share=shares, seconds_apart=0.1, at=SERVED_AT + timedelta(hours=number))
        look(engine, 60 * number + 30)
    first, second, third = (one.units for one in read_looks(engine, NAME))
    assert [unit.variant for unit in first].count("challenger") == where[0].count("challenger")
    drawn = {unit.variant: {name: round(chance, 12) for name, chance in (unit.draws or {}).items()} for unit in first}
    assert drawn == {
        "control": {"challenger": round(0.1 / 0.8, 12), "shadow": round(0.2 / 0.9, 12)},
        "challenger": {"challenger": round(0.1 / 0.8, 12)},
        "shadow": {"shadow": round(0.2 / 0.9, 12)},
    }
    # The control of before is drawn again, for the treatment that grew only; who was treated is no fresh observation.
    assert len(second) == where[0].count("control")
    assert {unit.arms for unit in second} == {("challenger",)}
    assert {round(unit.of("challenger").share, 12) for unit in second} == {round(0.2 / 0.7, 12)}
    came = sum(pair == ("control", "challenger") for pair in zip(where[0], where[1], strict=True))
    assert sum(unit.of("challenger").treatment for unit in second) == came
    assert [unit.treatment_share for unit in second] == [0.5] * len(second)
    # Users of a treatment that shrinks come back into the control, and say nothing any more.
    assert third == ()


def test_one_treatments_chance_does_not_depend_on_what_the_other_does(engine: Engine) -> None:
    """Of users who come first at the second stage, the whole share is drawn; of the others only what is new."""
    serve(engine, range(200), share={"challenger": 0.2, "shadow": 0.0}, seconds_apart=0.1)
    look(engine, 30)
    shares = {"challenger": 0.2, "shadow": 0.5}
    serve(engine, range(400), share=shares, seconds_apart=0.1, at=SERVED_AT + timedelta(hours=1))
    look(engine, 90)
    second = read_looks(engine, NAME)[1].units
    chances_of_shadow = {round(unit.draws["shadow"], 12) for unit in second if unit.draws and "shadow" in unit.draws}
    assert chances_of_shadow == {round(0.5 / 0.8, 12)}
    of_challenger = [unit.of("challenger") for unit in second if "challenger" in unit.arms]
    assert {round(unit.share, 12) for unit in of_challenger} == {round(0.2 / 0.5, 12)}
    fresh = [assign(SALT, f"user-{user}", shares) for user in range(200, 400)]
    assert len(of_challenger) == fresh.count("control") + fresh.count("challenger")


def test_what_users_were_before_is_theirs_and_of_before(engine: Engine) -> None:
    """The covariate knows of the treatment, of another agent, or of somebody else: then the adjustment is no chance."""
    design = DESIGN.model_copy(update={"pre_period_days": 2.0})

    def earlier(number: int, days: float, user: str | None, **changes: object) -> list[Base]:
        made = prediction_row(
            changes.pop("spec", SPEC), f"earlier-{number}", event_time=SERVED_AT - timedelta(days=days), user_hash=user, **changes
        )  # fmt: skip
        return [made, outcome_row(made, -50.0, best_action=number % 2)]

    write(
        engine,
        [
            *earlier(0, 1.0, "user-0", latency_ms=500.0),
            *earlier(1, 1.5, "user-0"),
            *earlier(2, 2.5, "user-0", fallback="failed"),
            *earlier(3, 1.0, "user-1", spec=AGENTS["generation"]),
            *earlier(5, 1.0, None),
            *earlier(7, 0.001, "user-2", experiment="another", variant="treatment"),
        ],
    )
    serve(engine, range(4), share=0.5, seconds_apart=1.0, failed=lambda *_: True)
    take_look(engine, NAME, design, SCALE, now=SERVED_AT + timedelta(hours=1))
    before = [unit.before for unit in read_looks(engine, NAME)[0].units]
    assert before[0] == pytest.approx({"failed": 0.0, "slow": 0.5, "wrong": 0.5, "loss": 1.0})
    assert before[1] is None
    assert before[2] == pytest.approx({"failed": 0.0, "slow": 0.0, "wrong": 0.0, "loss": 1.0})
    assert before[3] is None


def test_without_a_pre_period_nobody_looks_for_it(engine: Engine) -> None:
    """Experiments of before, and those that do not want it, read days of decisions at every look."""
    write(engine, [prediction_row(SPEC, "earlier", event_time=SERVED_AT - timedelta(days=1), user_hash="user-0")])
    serve(engine, range(2), share=0.5)
    take_look(
        engine, NAME, DESIGN.model_copy(update={"pre_period_days": 0.0}), SCALE, now=SERVED_AT + timedelta(hours=1)
    )
    assert [unit.before for unit in read_looks(engine, NAME)[0].units] == [None, None]
