"""The decision in every situation, and what holds in all of them."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.foundation.policies import RetrainingPolicy
from mlops_assets.foundation.trigger import TriggerType
from mlops_assets.retraining.decide import Decision, History, Loss, decide
from mlops_assets.retraining.off_peak import inside
from mlops_assets.retraining.signals import Signal
from mlops_assets_tests.retraining.triggers import NOW, POLICY, hours, policy, signal

NIGHT = NOW.replace(hour=2, minute=30)
IN_48, IN_24 = NOW + hours(48), NOW + hours(24)
PSI_ONLY = {"psi_only": 1.0, "drift_score": 0.4}
HURTS = policy(retrain_when="hurts")
CONFIRM = policy(require_confirmation=True)


def loss(low: float, at: datetime = NOW) -> Loss:
    return Loss(low, low + 100.0, low + 200.0, at)


def ago(*numbers: float) -> tuple[datetime, ...]:
    return tuple(NOW - hours(number) for number in numbers)


NOTHING = History()


@dataclass(frozen=True)
class Case:
    """A situation, and what has to come of it: the kind that the run is named after, or what holds all."""

    name: str
    signals: tuple[Signal, ...]
    expected: str
    history: History = NOTHING
    policy: RetrainingPolicy = POLICY
    now: datetime = NOW
    settled: str = ""


CASES = [
    Case("nothing waits", (), "idle"),
    Case("schedule", (signal("schedule"),), "schedule"),
    Case("staleness", (signal("staleness"),), "staleness"),
    Case("volume", (signal("volume"),), "volume"),
    Case("critical drift", (signal("drift"),), "drift"),
    Case("critical accuracy drop", (signal("accuracy_drop"),), "accuracy_drop"),
    Case("errors", (signal("error_rate"),), "error_rate"),
    Case("by hand", (signal("manual"),), "manual"),
    Case("drift warning by day waits for the night", (signal(deadline=IN_48),), "off_peak"),
    Case("drift warning at night", (signal(raised=NIGHT, deadline=NIGHT + hours(48)),), "drift", now=NIGHT),
    Case("accuracy warning by day waits", (signal("accuracy_drop", deadline=IN_24),), "off_peak"),
    Case("the deadline is before the next night", (signal(deadline=NOW + hours(13)),), "drift"),
    Case("the deadline has passed", (signal(raised=NOW - hours(50), deadline=NOW - hours(2)),), "drift"),
    Case("warned and critical", (signal(deadline=IN_48), signal("accuracy_drop", number=2)), "accuracy_drop"),
    Case("training under way", (signal(),), "in_flight", History(in_flight="retrain-execution-1 started")),
    Case("by hand, training under way", (signal("manual", override=True),), "in_flight", History(in_flight="1")),
    Case("rollout under way", (signal(),), "rollout", History(rollout="rollout-execution-1.1.0-1")),
    Case("by hand, rollout under way", (signal("manual", override=True),), "rollout", History(rollout="r")),
    Case("too soon", (signal(),), "min_hours", History(requested_at=ago(5.9))),
    Case("just not too soon", (signal(),), "drift", History(requested_at=ago(6.0))),
    Case("by hand, too soon", (signal("manual"),), "min_hours", History(requested_at=ago(1))),
    Case("by hand, too soon, overridden", (signal("manual", override=True),), "manual", History(requested_at=ago(1))),
    Case("four in a day", (signal(),), "max_per_day", History(requested_at=ago(6.5, 12, 18, 23.9))),
    Case("four in more than a day", (signal(),), "drift", History(requested_at=ago(6.5, 12, 18, 24.0))),
    Case(
        "four in a day, by hand",
        (signal("manual", override=True),),
        "max_per_day",
        History(requested_at=ago(1, 12, 18, 23)),
    ),
    Case(
        "everything at once",
        (signal(deadline=IN_48),),
        "in_flight,rollout,max_per_day,min_hours,off_peak",
        History("1", "r", ago(1, 2, 3, 4)),
    ),
    Case("inputs alone", (signal(evidence=PSI_ONLY),), "drift"),
    Case("inputs alone, to be confirmed", (signal(evidence=PSI_ONLY),), "confirmation", policy=CONFIRM),
    Case(
        "inputs alone, confirmed",
        (signal(evidence=PSI_ONLY), signal("manual", number=2)),
        "manual",
        policy=CONFIRM,
    ),
    Case("accuracy too, nothing to confirm", (signal(evidence={"drift_score": 0.4}),), "drift", policy=CONFIRM),
    Case("a small file", (signal("file_arrival", evidence={"new_samples": 999.0}),), "new_samples"),
    Case("a large file", (signal("file_arrival", evidence={"new_samples": 1000.0}),), "file_arrival"),
    Case("a file of unknown rows", (signal("file_arrival"),), "file_arrival"),
    Case(
        "two files together",
        tuple(signal("file_arrival", number=n, evidence={"new_samples": 600.0}) for n in (1, 2)),
        "file_arrival",
    ),
    Case("hurts: no estimate", (signal(),), "loss_unknown", policy=HURTS),
    Case("hurts: an old estimate", (signal(),), "loss_unknown", History(loss=loss(1e6, ago(25)[0])), HURTS),
    Case("hurts: benign drift", (signal(),), "no_loss_shown", History(loss=loss(-50.0)), HURTS),
    Case("hurts: exactly the cost", (signal(),), "no_loss_shown", History(loss=loss(500.0)), HURTS),
    Case("hurts: more than the cost", (signal(),), "drift", History(loss=loss(500.1)), HURTS),
    Case("hurts: the schedule as well", (signal("schedule"),), "no_loss_shown", History(loss=loss(0.0)), HURTS),
    Case("hurts: by hand", (signal("manual"),), "manual", History(loss=loss(-50.0)), HURTS),
    Case(
        "thresholds do not ask for a loss", (signal(),), "drift", History(loss=loss(-50.0)), policy(training_cost=1e9)
    ),
    Case("given up", (signal(raised=NOW - hours(168)),), "idle", settled="expired"),
    Case("about a version of before", (signal(evidence={"model_version": "1.0.0"}),), "idle",
         History(champion="1.1.0"), settled="superseded"),
    Case("about the champion", (signal(evidence={"model_version": "1.1.0"}),), "drift", History(champion="1.1.0")),
    Case("about a version, no champion known", (signal(evidence={"model_version": "1.1.0"}),), "drift"),
    Case("the week's training has just ended", (signal("schedule", raised=NOW - hours(1)),), "idle",
         History(succeeded_at=NOW), settled="answered"),
    Case("drift is not answered by a training before", (signal(raised=NOW - hours(9)),), "drift",
         History(requested_at=ago(10), succeeded_at=NOW - hours(8))),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_situations(case: Case) -> None:
    """One combination was never thought of, and there it trains when it must not, or never."""
    decision = decide(case.signals, case.history, case.policy, case.now)
    if decision.verdict == "retrain":
        assert decision.primary is not None
        assert decision.primary.kind == case.expected
        assert set(decision.answered_by_run) == {one.id for one in case.signals}
        assert decision.suppressed_by == ()
    else:
        assert (decision.verdict == "idle") == (case.expected == "idle")
        assert ",".join(decision.suppressed_by) == ("" if case.expected == "idle" else case.expected)
        assert decision.answered_by_run == ()
    assert dict(decision.settled or {}) == ({case.settled: (1,)} if case.settled else {})


def test_there_are_enough_situations() -> None:
    """Cases are deleted in a merge, and the table still passes."""
    assert len(CASES) >= 45
    assert len({case.name for case in CASES}) == len(CASES)


def test_a_reason_says_what_when_and_until_when() -> None:
    """`suppressed` alone: nobody knows what to wait for."""
    history = History(rollout="rollout-execution-1.1.0-1", requested_at=ago(1))
    held = decide([signal(deadline=IN_48), signal("volume", number=2)], history, POLICY, NOW)
    assert held.reason == (
        "2 triggers wait (drift 1, volume 1): drift: because of drift; held: rollout: rollout-execution-1.1.0-1 is under way, "
        "and only one candidate comes to users at a time; min_hours: the last training was asked for less than 6 h ago; the "
        "next may begin 2026-11-25 17:00 UTC; off_peak: due by 2026-11-27 12:00 UTC, waits for off-peak hours at "
        "2026-11-26 02:00 UTC"
    )
    done = decide([signal("manual", override=True), signal(number=2)], History(requested_at=ago(1)), POLICY, NOW)
    assert done.reason == (
        "manual: because of manual; answers 1 more: drift 1; ana@company.com overrides the 6 h between trainings"
    )


def test_the_next_of_a_day_is_said() -> None:
    """The time that is named is one at which it is held again."""
    history = History(requested_at=ago(6.5, 12, 18, 23))
    held = decide([signal()], history, POLICY, NOW)
    assert "the next may begin 2026-11-25 13:00 UTC" in held.reason
    assert decide([signal()], history, POLICY, NOW + hours(1)).verdict == "retrain"


KINDS: tuple[TriggerType, ...] = ("schedule", "drift", "accuracy_drop", "volume", "file_arrival", "manual")
SOME_SIGNALS = st.lists(
    st.tuples(
        st.integers(0, 10 * 24 * 12 - 1),  # when, in ticks of five minutes
        st.sampled_from(KINDS),
        st.sampled_from([None, 24.0, 48.0]),
        st.booleans(),
    ),
    max_size=25,
)
SOME_ROLLOUTS = st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 900)), max_size=3)
DURATIONS = st.integers(1, 120)


@dataclass
class World:
    """Ten days of ticks, and what was trained in them."""

    runs: list[tuple[datetime, Signal]]
    ends: list[datetime]
    open_at_end: list[Signal]
    expired: set[int]
    answered: set[int]
    held: list[Decision]


def live(
    signals: list[tuple[int, TriggerType, float | None, bool]], rollouts: list[tuple[int, int]], duration: int
) -> World:
    """Tick every five minutes, as the sensors do, with trainings that take `duration` ticks."""
    begin = NOW.replace(hour=0)
    world = World([], [], [], set(), set(), [])
    made = [
        signal(
            kind,
            number=number,
            raised=begin + timedelta(minutes=5 * tick),
            deadline=None
            if deadline is None or kind == "manual"
            else begin + timedelta(minutes=5 * tick) + hours(deadline),
            override=override and kind == "manual",
        )
        for number, (tick, kind, deadline, override) in enumerate(signals, start=1)
    ]
    waiting: list[Signal] = []
    succeeded: datetime | None = None
    for tick in range(10 * 24 * 12):
        now = begin + timedelta(minutes=5 * tick)
        waiting += [one for one in made if one.raised_at == now]
        if world.ends and succeeded != world.ends[-1] and world.ends[-1] <= now:
            succeeded = world.ends[-1]
        busy = bool(world.ends) and world.ends[-1] > now
        rolling = any(start <= tick < start + length for start, length in rollouts)
        history = History(
            in_flight="one" if busy else None,
            rollout="r" if rolling else None,
            requested_at=tuple(at for at, _ in world.runs),
            succeeded_at=succeeded,
        )
        decision = decide(waiting, history, POLICY, now)
        for how, ids in (decision.settled or {}).items():
            (world.expired if how == "expired" else world.answered).update(ids)
        gone = {one for ids in (decision.settled or {}).values() for one in ids} | set(decision.answered_by_run)
        if decision.primary is not None:
            assert not busy
            assert not rolling
            world.runs.append((now, decision.primary))
            world.ends.append(now + timedelta(minutes=5 * duration))
            world.answered.update(decision.answered_by_run)
        elif decision.verdict == "suppressed":
            world.held.append(decision)
        waiting = [one for one in waiting if one.id not in gone]
    world.open_at_end = waiting
    return world


@given(SOME_SIGNALS, SOME_ROLLOUTS, DURATIONS)
def test_whatever_comes(
    signals: list[tuple[int, TriggerType, float | None, bool]], rollouts: list[tuple[int, int]], duration: int
) -> None:
    """More than four a day, two at once, two within six hours, a trigger that is gone, one that was held without a word."""
    world = live(signals, rollouts, duration)
    times = [at for at, _ in world.runs]
    for at in times:
        assert sum(at - hours(24) < other <= at for other in times) <= POLICY.max_per_day
    for (before, _), (after, primary) in zip(world.runs, world.runs[1:], strict=False):
        assert after - before >= timedelta(minutes=5 * duration)
        # Only a person who says so comes sooner.
        assert after - before >= hours(POLICY.min_hours_between) or primary.override
    assert world.answered | world.expired | {one.id for one in world.open_at_end} == set(range(1, len(signals) + 1))
    for decision in world.held:
        assert decision.suppressed_by
        assert all(f"{name}: " in decision.reason for name in decision.suppressed_by)


@given(st.integers(0, 10 * 24 * 12 - 49 * 12), st.sampled_from([24.0, 48.0]))
def test_a_warning_is_answered_at_night_before_its_deadline(tick: int, deadline: float) -> None:
    """`within 48 h` becomes `at once`, or `at some time`."""
    world = live([(tick, "drift", deadline, False)], [], 12)
    ((at, primary),) = world.runs
    assert primary.deadline is not None
    assert at < primary.deadline
    assert inside(POLICY.off_peak, at)


def test_what_a_rollout_held_beyond_its_deadline_is_due_at_once() -> None:
    """It waits for one more night, after two days in which it could not begin."""
    held = signal(raised=NOW - hours(60), deadline=NOW - hours(12))
    assert decide([held], History(rollout="r"), POLICY, NOW).suppressed_by == ("rollout",)
    assert decide([held], History(), POLICY, NOW).verdict == "retrain"


def test_policies_of_other_sources_count() -> None:
    """Numbers are read from the code instead of the profile."""
    assert decide([signal()], History(requested_at=ago(1)), policy(min_hours_between=0.5), NOW).verdict == "retrain"
    assert decide([signal()], History(requested_at=ago(7)), policy(max_per_day=1), NOW).suppressed_by == (
        "max_per_day",
    )
    small = signal("file_arrival", evidence={"new_samples": 10.0})
    assert decide([small], History(), policy(min_new_samples=10), NOW).verdict == "retrain"
    assert decide([replace(small, deadline=None)], History(), POLICY, NOW).suppressed_by == ("new_samples",)
