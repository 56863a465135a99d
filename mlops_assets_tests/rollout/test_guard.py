"""The servers' guard: harm is cut within a poll, the harmless is left alone, and no answer counts twice, whoever reads it."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event, text

from mlops_assets.experiments.assignment import assign
from mlops_assets.experiments.units import Unit
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import (
    create_operational_engine,
    insert_missing,
    read_transaction,
    transaction,
    upgrade,
)
from mlops_assets.foundation.policies import StageName
from mlops_assets.foundation.tables import PredictionRecord, RolloutWatch
from mlops_assets.rollout.advance import needed
from mlops_assets.rollout.guard import RolloutGuard, watched_harm
from mlops_assets.rollout.harm import Harm
from mlops_assets.rollout.ledger import NewStep, append, steps
from mlops_assets.rollout.limits import slow_thresholds
from mlops_assets.rollout.state import STAGES, Kind, Rate, RolloutState, after
from mlops_assets_tests.experiences.served import prediction_row
from mlops_assets_tests.experiments.served_users import SPEC
from mlops_assets_tests.rollout.rollouts import BEGIN, POLICY, rollout

BASELINE = Rate(0.01, 0.012)
# The champion's 95th percentile.
SLOW_MS = 10.0
GAP = timedelta(milliseconds=10)
_NUMBERS = count()


@dataclass(frozen=True)
class Answer:
    """One answer as it is logged; users are told apart by their name."""

    user: str
    treated: bool
    failed: bool = False
    latency_ms: float = 2.0


def write_step(engine: Engine, kind: Kind, state: RolloutState, evidence: dict[str, Any] | None = None) -> RolloutState:
    return append(engine, NewStep(kind, state, (), "somebody", evidence or {}, expected=state.number - 1), BEGIN)


def under_way(
    engine: Engine,
    stage: StageName,
    *,
    slow_ms: float | None = SLOW_MS,
    baseline: Rate | None = BASELINE,
    **changes: Any,
) -> RolloutState:
    """A rollout that has come to this stage."""
    state = write_step(engine, "started", rollout(**changes), {"policy": POLICY.model_dump(mode="json")})
    for to in STAGES[1 : STAGES.index(stage) + 1]:
        state = write_step(
            engine, "advanced", after(state, "advanced", BEGIN, to=to, slow_ms=slow_ms, baseline=baseline)
        )
    return state


def serve(
    engine: Engine,
    state: RolloutState,
    answers: Iterable[Answer],
    begin: datetime,
    *,
    gap: timedelta = GAP,
    **changes: Any,
) -> datetime:
    """Log answers, one after another from `begin` on, and return the time of the next."""
    base = {
        column.key: getattr(prediction_row(SPEC, "any"), column.key) for column in PredictionRecord.__table__.columns
    }
    rows = []
    for answer in answers:
        rows.append(
            {
                **base,
                "prediction_id": f"{next(_NUMBERS):012}",
                "event_time": begin,
                "experiment": state.name,
                "variant": "treatment" if answer.treated else "control",
                "treatment_share": state.share,
                "user_hash": answer.user,
                "fallback": "failed" if answer.failed else None,
                "latency_ms": answer.latency_ms,
                **changes,
            }
        )
        begin += gap
    with transaction(engine) as session:
        insert_missing(session, PredictionRecord, rows)
    return begin


def guard_of(engine: Engine, clock: FixedClock) -> RolloutGuard:
    return RolloutGuard(engine, POLICY, served=clock, clock=clock)


def past(when: datetime) -> FixedClock:
    """A clock at which everything before is in the database."""
    return FixedClock(when + timedelta(seconds=1))


def kinds(engine: Engine, state: RolloutState) -> list[str]:
    return [step.kind for step in steps(engine, rollout=state.name)]


def cursor(engine: Engine, state: RolloutState) -> tuple[int, datetime] | None:
    """(version, read_to) of what the guard has stored."""
    with read_transaction(engine) as session:
        record = session.get(RolloutWatch, state.name)
        return None if record is None else (record.version, record.read_to)


def catch_up(engine: Engine, clock: FixedClock, state: RolloutState) -> None:
    """Refresh, each time as a server that was just started, until nothing is left to read."""
    before: object = "never read"
    while before != (before := cursor(engine, state)):
        guard_of(engine, clock).refresh()


def thousands(treated_fails: set[int], control_fails: set[int]) -> list[Answer]:
    """8,000 users, every twentieth of them treated; who fails, by the number within the arm."""
    arms = {True: count(), False: count()}
    found = []
    for number in range(8_000):
        treated = number % 20 == 0
        failed = next(arms[treated]) in (treated_fails if treated else control_fails)
        found.append(Answer(f"user-{number}", treated, failed))
    return found


def split(
    random: np.random.Generator,
    users: int,
    share: float,
    *,
    failed: tuple[float, float],
    slow: tuple[float, float] = (0.03, 0.03),
) -> list[Answer]:
    """Users in arms of a share; rates of (control, treatment)."""
    found = []
    for number in range(users):
        treated = bool(random.random() < share)
        latency = 50.0 if random.random() < slow[treated] else 2.0
        found.append(Answer(f"user-{number}", treated, bool(random.random() < failed[treated]), latency))
    return found


def test_forty_failures_in_four_hundred_are_a_rollback_within_one_refresh(engine: Engine) -> None:
    """Five minutes until the controller's next tick are thousands of users."""
    state = under_way(engine, "5_percent")
    clock, at = FixedClock(BEGIN), BEGIN
    told: list[str] = []
    guard = RolloutGuard(engine, POLICY, served=clock, clock=clock, taken_back=lambda: told.append("taken back"))
    answers = thousands(set(range(0, 400, 10)), set(range(0, 7_600, 1_520)))
    after_users = {}
    for begin in range(0, 8_000, 400):
        at = serve(engine, state, answers[begin : begin + 400], at)
        clock.instant = at + timedelta(seconds=1)
        guard.refresh()
        after_users[begin + 400] = kinds(engine, state)[-1]
    assert after_users[400] == "advanced"
    assert after_users[8_000] == "rolled_back"
    assert told == ["taken back"]
    step = steps(engine, rollout=state.name)[-1]
    assert (step.user, step.state.share, step.state.number) == ("rollout", 0.0, state.number + 1)
    assert step.reasons[0].startswith("harm: failed requests")
    found = step.evidence["guard"]
    assert found["log_e_harm"] >= needed(POLICY.alpha_harm)
    assert found["users"] == sum(found["tests"]["errors"][arm][0] for arm in ("control", "treatment"))


