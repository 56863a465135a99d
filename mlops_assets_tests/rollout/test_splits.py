"""The traffic split that the ledger wants, and that a rollout and an experiment never have the same users."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from multiprocessing.synchronize import Barrier

import pytest
from sqlalchemy import Connection, Engine, event

from mlops_assets.experiments.experiments import (
    Experiment,
    all_experiments,
    change_experiment,
    create_experiment,
    unfinished_experiments,
)
from mlops_assets.foundation.database import create_operational_engine
from mlops_assets.foundation.errors import NotReadyError
from mlops_assets.foundation.policies import StageName
from mlops_assets.rollout.ledger import splits, steps
from mlops_assets.rollout.state import Kind
from mlops_assets_tests.foundation.processes import run_together
from mlops_assets_tests.rollout.ledgers import begin, climb, go
from mlops_assets_tests.rollout.rollouts import BEGIN, rollout

NAME = "rollout-execution-1.1.0-1"


def wanted(share: float, **changes: object) -> Experiment:
    """The split of `rollout()`."""
    made = Experiment(
        NAME,
        "execution",
        "salt",
        "candidate",
        share,
        "running",
        BEGIN,
        treatment_version="1.1.0",
        splits_anonymous=True,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_without_rollouts_there_is_no_split(engine: Engine) -> None:
    """A server on a new database has nothing to follow, and that is an answer."""
    assert splits(engine) == {}


@pytest.mark.parametrize(
    ("stage", "share"),
    [("shadow", 0.0), ("5_percent", 0.05), ("20_percent", 0.2), ("50_percent", 0.5), ("100_percent", 1.0)],
)
def test_each_stage_has_its_share(sqlite_engine: Engine, stage: StageName, share: float) -> None:
    """The ledger says 5 %, and servers give another share to the candidate."""
    climb(sqlite_engine, begin(sqlite_engine, rollout()), stage)
    assert splits(sqlite_engine) == {"execution": wanted(share)}


def test_paused_and_resumed(engine: Engine) -> None:
    """A paused rollout that keeps its users is not paused; one that forgets its salt gives them to the other arm."""
    state = go(engine, climb(engine, begin(engine, rollout()), "20_percent"), "paused")
    assert splits(engine) == {"execution": wanted(0.2, status="paused")}
    go(engine, state, "resumed")
    assert splits(engine) == {"execution": wanted(0.2)}


@pytest.mark.parametrize("kind", ["rolled_back", "aborted", "superseded"])
def test_what_was_taken_back_has_no_split(engine: Engine, kind: Kind) -> None:
    """A version that hurt its users still has some."""
    go(engine, climb(engine, begin(engine, rollout()), "50_percent"), kind)
    assert splits(engine) == {}


def test_the_winner_keeps_all_users_until_it_is_champion(engine: Engine) -> None:
    """The split ends with the ledger's last step, and all users go back to the old champion until its alias moves."""
    state = go(engine, climb(engine, begin(engine, rollout()), "100_percent"), "promoting")
    assert splits(engine) == {"execution": wanted(1.0)}
    go(engine, state, "completed")
    assert splits(engine) == {"execution": wanted(1.0, completed=True)}


def test_only_the_newest_rollout_of_each_agent_counts(engine: Engine) -> None:
    """An older rollout's users come back, or one agent's rollout ends another's."""
    over = go(engine, begin(engine, rollout()), "rolled_back")
    again = rollout("shadow", name="rollout-execution-1.2.0-3", candidate="1.2.0", number=over.number + 1, salt="other")
    begin(engine, again)
    name, other = "rollout-generation-2.0.0-1", "generation-agent-dqn"
    go(engine, begin(engine, rollout(name=name, model_name=other, agent="generation", candidate="2.0.0")), "advanced")
    found = splits(engine)
    assert {agent: (one.name, one.treatment_version, one.salt) for agent, one in found.items()} == {
        "execution": ("rollout-execution-1.2.0-3", "1.2.0", "other"),
        "generation": (name, "2.0.0", "salt"),
    }


