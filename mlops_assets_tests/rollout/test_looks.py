"""A rollout's users count once, in the stage that their look was in, whoever looks and whoever finds the evidence."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier

import pytest
from sqlalchemy import Engine, delete, func, select, update

from mlops_assets.experiments.assignment import assign
from mlops_assets.experiments.experiments import create_experiment
from mlops_assets.experiments.report import report_experiment
from mlops_assets.experiments.units import read_looks
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import create_operational_engine, read_transaction, transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.tables import Base, ExperimentLook, ExperimentUnit
from mlops_assets.rollout.evidence import RolloutEvidence
from mlops_assets.rollout.limits import NAMES
from mlops_assets.rollout.looks import look_at, replayed, served_now
from mlops_assets.rollout.state import Kind, Rate, RolloutState, after
from mlops_assets_tests.experiences.served import outcome_row, prediction_row, write
from mlops_assets_tests.foundation.processes import run_together
from mlops_assets_tests.rollout.rollouts import BEGIN, POLICY, rollout

SPEC = AGENTS["execution"]
QUICK = POLICY.model_copy(update={"user_window_minutes": 10.0, "outcome_delay_minutes": 5.0})
BASELINE = Rate(0.01, 0.02)
BROWSERS = ("chromium", "firefox", "webkit")
ARMS = {"control": "1.0.0", "treatment": "1.1.0"}


def hour(number: float) -> datetime:
    return BEGIN + timedelta(hours=number)


def serve(
    engine: Engine,
    state: RolloutState,
    users: range,
    at: datetime,
    *,
    failed: Callable[[int, bool], bool] = lambda _user, _treated: False,
    wrong: Callable[[int, bool], bool] = lambda _user, _treated: False,
) -> int:
    """Write a decision of each user, all within six minutes, as the router has them in a state; return how many were treated.

    The browser is the user's, one of three; every ninth waits 180 ms.
    """
    split = state.status == "running"
    variants = [assign(state.salt, f"user-{user}", state.share) if split else "champion" for user in users]

    def rows() -> Iterator[Base]:
        for user, variant in zip(users, variants, strict=True):
            treated = variant == "treatment"
            one = prediction_row(
                SPEC,
                f"{at:%d%H%M}-{user}",
                event_time=at + timedelta(seconds=360 * (user - users.start) / len(users)),
                user_hash=f"user-{user}",
                experiment=state.name if split else None,
                variant=variant,
                treatment_share=state.share if split else None,
                arms={"versions": ARMS, "shares": {"treatment": state.share}} if split else None,
                browser=BROWSERS[user % 3],
                latency_ms=180.0 if user % 9 == 0 else 20.0,
                fallback="failed" if failed(user, treated) else None,
            )
            yield one
            yield outcome_row(one, 0.0, best_action=0 if wrong(user, treated) else one.action)

    write(engine, rows())
    return variants.count("treatment")


def look(engine: Engine, state: RolloutState, at: datetime) -> RolloutEvidence:
    return look_at(engine, state, QUICK, SPEC, at)


def fresh(engine: Engine, state: RolloutState) -> RolloutEvidence:
    return replayed(read_looks(engine, state.name), QUICK).in_stage(state.stage)


def test_evidence_is_found_once_and_is_that_of_a_replay(engine: Engine) -> None:
    """A tick of the third day reads every user of the first again, or finds something else than it did then."""
    path: list[tuple[Kind, dict[str, object]]] = [
        ("advanced", {"to": "5_percent", "slow_ms": 100.0}),
        ("paused", {}),
        ("resumed", {}),
        ("advanced", {"to": "20_percent"}),
        ("jumped", {"to": "5_percent"}),
        ("advanced", {"to": "20_percent"}),
        ("advanced", {"to": "50_percent"}),
        ("advanced", {"to": "100_percent", "baseline": BASELINE}),
        ("rolled_back", {}),
    ]
    state = rollout()
    found = look(engine, state, hour(0.0))
    for number in range(len(path) + 1):
        if state.active:
            serve(
                engine, state, range(100 * number, 100 * number + 400), hour(number),
                failed=lambda user, treated: treated and user % 7 == 0, wrong=lambda user, _: user % 11 == 0,
            )  # fmt: skip
        # Before their windows are over, when those of the earlier users are, and at the end of the stage.
        for minutes in (10.0, 18.0, 50.0):
            found = look(engine, state, hour(number + minutes / 60))
        assert found == fresh(engine, state)
        if number < len(path):
            kind, changes = path[number]
            state = after(state, kind, hour(number + 0.9), **changes)  # type: ignore[arg-type]
            # Of the new stage nothing is known, whatever the last look was in.
            assert found.in_stage(state.stage) == look(engine, state, hour(number + 50.0 / 60))
    assert (state.status, found.stage, found.users[0]) == ("rolled_back", "100_percent", 0)
    assert found.users[1] > 100
    assert sum(sum(arms) for arms in found.assigned.values()) == found.harm.counted
    assert set(found.harm.tests) == {
        *NAMES, *(f"wrong[browser={one}]" for one in BROWSERS),
        "wrong[test_type=e2e]", "wrong[ui_framework=react]",
    }  # fmt: skip
    assert found.harm.log_e > 1.0
    with transaction(engine) as session:
        session.execute(delete(ExperimentUnit))
    assert look(engine, state, hour(number + 50.0 / 60)) == found


@pytest.mark.parametrize("stored", [None, {"format": 0, "rollout": {}}])
def test_looks_without_evidence_of_this_form_get_it(engine: Engine, stored: dict[str, object] | None) -> None:
    """Looks of before an upgrade, or of a process that was killed in between, count as empty, or in another stage."""
    state = rollout("5_percent", slow_ms=100.0)
    for number, stage in enumerate(("5_percent", "20_percent", "100_percent")):
        at = hour(number)
        state = rollout(stage, slow_ms=100.0, baseline=BASELINE if stage == "100_percent" else None)  # type: ignore[arg-type]
        serve(engine, state, range(100 * number, 100 * number + 300), at)
        found = look(engine, state, at + timedelta(minutes=30))
    with transaction(engine) as session:
        session.execute(update(ExperimentLook).where(ExperimentLook.look >= 1).values(evidence=stored))
    # Who finds it again later sees another state of the rollout.
    later = replace(state, stage="50_percent", share=0.5, baseline=None)
    again = look(engine, later, hour(2) + timedelta(minutes=30))
    assert again == found.in_stage("50_percent")
    with read_transaction(engine) as session:
        kept = session.get_one(ExperimentLook, (state.name, 2))
        assert (kept.evidence["format"], kept.evidence["rollout"]) == (2, json.loads(json.dumps(found.document())))
        assert (kept.design["stage"], kept.design["slow_ms"]) == ("100_percent", 100.0)
        assert kept.design["policy"] == QUICK.model_dump(mode="json")


def test_the_last_stage_is_held_against_the_baseline_of_its_look(engine: Engine) -> None:
    """Without the champion's rates, nothing in the last stage is harm, and nothing is proven."""
    state = rollout("50_percent", slow_ms=100.0)
    serve(engine, state, range(300), hour(0))
    look(engine, state, hour(1))
    last = after(state, "advanced", hour(1), to="100_percent", baseline=BASELINE)
    serve(engine, last, range(300, 600), hour(1.1), failed=lambda user, _: user % 4 == 0)
    found = look(engine, last, hour(2))
    first, second = (one.units for one in read_looks(engine, state.name))
    expected = RolloutEvidence().in_stage("50_percent").updated(first, QUICK, None)
    assert found == expected.in_stage("100_percent").updated(second, QUICK, BASELINE)
    assert found.harm.tests["errors"].log_e > expected.harm.tests["errors"].log_e + 10.0


