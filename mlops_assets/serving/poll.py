"""A function called again and again in a thread of its own, whose errors are said once, until it works again."""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from mlops_assets.foundation.errors import MlopsError

_STOP_SECONDS = 5.0
_PATIENCE_SECONDS = 5.0
_log = logging.getLogger(__name__)


class Poll:
    """Calls `refresh` every `poll_ms`; a store that does not answer leaves everything as it was."""

    def __init__(self, name: str, refresh: Callable[[], None], poll_ms: float) -> None:
        self._refresh = refresh
        self._seconds = poll_ms / 1000.0
        self._name = name
        self._stopping = threading.Event()
        self._answered = threading.Event()
        self._answered_at: float | None = None
        self._asked_at: float | None = None
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._poll, name=f"poll-{name}", daemon=True)

    def start(self) -> None:
        """Start polling."""
        self._thread.start()

    def wait_first(self, seconds: float) -> bool:
        """Wait for the first answer; False when none came in time."""
        return self._answered.wait(seconds)

    @property
    def age_seconds(self) -> float | None:
        """Seconds since the last answer, None before the first one."""
        return None if self._answered_at is None else time.monotonic() - self._answered_at

    @property
    def problem(self) -> str | None:
        """Why there is no answer: the last call failed, or has not come back for long; None when all is well."""
        asked_at = self._asked_at
        if self._problem is None and asked_at is not None and time.monotonic() - asked_at > _PATIENCE_SECONDS:
            return f"no answer for {time.monotonic() - asked_at:.0f} s"
        return self._problem

    def stop(self) -> None:
        """Stop polling; a call under way is waited for within a bound."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._asked_at = time.monotonic()
            try:
                self._refresh()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next try may do, and nobody else would look
                expected = isinstance(error, MlopsError | SQLAlchemyError | OSError)
                if self._problem is None or not expected:
                    what = "%s does not answer, what is known stays in service: %s"
                    _log.warning(what, self._name, error, exc_info=not expected)
                self._problem = str(error)
            else:
                if self._problem is not None:
                    _log.info("%s answers again", self._name)
                self._problem, self._answered_at = None, time.monotonic()
                self._answered.set()
            self._asked_at = None
            self._stopping.wait(self._seconds)