def test_one_error_in_twenty_requests_is_none(sqlite_engine: Engine) -> None:
    """The rule it replaces took a version back for it."""
    state = under_way(sqlite_engine, "5_percent")
    answers = [Answer(f"user-{number}", treated=True, failed=number == 7) for number in range(20)]
    at = serve(sqlite_engine, state, answers, BEGIN)
    guard_of(sqlite_engine, past(at)).refresh()
    assert kinds(sqlite_engine, state)[-1] == "advanced"
    harm = watched_harm(sqlite_engine, state.name)
    assert (harm.counted, harm.tests["errors"].treatment_sum) == (20, 1.0)


def test_equal_arms_are_left_alone(sqlite_engine: Engine) -> None:
    """Watched at every poll, a test for one look would take every third good candidate back."""
    for seed in range(8):
        state = under_way(sqlite_engine, "20_percent", model_name=f"model-{seed}", name=f"equal-{seed}")
        answers = split(np.random.default_rng(seed), 2_000, 0.2, failed=(0.02, 0.02))
        clock, at = FixedClock(BEGIN), BEGIN
        guard = guard_of(sqlite_engine, clock)
        for begin in range(0, 2_000, 100):
            at = serve(sqlite_engine, state, answers[begin : begin + 100], at)
            clock.instant = at + timedelta(seconds=1)
            guard.refresh()
        assert watched_harm(sqlite_engine, state.name).counted == 2_000
        assert "rolled_back" not in kinds(sqlite_engine, state)
        write_step(sqlite_engine, "aborted", after(state, "aborted", BEGIN))


