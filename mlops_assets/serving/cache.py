"""A bounded cache of Q-values by model version and ordered state vector: least recently used, with a time to live."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class AnswerCache(Generic[Value]):
    """Holds at most `entries` answers, each for `ttl_seconds`; threads may share it.

    The key has to name the model version and the exact bytes of the ordered vector: a promoted or rolled-back model never
    answers with another one's numbers, and two spellings of a request are one.
    """

    def __init__(self, entries: int, ttl_seconds: float) -> None:
        self._entries = entries
        self._ttl_seconds = ttl_seconds
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, tuple[float, Value]] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def get(self, key: Hashable, now: float) -> Value | None:
        """Return the answer, None when there is none or it is too old; `now` is monotonic, in seconds."""
        with self._lock:
            found = self._held.get(key)
            if found is None or now - found[0] > self._ttl_seconds:
                self.misses += 1
                return None
            self._held.move_to_end(key)
            self.hits += 1
            return found[1]

    def put(self, key: Hashable, value: Value, now: float) -> None:
        """Remember an answer; the one that was not asked for longest goes when the cache is full."""
        if not self._entries:
            return
        with self._lock:
            self._held[key] = (now, value)
            self._held.move_to_end(key)
            if len(self._held) > self._entries:
                self._held.popitem(last=False)

    def __len__(self) -> int:
        """Number of answers held, too old ones included."""
        return len(self._held)
