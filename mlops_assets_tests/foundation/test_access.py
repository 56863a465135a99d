"""Roles: who may do what, and what is refused by name."""

from pathlib import Path

import pytest

from mlops_assets.foundation.access import AccessControl, access_control
from mlops_assets.foundation.errors import AccessDeniedError, InputError, SettingsError
from mlops_assets.foundation.policies import Permission
from mlops_assets.foundation.settings import Settings

TABLE = """
eve@company.com: [ml_engineer]
mlops@company.com: [mlops]
night@company.com: [sre]
"""


@pytest.fixture
def access(tmp_path: Path) -> AccessControl:
    file = tmp_path / "roles.yaml"
    file.write_text(TABLE, encoding="utf-8")
    return access_control(Settings(roles_file=file))


@pytest.mark.parametrize(
    ("user", "allowed"),
    [
        ("eve@company.com", {"deploy_staging"}),
        (" MLOps@company.com", {"deploy_staging", "deploy_production"}),
        ("night@company.com", {"rollback", "scale"}),
        ("rollout", {"deploy_staging", "deploy_production", "rollback", "scale"}),
        ("stranger@company.com", set()),
        ("", set()),
    ],
)
def test_roles_of_the_default_profile(access: AccessControl, user: str, allowed: set[str]) -> None:
    """An engineer who may stage puts a model in front of all users."""
    everything: tuple[Permission, ...] = ("deploy_staging", "deploy_production", "rollback", "scale")
    assert {permission for permission in everything if access.allows(user, permission)} == allowed


def test_a_refusal_says_who_may(access: AccessControl) -> None:
    """A bare refusal sends people looking for somebody to ask."""
    with pytest.raises(AccessDeniedError) as caught:
        access.require("eve@company.com", "rollback")
    assert str(caught.value) == (
        "'eve@company.com' may not rollback; that takes the role sre, held by night@company.com"
    )


def test_without_a_table_a_laptop_is_open_and_production_is_not() -> None:
    """A production without roles would let everybody deploy; a first try on a laptop must not fail on a missing file."""
    policy = access_control(Settings())
    assert policy.allows("ana", "deploy_production")
    closed = AccessControl({}, policy.services, policy.permissions, required=True)
    assert closed.allows("rollout", "deploy_production")
    with pytest.raises(AccessDeniedError, match="which nobody holds: name people in MLOPS_ROLES_FILE"):
        closed.require("ana", "deploy_production")


def test_nobody_acts_as_a_service(access: AccessControl) -> None:
    """Whoever calls themselves `rollout` may do everything."""
    access.require_person("eve@company.com")
    for nobody in ("", "  "):
        with pytest.raises(InputError, match="nobody is named as user"):
            access.require_person(nobody)
    with pytest.raises(InputError, match="'Rollout' is the name of a service"):
        access.require_person("Rollout")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eve@company.com: [root]", r"eve@company\.com\.0: Input should be"),
        ("eve@company.com: mlops", r"eve@company\.com: Input should be a valid tuple"),
        ("- eve", "table: Input should be a valid dictionary"),
        ("a: [", "is not YAML"),
        (None, "No such file"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    """A role that is misspelt must not leave the door open, nor everybody out without a word."""
    file = tmp_path / "roles.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=message) as caught:
        access_control(Settings(roles_file=file))
    assert "mlops@company.com: [mlops]" in str(caught.value)
