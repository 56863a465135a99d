"""Real receivers on loopback that speak the protocols of the channels, and can be away, slow, or refuse."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mlops_assets_tests.foundation.mailbox import Mailbox

ROUTING_KEY = "R" * 32
SENTRY_KEY = "0123456789abcdef"


@dataclass(frozen=True)
class Answer:
    """What is answered instead of the protocol's own answer, and after how long."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0


class Receiver:
    """One HTTP receiver on a port of its own, that it keeps while it is away.

    `answers` are given one by one, then `standing`. `requests` has a line for each request, what `stamp` said at it and the
    status that was answered; `taken` what was taken.
    """

    def __init__(self, stamp: Callable[[], Any] = time.monotonic) -> None:
        self.stamp = stamp
        self.answers: deque[Answer] = deque()
        self.standing = Answer()
        self.requests: list[tuple[Any, int]] = []
        self.taken: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    @property
    def base(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.handle(self)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.005})
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        with self._lock:
            answer = self.answers.popleft() if self.answers else self.standing
            status, text, item = self.judge(request, body)
            status = answer.status or status
            self.requests.append((self.stamp(), status))
            if 200 <= status < 300 and item is not None:
                self.taken.append(item)
        time.sleep(answer.delay_seconds)
        try:
            request.send_response(status)
            for name, value in answer.headers.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(text.encode())
        except OSError:
            return  # the sender no longer waits

    def judge(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, str, dict[str, Any] | None]:
        """Return status, text and what is taken, as the protocol has it."""
        raise NotImplementedError


class Slack(Receiver):
    """An incoming webhook: JSON with `text`, answered by `ok`."""

    @property
    def url(self) -> str:
        return f"http://{self.base}/services/T0/B0/hush"

    def judge(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, str, dict[str, Any] | None]:
        if request.path != "/services/T0/B0/hush":
            return 404, "no_service", None
        try:
            text = json.loads(body)["text"]
        except (ValueError, KeyError, TypeError):
            return 400, "invalid_payload", None
        if not text:
            return 400, "no_text", None
        return 200, "ok", {"text": text, "id": text.rsplit("id ", 1)[-1]}


class PagerDuty(Receiver):
    """Events API v2: checks an event as the service does, and keeps the incidents that come of them."""

    def __init__(self, stamp: Callable[[], Any] = time.monotonic) -> None:
        super().__init__(stamp)
        self.incidents: dict[str, list[str]] = {}

    @property
    def url(self) -> str:
        return f"http://{self.base}/v2/enqueue"

    def judge(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, str, dict[str, Any] | None]:
        event = json.loads(body)
        errors = self._errors(event)
        if request.path != "/v2/enqueue" or errors:
            return 400, json.dumps({"status": "invalid event", "errors": errors}), None
        self.incidents.setdefault(event["dedup_key"], []).append(event["event_action"])
        return 202, json.dumps({"status": "success", "dedup_key": event["dedup_key"]}), event

    def _errors(self, event: dict[str, Any]) -> list[str]:
        errors = [] if event.get("routing_key") == ROUTING_KEY else ["routing_key"]
        action = event.get("event_action")
        if action not in {"trigger", "acknowledge", "resolve"}:
            errors.append("event_action")
        if not 0 < len(event.get("dedup_key", "")) <= 255:
            errors.append("dedup_key")
        if action == "trigger":
            payload = event.get("payload", {})
            errors += [name for name in ("summary", "source") if not payload.get(name)]
            errors += [] if payload.get("severity") in {"critical", "error", "warning", "info"} else ["severity"]
            errors += [] if len(payload.get("summary", "")) <= 1024 else ["summary is too long"]
        return errors


class Sentry(Receiver):
    """The envelope endpoint of project 42, below a path; keeps one of each event_id."""

    @property
    def dsn(self) -> str:
        return f"http://{SENTRY_KEY}@{self.base}/sentry/42"

    def judge(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, str, dict[str, Any] | None]:
        if request.path != "/sentry/api/42/envelope/":
            return 404, "", None
        if f"sentry_key={SENTRY_KEY}" not in request.headers.get("X-Sentry-Auth", ""):
            return 403, json.dumps({"detail": "bad sentry_key"}), None
        head, item_head, rest = body.split(b"\n", 2)
        length = json.loads(item_head)["length"]
        event = json.loads(rest[:length])
        if rest[length:] != b"\n" or json.loads(head)["event_id"] != event["event_id"]:
            return 400, json.dumps({"detail": "invalid envelope"}), None
        known = any(one["event_id"] == event["event_id"] for one in self.taken)
        return 200, json.dumps({"id": event["event_id"]}), None if known else event


class Mail(Mailbox):
    """A mail server whose messages are read back."""

    @property
    def mails(self) -> list[Any]:
        return [message_from_bytes(text.encode(), policy=default) for text in self.messages]


@contextmanager
def receiving(*receivers: Receiver) -> Iterator[None]:
    try:
        for receiver in receivers:
            receiver.start()
        yield
    finally:
        for receiver in receivers:
            receiver.stop()