@pytest.mark.parametrize(("times", "last"), [(1.6, "rolled_back"), (1.4, "advanced")])
def test_a_slow_candidate_is_taken_back(sqlite_engine: Engine, times: float, last: str) -> None:
    """Allowed are 1.5 times the champion's 95th percentile."""
    state = under_way(sqlite_engine, "5_percent")
    answers = [
        replace(one, latency_ms=times * SLOW_MS if one.treated else one.latency_ms) for one in thousands(set(), set())
    ]
    at = serve(sqlite_engine, state, answers[:2_000], BEGIN)
    catch_up(sqlite_engine, past(at), state)
    assert kinds(sqlite_engine, state)[-1] == last
    if last == "rolled_back":
        reason = steps(sqlite_engine, rollout=state.name)[-1].reasons[0]
        assert reason.startswith("harm: requests slower than 1.5 times the champion's 95th percentile 100.00%")


def test_without_the_champions_latency_nothing_is_slow(sqlite_engine: Engine) -> None:
    """An unknown percentile is no percentile of zero."""
    state = under_way(sqlite_engine, "5_percent", slow_ms=None)
    at = serve(sqlite_engine, state, [replace(one, latency_ms=900.0) for one in thousands(set(), set())[:500]], BEGIN)
    guard_of(sqlite_engine, past(at)).refresh()
    harm = watched_harm(sqlite_engine, state.name)
    assert (harm.tests["errors"].control_users, harm.tests["latency"].control_users) == (475, 0)


