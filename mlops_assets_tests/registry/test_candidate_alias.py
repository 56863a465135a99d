"""The alias of a rollout's version, on both database engines and a real MLflow store."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, select

from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.registry.catalogue import CANDIDATE, CHALLENGER, CHAMPION
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets_tests.mlflow_runs import SPEC, MlflowRuns, approve, dying_at_commit

NAME = SPEC.registered_model


@pytest.fixture
def staged(registry: ModelRegistry, engine: Engine, mlflow_runs: MlflowRuns) -> Callable[[int], str]:
    """Register and approve good run i; the first becomes champion, others challenger."""

    def stage(index: int) -> str:
        semver = registry.register(mlflow_runs.candidate(index), SPEC).semver
        approve(engine, NAME, semver)
        return registry.promote_approved(NAME, semver, user="tests").semver

    return stage


@pytest.fixture
def behind(registry: ModelRegistry, mlflow_runs: MlflowRuns) -> Callable[[], dict[str, str]]:
    """Look which versions stand behind the aliases that servers follow."""

    def look() -> dict[str, str]:
        semvers = {one.mlflow_version: one.semver for one in registry.versions(NAME)}
        found = MlflowStore(mlflow_runs.tracking_uri).aliases(NAME)
        return {alias: semvers[number] for alias, number in found.items() if alias != "previous"}

    return look


def trail(engine: Engine) -> int:
    with read_transaction(engine) as session:
        return len(session.scalars(select(AuditEvent)).all())


def test_a_newer_challenger_does_not_take_its_place(
    registry: ModelRegistry, engine: Engine, staged: Callable[[int], str], behind: Callable[[], dict[str, str]]
) -> None:
    """Users of a rollout go over to whatever is trained next."""
    staged(0)
    candidate = staged(1)
    before = trail(engine)
    for _ in range(2):
        registry.point_candidate(NAME, candidate)
    # Who asked for it is in the rollout's own ledger.
    assert trail(engine) == before
    assert behind() == {CHAMPION: "1.0.0", CHALLENGER: "1.1.0", CANDIDATE: "1.1.0"}
    staged(2)
    assert behind() == {CHAMPION: "1.0.0", CHALLENGER: "1.2.0", CANDIDATE: "1.1.0"}
    # The rollout of the next one takes the alias over, also where the last one left it behind.
    registry.point_candidate(NAME, "v1.2.0")
    assert behind()[CANDIDATE] == "1.2.0"
    # And the last one's late farewell does not take it away.
    registry.leave_candidate(NAME, candidate)
    assert behind()[CANDIDATE] == "1.2.0"
    for _ in range(2):
        registry.leave_candidate(NAME, "1.2.0")
    assert behind() == {CHAMPION: "1.0.0", CHALLENGER: "1.2.0"}


def test_only_what_is_staged_has_users(
    registry: ModelRegistry,
    engine: Engine,
    mlflow_runs: MlflowRuns,
    staged: Callable[[int], str],
    behind: Callable[[], dict[str, str]],
) -> None:
    """A version that nobody approved, or that was archived, comes to users by its alias."""
    staged(0)
    new = registry.register(mlflow_runs.candidate(1), SPEC).semver
    with pytest.raises(NotReadyError, match=r"1\.1\.0 is in stage None; this step takes Staging"):
        registry.point_candidate(NAME, new)
    with pytest.raises(NotReadyError, match=r"1\.0\.0 is in stage Production"):
        registry.point_candidate(NAME, "1.0.0")
    with pytest.raises(InputError, match=r"no version 9\.0\.0"):
        registry.point_candidate(NAME, "9.0.0")
    with pytest.raises(InputError, match=r"no version 9\.0\.0"):
        registry.leave_candidate(NAME, "9.0.0")
    approve(engine, NAME, new)
    registry.promote_approved(NAME, new, user="tests")
    registry.archive(NAME, new, user="tests", reason="superseded")
    with pytest.raises(NotReadyError, match=r"1\.1\.0 is in stage Archived"):
        registry.point_candidate(NAME, new)
    assert behind() == {CHAMPION: "1.0.0"}


def test_after_a_crash_the_same_call_does_it(
    registry: ModelRegistry, engine: Engine, staged: Callable[[int], str], behind: Callable[[], dict[str, str]]
) -> None:
    """The outbox tries again: what is done already is an error, and its rollout never goes on."""
    staged(0)
    candidate = staged(1)
    for act, after in ((registry.point_candidate, "1.1.0"), (registry.leave_candidate, None)):
        with dying_at_commit(engine), pytest.raises(KeyboardInterrupt):
            act(NAME, candidate)
        act(NAME, candidate)
        assert behind().get(CANDIDATE) == after


def test_what_is_archived_leaves(
    registry: ModelRegistry, staged: Callable[[int], str], behind: Callable[[], dict[str, str]]
) -> None:
    """The candidate that hurt its users is archived, and servers still have it in service."""
    staged(0)
    candidate = staged(1)
    registry.point_candidate(NAME, candidate)
    registry.archive(NAME, candidate, user="rollout", reason="errors", rolled_back=True)
    assert behind() == {CHAMPION: "1.0.0"}
    registry.mark_deleted(NAME, candidate, user="tests", reason="retention")
    assert behind() == {CHAMPION: "1.0.0"}


@pytest.mark.parametrize("crash", [False, True])
def test_a_champion_that_is_rolled_back_leaves_too(
    registry: ModelRegistry,
    engine: Engine,
    staged: Callable[[int], str],
    behind: Callable[[], dict[str, str]],
    *,
    crash: bool,
) -> None:
    """Its rollout is completed but its alias not yet taken away: all users stay with the version that was rolled back."""
    staged(0)
    candidate = staged(1)
    registry.point_candidate(NAME, candidate)
    registry.promote_to_production(NAME, candidate, user="rollout", reason="kept every limit")
    assert behind() == {CHAMPION: "1.1.0", CANDIDATE: "1.1.0"}
    if crash:
        with dying_at_commit(engine), pytest.raises(KeyboardInterrupt):
            registry.rollback_model(NAME, user="sre", reason="errors")
    registry.rollback_model(NAME, user="sre", reason="errors")
    assert behind() == {CHAMPION: "1.0.0"}


def test_a_champion_that_is_replaced_leaves_too(
    registry: ModelRegistry, staged: Callable[[int], str], behind: Callable[[], dict[str, str]]
) -> None:
    """The same where the next champion comes before the alias is taken away."""
    staged(0)
    registry.point_candidate(NAME, staged(1))
    registry.promote_to_production(NAME, "1.1.0", user="rollout", reason="kept every limit")
    registry.promote_to_production(NAME, staged(2), user="sre", reason="a fix")
    assert behind() == {CHAMPION: "1.2.0"}
