"""One post in bounded time, against real servers: what is taken, refused, or late."""

import math
import socketserver
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from mlops_assets.foundation.posting import NotTakenError, post, retry_after_seconds
from mlops_assets_tests.foundation.mailbox import running


class Raw(socketserver.ThreadingTCPServer):
    """Answers with the given bytes, one piece after another."""

    daemon_threads = True

    def __init__(self, *pieces: bytes, pause_seconds: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), RawAnswer)
        self.pieces, self.pause_seconds = pieces, pause_seconds
        self.received = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hush"


class RawAnswer(socketserver.BaseRequestHandler):
    server: Raw

    def handle(self) -> None:
        self.request.recv(65536)
        self.server.received += 1
        for piece in self.server.pieces:
            try:
                self.request.sendall(piece)
            except OSError:
                return
            time.sleep(self.server.pause_seconds)


def send(server: Raw, seconds: float = 2.0) -> None:
    with running(server):
        post(server.url, b"{}", {"X-One": "1"}, to="the receiver", setting="MLOPS_X", seconds=seconds)


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_success_is_taken(status: int) -> None:
    """What was taken is sent again."""
    server = Raw(f"HTTP/1.1 {status} OK\r\nContent-Length: 0\r\n\r\n".encode())
    send(server)
    assert server.received == 1


def test_it_is_taken_before_the_body_has_come() -> None:
    """A receiver whose answer breaks off after its yes is sent the same message for ever."""
    send(Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"ok"))


@pytest.mark.parametrize(
    ("status", "refused"),
    [(301, False), (400, True), (401, False), (403, False), (404, False), (408, False), (413, True), (422, True),
     (429, False), (500, False), (503, False)],
)  # fmt: skip
def test_refused_or_away(status: int, refused: bool) -> None:
    """A wrong key counts as one bad message, and a thousand others are tried one by one."""
    with pytest.raises(NotTakenError, match=f"the receiver did not take the message: it answered {status}") as caught:
        send(Raw(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nLocation: /else\r\n\r\n".encode()))
    assert caught.value.refused == refused
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("pieces", "pause_seconds"),
    [((), 0.0), ((b"",), 10.0), ((b"what is this\r\n",), 0.0), ((b"HTTP/1.1 2",), 0.0), ((b"H",) * 100, 0.1)],
    ids=["closed", "silent", "no HTTP", "half a status", "a byte now and then"],
)
def test_no_answer_in_time_is_none(pieces: tuple[bytes, ...], pause_seconds: float) -> None:
    """A receiver that sends a byte now and then keeps the dispatcher for as long as it likes."""
    began = time.monotonic()
    with pytest.raises(NotTakenError, match="the receiver did not take the message") as caught:
        send(Raw(*pieces, pause_seconds=pause_seconds), seconds=0.5)
    assert time.monotonic() - began < 5.0
    assert not caught.value.refused


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("", None), ("soon", None), ("-5", None), ("120", 120.0), (" 0 ", 0.0), ("9" * 400, math.inf)],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    """A receiver that asks to be left alone is asked again at once, or an odd header ends the dispatcher."""
    assert retry_after_seconds(header) == seconds


def test_retry_after_a_date() -> None:
    """RFC 9110 has dates as well; one in the past is no wait."""
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 <= (retry_after_seconds(in_a_minute) or 0.0) <= 60
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
