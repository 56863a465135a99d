"""When a version is approved, and who may do what."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mlops_assets.foundation.policies.base import EmailAddress, Finite, Positive, Section, Share

Role = Literal["ml_engineer", "mlops", "sre"]
Roles = Annotated[tuple[Role, ...], Field(strict=False)]
Permission = Literal["deploy_staging", "deploy_production", "rollback", "scale"]


class GovernancePolicy(Section):
    """When a registered version is approved, waits for people, or is rejected. All limits are inclusive.

    `min_improvement_percent`: relative to the champion's accuracy. `min_off_policy_gain`: reward of an episode by which
    the lower bound of the version's `avg_reward` has to exceed what was earned on the logged episodes; None is no such
    check. `high_risk_accuracy_drop`: absolute, as a share.
    `min_approvals`: how many of the required approvers have to approve; a request ends after `approval_expiry_hours`.
    """

    min_accuracy: Share
    max_latency_ms: Positive
    min_improvement_percent: Finite
    min_off_policy_gain: Finite | None
    high_risk_accuracy_drop: Share
    high_risk_new_architecture: bool
    auto_approve_low_risk: bool
    required_approvers_high_risk: Annotated[tuple[EmailAddress, ...], Field(min_length=1, strict=False)]
    min_approvals: Annotated[int, Field(ge=1)]
    approval_expiry_hours: Positive

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        distinct = {address.casefold() for address in self.required_approvers_high_risk}
        if self.min_approvals > len(distinct):
            raise ValueError(
                f"min_approvals {self.min_approvals} is more than the {len(distinct)} distinct "
                "required_approvers_high_risk"
            )
        return self


class AccessPolicy(Section):
    """Who may do what to versions: people and services have roles, roles have permissions.

    `roles`: by the name that a person acts under; empty is no role table. `services`: the same for the platform's own
    automation, whose names no person may use.
    """

    roles: dict[str, Roles]
    services: dict[str, Roles]
    permissions: dict[Role, Annotated[tuple[Permission, ...], Field(strict=False)]]
