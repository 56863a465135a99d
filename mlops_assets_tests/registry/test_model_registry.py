"""Stages, aliases, promotion and rollback, on both database engines and a real MLflow store."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import Engine, select

from mlops_assets.foundation.audit import champion_at, verify_chain
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import InputError, NotReadyError, PermanentError
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.foundation.trigger import TriggerReason
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets_tests.mlflow_runs import NOW, SPEC, MlflowRuns, approve, dying_at_commit, stage_tags

NAME = SPEC.registered_model
Promote = Callable[[int], str]


@pytest.fixture
def approved(registry: ModelRegistry, engine: Engine, mlflow_runs: MlflowRuns) -> Callable[[int], str]:
    """Register and approve good run i."""

    def register(index: int) -> str:
        semver = registry.register(mlflow_runs.candidate(index), SPEC).semver
        approve(engine, NAME, semver)
        return semver

    return register


@pytest.fixture
def promoted(registry: ModelRegistry, approved: Promote, clock: FixedClock) -> Promote:
    """Register, approve and bring good run i into production."""

    def promote(index: int) -> str:
        semver = approved(index)
        clock.instant += timedelta(hours=1)
        registry.promote_approved(NAME, semver, user="rollout")
        if registry.version(NAME, semver).stage == "Staging":
            registry.promote_to_production(NAME, semver, user="rollout", reason="rollout finished")
        return semver

    return promote


def aliases(registry: ModelRegistry) -> dict[str, str | None]:
    found = {
        "champion": registry.champion(NAME),
        "challenger": registry.challenger(NAME),
        "previous": registry.previous(NAME),
    }
    return {name: version.semver if version else None for name, version in found.items()}


def events(engine: Engine) -> list[tuple[str, str]]:
    with read_transaction(engine) as session:
        assert verify_chain(session).intact
        trail = session.scalars(select(AuditEvent).order_by(AuditEvent.sequence))
        return [(event.event_type, event.version) for event in trail if event.event_type != "model_registered"]


def test_nothing_registered_yet(registry: ModelRegistry) -> None:
    """The first lifecycle asks for a champion that does not exist; that is an answer, not an IndexError."""
    assert registry.champion(NAME) is None
    assert registry.get_latest_version(NAME) is None
    assert registry.versions(NAME) == []
    with pytest.raises(NotReadyError, match="has no champion yet"):
        registry.load_production_model(NAME)
    with pytest.raises(InputError, match=r"has no version 1\.0\.0; registered versions: none"):
        registry.version(NAME, "v1.0.0")


def test_first_version_becomes_champion_and_says_so(
    registry: ModelRegistry, approved: Promote, mlflow_runs: MlflowRuns, engine: Engine
) -> None:
    """Without a champion there is nothing to compare with; version and trail must tell why it went straight in."""
    semver = approved(0)
    version = registry.promote_approved(NAME, semver, user="governance-policy")
    assert version.stage == "Production"
    assert aliases(registry) == {"champion": "1.0.0", "challenger": None, "previous": None}
    (stored,) = MlflowStore(mlflow_runs.tracking_uri).versions(NAME)
    assert stored.tags["first_champion"] == "true"
    assert stored.tags["stage"] == "Production"
    assert stored.tags["production_deployment_date"] == NOW.isoformat()
    with read_transaction(engine) as session:
        event = session.scalars(select(AuditEvent).order_by(AuditEvent.sequence.desc())).first()
        assert event is not None
        assert event.event_type == "model_promoted_to_production"
        assert event.details["first_champion"] is True


def test_second_approved_version_becomes_challenger(
    registry: ModelRegistry, approved: Promote, promoted: Promote
) -> None:
    """With a champion in place nothing goes directly to production."""
    promoted(0)
    semver = approved(1)
    assert registry.promote_approved(NAME, semver, user="governance-policy").stage == "Staging"
    assert aliases(registry) == {"champion": "1.0.0", "challenger": "1.1.0", "previous": None}
    with pytest.raises(PermanentError, match=r"1\.0\.0 is in production"):
        registry.promote_first_champion(NAME, semver, user="governance-policy")


def test_staging_keeps_other_versions_in_staging(registry: ModelRegistry, approved: Promote, promoted: Promote) -> None:
    """A newer candidate must not throw out one whose test still runs."""
    promoted(0)
    for index in (1, 2):
        registry.promote_to_staging(NAME, approved(index), user="governance-policy")
    assert [(v.semver, v.stage) for v in registry.versions(NAME)] == [
        ("1.2.0", "Staging"),
        ("1.1.0", "Staging"),
        ("1.0.0", "Production"),
    ]
    latest = registry.get_latest_version(NAME, "Staging")
    assert latest is not None
    assert latest.semver == "1.2.0"


def test_promotion_archives_the_old_champion_and_keeps_it_for_rollback(
    registry: ModelRegistry, promoted: Promote, mlflow_runs: MlflowRuns, engine: Engine
) -> None:
    """The rollout still needs the old version, and two versions in production are one too many."""
    promoted(0)
    promoted(1)
    assert aliases(registry) == {"champion": "1.1.0", "challenger": None, "previous": "1.0.0"}
    assert stage_tags(mlflow_runs, NAME) == {"1.0.0": "Archived", "1.1.0": "Production"}
    assert events(engine) == [
        ("model_promoted_to_production", "1.0.0"),
        ("model_promoted_to_staging", "1.1.0"),
        ("model_promoted_to_production", "1.1.0"),
    ]
    with read_transaction(engine) as session:
        assert champion_at(session, NAME, NOW) is None
        assert champion_at(session, NAME, NOW + timedelta(hours=1, minutes=1)) == "1.0.0"
        assert champion_at(session, NAME, NOW + timedelta(hours=3)) == "1.1.0"


def test_every_change_is_idempotent(registry: ModelRegistry, promoted: Promote, engine: Engine) -> None:
    """A retried step must neither fail nor write the trail twice."""
    promoted(0)
    promoted(1)
    before = events(engine)
    registry.promote_to_production(NAME, "v1.1.0", user="rollout", reason="again")
    registry.promote_approved(NAME, "1.1.0", user="rollout")
    registry.rollback_model(NAME, "1.0.0", user="sre", reason="errors")
    registry.rollback_model(NAME, "1.0.0", user="sre", reason="errors")
    assert events(engine) == [*before, ("model_rolled_back", "1.0.0")]
    assert aliases(registry)["champion"] == "1.0.0"


@pytest.mark.parametrize("status", [None, "rejected", "requires_review"])
def test_only_approved_versions_move(
    registry: ModelRegistry, engine: Engine, mlflow_runs: MlflowRuns, status: str | None
) -> None:
    """A promotion that checks nothing brings a rejected model to production."""
    semver = registry.register(mlflow_runs.candidate(0), SPEC).semver
    if status is not None:
        approve(engine, NAME, semver, status=status)
    for change in (registry.promote_approved, registry.promote_to_staging, registry.promote_first_champion):
        with pytest.raises(NotReadyError, match="only an approved version goes on"):
            change(NAME, semver, user="somebody")
    with pytest.raises(NotReadyError, match="is in stage None; this step takes Staging"):
        registry.promote_to_production(NAME, semver, user="somebody", reason="impatience")
    assert registry.champion(NAME) is None
    assert stage_tags(mlflow_runs, NAME) == {"1.0.0": "None"}


def test_a_later_rejection_takes_an_approval_back(registry: ModelRegistry, approved: Promote, engine: Engine) -> None:
    """The newest decision counts, not any one ever made."""
    semver = approved(0)
    approve(engine, NAME, semver, status="rejected")
    with pytest.raises(NotReadyError, match="is rejected"):
        registry.promote_approved(NAME, semver, user="somebody")


def test_rollback_goes_to_the_champion_before(
    registry: ModelRegistry, promoted: Promote, mlflow_runs: MlflowRuns, engine: Engine
) -> None:
    """Without a named target the way back is the last champion that was not itself rolled back."""
    for index in range(3):
        promoted(index)
    assert registry.rollback_model(NAME, user="sre", reason="latency").semver == "1.1.0"
    assert aliases(registry) == {"champion": "1.1.0", "challenger": None, "previous": "1.0.0"}
    assert stage_tags(mlflow_runs, NAME) == {"1.0.0": "Archived", "1.1.0": "Production", "1.2.0": "Archived"}
    tags = MlflowStore(mlflow_runs.tracking_uri).versions(NAME)[2].tags
    assert tags["rollback_reason"] == "latency"
    assert registry.rollback_model(NAME, user="sre", reason="still bad").semver == "1.0.0"
    assert aliases(registry)["previous"] is None
    with pytest.raises(NotReadyError, match="has no previous champion"):
        registry.rollback_model(NAME, user="sre", reason="panic")
    with read_transaction(engine) as session:
        details = [
            e.details for e in session.scalars(select(AuditEvent).where(AuditEvent.event_type == "model_rolled_back"))
        ]
    assert [(entry["from_version"], entry["reason"]) for entry in details] == [
        ("1.2.0", "latency"),
        ("1.1.0", "still bad"),
    ]


def test_rollback_takes_former_champions_only(registry: ModelRegistry, promoted: Promote, approved: Promote) -> None:
    """A rollback to a version that never served is a promotion without any check, unless somebody insists."""
    promoted(0)
    never = approved(1)
    with pytest.raises(InputError, match="was never in production"):
        registry.rollback_model(NAME, never, user="sre", reason="typo")
    assert aliases(registry)["champion"] == "1.0.0"
    assert registry.rollback_model(NAME, never, user="sre", reason="knowingly", override=True).semver == "1.1.0"
    with pytest.raises(InputError, match=r"has no version 9\.9\.9; registered versions: 1\.1\.0, 1\.0\.0"):
        registry.rollback_model(NAME, "9.9.9", user="sre", reason="typo")


def test_rollback_with_nothing_in_production(registry: ModelRegistry, promoted: Promote, engine: Engine) -> None:
    """Having no current production used to be an IndexError in the one moment when rollback matters most."""
    from sqlalchemy import update

    from mlops_assets.foundation.database import transaction
    from mlops_assets.foundation.tables import ModelVersionRecord

    promoted(0)
    with transaction(engine) as session:
        session.execute(update(ModelVersionRecord).values(stage="Archived"))
    registry.rollback_model(NAME, "1.0.0", user="sre", reason="outage")
    assert aliases(registry)["champion"] == "1.0.0"
    assert registry.version(NAME, "1.0.0").stage == "Production"


@pytest.mark.parametrize("change", ["promote", "rollback"])
def test_an_interrupted_change_never_leaves_no_champion(
    registry: ModelRegistry, promoted: Promote, approved: Promote, mlflow_runs: MlflowRuns, engine: Engine, change: str
) -> None:
    """Demoting first and promoting second leaves users without a model when the process dies in between."""
    promoted(0)
    promoted(1)
    staged = approved(2)
    registry.promote_to_staging(NAME, staged, user="governance-policy")
    before = events(engine)

    def act() -> str:
        if change == "promote":
            return registry.promote_to_production(NAME, staged, user="rollout", reason="done").semver
        return registry.rollback_model(NAME, user="sre", reason="errors").semver

    with dying_at_commit(engine), pytest.raises(KeyboardInterrupt):
        act()
    assert registry.champion(NAME) is not None
    assert events(engine) == before
    target = act()
    assert aliases(registry)["champion"] == target
    stages = {version.semver: version.stage for version in registry.versions(NAME)}
    assert list(stages.values()).count("Production") == 1
    assert stages[target] == "Production"
    assert stage_tags(mlflow_runs, NAME) == stages
    assert len(events(engine)) == len(before) + 1


def test_an_interrupted_promotion_can_be_given_up(
    registry: ModelRegistry, promoted: Promote, approved: Promote, mlflow_runs: MlflowRuns, engine: Engine
) -> None:
    """After a half promotion a rollback to the version that the database still calls champion has work to do."""
    promoted(0)
    staged = approved(1)
    registry.promote_to_staging(NAME, staged, user="governance-policy")
    with dying_at_commit(engine), pytest.raises(KeyboardInterrupt):
        registry.promote_to_production(NAME, staged, user="rollout", reason="done")
    assert aliases(registry)["champion"] == "1.1.0"
    registry.rollback_model(NAME, "1.0.0", user="sre", reason="half promoted")
    assert aliases(registry)["champion"] == "1.0.0"
    assert stage_tags(mlflow_runs, NAME) == {"1.0.0": "Production", "1.1.0": "Staging"}


def test_archive_and_delete(
    registry: ModelRegistry, promoted: Promote, approved: Promote, mlflow_runs: MlflowRuns
) -> None:
    """The champion and the version to roll back to must survive any cleanup."""
    promoted(0)
    promoted(1)
    spare = approved(2)
    with pytest.raises(PermanentError, match="is the champion"):
        registry.archive(NAME, "1.1.0", user="ops", reason="cleanup")
    with pytest.raises(PermanentError, match="the version to roll back to"):
        registry.mark_deleted(NAME, "1.0.0", user="ops", reason="cleanup")
    with pytest.raises(NotReadyError, match="this step takes Archived"):
        registry.mark_deleted(NAME, spare, user="ops", reason="cleanup")
    registry.archive(NAME, spare, user="ops", reason="superseded")
    assert registry.mark_deleted(NAME, spare, user="ops", reason="retention").stage == "Deleted"
    assert registry.mark_deleted(NAME, spare, user="ops", reason="retention").stage == "Deleted"
    assert stage_tags(mlflow_runs, NAME)[spare] == "Deleted"
    with pytest.raises(NotReadyError, match="is in stage Deleted"):
        registry.promote_to_staging(NAME, spare, user="ops")


def test_loading_by_alias_and_by_version(registry: ModelRegistry, promoted: Promote) -> None:
    """Both ways must give the network that was trained, not any other version's."""
    promoted(0)
    promoted(1)
    states = np.zeros((2, len(SPEC.state_fields)), dtype=np.float32)
    assert (registry.load_production_model(NAME).q_values(states) == 2.0).all()
    assert (registry.load_specific_version(NAME, "v1.0.0").q_values(states) == 1.0).all()


