"""The door of the serving API: tokens, rates, sizes; as a function, and behind a real server."""

import itertools
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlops_assets.foundation.policies import ServingPolicy
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.serving.guard import Guard, TokenBuckets
from mlops_assets.serving.problems import PROBLEM_MEDIA_TYPE
from mlops_assets.serving.tokens import ApiToken, token_hash
from mlops_assets_tests.serving.live import run_async
from mlops_assets_tests.serving.loopback import served

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
SECRET = "mlops_" + "x" * 43
LIMIT = 2048


def policy(**changes: Any) -> ServingPolicy:
    """The default profile's, with small numbers."""
    small = {"rate_per_second": 2.0, "rate_burst": 4, "max_body_bytes": LIMIT}
    return load_profile("aiwebtest").serving.model_copy(update={**small, **changes})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that reads everything and answers with what it got."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = json.dumps({"client": scope["state"]["client"], "size": size}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Door:
    """A guard in front of `echo`, with time to set."""

    def __init__(self, *, app: ASGIApp = echo, authenticated: bool = True, **changes: Any) -> None:
        self.seconds = 100.0
        self.now = NOW
        self.tokens: dict[str, ApiToken] | None = {token_hash(SECRET): ApiToken("ci", None, None)}
        self.guard = Guard(
            app,
            authenticated=authenticated,
            tokens=lambda: self.tokens,
            policy=policy(**changes),
            monotonic=lambda: self.seconds,
            now=lambda: self.now,
        )

    def ask(
        self,
        path: str = "/predict",
        *,
        token: str | None = SECRET,
        headers: list[tuple[bytes, bytes]] | None = None,
        chunks: list[bytes] | None = None,
        address: str = "10.0.0.1",
    ) -> httpx.Response:
        """Send one request; `chunks` go without Content-Length."""
        fields = list(headers or [])
        if token is not None:
            fields.append((b"authorization", f"Bearer {token}".encode()))
        scope: Scope = {"type": "http", "path": path, "headers": fields, "client": (address, 1), "method": "POST"}
        incoming = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks or []]
        incoming.append({"type": "http.request", "body": b"", "more_body": False})
        sent: list[Message] = []

        async def receive() -> Message:
            return incoming.pop(0)

        async def send(message: Message) -> None:
            sent.append(message)

        run_async(self.guard(scope, receive, send))
        self.unread = len(incoming)
        starts = [message for message in sent if message["type"] == "http.response.start"]
        assert len(starts) == 1
        body = b"".join(message.get("body", b"") for message in sent)
        return httpx.Response(starts[0]["status"], headers=starts[0]["headers"], content=body)


def is_problem(response: httpx.Response, status: int) -> bool:
    """Whether the response is the problem that its status says."""
    assert response.headers["content-type"] == PROBLEM_MEDIA_TYPE
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail"}
    return bool(response.status_code == body["status"] == status)


def test_before_tokens_are_known_nobody_is_told_that_his_is_not() -> None:
    """After a restart, clients with a valid token are told for good that it was revoked."""
    door = Door()
    door.tokens = None
    refused = door.ask()
    assert is_problem(refused, 503)
    assert refused.headers["Retry-After"] == "1"
    assert door.ask("/livez").status_code == 200
    door.tokens = {token_hash(SECRET): ApiToken("ci", None, None)}
    assert door.ask().status_code == 200


def test_a_valid_token_passes_and_is_named() -> None:
    """The log could not say whose request it was."""
    response = Door().ask()
    assert (response.status_code, response.json()) == (200, {"client": "ci", "size": 0})


@pytest.mark.parametrize(
    ("token", "headers"),
    [
        (None, []),
        ("wrong", []),
        ("", []),
        (SECRET + " ", []),
        (SECRET[:-1], []),
        (None, [(b"authorization", SECRET.encode())]),
        (None, [(b"authorization", b"Basic " + SECRET.encode())]),
        (SECRET, [(b"authorization", b"Bearer " + SECRET.encode())]),
        (None, [(b"authorization", b"Bearer \xff\xfe")]),
    ],
)
def test_anything_else_is_refused(token: str | None, headers: list[tuple[bytes, bytes]]) -> None:
    """A prefix, another scheme, or one of two headers would open the door."""
    response = Door().ask(token=token, headers=headers)
    assert is_problem(response, 401)
    assert response.headers["www-authenticate"].startswith('Bearer realm="mlops"')
    assert SECRET not in response.text


def test_the_scheme_is_case_insensitive() -> None:
    """RFC 9110 lets a client write `bearer`."""
    assert Door().ask(token=None, headers=[(b"authorization", b"bEARER " + SECRET.encode())]).status_code == 200


