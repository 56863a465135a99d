"""Rollouts as people and sensors drive them: every way in, every reason against it, and nothing half done."""

from dataclasses import replace
from datetime import timedelta

import pytest

from mlops_assets.foundation.access import AccessControl
from mlops_assets.foundation.errors import AccessDeniedError, InputError, NotReadyError
from mlops_assets.governance.approval_state import ApprovalRefusedError
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.rollout.controller import open_rollouts
from mlops_assets.rollout.ledger import current, pinned_policy, steps, verify
from mlops_assets_tests.rollout.conftest import MODEL, Tower

WHO = {"user": "mlops@company.com", "reason": "better on long suites"}


def test_a_rollout_starts_in_the_shadow(tower: Tower) -> None:
    """Users before evidence is what a rollout is there to prevent."""
    state = tower.rollouts.start(MODEL, **WHO)
    assert (state.candidate, state.champion, state.stage, state.share) == ("1.1.0", "1.0.0", "shadow", 0.0)
    assert tower.aliases() == {"champion": "1.0.0", "candidate": "1.1.0"}
    assert tower.kinds() == ["started"]
    assert pinned_policy(tower.engine, state.name, tower.policy) == tower.policy
    events = [event.event_type for event in tower.office.events()]
    assert events.count("rollout_started") == 1
    assert verify(tower.engine) == [state]


def test_one_rollout_at_a_time(small_tower: Tower) -> None:
    """Two candidates would share their users, and neither could be judged."""
    first = small_tower.rollouts.start(MODEL, **WHO)
    with pytest.raises(NotReadyError, match=f"has the rollout {first.name} under way .*abort it first"):
        small_tower.rollouts.start(MODEL, "1.1.0", **WHO)
    assert small_tower.kinds() == ["started"]


def test_what_may_not_start(small_tower: Tower) -> None:
    """Each reason has its remedy, and leaves nothing behind."""
    rollouts, office = small_tower.rollouts, small_tower.office
    with pytest.raises(InputError, match=r"no version 9\.9\.9; registered versions: 1\.1\.0, 1\.0\.0"):
        rollouts.start(MODEL, "9.9.9", **WHO)
    with pytest.raises(NotReadyError, match="in stage Production; this step takes Staging"):
        rollouts.start(MODEL, "1.0.0", **WHO)
    with pytest.raises(InputError, match="unknown model 'another'"):
        rollouts.start("another", **WHO)
    office.decide(3, "requires_review")
    with pytest.raises(NotReadyError, match=r"1\.2\.0 is in stage None"):
        rollouts.start(MODEL, "1.2.0", **WHO)
    monday = office.clock.instant
    office.clock.instant = monday + timedelta(days=(4 - monday.weekday()) % 7)
    with pytest.raises(NotReadyError, match="nothing starts or advances on a Friday"):
        rollouts.start(MODEL, **WHO)
    office.clock.instant = monday
    # Other evidence than was approved.
    office.write_report(2, gap=4.0)
    with pytest.raises(ApprovalRefusedError, match="validation report changed"):
        rollouts.start(MODEL, **WHO)
    assert small_tower.kinds() == []
    assert "candidate" not in small_tower.aliases()


def test_a_candidate_that_can_never_pass_is_refused_at_the_start(small_tower: Tower) -> None:
    """Held at its last stage for ever, with all users, after three days."""
    small_tower.registry._store._mlflow  # noqa: B018 - the store is real: the metric is what MLflow has
    from mlflow import MlflowClient

    run_id = small_tower.registry.version(MODEL, "1.1.0").run_id
    uri = small_tower.office.runs.tracking_uri
    MlflowClient(tracking_uri=uri, registry_uri=uri).log_metric(run_id, "accuracy", 0.87)
    with pytest.raises(InputError, match=r"accuracy of 87\.0% .*asks users for 92\.0%.*--accept-accuracy"):
        small_tower.rollouts.start(MODEL, **WHO)
    assert small_tower.rollouts.start(MODEL, accept_accuracy=True, **WHO).stage == "shadow"


def test_without_a_champion_there_is_nothing_to_compare_with(small_tower: Tower) -> None:
    """The first version goes to everybody directly; saying "rolled out" of it would be wrong."""
    with pytest.raises(
        NotReadyError, match="has no champion to compare with; the first approved version takes its place"
    ):
        small_tower.rollouts.start("execution-agent-dqn", **WHO)


def test_changes_by_hand(tower: Tower) -> None:
    """An operator in an incident needs each of them to do what it says, at once."""
    rollouts, clock = tower.rollouts, tower.office.clock
    rollouts.start(MODEL, **WHO)
    paused = rollouts.change(MODEL, "pause", **WHO)
    assert (paused.status, paused.stage) == ("paused", "shadow")
    with pytest.raises(InputError, match="is paused and cannot be paused; it can be"):
        rollouts.change(MODEL, "pause", **WHO)
    clock.instant += timedelta(hours=5)
    resumed = rollouts.change(MODEL, "resume", **WHO)
    assert resumed.since == paused.since + timedelta(hours=5)
    with pytest.raises(InputError, match="cannot jump to 5_percent: stages are passed on evidence"):
        rollouts.change(MODEL, "jump", to="5_percent", **WHO)
    aborted = rollouts.change(MODEL, "abort", **WHO)
    assert (aborted.status, aborted.active) == ("aborted", False)
    assert tower.aliases() == {"champion": "1.0.0"}
    # Nobody is blamed: it is in Staging, and may start again.
    assert tower.stages() == {"1.1.0": "Staging", "1.0.0": "Production"}
    with pytest.raises(NotReadyError, match=r"has no rollout under way: the last one, .* is aborted"):
        rollouts.change(MODEL, "resume", **WHO)
    again = rollouts.start(MODEL, **WHO)
    assert (again.number, again.name) == (5, "rollout-requirements-1.1.0-5")


