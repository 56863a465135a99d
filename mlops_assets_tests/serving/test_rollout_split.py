"""The router in a real serving runtime follows the ledger of rollouts, within a second, and no further than it says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops_assets.experiments.experiments import create_experiment
from mlops_assets.foundation.agents import AGENTS
from mlops_assets_tests.programs import wait_for
from mlops_assets_tests.rollout.ledgers import begin, climb, go
from mlops_assets_tests.rollout.rollouts import BEGIN, rollout
from mlops_assets_tests.serving.fronts import FOLLOWS_SECONDS, Front, open_front
from mlops_assets_tests.serving.served import served_model

SPEC = AGENTS["execution"]
NAME = "rollout-execution-1.1.0-1"
OLD, NEW, OTHER = (served_model(SPEC, semver, seed=i) for i, semver in enumerate(("1.0.0", "1.1.0", "1.2.0")))
USERS = [{"user_id": f"u{i}"} for i in range(300)]


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with open_front(tmp_path, SPEC, champion=OLD, candidate=NEW) as made:
        yield made


def versions(rows: list[dict[str, Any]]) -> set[str]:
    return {row["model_version"] for row in rows}


def share(rows: list[dict[str, Any]]) -> float:
    return sum(row["model_version"] == "1.1.0" for row in rows) / len(rows)


def test_traffic_follows_every_step_within_a_second(front: Front) -> None:
    """A stage that is decided, and users who get the candidate an hour later, or still."""
    assert versions(front.ask_all(USERS)) == {"1.0.0"}
    state = begin(front.engine, rollout())
    front.follow(0.0)
    assert versions(front.ask_all(USERS)) == {"1.0.0"}
    treated: set[str] = set()
    for expected in (0.05, 0.2, 0.5, 1.0):
        state = go(front.engine, state, "advanced")
        front.follow(expected)
        rows = front.ask_all(USERS)
        assert share(rows) == pytest.approx(expected, abs=0.08)
        assert {(row["experiment"], row["treatment_share"]) for row in rows} == {(NAME, expected)}
        assert {row["variant"] == "treatment" for row in rows if row["model_version"] == "1.1.0"} == {True}
        # Whoever has the candidate keeps it.
        now = {row["user_hash"] for row in rows if row["variant"] == "treatment"}
        assert treated < now
        treated = now
    state = go(front.engine, state, "paused")
    front.follow(1.0, "paused")
    rows = front.ask_all(USERS)
    assert (versions(rows), {row["experiment"] for row in rows}) == ({"1.0.0"}, {None})
    state = go(front.engine, state, "resumed")
    front.follow(1.0)
    assert versions(front.ask_all(USERS)) == {"1.1.0"}
    go(front.engine, state, "rolled_back")
    front.follow(None)
    rows = front.ask_all(USERS)
    assert (versions(rows), {row["fallback"] for row in rows}) == ({"1.0.0"}, {None})


def test_what_stands_behind_the_alias(front: Front) -> None:
    """The alias comes after the ledger, or somebody moves it: its users get no answer, or one of another version."""
    climb(front.engine, begin(front.engine, rollout()), "100_percent")
    front.follow(1.0)
    for behind in ({}, {"candidate": OTHER}):
        front.serve(champion=OLD, **behind)
        row = front.ask(user_id="ann")
        assert (row["model_version"], row["fallback"], row["variant"]) == ("1.0.0", "absent", "treatment")
        assert (row["experiment"], row["treatment_share"], row["arms"]) == (NAME, None, None)
    front.serve(champion=OLD, candidate=NEW)
    row = front.ask(user_id="ann")
    assert (row["model_version"], row["model_alias"], row["fallback"]) == ("1.1.0", "candidate", None)
    assert row["arms"]["versions"] == {"control": "1.0.0", "treatment": "1.1.0"}


def test_from_completion_to_the_new_champion_nobody_gets_the_old_one(front: Front) -> None:
    """Three writes in two stores, each followed at its own pace: between any two of them users fall back for a moment."""

    def nobody_gets_the_old_one() -> None:
        for picture in ({"champion": OLD, "candidate": NEW}, {"champion": NEW, "candidate": NEW}, {"champion": NEW}):
            front.serve(**picture)
            assert versions(front.ask_all(USERS[:20])) == {"1.1.0"}, picture

    state = climb(front.engine, begin(front.engine, rollout()), "100_percent")
    front.follow(1.0)
    nobody_gets_the_old_one()
    go(front.engine, state, "promoting", "completed")
    nobody_gets_the_old_one()
    wait_for(lambda: front.runtime.experiments["execution"].completed, FOLLOWS_SECONDS)
    nobody_gets_the_old_one()
    # Weeks later production is given back by hand.
    front.serve(champion=OLD)
    row = front.ask(user_id="ann")
    assert (row["model_version"], row["experiment"], row["fallback"]) == ("1.0.0", None, None)


def test_requests_without_a_user_are_split_by_test(front: Front) -> None:
    """Half of the traffic names no user: the candidate never sees it, and nobody learns what it does there."""
    climb(front.engine, begin(front.engine, rollout()), "50_percent")
    front.follow(0.5)
    rows = front.ask_all([{"test_id": f"t{i}"} for i in range(300)])
    assert share(rows) == pytest.approx(0.5, abs=0.1)
    assert {row["experiment"] for row in rows} == {NAME}
    assert len({row["user_hash"] for row in rows}) == 300
    again = front.ask_all([{"test_id": f"t{i}", "agent_id": "another"} for i in range(300)])
    assert [row["model_version"] for row in again] == [row["model_version"] for row in rows]
    assert [row["user_hash"] for row in again] == [row["user_hash"] for row in rows]
    named = front.ask_all([{"user_id": f"t{i}"} for i in range(300)])
    assert not {row["user_hash"] for row in named} & {row["user_hash"] for row in rows}


def test_in_the_shadow_the_candidate_is_asked_for_everything_once(front: Front) -> None:
    """Requests that the candidate was not asked count against it; asked twice, one of its aliases is slow."""
    begin(front.engine, rollout())
    front.follow(0.0)
    front.serve(champion=OLD, candidate=NEW, challenger=NEW, shadow=OTHER)
    for who in ({"user_id": "ann"}, {}):
        row = front.ask(**who)
        assert (row["model_version"], row["treatment_share"], row["experiment"]) == ("1.0.0", 0.0, NAME)
        # The champion too, whose latency is compared with the candidate's in the same passes.
        assert front.shadows(row["prediction_id"], 3) == ["1.0.0", "1.1.0", "1.2.0"]
    # A newer challenger does not take the candidate's place.
    front.serve(champion=OLD, candidate=NEW, challenger=OTHER)
    assert front.shadows(front.ask()["prediction_id"], 3) == ["1.0.0", "1.1.0", "1.2.0"]


def test_with_users_only_who_did_not_answer_is_asked_in_the_shadow(front: Front) -> None:
    """A version that is asked twice for one request costs time, and is compared with itself."""
    state = climb(front.engine, begin(front.engine, rollout()), "50_percent")
    front.follow(0.5)
    front.serve(champion=OLD, candidate=NEW, challenger=OTHER)
    by_arm = {row["model_version"]: row for row in front.ask_all([{"user_id": f"u{i}"} for i in range(50)])}
    assert front.shadows(by_arm["1.1.0"]["prediction_id"], 1) == ["1.2.0"]
    assert front.shadows(by_arm["1.0.0"]["prediction_id"], 2) == ["1.1.0", "1.2.0"]
    climb(front.engine, state, "100_percent")
    front.follow(1.0)
    # Nobody has the champion any more: both are asked, so that latency and accuracy compare.
    row = front.ask(user_id="ann")
    assert row["model_version"] == "1.1.0"
    assert front.shadows(row["prediction_id"], 3) == ["1.0.0", "1.1.0", "1.2.0"]


def test_arms_are_counted_under_the_rollouts_name(front: Front) -> None:
    """The dashboard of experiments shows nothing of the users of a rollout (AB-5)."""
    climb(front.engine, begin(front.engine, rollout()), "50_percent")
    front.follow(0.5)
    rows = front.ask_all(USERS)
    for arm in ("control", "treatment"):
        count = sum(row["variant"] == arm for row in rows)
        labels = {"experiment": NAME, "variant": arm}
        assert front.metric("ab_test_predictions_total", **labels) == count > 0
        assert front.metric("ab_test_prediction_latency_seconds_count", **labels) == count
        assert front.metric("ab_test_errors_total", **labels) == 0.0


def test_experiments_of_other_agents_go_on(front: Front) -> None:
    """A rollout of one agent takes all experiments from the router."""
    create_experiment(front.engine, "steps", "generation", treatment_share=0.5, user="ann", now=BEGIN)
    begin(front.engine, rollout())
    front.follow(0.0)
    assert {agent: one.name for agent, one in front.runtime.experiments.items()} == {
        "execution": NAME,
        "generation": "steps",
    }
