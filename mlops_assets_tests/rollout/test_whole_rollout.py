"""A rollout from its start to its end, as ticks, guard and registry take it there together."""

from datetime import timedelta

import pytest

from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import ExperimentLook
from mlops_assets.rollout.effects import undelivered
from mlops_assets.rollout.guard import RolloutGuard
from mlops_assets.rollout.ledger import current, steps, verify
from mlops_assets.rollout.report import rollout_png
from mlops_assets.rollout.state import RolloutState
from mlops_assets_tests.rollout.conftest import MODEL, Tower
from mlops_assets_tests.rollout.crowds import Finding, crowd, nobody

HOURS = {"shadow": 2.0, "5_percent": 6.0, "20_percent": 12.0, "50_percent": 24.0, "100_percent": 24.0}
USERS = {"shadow": 1200, "5_percent": 24000, "20_percent": 6000, "50_percent": 3000, "100_percent": 2500}


def state_of(tower: Tower) -> RolloutState:
    state = current(tower.engine, MODEL)
    assert state is not None
    return state


def pass_stage(tower: Tower, first: int, *, wrong: Finding = nobody) -> str | None:
    """Let a stage's users come and its time go by; what the next tick does."""
    state, clock = state_of(tower), tower.office.clock
    crowd(tower.engine, state, range(first, first + USERS[state.stage]), clock.instant, wrong=wrong)
    clock.instant += timedelta(hours=HOURS[state.stage])
    return tower.rollouts.tick(MODEL).kind


@pytest.mark.slow
def test_a_good_candidate_becomes_champion_stage_by_stage(small_tower: Tower, tmp_path) -> None:
    """Every stage is passed once, on evidence, and what servers and people read follows."""
    tower = small_tower
    tower.rollouts.tick(MODEL)
    kinds = [pass_stage(tower, 100_000 * number) for number in range(5)]
    assert kinds == ["advanced", "advanced", "advanced", "advanced", "promoting"]
    assert tower.kinds() == ["started", "advanced", "advanced", "advanced", "advanced", "promoting", "completed"]
    assert tower.stages() == {"1.1.0": "Production", "1.0.0": "Archived"}
    assert tower.aliases() == {"champion": "1.1.0"}
    assert undelivered(tower.engine) == []
    (final,) = verify(tower.engine)
    assert (final.status, final.share) == ("completed", 1.0)
    advanced = [step for step in steps(tower.engine) if step.kind == "advanced"]
    assert [step.state.stage for step in advanced] == ["5_percent", "20_percent", "50_percent", "100_percent"]
    assert advanced[0].state.slow_ms == pytest.approx(2.0)
    assert advanced[3].state.baseline is not None
    for step in advanced[1:]:
        assert {one["name"] for one in step.evidence["stage"]["criteria"]} == {"errors", "latency", "accuracy", "floor"}
    (promoting,) = [step for step in steps(tower.engine) if step.kind == "promoting"]
    assert [one["name"] for one in promoting.evidence["stage"]["criteria"]] == ["errors", "slower", "worse", "floor"]
    assert [event.event_type for event in tower.office.events()].count("model_promoted_to_production") == 2
    picture = tmp_path / "rollout.png"
    rollout_png(tower.engine, final.name, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(tower.rollouts.tick(MODEL)).endswith("completed: nothing waits for a rollout")


@pytest.mark.slow
def test_worse_in_one_browser_is_found(small_tower: Tower) -> None:
    """An average over all browsers hides those whose users suffer."""
    tower = small_tower
    tower.rollouts.tick(MODEL)
    assert pass_stage(tower, 0) == "advanced"
    kind = pass_stage(tower, 100_000, wrong=lambda user, treated: treated and user % 3 == 2 and user % 2 == 0)
    assert kind == "rolled_back"
    last = steps(tower.engine)[-1]
    assert "harm where browser is webkit: wrong decisions" in last.reasons[0]
    assert tower.stages() == {"1.1.0": "Archived", "1.0.0": "Production"}
    assert tower.aliases() == {"champion": "1.0.0"}


def test_the_guard_needs_no_tick(small_tower: Tower) -> None:
    """40 failures in 400 against 5 in 7,600: five minutes are 25 users more who meet them."""
    tower = small_tower
    tower.rollouts.tick(MODEL)
    pass_stage(tower, 0)
    state, clock = state_of(tower), tower.office.clock
    seen = {"treated": 0, "failed": 0}

    def failing(_user: int, treated: bool) -> bool:
        seen["treated"] += treated
        fails = treated and seen["treated"] % 10 == 0
        seen["failed"] += fails
        return fails or (not treated and _user % 1520 == 0)

    crowd(tower.engine, state, range(100_000, 108_000), clock.instant, failed=failing)
    clock.instant += timedelta(hours=1)
    guard = RolloutGuard(tower.engine, tower.policy, served=clock, clock=clock)
    for _ in range(6):
        guard.refresh()
    over = state_of(tower)
    assert (over.status, over.share) == ("rolled_back", 0.0)
    last = steps(tower.engine)[-1]
    assert last.user == "rollout"
    assert "failed requests" in last.reasons[0]
    # The registry follows with the next tick.
    assert tower.stages()["1.1.0"] == "Staging"
    tower.rollouts.tick(MODEL)
    assert tower.stages()["1.1.0"] == "Archived"
    assert tower.kinds() == ["started", "advanced", "rolled_back"]


def test_one_failure_in_twenty_is_no_rollback(small_tower: Tower) -> None:
    """A ratio over twenty requests would take back every candidate with one bad second."""
    tower = small_tower
    tower.rollouts.tick(MODEL)
    pass_stage(tower, 0)
    state, clock = state_of(tower), tower.office.clock
    failed: list[int] = []

    def once(user: int, treated: bool) -> bool:
        if treated and not failed:
            failed.append(user)
        return failed == [user]

    crowd(tower.engine, state, range(100_000, 100_400), clock.instant, failed=once)
    assert failed
    clock.instant += timedelta(hours=7)
    RolloutGuard(tower.engine, tower.policy, served=clock, clock=clock).refresh()
    tick = tower.rollouts.tick(MODEL)
    assert tick.kind is None
    assert "200 are needed" in tick.reasons[0]
    with read_transaction(tower.engine) as session:
        looks = session.query(ExperimentLook).filter(ExperimentLook.experiment == state.name)
        assert looks.filter(ExperimentLook.evidence.is_not(None)).count() == 2