def test_only_the_probes_are_open() -> None:
    """An orchestrator has no token; metrics and documentation are not for strangers."""
    door = Door(rate_burst=100)
    for path in ("/livez", "/readyz"):
        assert door.ask(path, token=None).status_code == 200
    for path in (
        "/",
        "/metrics",
        "/health",
        "/docs",
        "/openapi.json",
        "/livez/",
        "//livez",
        "/LIVEZ",
        "/livez/../predict",
    ):
        assert is_problem(door.ask(path, token=None), 401)


def test_probes_are_never_limited() -> None:
    """Strangers behind the probes' address would have the server restarted."""
    door = Door()
    refused = [door.ask(token=None).status_code for _ in range(20)]
    assert refused[-1] == 429
    assert {door.ask("/livez", token=None).status_code for _ in range(50)} == {200}


def test_revoked_and_expired_tokens_are_refused_at_once() -> None:
    """The picture of the tokens is up to a second old; an end in it holds all the same."""
    door = Door()
    door.tokens = {token_hash(SECRET): ApiToken("ci", None, NOW + timedelta(seconds=1))}
    assert door.ask().status_code == 200
    door.now = NOW + timedelta(seconds=1)
    assert is_problem(door.ask(), 401)
    door.now, door.tokens = NOW, {}
    assert is_problem(door.ask(), 401)


def test_without_authentication_everybody_passes_and_tokens_still_count() -> None:
    """A laptop's server would ask for tokens, or forget the rate that one of them has."""
    door = Door(authenticated=False)
    assert door.ask(token=None).json()["client"] is None
    assert door.ask(token="wrong").json()["client"] is None
    assert door.ask().json()["client"] == "ci"


def test_the_burst_then_the_rate() -> None:
    """One client's loop would take the server from everybody."""
    door = Door()
    assert [door.ask().status_code for _ in range(6)] == [200, 200, 200, 200, 429, 429]
    response = door.ask()
    assert is_problem(response, 429)
    assert response.headers["retry-after"] == "1"
    door.seconds += 0.5
    assert [door.ask().status_code for _ in range(2)] == [200, 429]
    door.seconds += 3600.0
    assert [door.ask().status_code for _ in range(5)] == [200, 200, 200, 200, 429]


def test_who_waits_as_told_is_let_in() -> None:
    """A Retry-After that is too short makes an honest client fail again and again."""
    door = Door()
    door.tokens = {token_hash(SECRET): ApiToken("slow", 0.1, None)}
    assert door.ask().status_code == 200
    wait = int(door.ask().headers["retry-after"])
    assert wait == 10
    door.seconds += wait
    assert [door.ask().status_code for _ in range(2)] == [200, 429]


def test_each_client_has_its_own_bucket() -> None:
    """One client's flood would be everybody's 429."""
    door = Door(authenticated=False)
    door.tokens[token_hash("mlops_other")] = ApiToken("other", None, None)
    assert [door.ask(token=None).status_code for _ in range(5)][-1] == 429
    assert door.ask(token=None, address="10.0.0.2").status_code == 200
    assert door.ask().status_code == 200
    assert door.ask(token="mlops_other").status_code == 200


def test_a_tokens_own_rate_counts() -> None:
    """A rate that was agreed on would be the profile's instead."""
    door = Door()
    door.tokens = {token_hash(SECRET): ApiToken("fast", 10.0, None)}
    # The same two seconds of burst as the profile's 4 at 2/s.
    assert [door.ask().status_code for _ in range(21)] == [200] * 20 + [429]


def test_guessing_tokens_is_limited_by_address() -> None:
    """A flood of wrong tokens would be answered without end."""
    door = Door()
    statuses = [door.ask(token=f"mlops_{n}").status_code for n in range(6)]
    assert statuses == [401, 401, 401, 401, 429, 429]
    assert door.ask().status_code == 200


def test_buckets_are_bounded_and_the_eldest_goes() -> None:
    """Every address of a botnet would stay in memory."""
    buckets = TokenBuckets(clients=3)
    for client in ("a", "b", "c", "a", "d"):
        buckets.take(client, rate_per_second=1.0, burst_seconds=2.0, now=0.0)
    assert len(buckets) == 3
    # a was heard of twice: its bucket is empty. b was pushed out and starts again.
    assert buckets.take("a", rate_per_second=1.0, burst_seconds=2.0, now=0.0) == pytest.approx(1.0)
    assert buckets.take("b", rate_per_second=1.0, burst_seconds=2.0, now=0.0) == 0.0


@given(
    rate=st.floats(0.1, 5000.0),
    burst=st.integers(1, 1000),
    gaps=st.lists(st.floats(0.0, 2.0), min_size=1, max_size=60),
)
def test_the_bucket_is_a_token_bucket(rate: float, burst: int, gaps: list[float]) -> None:
    """One number instead of level and time would let more through, or less, than the bucket of the textbook."""
    buckets, now, level = TokenBuckets(), 1000.0, float(burst)
    for gap in gaps:
        now += gap
        level = min(float(burst), level + gap * rate)
        passed = buckets.take("c", rate_per_second=rate, burst_seconds=burst / rate, now=now) == 0.0
        if abs(level - 1.0) > 1e-3:  # there rounding decides
            assert passed == (level > 1.0)
        level -= passed