def test_users_count_in_the_stage_they_were_in(engine: Engine) -> None:
    """Users of 5 % whose outcomes come in at 20 % pass the stage that they never saw, or are forgotten as harmed."""
    early = rollout("5_percent", slow_ms=100.0)
    treated = serve(engine, early, range(600), hour(0), failed=lambda _, treated: treated)
    moved = after(early, "advanced", hour(0.2), to="20_percent")
    serve(engine, moved, range(600, 700), hour(0.2))
    found = look(engine, moved, hour(0.4))
    assert (found.stage, found.users, found.kept) == ("20_percent", (0, 0), {})
    assert found.assigned == {0.05: (600 - treated, treated)}
    assert found.harm.counted == 600
    assert found.champion["failed"].count == 600 - treated
    assert found.champion["failed"].mean == 0.0
    later = look(engine, moved, hour(1.0))
    assert sum(later.users) == 100
    assert set(later.kept) == {"errors", "latency", "accuracy", "floor"}


def test_nobody_counts_before_the_first_stage_with_users(engine: Engine) -> None:
    """Users of the shadow stage have the champion for certain: as the control of the next, they break its split."""
    state = rollout()
    serve(engine, state, range(200), hour(0))
    found = look(engine, state, hour(1))
    assert (found.assigned, found.champion, found.harm.counted) == ({}, {}, 0)
    moved = after(state, "advanced", hour(1), to="5_percent", slow_ms=100.0)
    serve(engine, moved, range(200), hour(1.1))
    found = look(engine, moved, hour(2))
    assert found.harm.counted == 200
    assert set(found.assigned) == {0.05}


