"""Who may do what to model versions: roles as data, from the deployment's table and the policy profile.

A name is believed as the way in gives it: the HTTP API takes it from the bearer token, the command line and Dagster from
whoever can reach the operational database anyway.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from mlops_assets.foundation.errors import AccessDeniedError, InputError, SettingsError
from mlops_assets.foundation.policies import AccessPolicy, Permission, Role, Roles
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import Settings

_TABLE = TypeAdapter(dict[str, Roles], config=ConfigDict(strict=True))


@dataclass(frozen=True)
class AccessControl:
    """Roles by person and by service, and permissions by role.

    Without a role table (`people` is empty) everybody may do everything, as on a laptop, unless `required` says that the
    deployment needs one; then only services may.
    """

    people: Mapping[str, tuple[Role, ...]]
    services: Mapping[str, tuple[Role, ...]]
    permissions: Mapping[Role, tuple[Permission, ...]]
    required: bool = False

    def allows(self, user: str, permission: Permission) -> bool:
        """Tell whether a person or service may do this."""
        if not self.people and not self.required:
            return True
        name = user.strip().casefold()
        roles = {**_folded(self.people), **_folded(self.services)}.get(name, ())
        return any(permission in self.permissions.get(role, ()) for role in roles)

    def require(self, user: str, permission: Permission) -> None:
        """Let who may do this pass.

        Raises:
            AccessDeniedError: somebody else; the message names the roles and people who may.
        """
        if self.allows(user, permission):
            return
        roles = [role for role, granted in self.permissions.items() if permission in granted]
        holders = sorted(person for person, held in self.people.items() if set(held) & set(roles))
        who = f"held by {', '.join(holders)}" if holders else "which nobody holds: name people in MLOPS_ROLES_FILE"
        raise AccessDeniedError(
            f"{user!r} may not {permission.replace('_', ' to ')}; that takes the role {' or '.join(roles)}, {who}"
        )

    def require_person(self, user: str) -> None:
        """Refuse nobody, and somebody who acts under the name of a service.

        Raises:
            InputError: the name is empty, or a service's.
        """
        if not user.strip():
            raise InputError("nobody is named as user; give the name of who answers for it, such as mlops@company.com")
        if user.strip().casefold() in _folded(self.services):
            raise InputError(f"{user!r} is the name of a service of this platform; act under your own name")


def access_control(settings: Settings) -> AccessControl:
    """Return the access control of a deployment: its role table over the profile's; production needs one.

    Raises:
        SettingsError: the role table cannot be read, or holds an unknown role.
    """
    policy: AccessPolicy = load_profile(settings.policy_profile).access
    people = policy.roles if settings.roles_file is None else _read_table(settings.roles_file)
    return AccessControl(people, policy.services, policy.permissions, required=settings.environment == "production")


def _folded(roles: Mapping[str, tuple[Role, ...]]) -> dict[str, tuple[Role, ...]]:
    return {name.strip().casefold(): held for name, held in roles.items()}


def _read_table(file: Path) -> dict[str, tuple[Role, ...]]:
    expected = "expected lines such as `mlops@company.com: [mlops]`, with the roles ml_engineer, mlops, sre"
    try:
        return _TABLE.validate_python(yaml.safe_load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"MLOPS_ROLES_FILE={file}: {error.strerror}; {expected}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"MLOPS_ROLES_FILE={file} is not YAML ({error}); {expected}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'table'}: {one['msg']}" for one in error.errors(include_url=False)
        )
        raise SettingsError(f"MLOPS_ROLES_FILE={file}: {problems}; {expected}") from error
