"""A client of the serving API for test runners and CI: typed answers, retries, nothing else of this project's server.

What is retried is what a second try cannot spoil. A decision is asked for again only when the server did not take the
request (no connection, 429, 503): otherwise it would be logged twice, and once without an outcome. Outcomes are
idempotent, so they are sent again after every failure that may pass. Waits grow exponentially with full jitter (Brooker,
"Exponential Backoff And Jitter", AWS, 2015), and are never shorter than the server's Retry-After.
"""

import json
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from mlops_assets.foundation.errors import InputError, MlopsError, PermanentError, TransientError

# The policy profiles' limits; a server with others is named them in the constructor.
_MAX_BATCH_ROWS: Final = 1000
_MAX_BODY_BYTES: Final = 1_048_576
_FRAME_BYTES: Final = 64
_FIRST_WAIT_SECONDS: Final = 0.1
_LONGEST_WAIT_SECONDS: Final = 5.0
_NOT_TAKEN: Final = frozenset({429, 503})
_BETWEEN: Final = frozenset({429, 502, 503, 504})
_NOT_FOUND, _TOO_MANY_REQUESTS, _UNAVAILABLE = 404, 429, 503


class ServingError(MlopsError):
    """A request that got no usable answer.

    `status` is the HTTP status, None where there was no answer; `problem` the server's problem document, {} without one.
    """

    def __init__(self, message: str, *, status: int | None = None, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem: Mapping[str, Any] = problem or {}


class RequestRefusedError(ServingError, PermanentError):
    """The server will not take this request: invalid, without a valid token, unknown, contradicting, too large."""


class ServerUnavailableError(ServingError, TransientError):
    """The server does not answer, has no time, or failed, also at the last try."""


class UnexpectedAnswerError(ServingError, PermanentError):
    """The answer is not one of this API's: another server, or another version of it."""


@dataclass(frozen=True, kw_only=True)
class DecisionQuery:
    """One decision that is asked for; `context` holds a number for every context field of the agent.

    Without `episode_id` the decision is an episode of its own. None is not sent; the server has the defaults.
    """

    agent: str
    agent_id: str
    context: Mapping[str, float]
    test_id: str | None = None
    requirement_id: str | None = None
    requirement_text: str | None = None
    user_id: str | None = None
    experiment: str | None = None
    episode_id: str | None = None
    step: int | None = None
    ui_framework: str | None = None
    browser: str | None = None
    test_type: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one decision; `best_action` and `action_values` are its label, both or none."""

    prediction_id: str
    reward: float
    done: bool = True
    best_action: int | None = None
    action_values: Sequence[float] | None = None


class _Answer(BaseModel):
    # A newer server may say more.
    model_config = ConfigDict(frozen=True, extra="ignore")


class ModelReference(_Answer):
    """The version that answered."""

    name: str
    version: str
    alias: str


class Decision(_Answer):
    """One decision: `action_name` of `q_values` (action name: value), taken with probability `propensity`.

    `status` is ok or degraded (online features were not to be had). `fallback` says why the champion answered a user of
    the treatment: its model failed on the request, or is absent; of a few users of the champion, it `failed` once itself,
    behind the time limit of a treatment (the A/A test).
    """

    prediction_id: str
    agent: str
    action: int
    action_name: str
    q_values: dict[str, float]
    confidence: float
    model: ModelReference
    experiment: str | None
    variant: str
    propensity: float
    explored: bool
    cached: bool
    status: Literal["ok", "degraded"]
    fallback: Literal["failed", "absent"] | None
    missing_features: list[str]
    latency_ms: float
    timestamp: datetime


class _Decisions(_Answer):
    predictions: list[Decision]


class OutcomeReceipt(_Answer):
    """How many outcomes were new to the server, and how many it knew."""

    accepted: int
    repeated: int


class ServedVersion(_Answer):
    """One version in service; `card` is the path of its model card."""

    agent: str
    alias: str
    name: str
    version: str
    mlflow_version: str
    mlflow_run_id: str
    data_hash: str
    training_hash: str
    weights_hash: str
    actions: list[str]
    state_fields: list[str]
    card: str


class ServedVersions(_Answer):
    """The versions in service, and the names of those that could not be taken into it; the server's log has the reason."""

    models: list[ServedVersion]
    refused: list[str]


class RecordedOutcome(_Answer):
    """What came of a decision, as the server has it."""

    reward: float
    done: bool
    best_action: int | None
    action_values: list[float] | None
    occurred_at: datetime
    received_at: datetime


class Explanation(_Answer):
    """How a decision came about; `features` is the state vector that the network saw. `model_extra` holds the rest."""

    model_config = ConfigDict(frozen=True, extra="allow")

    prediction_id: str
    agent: str
    agent_id: str
    test_id: str
    episode_id: str
    step: int
    event_time: datetime
    action: int
    action_name: str
    q_values: dict[str, float]
    propensity: float
    explored: bool
    variant: str
    features: dict[str, float]
    missing_features: list[str]
    model: dict[str, Any]
    training_snapshot: dict[str, Any] | None
    outcome: RecordedOutcome | None
    shadows: list[dict[str, Any]]


class Health(_Answer):
    """How the server is; `short_of` names the parts that do not answer."""

    status: Literal["healthy", "degraded", "unavailable"]
    model_loaded: bool
    current_model_versions: dict[str, str | None]
    models_loaded: list[str]
    uptime_seconds: float
    request_count: int
    error_count: int
    short_of: list[str]
    timestamp: datetime


AnswerType = TypeVar("AnswerType", bound=_Answer)


class DecisionClient:
    """Asks one server for decisions and tells it what came of them. Use it in a `with` block.

    Args:
        base_url: such as `http://127.0.0.1:8000`.
        token: bearer token, where the server asks for one.
        timeout_seconds: longest wait for a connection, and for each part of an answer.
        retries: tries after the first one.
        max_wait_seconds: a server that asks for a longer wait than this is given up.
        max_batch_rows: decisions or outcomes in one request.
        max_body_bytes: size of one request.
        ssl_context: for a private authority, or with a client certificate (mutual TLS).
        sleep: waits, in seconds.
        uniform: draws from [low, high].

    Raises:
        InputError: the address is not one.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        timeout_seconds: float = 5.0,
        retries: int = 4,
        *,
        max_wait_seconds: float = 60.0,
        max_batch_rows: int = _MAX_BATCH_ROWS,
        max_body_bytes: int = _MAX_BODY_BYTES,
        ssl_context: ssl.SSLContext | None = None,
        sleep: Callable[[float], None] = time.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise InputError(f"{base_url!r} is no address of a server; expected http(s)://<host>:<port>")
        self._retries = retries
        self._max_wait_seconds = max_wait_seconds
        self._max_batch_rows = max_batch_rows
        self._max_body_bytes = max_body_bytes
        self._sleep = sleep
        self._uniform = uniform
        self._http = httpx.Client(
            base_url=base_url,
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=timeout_seconds,
            verify=True if ssl_context is None else ssl_context,
        )

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(self, query: DecisionQuery) -> Decision:
        """Ask for one decision.

        Raises:
            RequestRefusedError: invalid, or no valid token; `problem["errors"]` names the fields.
            ServerUnavailableError: no answer, also at the last try; the decision may have been logged.
        """
        return _read(self._send("POST", "/predict", _fields(query)), Decision)

    def predict_batch(self, queries: Sequence[DecisionQuery]) -> tuple[Decision, ...]:
        """Ask for many decisions, in as few requests as the server's limits allow; the answers keep the order.

        Raises:
            RequestRefusedError: as for `predict`; what was answered before is lost to the caller, and logged.
            ServerUnavailableError: as for `predict`.
        """
        found: list[Decision] = []
        for rows, body in self._batches("requests", queries):
            answer = self._send("POST", "/predict/batch", body)
            decisions = _read(answer, _Decisions).predictions
            if len(decisions) != rows:
                raise UnexpectedAnswerError(
                    f"{len(decisions)} decisions for {rows} requests; is {self._http.base_url} this API?",
                    status=answer.status_code,
                )
            found.extend(decisions)
        return tuple(found)

    def post_outcomes(self, outcomes: Sequence[Outcome]) -> OutcomeReceipt:
        """Report what came of decisions; may be repeated with the same outcomes at any time.

        A decision that the server does not know yet is waited for: its log is written a moment after the answer.

        Raises:
            RequestRefusedError: 409, another outcome is recorded; 422, invalid.
            ServerUnavailableError: no answer, or 404, no such decision, also at the last try; send them again later.
        """
        accepted = repeated = 0
        for _, body in self._batches("outcomes", outcomes):
            receipt = _read(self._send("POST", "/outcomes", body, idempotent=True), OutcomeReceipt)
            accepted, repeated = accepted + receipt.accepted, repeated + receipt.repeated
        return OutcomeReceipt(accepted=accepted, repeated=repeated)

    def explain(self, prediction_id: str) -> Explanation:
        """Return everything that is logged of a decision.

        Raises:
            RequestRefusedError: 404, no such decision.
            ServerUnavailableError: no answer, also at the last try.
        """
        path = f"/predictions/{quote(prediction_id, safe='')}"
        return _read(self._send("GET", path, None, idempotent=True), Explanation)

    def models(self) -> ServedVersions:
        """Return the versions in service.

        Raises:
            ServerUnavailableError: no answer, also at the last try.
        """
        return _read(self._send("GET", "/models", None, idempotent=True), ServedVersions)

    def health(self) -> Health:
        """Return how the server is, also when it cannot decide: that is an answer, and is not waited for.

        Raises:
            ServerUnavailableError: no answer, also at the last try.
        """
        return _read(self._send("GET", "/health", None, idempotent=True, told=_is_health), Health)

    def _batches(self, name: str, rows: Sequence[DecisionQuery | Outcome]) -> Iterator[tuple[int, bytes]]:
        """Yield (rows, body) for as few requests as the limits allow; a row that is too large alone goes alone."""
        encoded: list[bytes] = []
        size = _FRAME_BYTES
        for row in map(_fields, rows):
            if encoded and (len(encoded) >= self._max_batch_rows or size + len(row) + 1 > self._max_body_bytes):
                yield len(encoded), _frame(name, encoded)
                encoded, size = [], _FRAME_BYTES
            encoded.append(row)
            size += len(row) + 1
        if encoded:
            yield len(encoded), _frame(name, encoded)

    def _send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        *,
        idempotent: bool = False,
        told: Callable[[httpx.Response], bool] = lambda answer: answer.is_success,
    ) -> httpx.Response:
        """Return the first answer for which `told` holds."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        tries = 0
        while True:
            error: ServingError
            try:
                answer = self._http.request(method, path, content=body, headers=headers)
            except httpx.RequestError as cause:
                error, wait = _no_answer(method, path, cause, tries + 1), 0.0
                again = idempotent or isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout)
                error.__cause__ = cause
            else:
                if told(answer):
                    return answer
                asked = _retry_after(answer)
                error, wait = _refused(method, path, answer, asked, tries + 1), asked or 0.0
                again = answer.status_code in (_BETWEEN if idempotent else _NOT_TAKEN) or _not_yet(answer, asked)
            if not again or tries >= self._retries or wait > self._max_wait_seconds:
                raise error
            self._sleep(wait + self._uniform(0.0, min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0**tries)))
            tries += 1


