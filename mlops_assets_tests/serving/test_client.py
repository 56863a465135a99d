"""The client against a real server that misbehaves on purpose."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlops_assets.foundation.errors import InputError, PermanentError, TransientError
from mlops_assets.serving.client import (
    Decision,
    DecisionClient,
    DecisionQuery,
    Outcome,
    OutcomeReceipt,
    RequestRefusedError,
    ServerUnavailableError,
    UnexpectedAnswerError,
)
from mlops_assets.serving.problems import problem_response
from mlops_assets_tests.programs import free_port
from mlops_assets_tests.serving.loopback import served

QUERY = DecisionQuery(agent="execution", agent_id="ci", context={"budget_left": 1.0}, test_id="t")
SECRET = "mlops_" + "s" * 43
Reply = Callable[[Request], Response]


def decision(number: int) -> dict[str, Any]:
    """An answer of the API, told apart by its id."""
    return {
        "prediction_id": f"p{number}",
        "agent": "execution",
        "action": 3,
        "action_name": "high",
        "q_values": {"skip": 0.0, "low": 1.0, "normal": 2.0, "high": 3.0},
        "confidence": 0.4,
        "model": {"name": "execution-agent-dqn", "version": "1.2.0", "alias": "champion"},
        "experiment": None,
        "variant": "control",
        "propensity": 1.0,
        "explored": False,
        "cached": False,
        "status": "ok",
        "fallback": None,
        "missing_features": [],
        "latency_ms": 1.5,
        "timestamp": "2026-01-05T12:00:00Z",
        "of_a_newer_server": True,
    }


def refuse(status: int, **headers: str) -> Reply:
    """Answer with a problem."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    errors = [{"field": "context.budget_left", "message": "too high"}] if status == 422 else ()
    error_id = "e17" if status == 500 else None
    return lambda _: problem_response(status, "No", "not now", headers=fields, errors=errors, error_id=error_id)


def answer(content: Any, status: int = 200) -> Reply:
    """Answer with JSON."""
    return lambda _: JSONResponse(content, status)