def test_compare_models(registry: ModelRegistry, approved: Promote) -> None:
    """Metrics that only one run logged must not end the comparison, and a lower latency is the better one."""
    approved(0)
    approved(1)
    logged = registry.compare_models(NAME, "1.0.0", "v1.1.0")
    assert (logged.first_version, logged.second_version) == ("1.0.0", "1.1.0")
    assert set(logged.improvement) == {"accuracy", "latency_p95_ms"}
    assert logged.improvement["latency_p95_ms"].better is True
    states = np.zeros((1, len(SPEC.state_fields)), dtype=np.float32)
    measured = registry.compare_models(
        NAME, "1.0.0", "1.1.0", measure=lambda model: {"value": float(model.q_values(states).max())}
    )
    assert (measured.first["value"], measured.second["value"]) == (1.0, 2.0)


def test_notes_cannot_fake_the_life_of_a_version(
    registry: ModelRegistry, approved: Promote, mlflow_runs: MlflowRuns
) -> None:
    """A tag written by hand would contradict the database."""
    semver = approved(0)
    registry.annotate(NAME, semver, {"approval_status": "approved"})
    assert MlflowStore(mlflow_runs.tracking_uri).versions(NAME)[0].tags["approval_status"] == "approved"
    with pytest.raises(InputError, match="tags stage follow from"):
        registry.annotate(NAME, semver, {"stage": "Production"})


