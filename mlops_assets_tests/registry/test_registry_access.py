"""Roles where versions move: every way that a person moves one asks for the permission, and a refusal changes nothing."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, select

from mlops_assets.foundation.access import AccessControl
from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import AccessDeniedError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets_tests.mlflow_runs import SPEC, MlflowRuns, approve, stage_tags

NAME = SPEC.registered_model
POLICY = load_profile("aiwebtest").access
PEOPLE = {"eve": ("ml_engineer",), "ops": ("mlops",), "night": ("sre",)}


@pytest.fixture
def guarded(mlflow_runs: MlflowRuns, engine: Engine, clock: FixedClock) -> ModelRegistry:
    """A registry with a role table, a champion 1.0.0 and an approved 1.1.0."""
    access = AccessControl(PEOPLE, POLICY.services, POLICY.permissions)  # type: ignore[arg-type]
    registry = ModelRegistry(mlflow_runs.tracking_uri, engine, clock, access)
    for index in range(2):
        approve(engine, NAME, registry.register(mlflow_runs.candidate(index), SPEC).semver)
    # What was approved takes its place without any role: the approval is the permission.
    registry.promote_approved(NAME, "1.0.0", user="governance-policy")
    return registry


@pytest.mark.parametrize(
    ("move", "permission", "refused"),
    [
        (lambda r, user: r.promote_to_staging(NAME, "1.1.0", user=user), "deploy_staging", ("night", "x")),
        (
            lambda r, user: r.promote_to_production(NAME, "1.1.0", user=user, reason="r"),
            "deploy_production",
            ("eve", "night", "x"),
        ),
        (
            lambda r, user: r.promote_first_champion(NAME, "1.0.0", user=user),
            "deploy_production",
            ("eve", "night", "x"),
        ),
        (lambda r, user: r.rollback_model(NAME, "1.0.0", user=user, reason="r"), "rollback", ("eve", "ops", "x")),
        (
            lambda r, user: r.archive(NAME, "1.1.0", user=user, reason="r"),
            "deploy_production",
            ("eve", "night", "x" * 300),
        ),
        (
            lambda r, user: r.mark_deleted(NAME, "1.1.0", user=user, reason="r"),
            "deploy_production",
            ("eve", "night", "x"),
        ),
    ],
)
def test_who_has_no_role_moves_nothing(
    guarded: ModelRegistry,
    engine: Engine,
    mlflow_runs: MlflowRuns,
    move: Callable[[ModelRegistry, str], object],
    permission: str,
    refused: tuple[str, ...],
) -> None:
    """One of the ways around the commands forgets to ask."""
    before = stage_tags(mlflow_runs, NAME)
    for user in refused:
        with pytest.raises(AccessDeniedError, match="may not"):
            move(guarded, user)
    assert stage_tags(mlflow_runs, NAME) == before
    with read_transaction(engine) as session:
        assert verify_chain(session).intact
        denied = session.scalars(select(AuditEvent).where(AuditEvent.event_type == "access_denied")).all()
    assert [event.user for event in denied] == [user[:255] for user in refused]
    assert {event.details["permission"] for event in denied} == {permission}


def test_who_has_the_role_moves_it(guarded: ModelRegistry) -> None:
    """Roles that let nobody through are switched off within a week."""
    guarded.promote_to_staging(NAME, "1.1.0", user="eve")
    guarded.promote_to_production(NAME, "1.1.0", user="ops", reason="r")
    guarded.rollback_model(NAME, user="night", reason="r")
    guarded.mark_deleted(NAME, guarded.version(NAME, "1.1.0").semver, user="rollout", reason="r")
    champion = guarded.champion(NAME)
    assert champion is not None
    assert champion.semver == "1.0.0"
