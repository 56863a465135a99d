"""The door of the serving API: how large a request may be, who sends it, and how many a second. Not what it asks for.

A plain ASGI middleware, since every decision passes through it. Limits are kept by process: with n workers a client gets
up to n times its rate.
"""

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.policies import ServingPolicy
from mlops_assets.serving.problems import problem_response
from mlops_assets.serving.tokens import ApiToken

# What an orchestrator asks. Not limited either: behind address translation its probes share an address with everybody.
OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})
_SCHEME: Final = b"bearer "
_CHALLENGE: Final = 'Bearer realm="mlops"'
# Of some 100 bytes each; who was not heard of longest is forgotten first, and starts with a full bucket again.
_MAX_BUCKETS: Final = 10_000
# Tokens expire in real time, also where decisions take place in that of the data.
_CLOCK: Final = SystemClock()


class TokenBuckets:
    """One token bucket for each client, at most `clients` of them; time is passed in, in monotonic seconds.

    Kept as one number, the time at which the bucket is full again (the generic cell rate algorithm, ITU-T I.371).
    """

    def __init__(self, clients: int = _MAX_BUCKETS) -> None:
        self._clients = clients
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, client: str, *, rate_per_second: float, burst_seconds: float, now: float) -> float:
        """Take one request out of a client's bucket, which holds what `burst_seconds` fill, one request at least.

        Returns:
            Seconds until there is one again, 0 when there was one.
        """
        interval = 1.0 / rate_per_second
        full_at = max(self._full_at.get(client, now), now) + interval
        wait = full_at - now - max(burst_seconds, interval)
        # Sums of intervals are rounded; a client at exactly its rate must not be refused for that.
        if wait > interval * 1e-6:
            return wait
        self._full_at[client] = full_at
        self._full_at.move_to_end(client)
        if len(self._full_at) > self._clients:
            self._full_at.popitem(last=False)
        return 0.0

    def __len__(self) -> int:
        """Number of buckets kept."""
        return len(self._full_at)


class Guard:
    """Refuses with 401, 413, 429, or 503 before tokens are known.

    What passes carries the token's name in `scope["state"]["client"]`, None without.

    Args:
        app: what is guarded.
        authenticated: whether a token is needed, for everything but `OPEN_PATHS`.
        tokens: the valid tokens by the sha256 of their text, None while they are not known; called at every request.
        policy: `max_body_bytes`, `rate_per_second`, `rate_burst`.
        monotonic: seconds for the rate limit.
        now: time by which tokens expire.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticated: bool,
        tokens: Callable[[], Mapping[str, ApiToken] | None],
        policy: ServingPolicy,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = _CLOCK.now,
    ) -> None:
        self._app = app
        self._authenticated = authenticated
        self._tokens = tokens
        self._max_body_bytes = policy.max_body_bytes
        self._rate = policy.rate_per_second
        self._burst_seconds = policy.rate_burst / policy.rate_per_second
        self._monotonic = monotonic
        self._now = now
        # Apart, so that strangers cannot push a token's bucket out.
        self._token_buckets = TokenBuckets()
        self._address_buckets = TokenBuckets()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request pass, or refuse it."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        length, credentials = _headers(scope)
        token = None if credentials is None else self._token(credentials)
        scope.setdefault("state", {})["client"] = None if token is None else token.name
        refusal = None if scope["path"] in OPEN_PATHS else self._refusal(scope, token, credentials)
        if refusal is None and length is not None:
            refusal = self._too_long(length)
        if refusal is not None:
            await refusal(scope, receive, send)
        elif length is None:
            await _counted(self._app, scope, receive, send, limit=self._max_body_bytes)
        else:
            # The server reads no more of a body than was announced.
            await self._app(scope, receive, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:  # no web socket is served, and none may lead around the token
            await send({"type": "websocket.close", "code": 1008})

    def _token(self, credentials: bytes) -> ApiToken | None:
        if credentials[: len(_SCHEME)].lower() != _SCHEME:
            return None
        # Looked up by its hash, so timing tells nothing about the text.
        token = (self._tokens() or {}).get(hashlib.sha256(credentials[len(_SCHEME) :]).hexdigest())
        if token is None or (token.expires_at is not None and token.expires_at <= self._now()):
            return None
        return token

    def _refusal(self, scope: Scope, token: ApiToken | None, credentials: bytes | None) -> Response | None:
        if self._tokens() is None:
            # A valid token would be called unknown, and users of an experiment be given the control.
            return _not_ready()
        now = self._monotonic()
        if token is not None:
            rate = token.rate_per_second or self._rate
            wait = self._token_buckets.take(
                token.name, rate_per_second=rate, burst_seconds=self._burst_seconds, now=now
            )
        else:
            rate = self._rate
            address = scope["client"][0] if scope.get("client") else ""
            wait = self._address_buckets.take(address, rate_per_second=rate, burst_seconds=self._burst_seconds, now=now)
        if wait:
            return _too_many(rate, wait)
        return _unauthorized(credentials) if self._authenticated and token is None else None

    def _too_long(self, length: bytes) -> Response | None:
        if not length.isdigit():
            return problem_response(400, "Bad Request", "Content-Length is no number", headers=_CLOSE)
        return _too_large(self._max_body_bytes) if int(length) > self._max_body_bytes else None


# The rest of the body is not read, so the connection cannot carry another request.
_CLOSE: Final = {"Connection": "close"}


def _headers(scope: Scope) -> tuple[bytes | None, bytes | None]:
    """Return Content-Length and Authorization, None where they are not sent; two Authorizations are none that is valid."""
    length = credentials = None
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = value
        elif name == b"authorization":
            credentials = value if credentials is None else b""
    return length, credentials


async def _counted(app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, limit: int) -> None:
    """Run the app on a body of unknown length; beyond the limit the client gets a 413, and the app a disconnect."""
    received = 0
    started = answered = False

    async def counted() -> Message:
        nonlocal received, answered
        if answered:
            return {"type": "http.disconnect"}
        message = await receive()
        received += len(message.get("body", b""))
        if received <= limit:
            return message
        answered = True
        if not started:
            await _too_large(limit)(scope, receive, send)
        return {"type": "http.disconnect"}

    async def unless_answered(message: Message) -> None:
        nonlocal started
        if not answered:
            started = True
            await send(message)

    try:
        await app(scope, counted, unless_answered)
    except ClientDisconnect:
        if not answered:
            raise


def _too_large(limit: int) -> Response:
    detail = f"the request's body is longer than {limit} bytes; send fewer requests at once"
    return problem_response(413, "Content Too Large", detail, headers=_CLOSE)


def _too_many(rate: float, wait: float) -> Response:
    detail = f"more than {rate:g} requests a second; wait as long as Retry-After says"
    return problem_response(429, "Too Many Requests", detail, headers={"Retry-After": str(max(1, math.ceil(wait)))})


def _not_ready() -> Response:
    detail = "the server has just started and does not know its tokens and traffic splits yet; try again"
    return problem_response(503, "Not ready", detail, headers={"Retry-After": "1"})


def _unauthorized(credentials: bytes | None) -> Response:
    if credentials is None:
        return problem_response(
            401,
            "Unauthorized",
            "no token; send the header Authorization: Bearer <token>",
            headers={"WWW-Authenticate": _CHALLENGE},
        )
    return problem_response(
        401,
        "Unauthorized",
        "the token is unknown, expired or revoked; ask an operator for a new one",
        headers={"WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"'},
    )