def test_metrics_are_those_of_the_limits(engine: Engine) -> None:
    """Slowness by another measure than the policy's, or measured before the champion's latency is known."""
    state = rollout("20_percent")
    serve(engine, state, range(90), hour(0), wrong=lambda user, _: user % 3 == 2)
    look(engine, state, hour(1))
    known = replace(state, slow_ms=130.0)
    serve(engine, known, range(90, 180), hour(1))
    look(engine, known, hour(2))
    first, second = (one.units for one in read_looks(engine, state.name))
    assert {name for unit in first for name in unit.outcomes if name.startswith("slow")} == set()
    outcomes = [unit.outcomes for unit in second]
    # 180 ms are above 1.3 times 130 ms, and below 1.5 times.
    slow = {name: sum(one[name] for one in outcomes) for name in ("slow@1.5", "slow@1.3")}
    assert slow == {"slow@1.5": 0.0, "slow@1.3": 10.0}
    in_webkit = [unit.outcomes["wrong[browser=webkit]"] for unit in first if "wrong[browser=webkit]" in unit.outcomes]
    assert in_webkit == [1.0] * 30
    assert sum(unit.outcomes["wrong[ui_framework=react]"] for unit in first) == 30.0


def look_together(url: str, barrier: Barrier) -> None:
    """Look at the same moments as another process, again and again."""
    engine = create_operational_engine(url)
    state = rollout("20_percent", slow_ms=100.0)
    barrier.wait()
    for minutes in range(21, 60, 2):
        look(engine, state, BEGIN + timedelta(minutes=minutes))
    engine.dispose()


def test_two_that_look_at_the_same_moments_bet_once(engine: Engine) -> None:
    """Two daemons that tick at once count every user twice, and twice the evidence is none."""
    state = rollout("20_percent", slow_ms=100.0)
    for number in range(3):
        serve(engine, state, range(100 * number, 100 * number + 100), hour(number / 5))
    url = engine.url.render_as_string(hide_password=False)
    assert run_together(look_together, [(url,)] * 2) == [0, 0]
    found = look(engine, state, BEGIN + timedelta(minutes=59))
    assert found == fresh(engine, state)
    assert found.harm.counted == 300
    with read_transaction(engine) as session:
        assert session.scalar(select(func.count()).select_from(ExperimentLook)) == 20


def test_now_is_the_time_of_the_decisions(engine: Engine) -> None:
    """A look from the machine's clock takes every decision on the data's clock for one of the past."""
    clock = FixedClock(datetime(2030, 1, 1, tzinfo=UTC))
    state = rollout("20_percent", slow_ms=100.0)
    assert served_now(engine, False, "execution", clock) == clock.instant
    before = served_now(engine, True, "execution", clock)
    look(engine, state, before)
    serve(engine, state, range(10), hour(0))
    write(engine, [prediction_row(AGENTS["generation"], "another", event_time=hour(9))])
    assert before < served_now(engine, True, "execution", clock) == hour(0) + timedelta(seconds=324)
    assert served_now(engine, False, "execution", clock) == clock.instant
    serve(engine, state, range(10, 20), hour(1))
    assert look(engine, state, served_now(engine, True, "execution", clock)).harm.counted == 10


def test_a_look_at_no_later_time_is_none(engine: Engine) -> None:
    """On the data's clock time stands still with the traffic, and a tick every five minutes stores a look each."""
    state = rollout("20_percent", slow_ms=100.0)
    serve(engine, state, range(50), hour(0))
    found = [look(engine, state, at) for at in (hour(1), hour(1), hour(0.5))]
    assert found == [found[0]] * 3
    assert len(read_looks(engine, state.name)) == 1


def test_experiments_know_nothing_of_a_rollouts_looks(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A report that judges the users of a rollout by the design of an experiment, or an experiment that takes them over."""
    profile, folder = load_profile("aiwebtest"), tmp_path_factory.mktemp("report")
    state = rollout("20_percent", slow_ms=100.0)
    serve(engine, state, range(50), hour(0))
    look(engine, state, hour(1))
    with pytest.raises(InputError, match="there is no experiment 'rollout-execution"):
        report_experiment(engine, state.name, profile, folder, now=hour(2))
    with pytest.raises(InputError, match="names that begin with 'rollout-' are those of rollouts"):
        create_experiment(engine, state.name, "execution", treatment_share=0.1, user="tests", now=hour(2))
    create_experiment(engine, "checkout", "execution", treatment_share=0.2, user="tests", now=hour(2), salt="salt")
    serve(engine, replace(state, name="checkout"), range(50, 90), hour(3))
    report = report_experiment(engine, "checkout", profile, folder, now=hour(6))
    assert (report.new_users, report.analysis.looks) == (40, 1)
    assert set(report.analysis.deciding.metrics) == {"wrong", "loss", "failed", "slow"}
    assert look(engine, state, hour(7)).harm.counted == 50
