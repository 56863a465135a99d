"""Experiments in the operational database, on both engines."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select

from mlops_assets.experiments.experiments import (
    Experiment,
    Treatment,
    all_experiments,
    change_experiment,
    create_experiment,
    experiment_named,
    unfinished_experiments,
)
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import InputError, NotReadyError, SettingsError
from mlops_assets.foundation.tables import AuditEvent, RolloutEvent

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def _events(engine: Engine) -> list[tuple[str, dict[str, object]]]:
    with read_transaction(engine) as session:
        return [(e.event_type, e.details) for e in session.scalars(select(AuditEvent).order_by(AuditEvent.sequence))]


def test_its_life_is_audited(engine: Engine) -> None:
    """Nobody can tell who sent half of the users to another model."""
    made = create_experiment(engine, "checkout", "execution", treatment_share=0.05, user="ann", now=NOW)
    assert (made.status, made.treatment_alias, len(made.salt)) == ("running", "challenger", 32)
    ramped = change_experiment(engine, "checkout", treatment_share=0.2, user="ann", now=LATER)
    assert (ramped.treatment_share, ramped.salt, ramped.created_at) == (0.2, made.salt, NOW)
    assert change_experiment(engine, "checkout", treatment_share=0.2, user="ann", now=LATER) == ramped
    paused = change_experiment(engine, "checkout", status="paused", user="bob", now=LATER)
    assert unfinished_experiments(engine) == {"execution": paused}
    change_experiment(engine, "checkout", status="stopped", user="bob", now=LATER)
    assert unfinished_experiments(engine) == {}
    assert experiment_named(engine, "checkout").status == "stopped"
    shares = [(kind, details["treatment_share"], details["status"]) for kind, details in _events(engine)]
    assert shares == [
        ("experiment_created", 0.05, "running"),
        ("experiment_changed", 0.2, "running"),
        ("experiment_changed", 0.2, "paused"),
        ("experiment_changed", 0.2, "stopped"),
    ]


def test_one_of_an_agent_at_a_time_and_names_are_used_once(engine: Engine) -> None:
    """Two experiments of an agent share users, and neither measures its own effect."""
    create_experiment(engine, "one", "execution", treatment_share=0.1, user="ann", now=NOW)
    with pytest.raises(InputError, match="'one' \\(running\\); stop it first"):
        create_experiment(engine, "two", "execution", treatment_share=0.1, user="ann", now=NOW)
    create_experiment(engine, "two", "generation", treatment_share=0.1, user="ann", now=NOW)
    change_experiment(engine, "one", status="stopped", user="ann", now=NOW)
    with pytest.raises(InputError, match="'one' already"):
        create_experiment(engine, "one", "execution", treatment_share=0.1, user="ann", now=NOW)
    with pytest.raises(InputError, match="'one' is stopped"):
        change_experiment(engine, "one", status="running", user="ann", now=NOW)
    create_experiment(engine, "three", "execution", treatment_share=0.1, user="ann", now=LATER)
    assert [one.name for one in all_experiments(engine)] == ["three", "one", "two"]


@pytest.mark.parametrize(
    ("name", "agent", "share", "error", "message"),
    [
        ("x", "execution", 1.5, InputError, "share is 1.5; expected 0 to 1"),
        ("x", "execution", float("nan"), InputError, "share is nan"),
        ("", "execution", 0.5, InputError, "cannot be called ''"),
        ("x" * 101, "execution", 0.5, InputError, "1 to 100 printable"),
        ("a\nb", "execution", 0.5, InputError, "printable"),
        ("x", "checkout", 0.5, SettingsError, "unknown agent 'checkout'"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_stored(
    sqlite_engine: Engine, name: str, agent: str, share: float, error: type[Exception], message: str
) -> None:
    """A share of 5 instead of 0.05 sends everybody to the candidate."""
    with pytest.raises(error, match=message):
        create_experiment(sqlite_engine, name, agent, treatment_share=share, user="ann", now=NOW)
    assert all_experiments(sqlite_engine) == []
    assert _events(sqlite_engine) == []
    with pytest.raises(InputError, match="no experiment 'absent'; known experiments: none"):
        experiment_named(sqlite_engine, "absent")


def test_an_alias_that_no_server_follows_is_refused(sqlite_engine: Engine) -> None:
    """An A/B test against a model that nobody loads compares the champion with itself."""
    with pytest.raises(InputError, match="no server has the alias 'candidate'; take one of challenger, shadow"):
        create_experiment(
            sqlite_engine, "x", "execution", treatment_share=0.5, treatment_alias="candidate", user="ann", now=NOW
        )


def test_two_that_are_created_at_once_are_one(engine: Engine) -> None:
    """Two operators start an experiment of one agent in the same second, and its users are in both."""
    from concurrent.futures import ThreadPoolExecutor

    def create(name: str) -> bool:
        try:
            create_experiment(engine, name, "execution", treatment_share=0.1, user="ann", now=NOW)
        except InputError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(create, [f"e{i}" for i in range(8)]))
    assert sum(made) == 1
    assert len(unfinished_experiments(engine)) == 1


def _step(engine: Engine, number: int, *, active: bool, agent: str = "execution") -> None:
    """A step of a rollout, as its ledger writes it."""
    with transaction(engine) as session:
        session.add(
            RolloutEvent(
                model_name=f"{agent}-agent-dqn",
                number=number,
                rollout="rollout-execution-1.1.0-1",
                agent=agent,
                kind="started" if active else "aborted",
                active=active,
                state={},
                reasons=[],
                evidence={},
                user="ann",
                occurred_at=NOW,
                idempotency_key=f"{agent}:{number}",
            )
        )


def test_none_is_created_while_a_rollout_has_the_users(engine: Engine) -> None:
    """An experiment's treatment and a rollout's candidate share users, and each is blamed for the other."""
    _step(engine, 1, active=True)
    with pytest.raises(NotReadyError, match=r"the rollout rollout-execution-1\.1\.0-1 under way.*or abort it"):
        create_experiment(engine, "one", "execution", treatment_share=0.1, user="ann", now=NOW)
    assert (all_experiments(engine), _events(engine)) == ([], [])
    # Whatever is under way elsewhere is nothing to its users.
    create_experiment(engine, "two", "generation", treatment_share=0.1, user="ann", now=NOW)
    _step(engine, 2, active=False)
    assert create_experiment(engine, "one", "execution", treatment_share=0.1, user="ann", now=NOW).status == "running"


def _both(engine: Engine, challenger: float, shadow: float) -> Experiment:
    return create_experiment(
        engine, "both", "execution", treatment_share=challenger, more=[Treatment("shadow", shadow)], user="ann", now=NOW
    )


def test_several_treatments_have_shares_of_their_own(engine: Engine) -> None:
    """A second candidate waits for the first one's weeks, or its ramp changes the first one's share."""
    made = _both(engine, 0.1, 0.2)
    assert made.shares == {"challenger": 0.1, "shadow": 0.2}
    assert {made.variant(f"u{i}") for i in range(200)} == {"control", "challenger", "shadow"}
    changed = change_experiment(engine, "both", shares={"shadow": 0.5}, user="ann", now=LATER)
    assert experiment_named(engine, "both") == changed
    assert changed.shares == {"challenger": 0.1, "shadow": 0.5}
    assert change_experiment(engine, "both", shares={"shadow": 0.5}, user="ann", now=LATER) == changed
    public = changed.public()
    assert public["treatments"]["shadow"] == {"alias": "shadow", "share": 0.5}
    assert {"salt", "more"}.isdisjoint(public)
    assert [details.get("treatments") for _, details in _events(engine)] == [
        [{"alias": "shadow", "share": 0.2}],
        [{"alias": "shadow", "share": 0.5}],
    ]


def test_shares_beyond_all_users_and_unknown_treatments_are_refused(sqlite_engine: Engine) -> None:
    """Two treatments of 60 % leave no control, and one of them has less than was set."""
    with pytest.raises(InputError, match=r"add up to 1.2 \(challenger 0.6, shadow 0.6\); expected 1 at most"):
        _both(sqlite_engine, 0.6, 0.6)
    with pytest.raises(InputError, match=r"share is -0\.1; expected 0 to 1"):
        _both(sqlite_engine, 0.6, -0.1)
    with pytest.raises(InputError, match="two treatments have the alias 'shadow'"):
        create_experiment(
            sqlite_engine, "twice", "execution", treatment_share=0.1, treatment_alias="shadow",
            more=[Treatment("shadow", 0.1)], user="ann", now=NOW,
        )  # fmt: skip
    assert all_experiments(sqlite_engine) == []
    # Whose sum is 1 is allowed, however its digits are rounded.
    made = _both(sqlite_engine, 0.1, 0.9)
    with pytest.raises(InputError, match=r"add up to 1.1 \(challenger 0.2, shadow 0.9\)"):
        change_experiment(sqlite_engine, "both", shares={"challenger": 0.2}, user="ann", now=LATER)
    with pytest.raises(InputError, match=r"the treatments challenger and shadow; say whose share 0\.2 is"):
        change_experiment(sqlite_engine, "both", treatment_share=0.2, user="ann", now=LATER)
    with pytest.raises(InputError, match="no treatment 'candidate'; it has challenger, shadow"):
        change_experiment(sqlite_engine, "both", shares={"candidate": 0.2}, user="ann", now=LATER)
    assert experiment_named(sqlite_engine, "both") == made