def test_asking_is_one_short_query(engine: Engine) -> None:
    """Every server asks every 400 ms: with all evidence of all steps read each time, the database does nothing else."""
    state = begin(engine, rollout())
    for _ in range(10):
        state = go(engine, state, "paused", "resumed")
    asked: list[str] = []

    def note(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    assert list(splits(engine)) == ["execution"]
    event.remove(engine, "before_cursor_execute", note)
    (query,) = [one for one in asked if "rollout_event" in one]
    assert "evidence" not in query


def test_what_everybody_may_know_puts_nobody_into_an_arm(sqlite_engine: Engine) -> None:
    """With the salt, users choose the names that get the candidate."""
    begin(sqlite_engine, rollout(salt="hush"))
    (split,) = splits(sqlite_engine).values()
    assert split.salt == "hush"
    assert "hush" not in str(split.public())


def create(engine: Engine, agent: str = "execution", name: str = "checkout") -> Experiment:
    return create_experiment(engine, name, agent, treatment_share=0.1, user="ann", now=BEGIN)


@pytest.mark.parametrize("kinds", [(), ("paused",), ("advanced", "advanced"), ("advanced", "paused")])
def test_no_experiment_while_a_rollout_is_under_way(engine: Engine, kinds: tuple[Kind, ...]) -> None:
    """Two splits share users: neither measures its own effect, and the candidate is blamed for the other's."""
    state = go(engine, begin(engine, rollout()), *kinds)
    with pytest.raises(NotReadyError, match=f"has the rollout {NAME} under way.*; wait until it is over, or abort it"):
        create(engine)
    assert all_experiments(engine) == []
    # Another agent's users are others.
    create(engine, "generation")
    go(engine, state, "aborted")
    assert create(engine, name="later").status == "running"


def test_an_experiment_after_a_completed_rollout(engine: Engine) -> None:
    """A rollout that has won weeks ago keeps every experiment from starting."""
    go(engine, climb(engine, begin(engine, rollout()), "100_percent"), "promoting", "completed")
    assert create(engine).status == "running"


def test_no_rollout_while_there_is_an_experiment(engine: Engine) -> None:
    """The same the other way round; a paused experiment goes on with its users later."""
    create(engine)
    for _ in range(2):
        with pytest.raises(NotReadyError, match=r"has the experiment 'checkout' .*commands stop checkout"):
            begin(engine, rollout())
        change_experiment(engine, "checkout", status="paused", user="ann", now=BEGIN)
    assert (steps(engine), splits(engine)) == ([], {})
    begin(engine, rollout(agent="generation", model_name="generation-agent-dqn", name="other"))
    change_experiment(engine, "checkout", status="stopped", user="ann", now=BEGIN + timedelta(hours=1))
    begin(engine, rollout())
    assert set(splits(engine)) == {"execution", "generation"}


def test_a_rollout_goes_on_beside_an_old_stopped_experiment(engine: Engine) -> None:
    """Only the start asks: a rollback that is refused because of an experiment is none."""
    create(engine)
    change_experiment(engine, "checkout", status="stopped", user="ann", now=BEGIN)
    assert go(engine, begin(engine, rollout()), "advanced", "rolled_back").status == "rolled_back"


def _create(engine: Engine, number: int) -> None:
    create(engine, name=f"e{number}")


def _begin(engine: Engine, number: int) -> None:
    """Start the first rollout, whichever number the ledger is at; end the one before."""
    begin(engine, rollout(name=f"r{number}", number=1))


def race(url: str, act: Callable[[Engine, int], None], barrier: Barrier) -> None:
    """Try it at the same moment as the other process."""
    engine = create_operational_engine(url)
    barrier.wait()
    try:
        act(engine, 1)
    except NotReadyError:
        raise SystemExit(3) from None
    finally:
        engine.dispose()


@pytest.mark.parametrize("attempt", range(3))
def test_of_both_at_the_same_moment_one_starts(engine: Engine, attempt: int) -> None:
    """Each looks before the other has written, and both start."""
    url = engine.url.render_as_string(hide_password=False)
    order = [_create, _begin] if attempt % 2 else [_begin, _create]
    assert sorted(run_together(race, [(url, act) for act in order]), key=str) == [0, 3]
    assert len(unfinished_experiments(engine)) + len(splits(engine)) == 1