def _fields(row: DecisionQuery | Outcome) -> bytes:
    given = {name: value for name, value in asdict(row).items() if value is not None}
    try:
        return json.dumps(given, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{type(row).__name__} cannot be sent as JSON: {error}; give finite numbers and texts"
        ) from error


def _frame(name: str, rows: Sequence[bytes]) -> bytes:
    return b'{"%s": [%s]}' % (name.encode(), b",".join(rows))


def _is_health(answer: httpx.Response) -> bool:
    """Whether the server says itself that it is unavailable; a proxy's 503 has another type."""
    json_type = answer.headers.get("content-type", "").startswith("application/json")
    return answer.is_success or (answer.status_code == _UNAVAILABLE and json_type)


def _not_yet(answer: httpx.Response, retry_after: float | None) -> bool:
    """Whether the server knows of no such decision, but says that it may soon."""
    return answer.status_code == _NOT_FOUND and retry_after is not None


def _retry_after(answer: httpx.Response) -> float | None:
    """Return the Retry-After in seconds (RFC 9110: a number of seconds, or a date), None without one that can be read."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


def _no_answer(method: str, path: str, cause: httpx.RequestError, tries: int) -> ServingError:
    reason = str(cause) or type(cause).__name__
    return ServerUnavailableError(f"{method} {path}: no answer after {tries} tries: {reason}; is the server up?")


def _refused(method: str, path: str, answer: httpx.Response, retry_after: float | None, tries: int) -> ServingError:
    status, problem = answer.status_code, _problem(answer)
    told = problem.get("detail") or problem.get("title") or answer.reason_phrase
    fields = "; ".join(f"{error.get('field')}: {error.get('message')}" for error in problem.get("errors", ()))
    log = f" (error {problem['error_id']} of the server's log)" if "error_id" in problem else ""
    message = f"{method} {path}: {status} after {tries} tries: {told}{f' [{fields}]' if fields else ''}{log}"
    if status == _TOO_MANY_REQUESTS or answer.is_server_error or _not_yet(answer, retry_after):
        return ServerUnavailableError(message, status=status, problem=problem)
    if not answer.is_client_error:
        return UnexpectedAnswerError(
            f"{message}; redirections are not followed, give the address they lead to", status=status, problem=problem
        )
    return RequestRefusedError(message, status=status, problem=problem)


def _problem(answer: httpx.Response) -> Mapping[str, Any]:
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        return {}
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _read(answer: httpx.Response, model: type[AnswerType]) -> AnswerType:
    try:
        return model.model_validate_json(answer.content)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        raise UnexpectedAnswerError(
            f"{answer.request.url.path}: not an answer of this API ({wrong}); is {answer.request.url} this server?",
            status=answer.status_code,
        ) from error