def test_a_rollback_archives_and_bans(tower: Tower) -> None:
    """Automation that starts the same version again an hour later sends users through it twice."""
    tower.rollouts.start(MODEL, **WHO)
    assert tower.rollouts.roll_back(MODEL, **WHO) == "rollout-requirements-1.1.0-1 is rolled back: everybody has 1.0.0"
    assert tower.stages() == {"1.1.0": "Archived", "1.0.0": "Production"}
    assert tower.aliases() == {"champion": "1.0.0"}
    assert str(tower.rollouts.tick(MODEL)).endswith("rolled back: nothing waits for a rollout")
    twin = replace(tower.office.runs.candidate(3), training_hash="training-2-again")
    tower.registry.register(twin, _spec())
    with pytest.raises(NotReadyError, match="in stage Archived"):
        tower.rollouts.start(MODEL, "1.1.0", **WHO)
    assert tower.kinds() == ["started", "rolled_back"]


def test_without_a_rollout_production_goes_back(small_tower: Tower) -> None:
    """The same button has to work the day after the promotion."""
    office = small_tower.office
    small_tower.registry.promote_to_production(MODEL, "1.1.0", user="mlops", reason="tests")
    said = small_tower.rollouts.roll_back(MODEL, **WHO)
    assert said == f"{MODEL} 1.0.0 is in production again"
    assert small_tower.stages() == {"1.1.0": "Archived", "1.0.0": "Production"}
    assert steps(office.engine) == []


def test_who_may_not_changes_nothing(small_tower: Tower) -> None:
    """The permission is asked where it happens, whatever the way in, and the refusal is on record."""
    office = small_tower.office
    access = AccessControl(
        {"dev@company.com": ("ml_engineer",), "ops@company.com": ("mlops",), "sre@company.com": ("sre",)},
        {},
        {"ml_engineer": ("deploy_staging",), "mlops": ("deploy_production",), "sre": ("rollback",)},
    )
    registry = ModelRegistry(office.runs.tracking_uri, office.engine, office.clock, access)
    rollouts = open_rollouts(office.settings, office.engine, office.clock, registry, holder="tests")
    with pytest.raises(AccessDeniedError, match=r"'dev@company\.com' may not deploy to production"):
        rollouts.start(MODEL, user="dev@company.com", reason="mine")
    assert current(office.engine, MODEL) is None
    with pytest.raises(AccessDeniedError, match=r"'dev@company\.com' may not deploy to production"):
        rollouts.reset_aa_test(MODEL, user="dev@company.com", reason="never mind")
    rollouts.start(MODEL, user="ops@company.com", reason="theirs")
    with pytest.raises(AccessDeniedError, match=r"'ops@company\.com' may not rollback"):
        rollouts.change(MODEL, "rollback", user="ops@company.com", reason="no")
    denied = [event for event in office.events() if event.event_type == "access_denied"]
    assert [event.user for event in denied] == ["dev@company.com", "dev@company.com", "ops@company.com"]
    assert rollouts.change(MODEL, "rollback", user="sre@company.com", reason="yes").status == "rolled_back"


def test_an_approved_challenger_starts_by_itself_once(tower: Tower) -> None:
    """Started again after an abort, a person's decision would be undone within five minutes."""
    tick = tower.rollouts.tick(MODEL)
    assert (tick.kind, tick.reasons) == ("started", ("1.1.0 starts against 1.0.0",))
    held = tower.rollouts.tick(MODEL)
    assert (held.kind, held.reasons) == (None, ("shadow goes on for 2.0 h more",))
    tower.rollouts.change(MODEL, "abort", **WHO)
    assert tower.rollouts.tick(MODEL).reasons == ("nothing waits for a rollout",)
    assert tower.kinds() == ["started", "aborted"]
    assert [step.user for step in steps(tower.engine)] == ["rollout", WHO["user"]]


def test_too_little_data_holds(tower: Tower) -> None:
    """Passed for want of data is how a version nobody asked comes to everybody."""
    tower.rollouts.tick(MODEL)
    tower.office.clock.instant += timedelta(hours=3)
    held = tower.rollouts.tick(MODEL)
    assert (held.kind, held.reasons) == (None, ("0 requests in the shadow; 1,000 are needed",))
    tower.office.clock.instant += timedelta(hours=72)
    assert [tower.rollouts.tick(MODEL).kind for _ in range(3)] == ["stalled", None, None]
    assert tower.kinds() == ["started", "stalled"]


def test_a_void_approval_ends_it(small_tower: Tower) -> None:
    """What was approved is not what users get any more."""
    small_tower.rollouts.tick(MODEL)
    small_tower.office.write_report(2, gap=4.0)
    tick = small_tower.rollouts.tick(MODEL)
    assert tick.kind == "aborted"
    assert "validation report changed" in tick.reasons[0]
    assert small_tower.aliases() == {"champion": "1.0.0"}


def test_another_champion_ends_it(small_tower: Tower) -> None:
    """Evidence against a champion that is gone says nothing of the one that is there."""
    small_tower.rollouts.tick(MODEL)
    small_tower.office.decide(3, "approved")
    small_tower.registry.promote_to_production(MODEL, "1.2.0", user="mlops", reason="by hand")
    tick = small_tower.rollouts.tick(MODEL)
    assert (tick.kind, tick.reasons) == ("aborted", ("1.2.0 is champion where 1.0.0 was when the rollout started",))


def _spec():
    from mlops_assets_tests.mlflow_runs import SPEC

    return SPEC
