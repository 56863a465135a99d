"""The broker of streamed decisions: Redis Streams, spoken to here and nowhere else in the room. What is asked is not known.

A message is delivered at least once: it stays pending until it is settled, and what a dead consumer leaves behind is
claimed by another. Settling publishes the answer and acknowledges in one step on the server, for a message that is still
pending only: of two consumers that hold the same one, one answers. Redis 7.0 or later.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_assets.foundation.errors import InputError, SettingsError, TransientError

if TYPE_CHECKING:
    import redis

_Fields = dict[str | bytes, str | bytes]

REQUEST, MESSAGE_ID, REPLAY_OF = b"request", b"message_id", b"replay_of"
# A read waits for new messages that long at the server, well within the time in which any answer is expected.
_BLOCK_MS = 1000
_ANSWER_SECONDS = 5.0
# Of one strange message so many fields go to the dead letters; ours are three.
_MAX_FIELDS = 16
_IDLE_CONSUMER_MS = 3_600_000
_DEAD_LETTER_PAGE = 500
# Refusals that pass by themselves, as their first word; redis-py has no classes for these.
_PASSING = ("MISCONF", "NOREPLICAS", "UNBLOCKED", "BUSY", "CLUSTERDOWN", "FAILOVER")

# Adding before acknowledging: where Redis refuses to add, the message has to stay pending, or its answer is lost.
_SETTLE = """
local at, settled = 3, 0
while at <= #ARGV do
  local id, parts = ARGV[at], tonumber(ARGV[at + 1])
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1) == 1 then
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, at + 2, at + 1 + parts))
    redis.call('XACK', KEYS[1], ARGV[1], id)
    settled = settled + 1
  end
  at = at + 2 + parts
end
return settled
"""
# In one step: a consumer that is forgotten between two calls takes what it was given in between with it.
_FORGET_CONSUMERS = """
local forgotten = 0
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #flat, 2 do consumer[flat[i]] = flat[i + 1] end
  if consumer['pending'] == 0 and consumer['idle'] > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer['name'])
    forgotten = forgotten + 1
  end
end
return forgotten
"""


class BacklogFullError(TransientError):
    """So many requests wait for an answer that no more are taken."""


@dataclass(frozen=True)
class StreamNames:
    """Keys of the three streams, below a prefix; a Redis Cluster needs one with a hash tag, such as `{mlops}:decisions`."""

    prefix: str = "mlops:decisions"
    group: str = "mlops"

    @property
    def requests(self) -> str:
        """Requests: `request` (JSON of POST /predict), and `message_id` where the producer may send one twice."""
        return f"{self.prefix}:requests"

    @property
    def answers(self) -> str:
        """Answers: `request_id` (entry of the requests), `message_id`, `prediction_id`, `answer` (JSON)."""
        return f"{self.prefix}:answers"

    @property
    def dead(self) -> str:
        """Dead letters: the fields as they came, `reason`, `deliveries`, `origin` (entry of the requests)."""
        return f"{self.prefix}:dead"


@dataclass(frozen=True)
class Message:
    """One request as it was delivered, for the `deliveries`-th time.

    `origin` is the entry that it first came in as: its own id, or, for a replayed dead letter, that of the original.
    """

    id: str
    origin: str
    request: bytes | None
    message_id: bytes | None
    fields: Mapping[bytes, bytes]
    deliveries: int


@dataclass(frozen=True)
class DeadLetter:
    """One message that was given up, and why; `id` is its entry among the dead letters."""

    id: str
    origin: str
    reason: str
    deliveries: int
    fields: Mapping[bytes, bytes]


@dataclass(frozen=True)
class StreamLag:
    """What is not answered yet: `waiting` was never delivered, `pending` is in some consumer's hands.

    `oldest_age_seconds` is the age of the oldest of both, by the server's clock; 0 when everything is answered.
    """

    waiting: int
    pending: int
    oldest_age_seconds: float
    dead_letters: int

    @property
    def backlog(self) -> int:
        """Messages without an answer."""
        return self.waiting + self.pending


def connect(url: str, *, answer_seconds: float = _ANSWER_SECONDS) -> "redis.Redis":
    """Make a client; nothing is opened. It repeats nothing by itself: a repeated XADD is a second message.

    Args:
        url: `redis://[user:password@]host[:port][/db]`, or rediss:// for TLS.
        answer_seconds: a server that takes longer counts as away; more than the second that a read waits for messages.

    Raises:
        SettingsError: the URL is not one.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=answer_seconds,
            socket_connect_timeout=answer_seconds,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        raise SettingsError(
            "MLOPS_STREAM_URL (else MLOPS_REDIS_URL) is no Redis URL; use redis://[user:password@]host[:port][/db], or "
            "rediss:// for TLS"
        ) from None


