"""The A/A test: silent while the platform is fair, loud when it is not, and begun anew when people say so."""

from datetime import datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import Engine, select

from mlops_assets.experiments.aa_test import AaTest, look_at_aa_test, reset_aa_test
from mlops_assets.experiments.assignment import aa_arm
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.tables import AuditEvent, ExperimentLook
from mlops_assets_tests.experiences.served import SERVED_AT
from mlops_assets_tests.experiments.aa_users import Finding, serve

SPEC = AGENTS["execution"]
DESIGN = load_profile("aiwebtest").ab_test
HOUR = timedelta(hours=1)


def by_chance(rate: float, seed: int) -> Finding:
    draws = np.random.default_rng(seed)
    return lambda _treated: bool(draws.random() < rate)


def look(engine: Engine, at: datetime, champion: str = "1.0.0") -> AaTest:
    return look_at_aa_test(engine, DESIGN, 100.0, SPEC.name, champion, at)


def test_both_arms_have_their_share_and_nobody_is_in_both() -> None:
    """Arms of other sizes than the analysis takes them for are a broken split, every time."""
    arms = [aa_arm("execution", "1.0.0", f"user-{user}", 0.01) for user in range(50_000)]
    assert arms.count("treatment") / 50_000 == pytest.approx(0.01, abs=0.0015)
    assert arms.count("control") / 50_000 == pytest.approx(0.01, abs=0.0015)
    # The next champion's are others: who is unlucky is not so for ever.
    again = [aa_arm("execution", "1.1.0", f"user-{user}", 0.01) for user in range(50_000)]
    assert sum(one is not None and one == other for one, other in zip(arms, again, strict=True)) < 50
    assert {aa_arm("execution", "1.0.0", f"user-{user}", 0.0) for user in range(1000)} == {None}
    assert {aa_arm("execution", "1.0.0", f"user-{user}", 0.5) for user in range(1000)} == {"control", "treatment"}


def test_a_fair_platform_is_silent(engine: Engine) -> None:
    """Rollouts that are held for a false alarm teach people to switch it off."""
    failed, wrong = by_chance(0.02, 1), by_chance(0.2, 2)
    for number in range(6):
        at = SERVED_AT + number * 2 * HOUR
        serve(engine, range(500 * number, 500 * number + 500), at, failed=failed, wrong=wrong)
        found = look(engine, at + 2.6 * HOUR)
        assert found.alarm is None
    assert found.control_users + found.treatment_users == 3000
    assert "no proof of a difference" in str(found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"failed": lambda treated: treated},
            "failed is 100.00% on the way of a candidate and 0.00% on the champion's",
        ),
        (
            {"failed": lambda treated: not treated},
            "failed is 0.00% on the way of a candidate and 100.00% on the champion's",
        ),
        ({"wrong": lambda treated: treated}, "wrong is 100.00% on the way of a candidate"),
        ({"lost": lambda treated: treated}, "the log loses users"),
    ],
)
def test_a_platform_that_treats_arms_differently_alarms(
    sqlite_engine: Engine, changes: dict[str, Finding], words: str
) -> None:
    """Every candidate is then judged by what the platform does to it, for better or worse."""
    serve(sqlite_engine, range(300), SERVED_AT, **changes)
    found = look(sqlite_engine, SERVED_AT + 3 * HOUR)
    assert found.alarm is not None
    assert words in found.alarm
    assert str(found).startswith("the A/A test aa-execution-1.0.0-0 alarms: ")
    # The alarm stays, however well things go afterwards.
    serve(sqlite_engine, range(300, 600), SERVED_AT + 4 * HOUR)
    assert look(sqlite_engine, SERVED_AT + 7 * HOUR).alarm is not None


@pytest.mark.slow
@pytest.mark.parametrize("points", [0.01, -0.01])
def test_a_difference_within_the_limits_is_none(sqlite_engine: Engine, points: float) -> None:
    """The way of a candidate costs a moment, or saves one, and some day that is proven, and nothing ever starts again."""
    ways = {True: by_chance(0.1 + points, 3), False: by_chance(0.1, 4)}
    for number in range(4):
        at = SERVED_AT + number * 2 * HOUR
        serve(
            sqlite_engine, range(6000 * number, 6000 * number + 6000), at, wrong=lambda treated: ways[treated](treated)
        )
        found = look(sqlite_engine, at + 2.6 * HOUR)
    assert found.alarm is None
    assert found.control_users + found.treatment_users == 24_000


def test_it_is_of_one_champion_and_begins_anew(engine: Engine) -> None:
    """An alarm of the version before holds the next one for ever, or one that is mended cannot be cleared."""
    serve(engine, range(300), SERVED_AT, failed=lambda treated: treated)
    assert look(engine, SERVED_AT + 3 * HOUR).alarm is not None
    serve(engine, range(300), SERVED_AT + 3 * HOUR, champion="1.1.0")
    assert look(engine, SERVED_AT + 6 * HOUR, "1.1.0").alarm is None
    reset_aa_test(
        engine, "execution", SERVED_AT + 6 * HOUR, user="sre@company.com", reason="the pool", now=SERVED_AT + 9 * HOUR
    )
    empty = look(engine, SERVED_AT + 6.5 * HOUR)
    assert (empty.name, empty.control_users, empty.treatment_users) == ("aa-execution-1.0.0-1", 0, 0)
    # The same users count once more.
    serve(engine, range(300), SERVED_AT + 7 * HOUR)
    found = look(engine, SERVED_AT + 10 * HOUR)
    assert (found.control_users + found.treatment_users, found.alarm) == (300, None)
    with read_transaction(engine) as session:
        event = session.scalars(select(AuditEvent)).one()
        assert (event.event_type, event.user, event.details["reason"]) == (
            "aa_test_reset",
            "sre@company.com",
            "the pool",
        )


def test_it_looks_once_an_hour(sqlite_engine: Engine) -> None:
    """A look is kept, and a tick every five minutes would keep a hundred thousand a year."""
    serve(sqlite_engine, range(100), SERVED_AT)
    for minutes in range(0, 181, 5):
        found = look(sqlite_engine, SERVED_AT + timedelta(minutes=minutes))
    assert found.control_users + found.treatment_users == 100
    with read_transaction(sqlite_engine) as session:
        assert len(session.scalars(select(ExperimentLook)).all()) == 4