def test_two_guards_find_what_one_alone_finds_and_write_one_step(engine: Engine, tmp_path: Path) -> None:
    """Every server runs one; an answer that both bet on is evidence that nobody has."""
    answers = split(np.random.default_rng(1), 4_000, 0.5, failed=(0.01, 0.01))
    answers += [Answer(f"late-{number}", number % 2 == 0, number % 2 == 0) for number in range(300)]
    alone = create_operational_engine(f"sqlite:///{tmp_path / 'alone.db'}")
    upgrade(alone)
    for one in (alone, engine):
        state = under_way(one, "50_percent")
        at = serve(one, state, answers, BEGIN)
    catch_up(alone, past(at), state)

    barrier, problems = threading.Barrier(2), []

    def poll() -> None:
        own = create_operational_engine(engine.url.render_as_string(hide_password=False))
        guard = guard_of(own, past(at))
        for _ in range(12):
            barrier.wait(60)
            try:
                guard.refresh()
            except Exception as error:  # noqa: BLE001 - a thread's errors are nobody's
                problems.append(error)
        own.dispose()

    threads = [threading.Thread(target=poll) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert watched_harm(engine, state.name) == watched_harm(alone, state.name)
    assert watched_harm(engine, state.name).counted == len(answers)
    assert cursor(engine, state) == cursor(alone, state)
    assert kinds(engine, state) == kinds(alone, state)
    assert kinds(engine, state).count("rolled_back") == 1
    alone.dispose()


@pytest.mark.parametrize("read_before", [0, 100])
def test_who_is_second_to_write_drops_what_it_has_read(sqlite_engine: Engine, read_before: int) -> None:
    """Between this server's read and its write another one has read further: written over, its part would be bet on twice."""
    state = under_way(sqlite_engine, "5_percent")
    answers = thousands({1}, {2})
    at = serve(sqlite_engine, state, answers[:read_before], BEGIN)
    guard_of(sqlite_engine, past(at)).refresh()
    middle = serve(sqlite_engine, state, answers[read_before:300], at)
    end = serve(sqlite_engine, state, answers[300:500], middle + timedelta(seconds=2))
    other = create_operational_engine(sqlite_engine.url.render_as_string())
    found = []

    def overtake(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement == "BEGIN IMMEDIATE" and not found:
            guard_of(other, past(end)).refresh()
            found.append((cursor(other, state), watched_harm(other, state.name)))

    event.listen(sqlite_engine, "before_cursor_execute", overtake)
    guard_of(sqlite_engine, past(middle)).refresh()
    event.remove(sqlite_engine, "before_cursor_execute", overtake)
    assert found == [(cursor(sqlite_engine, state), watched_harm(sqlite_engine, state.name))]
    assert found[0][1].counted == 500
    other.dispose()


@pytest.mark.parametrize("together", [7, 1_200])
def test_answers_of_one_moment_are_read_together(sqlite_engine: Engine, together: int) -> None:
    """A request of many rows has one time: a cursor in the middle of it would pass the rest."""
    state = under_way(sqlite_engine, "5_percent")
    answers, at = thousands({1}, {2})[:2_400], BEGIN
    for begin in range(0, len(answers), together):
        serve(sqlite_engine, state, answers[begin : begin + together], at, gap=timedelta())
        at += GAP
    catch_up(sqlite_engine, past(at), state)
    assert watched_harm(sqlite_engine, state.name).counted == len(answers)


def test_a_restart_goes_on_where_the_last_server_ended(sqlite_engine: Engine) -> None:
    """A server that begins anew finds the harm of last week once more."""
    state = under_way(sqlite_engine, "5_percent")
    at = serve(sqlite_engine, state, thousands({3}, {5})[:300], BEGIN)
    guard_of(sqlite_engine, past(at)).refresh()
    before, found = cursor(sqlite_engine, state), watched_harm(sqlite_engine, state.name)
    guard_of(sqlite_engine, past(at)).refresh()
    assert (cursor(sqlite_engine, state), watched_harm(sqlite_engine, state.name)) == (before, found)
    at = serve(sqlite_engine, state, thousands({3}, {5})[300:400], at)
    guard_of(sqlite_engine, past(at)).refresh()
    assert watched_harm(sqlite_engine, state.name).counted == 400
    assert cursor(sqlite_engine, state) == (2, at - GAP)


def test_users_who_come_again_count_once(engine: Engine) -> None:
    """One suite that sends a request a second would be a thousand proofs."""
    state = under_way(engine, "5_percent")
    failing = [Answer("one", treated=True, failed=True), Answer("two", treated=False), Answer("three", treated=True)]
    at = serve(engine, state, [*failing, *failing], BEGIN)
    catch_up(engine, past(at), state)
    for _ in range(40):
        at = serve(engine, state, failing, at)
        catch_up(engine, past(at), state)
    errors = watched_harm(engine, state.name).tests["errors"]
    assert (errors.control_users, errors.treatment_users, errors.treatment_sum) == (1, 2, 1)
    # An answer that comes in late is lost, and the user's next one is not his first.
    serve(engine, state, [Answer("late", treated=True, failed=True)], BEGIN)
    at = serve(engine, state, [Answer("late", treated=True, failed=True)], at)
    catch_up(engine, past(at), state)
    assert watched_harm(engine, state.name).tests["errors"] == errors


def test_who_was_there_at_a_smaller_share_is_drawn_again_of_the_control_alone(sqlite_engine: Engine) -> None:
    """Bets at 20 % on users who are treated with 15 of 95 pay too much to the candidate."""
    state = under_way(sqlite_engine, "5_percent")
    at = serve(sqlite_engine, state, [Answer("stays", False), Answer("crosses", False), Answer("was in", True)], BEGIN)
    catch_up(sqlite_engine, past(at), state)
    state = write_step(sqlite_engine, "advanced", after(state, "advanced", BEGIN, to="20_percent"))
    crowd = [Answer(f"user-{number}", number % 5 == 0, number % 10 == 0) for number in range(100)]
    known = [Answer("stays", False), Answer("crosses", True, failed=True), Answer("was in", True, failed=True)]
    at = serve(sqlite_engine, state, [*crowd, *known], at)
    # Neither is one whose answer says nothing of the candidate: its model was not there.
    at = serve(sqlite_engine, state, [Answer("absent", True)], at, treatment_share=None)
    catch_up(sqlite_engine, past(at), state)

    slow = dict.fromkeys(slow_thresholds(POLICY, SLOW_MS), 0.0)
    first = [Unit(0, treated, 0.05, {"failed": 0.0, **slow}, 0.05) for treated in (False, False, True)]
    then = [Unit(0, one.treated, 0.2, {"failed": float(one.failed), **slow}, 0.2) for one in crowd]
    again = 0.15 / 0.95
    then += [Unit(0, treated, again, {"failed": float(treated), **slow}, 0.2) for treated in (False, True)]
    expected = Harm(names=("errors", "latency"), sliced=False).updated(first, POLICY, None)
    expected = expected.updated(then, POLICY, None)
    found = watched_harm(sqlite_engine, state.name)
    assert (found.counted, set(found.stages.values())) == (105, {"20_percent"})
    assert found.log_e == pytest.approx(expected.log_e, abs=1e-12)
    assert replace(found.tests["errors"], log_wealth=()) == replace(expected.tests["errors"], log_wealth=())


@pytest.mark.parametrize("promoting", [False, True])
def test_the_last_stage_is_held_against_the_champions_baseline(sqlite_engine: Engine, promoting: bool) -> None:
    """With all users there is no control left, and until the alias has moved it can be taken back."""
    state = under_way(sqlite_engine, "100_percent")
    if promoting:
        state = write_step(sqlite_engine, "promoting", after(state, "promoting", BEGIN))
    random = np.random.default_rng(3)
    at = serve(sqlite_engine, state, split(random, 1_500, 1.0, failed=(0.0, 0.01)), BEGIN)
    catch_up(sqlite_engine, past(at), state)
    assert kinds(sqlite_engine, state)[-1] == ("promoting" if promoting else "advanced")
    worse = [replace(one, user=f"new {one.user}") for one in split(random, 1_500, 1.0, failed=(0.0, 0.08))]
    at = serve(sqlite_engine, state, worse, at)
    catch_up(sqlite_engine, past(at), state)
    assert kinds(sqlite_engine, state)[-1] == "rolled_back"
    errors = watched_harm(sqlite_engine, state.name).tests["errors"]
    assert (errors.control_users, errors.limit.ratio) == (0, 0.0)


def test_answers_from_before_a_pause_are_still_read(sqlite_engine: Engine) -> None:
    """Whoever resumes would bring the harm back that was in the log already."""
    state = under_way(sqlite_engine, "50_percent")
    answers = [Answer(f"user-{number}", number % 2 == 0, number % 2 == 0) for number in range(400)]
    at = serve(sqlite_engine, state, answers, BEGIN)
    state = write_step(sqlite_engine, "paused", after(state, "paused", BEGIN))
    catch_up(sqlite_engine, past(at), state)
    assert kinds(sqlite_engine, state)[-2:] == ["paused", "rolled_back"]


class FastClock(FixedClock):
    """Stands still, of a time that goes by an hour a second."""

    speed: ClassVar[float] = 3600.0


@pytest.mark.parametrize(("clock_of", "lag"), [(FixedClock, 0.5), (FastClock, 1800.0)])
def test_what_may_still_come_in_is_waited_for(sqlite_engine: Engine, clock_of: type[FixedClock], lag: float) -> None:
    """The log is behind by the machine's time, however fast the drill's goes by."""
    state = under_way(sqlite_engine, "5_percent")
    serve(sqlite_engine, state, [Answer("one", treated=True)], BEGIN)
    clock = clock_of(BEGIN + timedelta(seconds=lag) - timedelta(microseconds=1))
    catch_up(sqlite_engine, clock, state)
    assert watched_harm(sqlite_engine, state.name).counted == 0
    clock.instant += timedelta(microseconds=1)
    catch_up(sqlite_engine, clock, state)
    assert watched_harm(sqlite_engine, state.name).counted == 1


def test_a_step_that_could_not_be_written_is_tried_again_without_new_answers(sqlite_engine: Engine) -> None:
    """The last server that a harmful candidate had traffic on would keep it for ever."""
    state = under_way(sqlite_engine, "50_percent")
    answers = [Answer(f"user-{number}", number % 2 == 0, number % 2 == 0) for number in range(400)]
    at = serve(sqlite_engine, state, answers, BEGIN)
    with transaction(sqlite_engine) as session:
        refuse = "BEFORE INSERT ON rollout_event BEGIN SELECT RAISE(ABORT, 'not now'); END"
        session.execute(text(f"CREATE TRIGGER refuse {refuse}"))
    guard = guard_of(sqlite_engine, past(at))
    guard.refresh()
    assert kinds(sqlite_engine, state)[-1] == "advanced"
    before = cursor(sqlite_engine, state)
    with transaction(sqlite_engine) as session:
        session.execute(text("DROP TRIGGER refuse"))
    guard.refresh()
    assert kinds(sqlite_engine, state)[-1] == "rolled_back"
    assert cursor(sqlite_engine, state) == before


def test_a_rollout_that_cannot_be_watched_leaves_the_others_watched(sqlite_engine: Engine) -> None:
    """A ledger entry of a year ago that nobody can read must not switch the guard off."""
    broken = write_step(sqlite_engine, "started", rollout(model_name="a-model", name="broken"), {})
    write_step(sqlite_engine, "advanced", after(broken, "advanced", BEGIN, to="5_percent", slow_ms=SLOW_MS))
    state = under_way(sqlite_engine, "50_percent")
    answers = [Answer(f"user-{number}", number % 2 == 0, number % 2 == 0) for number in range(400)]
    at = serve(sqlite_engine, state, answers, BEGIN)
    with pytest.raises(KeyError, match="policy"):
        guard_of(sqlite_engine, past(at)).refresh()
    assert kinds(sqlite_engine, state)[-1] == "rolled_back"


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    found: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        found.append(statement.split(maxsplit=1)[0])

    event.listen(engine, "before_cursor_execute", note)
    yield found
    event.remove(engine, "before_cursor_execute", note)


def test_with_nothing_new_three_small_queries_are_all(sqlite_engine: Engine) -> None:
    """It is asked two or three times a second in every server."""
    state = under_way(sqlite_engine, "5_percent")
    at = serve(sqlite_engine, state, thousands(set(), set())[:100], BEGIN)
    guard = guard_of(sqlite_engine, past(at))
    guard.refresh()
    with statements(sqlite_engine) as found:
        guard.refresh()
    assert [one for one in found if one != "BEGIN"] == ["SELECT"] * 3


def test_users_are_looked_up_by_their_index_before_the_statistics_know_the_rollout(postgres_engine: Engine) -> None:
    """Read among all answers of the rollout, a million of them is half a second of every server at every poll."""
    earlier = under_way(postgres_engine, "5_percent", name="last-week")
    at = serve(postgres_engine, earlier, thousands(set(), set()), BEGIN)
    aborted = write_step(postgres_engine, "aborted", after(earlier, "aborted", BEGIN))
    with postgres_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ALTER TABLE prediction SET (autovacuum_enabled = false)"))
        connection.execute(text("ANALYZE prediction"))
    state = under_way(postgres_engine, "5_percent", name="this-week", number=aborted.number + 1)
    at = serve(postgres_engine, state, thousands(set(), set())[:3_000], at)
    catch_up(postgres_engine, past(at), state)
    at = serve(postgres_engine, state, thousands(set(), set())[3_000:3_020], at)
    found: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if "GROUP BY prediction.user_hash" in statement:
            found.append((statement, parameters))

    event.listen(postgres_engine, "before_cursor_execute", note)
    guard_of(postgres_engine, past(at)).refresh()
    event.remove(postgres_engine, "before_cursor_execute", note)
    ((statement, parameters),) = found
    with postgres_engine.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).all()
    plan = "\n".join(str(row[0]) for row in rows)
    assert "ix_prediction_experiment_user_hash_event_time" in plan
    assert "ix_prediction_experiment_event_time" not in plan
    assert "Seq Scan" not in plan


def test_what_is_not_of_the_present_share_is_passed_once(sqlite_engine: Engine) -> None:
    """A day in the shadow would be read again at every poll until the first user of the stage comes."""
    state = under_way(sqlite_engine, "5_percent")
    shadow = {"treatment_share": 0.0, "variant": "control"}
    at = serve(sqlite_engine, state, thousands({1}, set())[:200], BEGIN, **shadow)
    clock = past(at + timedelta(hours=1))
    catch_up(sqlite_engine, clock, state)
    moved = cursor(sqlite_engine, state)
    assert moved is not None
    version, read_to = moved
    assert version == 1
    assert at < read_to < clock.now() - timedelta(seconds=10)
    clock.instant += timedelta(seconds=20)
    guard_of(sqlite_engine, clock).refresh()
    assert cursor(sqlite_engine, state) == (1, read_to)
    # Users of the shadow are new ones: nobody was treated, or drawn, there.
    at = serve(sqlite_engine, state, thousands({1}, set())[:200], clock.now())
    catch_up(sqlite_engine, past(at), state)
    harm = watched_harm(sqlite_engine, state.name)
    assert (harm.counted, harm.tests["errors"].treatment_sum) == (200, 1.0)


def test_without_a_rollout_that_has_users_nothing_is_watched(sqlite_engine: Engine) -> None:
    """In the shadow nobody is served by the candidate."""
    guard_of(sqlite_engine, past(BEGIN)).refresh()
    state = under_way(sqlite_engine, "shadow")
    at = serve(sqlite_engine, state, thousands({1, 2, 3, 4, 5}, set())[:200], BEGIN)
    guard_of(sqlite_engine, past(at)).refresh()
    assert cursor(sqlite_engine, state) is None
    assert watched_harm(sqlite_engine, state.name) == Harm(names=("errors", "latency"), sliced=False)


LOGGED = st.lists(
    st.tuples(st.integers(0, 20), st.booleans(), st.sampled_from([2.0, 500.0]), st.sampled_from([0, 0, 1, 700])),
    min_size=1,
    max_size=120,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(logged=LOGGED, cuts=st.sets(st.integers(1, 119), max_size=6))
def test_who_counts_with_what_does_not_depend_on_the_portions(
    sqlite_engine: Engine, logged: list[tuple[int, bool, float, int]], cuts: set[int]
) -> None:
    """Whatever is read together, each user counts with the first answer.

    Wealth may differ, and has to: bets on a portion are chosen from what came before it. Answers of the same moment
    (gap 0) come in any order, but are read together.
    """
    number = next(_NUMBERS)
    name = {"model_name": f"model-{number}", "name": f"portions-{number}"}
    state = under_way(sqlite_engine, "20_percent", **name)
    clock, at, first = FixedClock(BEGIN), BEGIN, {}
    for position, (user, failed, latency_ms, gap) in enumerate(logged):
        answer = Answer(f"user-{user}", assign("salt", f"user-{user}", 0.2) == "treatment", failed, latency_ms)
        first.setdefault(answer.user, answer)
        if position in cuts and gap:
            clock.instant = at + timedelta(seconds=0.5)
            catch_up(sqlite_engine, clock, state)
        at += timedelta(milliseconds=gap)
        serve(sqlite_engine, state, [answer], at)
    clock.instant = at + timedelta(seconds=0.5)
    catch_up(sqlite_engine, clock, state)
    harm = watched_harm(sqlite_engine, state.name)
    expected = {
        "errors": {user: float(one.failed) for user, one in first.items()},
        "latency": {user: float(one.latency_ms > 1.5 * SLOW_MS) for user, one in first.items()},
    }
    assert harm.counted == len(first)
    for limit, values in expected.items():
        test = harm.tests[limit]
        treated = [value for user, value in values.items() if first[user].treated]
        control = [value for user, value in values.items() if not first[user].treated]
        assert (test.treatment_users, test.treatment_sum) == (len(treated), sum(treated))
        assert (test.control_users, test.control_sum) == (len(control), sum(control))
    # A rollback of an earlier portion would leave the later unread.
    assert harm.log_e < needed(POLICY.alpha_harm)
    write_step(sqlite_engine, "aborted", after(state, "aborted", BEGIN))
