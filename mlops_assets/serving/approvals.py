"""The HTTP way to approve: what waits, and one approver's vote. Who votes is who the bearer token names.

The server holds no MLflow: what needs no look at the evidence is refused here, a vote that may count is counted by a
process of its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Engine
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.errors import TransientError
from mlops_assets.foundation.settings import Settings
from mlops_assets.governance.approval_requests import ApprovalRequest, approval_requests
from mlops_assets.governance.approval_state import ApprovalRefusedError, Reason
from mlops_assets.governance.approvals import open_approvals
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.serving.boundary import ProblemError
from mlops_assets.serving.forged_votes import Batch, ForgedVotes

PREFIX = "/approvals"
# Two interpreters that import MLflow and read a model from its store, on a busy machine.
_SECONDS = 120.0
_UNAUTHORIZED = 401
_FORGED = frozenset({_UNAUTHORIZED, 429})
_STATUS: Mapping[Reason, tuple[int, str]] = {
    "unknown_version": (404, "Unknown version"),
    "no_request": (404, "No approval request"),
    "wrong_role": (403, "Not a required approver"),
    "own_model": (403, "Own model"),
    "no_comment": (422, "Invalid request"),
    "already_decided": (409, "Already decided"),
    "expired": (409, "Request expired"),
    "evidence_changed": (409, "Evidence changed"),
    "evidence_unreadable": (409, "Evidence not readable"),
    "same_approver_twice": (409, "Voted already"),
}
_FAILED: Mapping[str, tuple[int, str]] = {
    "denied": (403, "Access denied"),
    "input": (422, "Invalid request"),
    "conflict": (409, "Not possible as things stand"),
}


class VoteRequest(BaseModel):
    """One approver's decision on a version."""

    model_config = ConfigDict(extra="forbid", strict=True)

    decision: Literal["approve", "reject"]
    comment: str = Field(min_length=1, max_length=2000, description="What the decision rests on.")


class ApprovalDesk:
    """Requests and votes of one server."""

    def __init__(self, settings: Settings, engine: Engine, readers: Engine) -> None:
        self._readers = readers
        registry = ModelRegistry(settings.tracking_uri, engine, SystemClock())
        self._approvals = open_approvals(settings, engine, SystemClock(), registry)

    def listed(self, *, every: bool) -> list[dict[str, Any]]:
        """Return the open requests, or every one, the newest first."""
        return [document(request) for request in approval_requests(self._readers, open_only=not every)]

    def newest(self, model_name: str, version: str) -> dict[str, Any]:
        """Return the newest request of a version.

        Raises:
            ProblemError: 404, there is none.
        """
        found = approval_requests(self._readers, model_name=model_name, semver=version.removeprefix("v"))
        if not found:
            raise ProblemError(404, "No approval request", f"nobody was asked to decide on {model_name} {version}")
        return document(found[0])

    def vote(self, model_name: str, version: str, approver: str, body: bytes) -> dict[str, Any]:
        """Count a vote and return the request as it is then.

        Raises:
            ProblemError: the body is no vote, the vote does not count, or it meets what a second try would meet again.
            TransientError: a store does not answer.
        """
        asked = _parsed(body)
        try:
            found = self._approvals.refuse_early(
                model_name,
                version,
                approver=approver,
                decision=asked.decision,
                comment=asked.comment,
                channel="http",
            )
        except ApprovalRefusedError as refusal:
            raise _problem(refusal.reason, str(refusal)) from None
        vote = {"model_name": found.model_name, "version": found.semver, "approver": approver, **asked.model_dump()}
        answer = _count(vote)
        if "refused" in answer:
            raise _problem(answer["refused"], answer["message"])
        if "failed" in answer:
            raise _failure(answer["failed"], answer["message"])
        return self.newest(found.model_name, found.semver)


def document(request: ApprovalRequest) -> dict[str, Any]:
    """Return a request as the API shows it."""
    facts = asdict(request)
    version = facts.pop("semver")
    return {**facts, "version": version, "awaited": request.awaited, "approved_by": request.approved_by}


def voter(scope: Scope) -> str:
    """Return who the bearer token names.

    Raises:
        ProblemError: 401, there is no valid token; an approval needs one also where decisions do not.
    """
    client = scope.get("state", {}).get("client")
    if not client:
        raise ProblemError(
            _UNAUTHORIZED,
            "Unauthorized",
            "an approval needs a bearer token that names the approver, unknown, expired and revoked ones do not: "
            "python -m mlops_assets.serving.tokens create <approver's address>",
        )
    return str(client)


class ForgedTokens:
    """Counts the votes that come under a token that is not valid.

    Those over the rate of their address are among them: a valid token is not held to it, so the answer told them apart.
    """

    def __init__(self, app: ASGIApp, votes: ForgedVotes) -> None:
        self._app = app
        self._votes = votes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and look at the status of votes."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(f"{PREFIX}/"):
            await self._app(scope, receive, send)
            return
        first: Batch | None = None

        async def watched(message: Message) -> None:
            nonlocal first
            # Before the answer is sent: a client that does not wait for it is counted as well.
            if message["type"] == "http.response.start" and _forged(scope, message["status"]):
                first = self._count(scope)
            await send(message)

        await self._app(scope, receive, watched)
        if first is not None:
            await anyio.to_thread.run_sync(self._votes.write_first, first, abandon_on_cancel=True)

    def _count(self, scope: Scope) -> Batch | None:
        model_name, _, version = scope["path"].removeprefix(f"{PREFIX}/").partition("/")
        return self._votes.count(model_name, version, scope["client"][0] if scope.get("client") else "")


def _forged(scope: Scope, status: int) -> bool:
    named = scope.get("state", {}).get("client") is not None
    return status in _FORGED and not named and any(name == b"authorization" for name, _ in scope["headers"])


def _parsed(body: bytes) -> VoteRequest:
    try:
        return VoteRequest.model_validate_json(body)
    except ValidationError as error:
        errors = [
            {"field": ".".join(map(str, one["loc"])) or "body", "message": one["msg"]}
            for one in error.errors(include_url=False)
        ]
        detail = "; ".join(f"{one['field']}: {one['message']}" for one in errors)
        raise ProblemError(422, "Invalid request", detail, errors=errors) from None


def _problem(reason: Reason, message: str) -> ProblemError:
    status, title = _STATUS[reason]
    return ProblemError(status, title, message)


def _failure(kind: str, message: str) -> Exception:
    """Return what the vote's process ran into, as this server raises it."""
    if kind == "transient":
        return TransientError(message)
    if kind in _FAILED:
        status, title = _FAILED[kind]
        return ProblemError(status, title, message)
    # The deployment is set up wrong, which is no client's business: its log has the message.
    return RuntimeError(f"the vote's process cannot work: {message}")


def _count(vote: Mapping[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "mlops_assets.governance.vote_process"]
    try:
        done = subprocess.run(  # noqa: S603 - own code
            command,
            input=json.dumps(vote),
            env=dict(os.environ),
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise TransientError(f"no answer within {_SECONDS:g} s; the vote may have been counted: look first") from None
    if done.returncode != 0:
        raise RuntimeError(f"the vote's process failed: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