def test_stores_that_do_not_belong_together(
    registry: ModelRegistry, approved: Promote, engine: Engine, mlflow_runs: MlflowRuns, clock: FixedClock
) -> None:
    """An alias to a version that the database has never seen points at a wrong setting, and says which."""
    from sqlalchemy import delete

    from mlops_assets.foundation.database import transaction
    from mlops_assets.foundation.tables import ModelVersionRecord

    registry.promote_approved(NAME, approved(0), user="governance-policy")
    with transaction(engine) as session:
        session.execute(delete(ModelVersionRecord))
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI and MLOPS_DATABASE_URL"):
        ModelRegistry(mlflow_runs.tracking_uri, engine, clock).champion(NAME)


def test_promotions_reach_the_audit_log(
    registry: ModelRegistry, promoted: Promote, caplog: pytest.LogCaptureFixture
) -> None:
    """What changes production has to leave the machine with the logs, too."""
    with caplog.at_level(logging.INFO, logger="audit"):
        promoted(0)
    assert any('"event_type":"model_promoted_to_production"' in record.message for record in caplog.records)


def test_a_version_says_why_it_was_trained(registry: ModelRegistry, mlflow_runs: MlflowRuns) -> None:
    """The card of a version that is made again names the later run's cause, or drops what was measured."""
    reason = TriggerReason(trigger_type="drift", reason="PSI 0.41 > 0.3", evidence={"drift_score": 0.41}, request="k")
    semver = registry.register(replace(mlflow_runs.candidate(0), tags=reason.facts()), SPEC).semver
    assert registry.training_reason(NAME, semver) == "drift: PSI 0.41 > 0.3 (drift_score 0.41)"
    later = TriggerReason(trigger_type="manual", reason="once more")
    again = registry.register(replace(mlflow_runs.candidate(0), tags=later.facts()), SPEC)
    assert (again.semver, again.created) == (semver, False)
    assert registry.training_reason(NAME, semver) == "drift: PSI 0.41 > 0.3 (drift_score 0.41)"
    other = registry.register(mlflow_runs.candidate(1), SPEC).semver
    assert registry.training_reason(NAME, other) == "not recorded"