def test_an_announced_body_that_is_too_long_is_not_read() -> None:
    """A gigabyte would be read before it is refused."""
    door = Door()
    response = door.ask(headers=[(b"content-length", str(LIMIT + 1).encode())], chunks=[b"x" * 10])
    assert is_problem(response, 413)
    assert response.headers["connection"] == "close"
    assert door.unread == 2
    assert door.ask(headers=[(b"content-length", str(LIMIT).encode())], chunks=[b"x" * LIMIT]).json()["size"] == LIMIT


@pytest.mark.parametrize("length", [b"-1", b"1e3", b"", b"0x10", "²".encode()])
def test_a_length_that_is_no_number_is_refused(length: bytes) -> None:
    """A traceback, answered with a 500."""
    assert is_problem(Door().ask(headers=[(b"content-length", length)]), 400)


def test_chunks_are_counted_and_the_rest_is_not_read() -> None:
    """A body without an announced length would go around the limit."""
    door = Door()
    assert door.ask(chunks=[b"x" * 1024, b"x" * 1024]).json()["size"] == LIMIT
    response = door.ask(chunks=[b"x" * 1024, b"x" * 1024, b"x", b"x", b"x"])
    assert is_problem(response, 413)
    assert door.unread == 3


def test_without_a_token_the_size_is_not_told() -> None:
    """A stranger could make the server look at bodies."""
    assert is_problem(Door().ask(token=None, headers=[(b"content-length", b"999999")]), 401)


def test_a_framework_that_hides_the_disconnect_cannot_answer_over_the_refusal() -> None:
    """FastAPI turns whatever happens while it reads a body into its own 400."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await Request(scope, receive).body()
        except Exception:  # noqa: BLE001 - as FastAPI does
            await JSONResponse({}, status_code=400)(scope, receive, send)

    assert is_problem(Door(app=app).ask(chunks=[b"x" * (LIMIT + 1)]), 413)


def test_a_framework_that_raises_the_disconnect_is_no_error() -> None:
    """Every refused upload would be a traceback in the log."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()

    assert is_problem(Door(app=app).ask(chunks=[b"x" * (LIMIT + 1)]), 413)


def test_web_sockets_are_closed_and_lifespan_passes() -> None:
    """A web socket would lead around the token, a swallowed lifespan would leave the app unstarted."""
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    guard = Door(app=app).guard
    run_async(guard({"type": "websocket", "path": "/livez", "headers": []}, receive, send))
    run_async(guard({"type": "lifespan"}, receive, send))
    assert seen == ["lifespan"]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def http_server(tokens: Mapping[str, ApiToken]) -> Callable[[], Any]:
    """A guarded Starlette app that reads its body, as the real one does."""

    async def read(request: Request) -> JSONResponse:
        return JSONResponse({"size": len(await request.body()), "client": request.state.client})

    app = Starlette(routes=[Route("/predict", read, methods=["POST"])])
    guard = Guard(app, authenticated=True, tokens=lambda: tokens, policy=policy(rate_burst=100), now=lambda: NOW)
    return lambda: served(guard)


def test_a_real_server_refuses_chunked_bodies_and_lives_on() -> None:
    """What ASGI says of chunks and what a server does with them are two things."""
    headers = {"Authorization": f"Bearer {SECRET}"}

    def body(size: int) -> Iterator[bytes]:
        for _ in range(size // 512):
            yield b"x" * 512

    with http_server({token_hash(SECRET): ApiToken("ci", None, None)})() as port, httpx.Client() as client:
        url = f"http://127.0.0.1:{port}/predict"
        for _ in range(2):
            response = client.post(url, content=body(LIMIT), headers=headers)
            assert response.json() == {"size": LIMIT, "client": "ci"}
            assert is_problem(client.post(url, content=body(LIMIT + 512), headers=headers), 413)
            assert is_problem(client.post(url, content=b"x" * (LIMIT + 1), headers=headers), 413)
            assert is_problem(client.post(url, content=b"x"), 401)


def test_an_endless_upload_is_cut() -> None:
    """A client that never stops would hold a connection, and the server's memory, for ever."""
    head = f"POST /predict HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {SECRET}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with (
        http_server({token_hash(SECRET): ApiToken("ci", None, None)})() as port,
        socket.create_connection(("127.0.0.1", port), timeout=20.0) as connection,
    ):
        connection.sendall(head.encode())
        chunks = itertools.count(1)
        with pytest.raises(OSError, match=r"reset|Broken pipe|aborted"):
            _send_for_ever(connection, chunks)
    assert next(chunks) < 5_000


def _send_for_ever(connection: socket.socket, chunks: Iterator[int]) -> None:
    for _ in itertools.takewhile(lambda sent: sent < 10_000, chunks):
        connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