@dataclass
class Script:
    """What the server does next, and what it was asked; past the script's end it answers properly."""

    replies: list[Reply] = field(default_factory=list)
    requests: list[tuple[str, Any, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        asked = json.loads(body) if body else None
        self.requests.append((request.url.path, asked, dict(request.headers)))
        if self.replies:
            return self.replies.pop(0)(request)
        return self.proper(request.url.path, asked)

    def proper(self, path: str, asked: Any) -> Response:
        """What the real API says."""
        if path == "/predict":
            return JSONResponse(decision(0))
        if path == "/predict/batch":
            rows = [decision(int(one["test_id"])) for one in asked["requests"]]
            return JSONResponse({"predictions": rows, "count": len(rows)})
        return JSONResponse({"accepted": len(asked["outcomes"]), "repeated": 0})


@pytest.fixture(scope="module")
def _server() -> Iterator[Script]:
    script = Script()
    app = Starlette(routes=[Route("/{path:path}", script.__call__, methods=["GET", "POST"])])
    with served(app) as port:
        script.url = f"http://127.0.0.1:{port}"
        yield script


@pytest.fixture
def server(_server: Script) -> Script:
    """The server, with nothing planned."""
    _server.replies.clear()
    _server.requests.clear()
    return _server


@pytest.fixture
def waits() -> list[float]:
    """How long the client has waited, in seconds."""
    return []


@pytest.fixture
def client(server: Script, waits: list[float]) -> Iterator[DecisionClient]:
    """A client that does not really wait, and draws the longest jitter."""
    with DecisionClient(server.url, SECRET, sleep=waits.append, uniform=lambda _, high: high) as made:
        yield made


def test_a_decision_is_typed_and_the_token_is_sent(server: Script, client: DecisionClient) -> None:
    """A caller would dig in dictionaries, and a newer server's field would break it."""
    found = client.predict(QUERY)
    assert isinstance(found, Decision)
    assert (found.prediction_id, found.action_name, found.q_values["high"]) == ("p0", "high", 3.0)
    assert found.model.version == "1.2.0"
    assert found.timestamp == datetime(2026, 1, 5, 12, tzinfo=UTC)
    path, asked, headers = server.requests[0]
    assert path == "/predict"
    assert asked == {"agent": "execution", "agent_id": "ci", "context": {"budget_left": 1.0}, "test_id": "t"}
    assert headers["authorization"] == f"Bearer {SECRET}"


def test_without_a_token_none_is_sent(server: Script) -> None:
    """`Bearer None` would be refused by a server that asks for nothing."""
    with DecisionClient(server.url) as client:
        client.predict(QUERY)
    assert "authorization" not in server.requests[0][2]


def test_a_busy_server_is_asked_again_with_growing_waits(
    server: Script, client: DecisionClient, waits: list[float]
) -> None:
    """A restart of the server would fail the CI run, or a thousand runners would come back at the same instant."""
    server.replies[:] = [refuse(503), refuse(503), refuse(429)]
    assert client.predict(QUERY).prediction_id == "p0"
    assert waits == [0.1, 0.2, 0.4]


def test_jitter_is_full(server: Script) -> None:
    """Waits with a common part keep the runners together."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    server.replies[:] = [refuse(503)] * 2
    waited: list[float] = []
    with DecisionClient(server.url, sleep=waited.append, uniform=uniform) as client:
        client.predict(QUERY)
    assert drawn == [(0.0, 0.1), (0.0, 0.2)]
    assert waited == [0.0, 0.0]


def test_waits_are_bounded(server: Script, waits: list[float]) -> None:
    """The twentieth try would come after days."""
    server.replies[:] = [refuse(503)] * 12
    with DecisionClient(server.url, retries=12, sleep=waits.append, uniform=lambda _, high: high) as client:
        client.predict(QUERY)
    assert max(waits) == 5.0


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(server: Script, client: DecisionClient, waits: list[float], status: int) -> None:
    """A client that comes back early is refused again, and keeps its bucket empty."""
    server.replies[:] = [refuse(status, Retry_After="7")]
    client.predict(QUERY)
    assert waits == [pytest.approx(7.1)]


def test_retry_after_may_be_a_date(server: Script, client: DecisionClient, waits: list[float]) -> None:
    """A proxy that answers with a date would not be understood."""
    at = datetime.now(UTC) + timedelta(seconds=30)
    server.replies[:] = [refuse(503, Retry_After=format_datetime(at, usegmt=True)), refuse(503, Retry_After="soon")]
    client.predict(QUERY)
    assert 27.0 < waits[0] < 31.0
    assert waits[1] == pytest.approx(0.2)


def test_a_wait_without_end_is_given_up(server: Script, client: DecisionClient, waits: list[float]) -> None:
    """A server that says tomorrow would hang the CI run until then."""
    server.replies[:] = [refuse(503, Retry_After="86400")]
    with pytest.raises(ServerUnavailableError) as error:
        client.predict(QUERY)
    assert (error.value.status, waits) == (503, [])


def test_tries_end(server: Script, client: DecisionClient) -> None:
    """A server that is down for good would be asked for ever."""
    server.replies[:] = [refuse(503)] * 20
    with pytest.raises(ServerUnavailableError, match="503 after 5 tries: not now") as error:
        client.predict(QUERY)
    assert len(server.requests) == 5
    assert isinstance(error.value, TransientError)
    assert error.value.problem["title"] == "No"


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422])
def test_refusals_are_not_repeated(server: Script, client: DecisionClient, waits: list[float], status: int) -> None:
    """A wrong token or request would be sent five times."""
    server.replies[:] = [refuse(status)] * 5
    with pytest.raises(RequestRefusedError) as error:
        client.predict(QUERY)
    assert (error.value.status, len(server.requests), waits) == (status, 1, [])
    assert isinstance(error.value, PermanentError)
    assert SECRET not in str(error.value)


def test_fields_and_error_ids_are_in_the_message(server: Script, client: DecisionClient) -> None:
    """Who reads the CI log could not tell which field was wrong, or what to ask the server's operator."""
    server.replies[:] = [refuse(422), refuse(500)]
    with pytest.raises(RequestRefusedError, match=r"\[context.budget_left: too high\]"):
        client.predict(QUERY)
    with pytest.raises(ServerUnavailableError, match="error e17 of the server's log"):
        client.predict(QUERY)


def test_a_failed_server_is_not_asked_the_same_decision_again(server: Script, client: DecisionClient) -> None:
    """A decision that was logged before the server failed would be logged twice in its episode."""
    for status in (500, 502, 504):
        server.replies[:] = [refuse(status)]
        with pytest.raises(ServerUnavailableError):
            client.predict(QUERY)
    assert len(server.requests) == 3


def test_outcomes_are_told_again_after_a_gateways_failure(server: Script, client: DecisionClient) -> None:
    """The outcome of a whole CI cycle would be lost to one restart."""
    server.replies[:] = [refuse(502), refuse(504), refuse(503)]
    assert client.post_outcomes([Outcome(prediction_id="p0", reward=1.0)]) == OutcomeReceipt(accepted=1, repeated=0)
    assert len({json.dumps(asked) for _, asked, _ in server.requests}) == 1


def test_outcomes_wait_for_their_decision(server: Script, client: DecisionClient, waits: list[float]) -> None:
    """A decision is in the log a moment after its answer; an outcome that is faster would be refused for good."""
    server.replies[:] = [refuse(404, Retry_After="1"), refuse(404)]
    with pytest.raises(RequestRefusedError, match="404 after 2 tries"):
        client.post_outcomes([Outcome(prediction_id="p0", reward=1.0)])
    assert waits == [pytest.approx(1.1)]
    server.replies[:] = [refuse(404, Retry_After="1")] * 9
    with pytest.raises(ServerUnavailableError, match="404 after 5 tries"):
        client.post_outcomes([Outcome(prediction_id="p0", reward=1.0)])


def test_batches_are_split_by_rows_and_keep_the_order(server: Script) -> None:
    """A suite of 2,500 tests would be refused, or its answers given to the wrong tests."""
    queries = [DecisionQuery(agent="execution", agent_id="ci", context={}, test_id=str(n)) for n in range(2500)]
    with DecisionClient(server.url) as client:
        found = client.predict_batch(queries)
    assert [one.prediction_id for one in found] == [f"p{n}" for n in range(2500)]
    assert [len(asked["requests"]) for _, asked, _ in server.requests] == [1000, 1000, 500]


def test_batches_are_split_by_size(server: Script) -> None:
    """A thousand long texts would be refused with a 413."""
    long = DecisionQuery(agent="requirements", agent_id="a", context={}, test_id="1", requirement_text="x" * 380)
    with DecisionClient(server.url, max_body_bytes=2048) as client:
        assert len(client.predict_batch([long] * 10)) == 10
    sizes = [int(headers["content-length"]) for *_, headers in server.requests]
    assert max(sizes) <= 2048
    assert len(sizes) == 3


def test_nothing_is_asked_for_nothing(server: Script, client: DecisionClient) -> None:
    """An empty suite would be a 422."""
    assert client.predict_batch([]) == ()
    assert client.post_outcomes([]) == OutcomeReceipt(accepted=0, repeated=0)
    assert server.requests == []


def test_outcomes_are_split_and_counted_together(server: Script) -> None:
    """More outcomes than fit into one request would be refused, or half of them forgotten in the sum."""
    outcomes = [Outcome(prediction_id=f"p{n}", reward=0.5, done=False) for n in range(5)]
    server.replies[:] = [answer({"accepted": 1, "repeated": 1})]
    with DecisionClient(server.url, max_batch_rows=2) as client:
        assert client.post_outcomes(outcomes) == OutcomeReceipt(accepted=4, repeated=1)
    sent = [one for _, asked, _ in server.requests for one in asked["outcomes"]]
    assert sent == [{"prediction_id": f"p{n}", "reward": 0.5, "done": False} for n in range(5)]


def test_a_batch_with_too_few_answers_is_an_error(server: Script, client: DecisionClient) -> None:
    """Tests would be paired with the decisions of others."""
    server.replies[:] = [answer({"predictions": [decision(1)], "count": 1})]
    with pytest.raises(UnexpectedAnswerError, match="1 decisions for 2 requests"):
        client.predict_batch([QUERY, QUERY])


@pytest.mark.parametrize(
    "reply",
    [
        answer({"hello": "world"}),
        answer([1]),
        lambda _: Response("<html>login</html>", media_type="text/html"),
        lambda _: Response("", 302, {"location": "http://elsewhere.example/"}),
    ],
)
def test_another_servers_answer_is_an_error(server: Script, client: DecisionClient, reply: Reply) -> None:
    """A login page would be a KeyError somewhere, and a redirection would take the token to another host."""
    server.replies[:] = [reply]
    with pytest.raises(UnexpectedAnswerError):
        client.predict(QUERY)
    assert len(server.requests) == 1


def test_a_problem_that_is_none_still_names_the_status(server: Script, client: DecisionClient) -> None:
    """A proxy's error page, or a broken one, would hide the status behind a JSON error."""
    broken = Response("{", 403, media_type="application/problem+json")
    server.replies[:] = [lambda _: Response("<html>", 403), lambda _: broken]
    for _ in range(2):
        with pytest.raises(RequestRefusedError, match="403") as error:
            client.predict(QUERY)
        assert error.value.problem == {}


def test_numbers_that_json_does_not_have_are_refused_here(server: Script, client: DecisionClient) -> None:
    """Python's JSON writes NaN, which no server can read."""
    with pytest.raises(InputError, match="DecisionQuery"):
        client.predict(DecisionQuery(agent="execution", agent_id="ci", context={"budget_left": float("nan")}))
    with pytest.raises(InputError, match="Outcome"):
        client.post_outcomes([Outcome(prediction_id="p", reward=float("inf"))])
    assert server.requests == []


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """A forgotten http:// would be retried as if the server were down."""
    with pytest.raises(InputError, match="http"):
        DecisionClient(url)


def test_an_id_stays_one_segment_of_the_path(server: Script, client: DecisionClient) -> None:
    """An id with a slash would ask for something else."""
    server.replies[:] = [answer({})]
    with pytest.raises(UnexpectedAnswerError):
        client.explain("../health?x")
    assert server.requests[0][0].startswith("/predictions/")


def test_health_is_an_answer_also_when_it_is_bad(server: Script, client: DecisionClient, waits: list[float]) -> None:
    """Who asks how the server is would wait, and then get an exception instead of the reason."""
    state = {
        "status": "unavailable",
        "model_loaded": False,
        "current_model_versions": {"execution": None},
        "models_loaded": [],
        "uptime_seconds": 3.0,
        "request_count": 0,
        "error_count": 0,
        "short_of": ["model_registry"],
        "timestamp": "2026-01-05T12:00:00Z",
    }
    server.replies[:] = [answer(state, 503), refuse(503), answer(state, 503)]
    assert client.health().short_of == ["model_registry"]
    assert waits == []
    assert client.health().status == "unavailable"
    assert len(waits) == 1


def test_a_slow_answer_ends_in_time_and_a_decision_is_not_repeated(server: Script, waits: list[float]) -> None:
    """A server that hangs would hang every CI run; a second decision of the same step would spoil the episode."""

    def slow(_: Request) -> Response:
        time.sleep(0.6)
        return JSONResponse(decision(0))

    server.replies[:] = [slow]
    started = time.monotonic()
    with (
        DecisionClient(server.url, timeout_seconds=0.1, sleep=waits.append) as client,
        pytest.raises(ServerUnavailableError, match="no answer after 1 tries"),
    ):
        client.predict(QUERY)
    assert time.monotonic() - started < 0.5
    assert waits == []


def test_nobody_listening_is_tried_again(waits: list[float]) -> None:
    """A server that is about to start would fail the first runner."""
    url = f"http://127.0.0.1:{free_port()}"
    with (
        DecisionClient(url, retries=2, sleep=waits.append) as client,
        pytest.raises(ServerUnavailableError, match="no answer after 3 tries") as error,
    ):
        client.predict(QUERY)
    assert error.value.status is None
    assert len(waits) == 2


@pytest.fixture
def rude() -> Iterator[tuple[str, list[bytes]]]:
    """A server that takes a request and hangs up, every time."""
    taken: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                taken.append(connection.recv(65536))

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", taken
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(timeout=10.0)


def test_a_closed_connection_repeats_outcomes_only(rude: tuple[str, list[bytes]], waits: list[float]) -> None:
    """The server may have taken the request: outcomes can be told twice, a decision cannot be asked for twice."""
    url, taken = rude
    with DecisionClient(url, retries=3, sleep=waits.append) as client:
        with pytest.raises(ServerUnavailableError):
            client.predict(QUERY)
        assert (len(taken), waits) == (1, [])
        with pytest.raises(ServerUnavailableError):
            client.post_outcomes([Outcome(prediction_id="p", reward=0.0)])
        assert (len(taken), len(waits)) == (5, 3)


def test_the_client_needs_nothing_of_the_server() -> None:
    """A test runner would install torch, and wait seconds, to ask a question."""
    program = (
        "import sys, time, httpx\n"
        "started = time.perf_counter()\n"
        "import mlops_assets.serving.client\n"
        "seconds = time.perf_counter() - started\n"
        "heavy = {'starlette', 'fastapi', 'bentoml', 'torch', 'dagster', 'sqlalchemy', 'mlflow', 'feast', 'numpy'}\n"
        "print(seconds, sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    seconds, heavy = result.stdout.strip().split(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 5.0  # 0.13 s measured; a busy machine is no failure
