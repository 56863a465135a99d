"""What is told when, as a table of moments; no database, no waiting."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.foundation.policies import QuietHours
from mlops_assets.monitoring.notices import (
    Acknowledged,
    AlertState,
    Event,
    Gone,
    Passed,
    Seen,
    notice,
    quiet_until,
)
from mlops_assets.monitoring.severity import Severity
from mlops_assets_tests.monitoring.alerting import NOW, policy

INFO, WARNING, CRITICAL = Severity
NIGHT = datetime(2026, 1, 5, 23, 30, tzinfo=UTC)
MORNING = datetime(2026, 1, 6, 6, 0, tzinfo=UTC)


def play(
    *moments: tuple[float, Event], start: datetime = NOW, **changes: object
) -> tuple[AlertState | None, list[str]]:
    """Let events happen, each so many minutes after the start; return the alert and what was told, and when."""
    rules, state, said = policy(**changes), None, []
    for minutes, event in moments:
        now = start + timedelta(minutes=minutes)
        state, told = notice(state, event, rules, now)
        if told is not None:
            held = (told.due_at - now) / timedelta(minutes=1)
            said.append(f"{minutes:g} {told.kind}" + (f" +{held:g}" if held else ""))
    return state, said


@pytest.mark.parametrize(
    ("moments", "said"),
    [
        # Seen again and again: told once, then after each cooldown (60 minutes).
        ([(m, Seen(WARNING)) for m in (0, 5, 59, 60, 61, 119, 120)], ["0 raised", "60 repeated", "120 repeated"]),
        # Worse is told at once, better is not told.
        ([(0, Seen(INFO)), (1, Seen(WARNING)), (2, Seen(CRITICAL)), (3, Seen(INFO)), (4, Seen(CRITICAL))],
         ["0 raised", "1 worsened", "2 worsened"]),
        # Acknowledged is silent, whatever the cooldown, until it gets worse; then it is told, and repeated again.
        ([(0, Seen(WARNING)), (1, Acknowledged("ana")), (90, Seen(WARNING)), (91, Seen(CRITICAL)), (152, Seen(CRITICAL))],
         ["0 raised", "1 acknowledged", "91 worsened", "152 repeated"]),
        ([(0, Seen(WARNING)), (1, Acknowledged("ana")), (2, Acknowledged("bob"))], ["0 raised", "1 acknowledged"]),
        # CRITICAL and nobody looks after it: escalated once, 15 minutes after it became so.
        ([(0, Seen(CRITICAL)), (14, Passed()), (15, Passed()), (16, Passed()), (90, Passed())], ["0 raised", "15 escalated"]),
        ([(0, Seen(WARNING)), (30, Passed()), (40, Seen(CRITICAL)), (54, Passed()), (55, Passed())],
         ["0 raised", "40 worsened", "55 escalated"]),
        ([(0, Seen(CRITICAL)), (14, Acknowledged("ana")), (60, Passed())], ["0 raised", "14 acknowledged"]),
        # A repeat does not put the escalation off.
        ([(0, Seen(CRITICAL)), (5, Seen(CRITICAL)), (15, Passed())], ["0 raised", "15 escalated"]),
        # An escalation is a telling: the next one waits for the cooldown.
        ([(0, Seen(CRITICAL)), (15, Passed()), (61, Seen(CRITICAL)), (76, Seen(CRITICAL))],
         ["0 raised", "15 escalated", "76 repeated"]),
        # Recovered is told once, after it stayed away for 10 minutes; and then it is a new alert.
        ([(0, Seen(WARNING)), (9, Gone()), (10, Gone()), (11, Gone()), (12, Seen(WARNING))],
         ["0 raised", "10 recovered", "12 raised"]),
        ([(0, Seen(WARNING)), (5, Gone()), (8, Seen(WARNING)), (13, Gone()), (18, Gone())], ["0 raised", "18 recovered"]),
        ([(0, Seen(CRITICAL)), (1, Gone(for_good=True))], ["0 raised", "1 recovered"]),
        ([(0, Seen(CRITICAL)), (1, Acknowledged("ana")), (20, Gone())], ["0 raised", "1 acknowledged", "20 recovered"]),
        # Nothing goes on, so nothing is told.
        ([(0, Gone(for_good=True)), (1, Acknowledged("ana")), (2, Passed())], []),
    ],
)  # fmt: skip
def test_by_day(moments: list[tuple[float, Event]], said: list[str]) -> None:
    """People are told too often and stop reading, or too late."""
    assert play(*moments)[1] == said


@pytest.mark.parametrize(
    ("moments", "said"),
    [
        # 23:30 to 06:00 is 390 minutes.
        ([(0, Seen(WARNING)), (60, Seen(WARNING)), (389, Seen(WARNING)), (391, Seen(WARNING)), (450, Seen(WARNING))],
         ["0 raised +390", "450 repeated"]),
        ([(0, Seen(CRITICAL)), (15, Passed())], ["0 raised", "15 escalated"]),
        ([(0, Seen(WARNING)), (30, Seen(CRITICAL))], ["0 raised +390", "30 worsened"]),
        ([(0, Seen(INFO)), (30, Seen(WARNING))], ["0 raised +390", "30 worsened +360"]),
        ([(0, Seen(WARNING)), (30, Gone())], ["0 raised +390", "30 recovered +360"]),
        ([(0, Seen(CRITICAL)), (30, Gone())], ["0 raised", "30 recovered"]),
    ],
)  # fmt: skip
def test_by_night(moments: list[tuple[float, Event]], said: list[str]) -> None:
    """Somebody is woken by a warning, or sleeps through an outage; or reads eight of one in the morning."""
    assert play(*moments, start=NIGHT)[1] == said


def test_what_is_kept() -> None:
    """A count or a time that is wrong sends people to the wrong hour of the logs."""
    moments = ((0, Seen(WARNING)), (5, Seen(CRITICAL)), (6, Acknowledged("ana")), (9, Seen(INFO)), (30, Gone()))
    state, _ = play(*moments)
    at = [NOW + timedelta(minutes=m) for m in (0, 5, 6, 9, 30)]
    assert state == AlertState(CRITICAL, "recovered", 3, at[0], at[3], at[1], at[1], None, at[2], "ana", at[4])
    assert state is not None
    worse = replace(state, severity=WARNING, critical_at=None, status="acknowledged", recovered_at=None)
    again, told = notice(worse, Seen(CRITICAL), policy(), at[4])
    assert told is not None
    assert again is not None
    # It was another, smaller thing that ana took on.
    assert (again.status, again.acknowledged_by, again.critical_at) == ("open", None, at[4])


@pytest.mark.parametrize(
    ("hours", "zone", "now", "until"),
    [
        ((22, 6), "UTC", NIGHT, MORNING),
        ((22, 6), "UTC", MORNING - timedelta(microseconds=1), MORNING),
        ((22, 6), "UTC", MORNING, None),
        ((22, 6), "UTC", NOW, None),
        ((0, 6), "UTC", datetime(2026, 1, 6, 0, 0, tzinfo=UTC), MORNING),
        ((1, 5), "UTC", datetime(2026, 1, 6, 0, 59, tzinfo=UTC), None),
        # 06:30 in Berlin.
        ((22, 7), "Europe/Berlin", datetime(2026, 1, 6, 5, 30, tzinfo=UTC), datetime(2026, 1, 6, 6, 0, tzinfo=UTC)),
        # The night in which Berlin's clocks go forward: 07:00 comes an hour earlier.
        ((22, 7), "Europe/Berlin", datetime(2026, 3, 28, 22, 0, tzinfo=UTC), datetime(2026, 3, 29, 5, 0, tzinfo=UTC)),
    ],
)
def test_quiet_hours(hours: tuple[int, int], zone: str, now: datetime, until: datetime | None) -> None:
    """Quiet hours that are an hour off wake people, or let them miss the morning."""
    assert quiet_until(QuietHours(timezone=zone, hours=hours), now) == until
    assert quiet_until(None, now) is None


EVENTS = st.one_of(
    st.sampled_from(list(Severity)).map(Seen),
    st.just(Acknowledged("ana")),
    st.booleans().map(Gone),
    st.just(Passed()),
)


@given(st.lists(st.tuples(st.floats(0.1, 200), EVENTS), max_size=40))
def test_whatever_happens(steps: list[tuple[float, Event]]) -> None:
    """An order of events that nobody thought of tells an end without a beginning, or the same end twice."""
    rules, now, state, going_on, worst, last = policy(), NIGHT, None, False, -1, NIGHT
    for minutes, event in steps:
        now += timedelta(minutes=minutes)
        state, told = notice(state, event, rules, now)
        if told is None:
            continue
        assert state is not None
        assert told.due_at >= now
        assert state.severity is not CRITICAL or told.due_at == now
        if told.kind == "raised":
            assert not going_on
            going_on, worst = True, state.severity.rank
        assert going_on
        if told.kind == "worsened":
            assert state.severity.rank > worst
            worst = state.severity.rank
        if told.kind == "repeated":
            assert told.due_at - last >= timedelta(minutes=rules.cooldown_minutes)
        if told.kind == "recovered":
            going_on = False
        if told.kind != "acknowledged":
            last = told.due_at
    assert going_on == (state is not None and state.status != "recovered")
