"""One HTTP post to somebody else's service, in bounded time: taken, refused, or later. What is said is others' business."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from socket import SHUT_RDWR, socket
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from mlops_assets.foundation.clock import SystemClock
from mlops_assets.foundation.errors import TransientError

_TIMEOUT, _TOO_MANY = 408, 429
_BAD_REQUEST, _UNAUTHORIZED, _SERVER_ERROR = 400, 401, 500
# Of these, every message is refused, not this one: key, path or access are wrong.
_REFUSE_ALL = {_UNAUTHORIZED, 403, 404, 405, 410}


class NotTakenError(TransientError):
    """A message was not taken.

    Attributes:
        refused: this message was, and others may pass; otherwise the receiver takes none at the moment.
        retry_after_seconds: how long it asked to be left alone, None when it did not.
    """

    def __init__(self, text: str, *, refused: bool = False, retry_after_seconds: float | None = None) -> None:
        super().__init__(text)
        self.refused = refused
        self.retry_after_seconds = retry_after_seconds


def post(url: str, body: bytes, headers: Mapping[str, str], *, to: str, setting: str, seconds: float) -> None:
    """Post `body`; it is taken once the answer's status is a success, whatever follows.

    Args:
        url: http(s); a secret, and never named.
        body: what is posted.
        headers: of the request.
        to: whom errors name.
        setting: the variable that errors lead to.
        seconds: of all, also where a byte comes now and then.

    Raises:
        NotTakenError: it was not taken, or no answer says so.
    """
    opened: list[HTTPConnection] = []
    opener = build_opener(_Handler(opened), _SecureHandler(opened), _NoRedirect)
    try:
        with cut_off(lambda: [connection.sock for connection in opened], seconds):
            opener.open(Request(url, body, dict(headers)), timeout=seconds).close()  # noqa: S310 - callers check the scheme
    except HTTPError as error:
        error.close()
        raise _not_taken(error, to, setting) from None
    except (HTTPException, OSError, ValueError) as error:
        raise NotTakenError(f"{to} did not take the message ({type(error).__name__}); see {setting}") from None


@contextmanager
def cut_off(sockets: Any, seconds: float) -> Iterator[None]:
    """Shut the sockets that `sockets()` returns once the block has taken so long: a timeout of a socket is one of each byte."""
    timer = threading.Timer(seconds, lambda: _shut(sockets()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shut(sockets: list[socket | None]) -> None:
    for one in sockets:
        # Closed by its other side meanwhile: that is what is wanted.
        with suppress(OSError):
            if one is not None:
                one.shutdown(SHUT_RDWR)


def _not_taken(error: HTTPError, to: str, setting: str) -> NotTakenError:
    status = error.code
    refused = _BAD_REQUEST <= status < _SERVER_ERROR and status not in {_TIMEOUT, _TOO_MANY, *_REFUSE_ALL}
    asked = retry_after_seconds(error.headers.get("Retry-After"))
    wait = "" if asked is None else f", asked to wait {asked:g} s"
    text = f"{to} did not take the message: it answered {status}{wait}; see {setting}"
    return NotTakenError(text, refused=refused, retry_after_seconds=asked)


def retry_after_seconds(header: str | None) -> float | None:
    """Read a `Retry-After` (RFC 9110, 10.2.3), seconds or a date; None where there is none that can be read."""
    if header is None or not header.strip():
        return None
    text = header.strip()
    try:
        return float(text) if text.isdecimal() else _until(text)
    except (ValueError, OverflowError):
        return None


def _until(date: str) -> float:
    # A date of somebody else's clock, which is compared with the machine's.
    return max(0.0, (parsedate_to_datetime(date) - SystemClock().now()).total_seconds())


class _NoRedirect(HTTPRedirectHandler):
    """A post that is redirected becomes a get, whose success would say nothing."""

    def redirect_request(self, *_: Any) -> None:
        """Follow nowhere."""


class _Handler(HTTPHandler):
    def __init__(self, opened: list[HTTPConnection]) -> None:
        super().__init__()
        self._opened = opened

    def http_open(self, req: Request) -> Any:
        """Open, and remember the connection."""

        def connection(*arguments: Any, **options: Any) -> HTTPConnection:
            self._opened.append(HTTPConnection(*arguments, **options))
            return self._opened[-1]

        return self.do_open(connection, req)


class _SecureHandler(HTTPSHandler):
    def __init__(self, opened: list[HTTPConnection]) -> None:
        super().__init__()
        self._opened = opened

    def https_open(self, req: Request) -> Any:
        """Open, and remember the connection."""

        def connection(*arguments: Any, **options: Any) -> HTTPSConnection:
            made = HTTPSConnection(*arguments, **options)
            self._opened.append(made)
            return made

        return self.do_open(connection, req)