class RedisStream:
    """Requests, answers and dead letters on one Redis server; any number of threads and processes use them.

    Every method raises TransientError while the server does not answer, and SettingsError when it refuses user or
    password.

    Args:
        client: made by `connect`.
        names: of the streams and of the consumer group.
        kept: answers, and dead letters, that are kept at least; older ones go. The prediction log keeps every answer.
    """

    def __init__(self, client: "redis.Redis", names: StreamNames | None = None, *, kept: int = 100_000) -> None:
        self.names = names or StreamNames()
        self._redis: Any = client
        self._kept = kept
        self._settle = self._redis.register_script(_SETTLE)
        self._forget = self._redis.register_script(_FORGET_CONSUMERS)

    def ensure_group(self) -> None:
        """Make the stream and its consumer group, which begins with the oldest message; a second call changes nothing."""
        from redis.exceptions import ResponseError

        with self._errors():
            try:
                self._redis.xgroup_create(self.names.requests, self.names.group, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    def publish(self, request: str | bytes, *, message_id: str | None = None, max_backlog: int) -> str:
        """Add a request and return its entry id.

        Args:
            request: JSON of POST /predict.
            message_id: the producer's own id of this request; sent twice, it is decided once, and answered the same.
                Without one, a call that ended in a TransientError must not be repeated blindly.
            max_backlog: most requests without an answer; producers that ask at the same time may pass it by as many.

        Raises:
            BacklogFullError: as many wait already; try again later.
            InputError: the message id is empty.
        """
        if message_id == "":
            raise InputError("message_id is empty; give every request an id of its own, or none")
        with self._errors():
            backlog = self._backlog(max_backlog)
            if backlog >= max_backlog:
                raise BacklogFullError(
                    f"{backlog} requests on {self.names.requests} have no answer yet, the limit is {max_backlog}; wait, or "
                    "start more consumers"
                )
            fields: _Fields = {REQUEST: request}
            if message_id is not None:
                fields[MESSAGE_ID] = message_id
            return _text(self._redis.xadd(self.names.requests, fields))

    def read(self, consumer: str, count: int, *, wait: bool) -> list[Message]:
        """Take up to `count` messages that nobody was given yet; with `wait`, wait up to a second for the first."""
        with self._errors():
            answer = self._redis.xreadgroup(
                self.names.group,
                consumer,
                {self.names.requests: ">"},
                count=count,
                block=_BLOCK_MS if wait else None,
            )
        return [_message(entry, fields, 1) for _, entries in answer or () for entry, fields in entries]

    def claim(self, consumer: str, idle_seconds: float) -> Message | None:
        """Take over the oldest message that its consumer did not settle or hold for `idle_seconds`; None without one.

        One at a time, so that a message that kills its consumers is delivered alone, and takes no other with it.
        """
        position = b"0-0"
        with self._errors():
            while True:
                position, found, _deleted = self._redis.xautoclaim(
                    self.names.requests, self.names.group, consumer, int(idle_seconds * 1000), position, count=1
                )
                if found:
                    entry, fields = found[0]
                    known = self._redis.xpending_range(self.names.requests, self.names.group, entry, entry, 1)
                    # Settled by somebody else between the two calls: answering it again changes nothing.
                    return _message(entry, fields, known[0]["times_delivered"] if known else 1)
                if position == b"0-0":
                    return None

    def hold(self, consumer: str, ids: Sequence[str]) -> None:
        """Say that these messages are being worked on, so that nobody claims them; that is no delivery."""
        with self._errors():
            self._redis.xclaim(self.names.requests, self.names.group, consumer, 0, list(ids), justid=True)

    def settle(self, answers: Sequence[tuple[Message, Mapping[str, str]]]) -> int:
        """Publish answers and acknowledge their messages; return how many were still pending, the others are left out."""
        entries = []
        for message, answer in answers:
            fields: _Fields = {"request_id": message.id}
            if message.message_id is not None:
                fields[MESSAGE_ID] = message.message_id
            fields.update(answer)
            entries.append((message.id, fields))
        return self._settled(self.names.answers, entries)

    def bury(self, letters: Sequence[tuple[Message, str]]) -> int:
        """Move messages to the dead letters, each with its reason; return how many were still pending."""
        entries = []
        for message, reason in letters:
            fields: _Fields = dict(list(message.fields.items())[:_MAX_FIELDS])
            fields |= {"reason": reason, "deliveries": str(message.deliveries), "origin": message.origin}
            entries.append((message.id, fields))
        return self._settled(self.names.dead, entries)

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Give the dead letters that there are now, the oldest first; what comes in meanwhile is left out."""
        with self._errors():
            newest = self._redis.xrevrange(self.names.dead, count=1)
        if not newest:
            return
        after, last = "-", _text(newest[0][0])
        while True:
            with self._errors():
                page = self._redis.xrange(self.names.dead, min=after, max=last, count=_DEAD_LETTER_PAGE)
            for entry, fields in page:
                yield _dead_letter(entry, fields)
            if len(page) < _DEAD_LETTER_PAGE or page[-1][0] == newest[0][0]:
                return
            after = "(" + _text(page[-1][0])

    def replay(self, letter: DeadLetter) -> str | None:
        """Send a dead letter once more, as the message that it was; None when it is no longer among the dead letters."""
        fields = {name: letter.fields[name] for name in (REQUEST, MESSAGE_ID) if name in letter.fields}
        fields[REPLAY_OF] = letter.origin.encode()
        with self._errors():
            if not self._redis.xrange(self.names.dead, min=letter.id, max=letter.id):
                return None
            # Two operators at once send it twice: it is one decision all the same, by its origin.
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.xadd(self.names.requests, fields)
            pipeline.xdel(self.names.dead, letter.id)
            return _text(pipeline.execute()[0])

    def lag(self) -> StreamLag:
        """Count what is not answered."""
        names = self.names
        with self._errors():
            group = self._group()
            first: str | None = None
            pending, after = 0, "-"
            if group is not None:
                summary = self._redis.xpending(names.requests, names.group)
                pending, after = summary["pending"], "(" + _text(group["last-delivered-id"])
                first = _text(summary["min"]) if pending else None
            if first is None:
                undelivered = self._redis.xrange(names.requests, min=after, count=1)
                first = _text(undelivered[0][0]) if undelivered else None
            seconds, microseconds = self._redis.time()
            age = 0.0 if first is None else seconds + microseconds / 1e6 - int(first.partition("-")[0]) / 1000.0
            return StreamLag(self._waiting(group, None), pending, max(age, 0.0), self._redis.xlen(names.dead))

    def tidy(self) -> None:
        """Drop requests that every group of the stream has settled, and consumers that have been gone for an hour."""
        with self._errors():
            floors = []
            for group in self._groups():
                # In this order: what is delivered in between is newer than the last that was delivered before.
                summary = self._redis.xpending(self.names.requests, group["name"])
                ends = [group["last-delivered-id"], *([summary["min"]] if summary["pending"] else [])]
                floors.append(min(map(_position, ends)))
            if floors:
                milliseconds, number = min(floors)
                self._redis.xtrim(self.names.requests, minid=f"{milliseconds}-{number}", approximate=True)
                self._forget(keys=[self.names.requests], args=[self.names.group, _IDLE_CONSUMER_MS])

    def _backlog(self, limit: int) -> int:
        group = self._group()
        return self._waiting(group, limit) + (0 if group is None else int(group["pending"]))

    def _waiting(self, group: Mapping[str, Any] | None, limit: int | None) -> int:
        """Messages that were never delivered; counted up to `limit` where the server cannot tell."""
        if group is None:
            return int(self._redis.xlen(self.names.requests))
        if group.get("lag") is not None:
            return int(group["lag"])
        after = "(" + _text(group["last-delivered-id"])
        return len(self._redis.xrange(self.names.requests, min=after, count=limit))

    def _group(self) -> Mapping[str, Any] | None:
        return next((group for group in self._groups() if _text(group["name"]) == self.names.group), None)

    def _groups(self) -> list[Mapping[str, Any]]:
        from redis.exceptions import ResponseError

        try:
            return list(self._redis.xinfo_groups(self.names.requests))
        except ResponseError as error:
            if "no such key" not in str(error):
                raise
            return []

    def _settled(self, target: str, entries: Sequence[tuple[str, _Fields]]) -> int:
        if not entries:
            return 0
        arguments: list[str | bytes | int] = [self.names.group, self._kept]
        for entry, fields in entries:
            arguments += [entry, 2 * len(fields)]
            for name, value in fields.items():
                arguments += [name, value]
        with self._errors():
            return int(self._settle(keys=[self.names.requests, target], args=arguments))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Sort the server's refusals into those that pass and those that do not; the password is in none of them."""
        from redis import exceptions

        try:
            yield
        except (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError) as error:
            raise SettingsError(
                f"{self._server()} refuses the user or password in MLOPS_STREAM_URL (else MLOPS_REDIS_URL): {error}"
            ) from error
        except (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ClusterError) as error:
            raise TransientError(f"{self._server()} does not answer: {error}") from error
        except (exceptions.ReadOnlyError, exceptions.OutOfMemoryError, exceptions.TryAgainError) as error:
            raise TransientError(f"{self._server()} takes nothing at present: {error}") from error
        except exceptions.ResponseError as error:
            if str(error).startswith("NOGROUP"):
                # Redis came back without its data: begin again with what is there now.
                self.ensure_group()
                raise TransientError(f"{self._server()} had lost {self.names.requests}; it is there again") from error
            if str(error).startswith("WRONGTYPE"):
                raise SettingsError(
                    f"{self._server()} holds something else below {self.names.prefix}; remove it there, or use another database"
                ) from error
            if str(error).startswith(_PASSING):
                raise TransientError(f"{self._server()} takes nothing at present: {error}") from error
            raise

    def _server(self) -> str:
        options = self._redis.connection_pool.connection_kwargs
        return f"Redis on {options.get('host', options.get('path'))}"


def _message(entry: bytes, fields: Mapping[bytes, bytes], deliveries: int) -> Message:
    return Message(
        id=_text(entry),
        origin=_text(fields.get(REPLAY_OF, entry)),
        request=fields.get(REQUEST),
        message_id=fields.get(MESSAGE_ID),
        fields=fields,
        deliveries=deliveries,
    )


def _dead_letter(entry: bytes, fields: Mapping[bytes, bytes]) -> DeadLetter:
    return DeadLetter(
        id=_text(entry),
        origin=_text(fields[b"origin"]),
        reason=_text(fields[b"reason"]),
        deliveries=int(fields[b"deliveries"]),
        fields={name: value for name, value in fields.items() if name not in {b"reason", b"deliveries", b"origin"}},
    )


def _position(entry: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
