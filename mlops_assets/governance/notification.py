"""What approvers are told of a request, and where it can be decided. How messages are sent is `foundation/messages.py`'s."""

from collections.abc import Callable

from mlops_assets.foundation.messages import Message, Way, message_ways
from mlops_assets.foundation.settings import Settings
from mlops_assets.governance.approval_requests import ApprovalRequest


def notifiers(settings: Settings) -> dict[str, Callable[[ApprovalRequest], None]]:
    """Return what tells the approvers of a request, by the name of the way; empty when none is set.

    Raises:
        SettingsError: a way is set to something else than its URL.
    """
    return {name: _teller(settings, way) for name, way in message_ways(settings).items()}


def link(settings: Settings, request: ApprovalRequest) -> str:
    """Return where the request can be read and decided on."""
    base = settings.approvals_url or f"http://{settings.serving_host}:{settings.serving_port}"
    return f"{base.rstrip('/')}/approvals/{request.model_name}/{request.semver}"


def message_of(request: ApprovalRequest, url: str) -> Message:
    """Say what is asked, of whom, why, and until when; to every approver who may still vote."""
    asked = f"{request.model_name} {request.semver} needs {request.min_approvals} approvals"
    of_whom = f"{', '.join(request.required_approvers)} until {request.expires_at:%Y-%m-%d %H:%M} UTC"
    reasons = [f"- {reason}" for reason in request.reasons]
    return Message(
        subject=f"Approval needed: {request.model_name} {request.semver}",
        text="\n".join([f"{asked} of {of_whom}.", *reasons, url]),
        recipients=tuple(request.awaited or request.required_approvers),
    )


def _teller(settings: Settings, way: Way) -> Callable[[ApprovalRequest], None]:
    return lambda request: way(message_of(request, link(settings, request)))
