"""Decisions for requests that come over a stream: each one decided once, logged once, answered as it was logged.

The id of a decision is made from the message, so a message that comes twice meets its own row: the answer is the stored
one, whatever model or draw there would be now. Commit first, then answer and acknowledge; whatever dies in between is
repeated from the beginning, harmlessly. Nothing is read ahead of what is committed.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Union

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy import Engine, select
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from mlops_assets.experiments.experiments import Experiment
from mlops_assets.foundation.agents import AgentSpec, agent_spec
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import InputError, NotReadyError, StorageError, TransientError
from mlops_assets.foundation.policies import ServingPolicy
from mlops_assets.foundation.tables import PredictionRecord
from mlops_assets.serving.decide import Decider, Decision, Features
from mlops_assets.serving.models import ServedModels
from mlops_assets.serving.prediction_rows import insert_predictions
from mlops_assets.serving.redis_stream import Message, RedisStream
from mlops_assets.serving.requests import DecisionRequest, request_models

OnlineFeatures = Callable[[AgentSpec, Sequence[str], Sequence[str], datetime], Mapping[str, NDArray[Any]]]
ANSWERED, REPEATED, RETRIED, DEAD = "answered", "repeated", "retried", "dead"
_SHOWN_PROBLEMS = 3
# What of a request its row keeps as it came.
_KEPT_FIELDS = ("agent", "agent_id", "test_id", "requirement_id", "step", "ui_framework", "browser", "test_type")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConsumerLimits:
    """Bounds of one consumer.

    `batch`: most messages in hand. `claim_idle_seconds`: a message that nobody held for so long is taken over; what could
    not be decided is tried again after that time. `max_deliveries`: after so many a message is given up.
    `feature_patience_seconds`: how long a feature store that is away is waited for before answers go out with default
    features, flagged. `longest_pause_seconds`: between two tries while a store is away; shorter than the claim.
    """

    batch: int
    max_request_bytes: int
    claim_idle_seconds: float
    max_deliveries: int
    feature_patience_seconds: float
    first_pause_seconds: float = 0.1
    longest_pause_seconds: float = 5.0

    @classmethod
    def of(cls, policy: ServingPolicy) -> "ConsumerLimits":
        """Return the bounds of a policy profile."""
        return cls(
            batch=policy.stream_batch,
            max_request_bytes=policy.max_body_bytes,
            claim_idle_seconds=policy.stream_claim_idle_seconds,
            max_deliveries=policy.stream_max_deliveries,
            feature_patience_seconds=policy.stream_feature_patience_seconds,
        )


@dataclass(frozen=True)
class _Asked:
    message: Message
    request: DecisionRequest
    prediction_id: str


class StreamConsumer:
    """Consumer `name` of the group; one process may run several, in a thread each, with a `Decider` each.

    Args:
        stream: the broker.
        name: its name in the group; no two consumers alive share one.
        models: the versions in service; asked at every batch.
        experiments: the unfinished experiment of each agent; asked at every batch.
        features: reads online features as `FeatureStoreAdapter.online_features` does, for all rows of an agent at once.
        decider: takes the decisions.
        engine: operational database.
        clock: time of decisions.
        limits: bounds.
        count: called with an outcome and how many messages had it.
        on_decision: called with every new decision once it is in the database.
    """

    def __init__(
        self,
        stream: RedisStream,
        *,
        name: str,
        models: Callable[[], ServedModels],
        experiments: Callable[[], Mapping[str, Experiment]],
        features: OnlineFeatures,
        decider: Decider,
        engine: Engine,
        clock: Clock,
        limits: ConsumerLimits,
        count: Callable[[str, int], None] = lambda _outcome, _messages: None,
        on_decision: Callable[[Decision], None] = lambda _decision: None,
    ) -> None:
        self._stream = stream
        self._name = name
        self._models = models
        self._experiments = experiments
        self._features = features
        self._decider = decider
        self._engine = engine
        self._clock = clock
        self._limits = limits
        self._count = count
        self._on_decision = on_decision
        self._in_hand: list[Message] = []
        self._claim_due = 0.0
        self._features_away_since: float | None = None

    def run(self, stop: threading.Event) -> None:
        """Consume until `stop`, then finish the batch in hand; stores that are away are waited for, with growing pauses.

        Raises:
            SettingsError: a store refuses user or password.
        """
        pause, ready, claimed = self._limits.first_pause_seconds, False, False
        with self._holding():
            while not stop.is_set():
                try:
                    if not ready:
                        self._stream.ensure_group()
                        ready = True
                    if not self._in_hand:
                        # In turns: neither old messages nor new ones wait for an end of the others.
                        self._in_hand = [] if claimed else self._claim()
                        claimed = bool(self._in_hand)
                    if not self._in_hand:
                        self._in_hand = self._stream.read(self._name, self._limits.batch, wait=not self._claim_is_due())
                    self._handle(self._in_hand)
                except TransientError as error:
                    if pause == self._limits.first_pause_seconds:
                        _log.warning("%s waits with %d messages in hand: %s", self._name, len(self._in_hand), error)
                    stop.wait(pause)
                    pause = min(2 * pause, self._limits.longest_pause_seconds)
                else:
                    if pause != self._limits.first_pause_seconds:
                        _log.info("%s goes on", self._name)
                    self._in_hand, pause = [], self._limits.first_pause_seconds
        if self._in_hand:
            _log.warning("%s leaves %d messages to others: a store was away", self._name, len(self._in_hand))

    def drain(self) -> int:
        """Handle what there is now, and return how many messages that were.

        Raises:
            TransientError: a store is away; what was in hand stays pending.
            SettingsError: a store refuses user or password.
        """
        self._stream.ensure_group()
        handled = 0
        with self._holding():
            while batch := self._claim() or self._stream.read(self._name, self._limits.batch, wait=False):
                self._in_hand = batch
                self._handle(batch)
                handled += len(batch)
                self._in_hand = []
        return handled

    @contextmanager
    def _holding(self) -> Iterator[None]:
        """Tell the broker all the while that what is in hand is being worked on.

        A database that hangs for minutes must not hand a message from consumer to consumer, and into the dead letters:
        only a process that is dead, or stopped, loses its messages.
        """
        done = threading.Event()

        def hold() -> None:
            while not done.wait(self._limits.claim_idle_seconds / 4):
                in_hand = [message.id for message in self._in_hand]
                try:
                    if in_hand:
                        self._stream.hold(self._name, in_hand)
                except TransientError as error:  # the consumer itself meets it as well, and says so once
                    _log.debug("%s could not hold its messages: %s", self._name, error)

        thread = threading.Thread(target=hold, name=f"hold-{self._name}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _claim_is_due(self) -> bool:
        return time.monotonic() >= self._claim_due

    def _claim(self) -> list[Message]:
        if not self._claim_is_due():
            return []
        found = self._stream.claim(self._name, self._limits.claim_idle_seconds)
        if found is not None:
            return [found]
        self._claim_due = time.monotonic() + self._limits.claim_idle_seconds / 4
        self._stream.tidy()
        return []

    def _handle(self, batch: Sequence[Message]) -> None:
        if not batch:
            return
        try:
            self._answer(batch)
        except (DataError, IntegrityError) as error:
            # One row that the database does not take must not keep the others out.
            if len(batch) == 1:
                self._give_up_or_retry([(batch[0], f"the database refuses it: {error.orig}")])
            for message in batch if len(batch) > 1 else ():
                self._handle([message])
        except SQLAlchemyError as error:
            raise StorageError(f"operational database: {error}") from error

    def _answer(self, batch: Sequence[Message]) -> None:
        started, now = time.perf_counter(), self._clock.now()
        asked, dead = self._validated(batch)
        stored = self._stored({one.prediction_id for one in asked})
        fresh: dict[str, _Asked] = {}
        for one in asked:
            if one.prediction_id not in stored and one.message.deliveries <= self._limits.max_deliveries:
                fresh.setdefault(one.prediction_id, one)
        decisions, failures = self._decided(list(fresh.values()), now, started)
        if decisions:
            stored |= self._committed(decisions)
        answers: list[tuple[Message, Mapping[str, str]]] = []
        failed: list[tuple[Message, str]] = []
        for one in asked:
            row = stored.get(one.prediction_id)
            if row is None:
                worn_out = f"its consumers ended while deciding it, {one.message.deliveries - 1} times"
                failed.append((one.message, failures.get(one.prediction_id, worn_out)))
            elif one.message.message_id is not None and not _is_of(row, one.request):
                dead.append((one.message, f"message_id was used before, for another request ({row.prediction_id})"))
            else:
                answers.append(
                    (one.message, {"prediction_id": row.prediction_id, "answer": json.dumps(answer_of(row))})
                )
        self._stream.settle(answers)
        first = {one.message.id for one in fresh.values()}
        answered = sum(message.id in first for message, _ in answers)
        self._count(ANSWERED, answered)
        self._count(REPEATED, len(answers) - answered)
        self._bury(dead)
        self._give_up_or_retry(failed)

    def _validated(self, batch: Sequence[Message]) -> tuple[list[_Asked], list[tuple[Message, str]]]:
        asked: list[_Asked] = []
        invalid: list[tuple[Message, str]] = []
        for message in batch:
            try:
                request = _request(message, self._limits.max_request_bytes)
            except InputError as error:
                invalid.append((message, str(error)))
            else:
                asked.append(_Asked(message, request, prediction_id_of(self._stream.names.requests, message)))
        return asked, invalid

    def _decided(
        self, asked: Sequence[_Asked], now: datetime, started: float
    ) -> tuple[list[Decision], Mapping[str, str]]:
        """Decide all; what cannot be decided keeps nothing else from its answer, and is named with its reason."""
        if not asked:
            return [], {}
        models, experiments = self._models(), self._experiments()
        decisions: list[Decision] = []
        failures: dict[str, str] = {}
        for one, features in self._with_features(asked, now):
            try:
                decision = self._decider.decide(
                    one.request,
                    models=models,
                    experiment=experiments.get(one.request.agent),
                    features=features,
                    now=now,
                    started=started,
                    channel="stream",
                    prediction_id=one.prediction_id,
                )
            except TransientError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it goes into the log and the dead letters
                failures[one.prediction_id] = f"{type(error).__name__}: {error}"
            else:
                decisions.append(decision)
        return decisions, failures

    def _with_features(self, asked: Sequence[_Asked], now: datetime) -> Iterator[tuple[_Asked, Features | None]]:
        by_agent: dict[str, list[_Asked]] = {}
        for one in asked:
            by_agent.setdefault(one.request.agent, []).append(one)
        for agent, rows in by_agent.items():
            found = self._read_features(agent_spec(agent), [one.request for one in rows], now)
            for i, one in enumerate(rows):
                yield one, None if found is None else {name: column[i : i + 1] for name, column in found.items()}

    def _read_features(
        self, spec: AgentSpec, requests: Sequence[DecisionRequest], now: datetime
    ) -> Mapping[str, NDArray[Any]] | None:
        """Read the features of N requests; None when they cannot be had.

        Raises:
            TransientError: the store is away, for less than the patience.
        """
        try:
            found = self._features(
                spec, [request.test_id for request in requests], [request.agent_id for request in requests], now
            )
        except NotReadyError as error:
            self._features_away("answers go out without online features: %s", error)
            return None
        except Exception as error:
            since = self._features_away("online features: %s", error)
            if time.monotonic() - since < self._limits.feature_patience_seconds:
                # Drivers raise what they like; a stream can wait where a user cannot.
                raise TransientError(f"online features: {type(error).__name__}: {error}") from error
            return None
        self._features_away_since = None
        return found

    def _features_away(self, text: str, error: Exception) -> float:
        if self._features_away_since is None:
            _log.warning(text, error)
            self._features_away_since = time.monotonic()
        return self._features_away_since

    def _stored(self, ids: set[str]) -> dict[str, PredictionRecord]:
        if not ids:
            return {}
        with read_transaction(self._engine) as session:
            return _rows(session, ids)

    def _committed(self, decisions: Sequence[Decision]) -> dict[str, PredictionRecord]:
        """Insert the rows, and return what is stored: another consumer of the same message may have been faster."""
        # Always in the same order: two transactions over the same rows do not lock each other out.
        rows = sorted((decision.row for decision in decisions), key=lambda row: str(row["prediction_id"]))
        with transaction(self._engine) as session:
            insert_predictions(session, rows)
            stored = _rows(session, [row["prediction_id"] for row in rows])
        for decision in decisions:
            self._on_decision(decision)
        return stored

    def _give_up_or_retry(self, failed: Sequence[tuple[Message, str]]) -> None:
        last = [one for one in failed if one[0].deliveries >= self._limits.max_deliveries]
        retried = [one for one in failed if one[0].deliveries < self._limits.max_deliveries]
        for message, reason in retried:
            _log.warning("%s stays pending after try %d: %s", message.id, message.deliveries, reason)
        self._count(RETRIED, len(retried))
        self._bury(last)

    def _bury(self, letters: Sequence[tuple[Message, str]]) -> None:
        self._stream.bury(letters)
        for message, reason in letters:
            _log.error("%s goes to %s: %s", message.id, self._stream.names.dead, reason)
        self._count(DEAD, len(letters))


def prediction_id_of(stream: str, message: Message) -> str:
    """Return the id of a message's decision, 32 hex digits: of the producer's message id, else of entry and content.

    The content, because two brokers may number two messages alike.
    """
    if message.message_id is not None:
        parts = [b"message", message.message_id]
    else:
        parts = [b"entry", message.origin.encode(), message.request or b""]
    return hashlib.sha256(b"\0".join([stream.encode(), *parts])).hexdigest()[:32]


def answer_of(row: PredictionRecord) -> dict[str, Any]:
    """Return what is published of a logged decision."""
    return {
        "prediction_id": row.prediction_id,
        "agent": row.agent,
        "action": row.action,
        "action_name": agent_spec(row.agent).actions[row.action],
        "q_values": row.q_values,
        "confidence": row.confidence,
        "propensity": row.propensity,
        "explored": row.explored,
        "model_name": row.model_name,
        "model_version": row.model_version,
        "model_alias": row.model_alias,
        "experiment": row.experiment,
        "variant": row.variant,
        "missing_features": row.missing_features,
        "status": row.status,
        "fallback": row.fallback,
        "event_time": row.event_time.isoformat(),
    }


def _rows(session: Session, ids: Iterable[str]) -> dict[str, PredictionRecord]:
    query = select(PredictionRecord).where(PredictionRecord.prediction_id.in_(list(ids)))
    return {row.prediction_id: row for row in session.scalars(query)}


def _is_of(row: PredictionRecord, request: DecisionRequest) -> bool:
    """Whether the stored decision was taken on this request, by what its row keeps of it."""
    context = np.array(request.context_values, dtype="<f4").tobytes()
    return (
        all(getattr(row, name) == getattr(request, name) for name in _KEPT_FIELDS)
        and row.requirement_text == request.text
        and row.episode_id == (request.episode_id or row.prediction_id)
        and (row.user_hash is None) == (request.user_id is None)
        and row.state.startswith(context)
    )


@cache
def _adapter() -> TypeAdapter[DecisionRequest]:
    models: Any = Union[tuple(request_models().values())]  # noqa: UP007 - of a tuple that is made at run time
    return TypeAdapter(Annotated[models, Field(discriminator="agent")])


def _request(message: Message, max_bytes: int) -> DecisionRequest:
    """Validate a message's request.

    Raises:
        InputError: there is none, it is too long, or not what the agent takes.
    """
    if message.request is None:
        raise InputError("the message has no field `request`; it holds the JSON of POST /predict")
    if len(message.request) > max_bytes:
        raise InputError(f"the request has {len(message.request)} bytes, at most {max_bytes} are taken")
    try:
        return _adapter().validate_json(message.request)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        shown = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'request'}: {one['msg']}" for one in problems[:_SHOWN_PROBLEMS]
        )
        more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise InputError(f"invalid request: {shown}{more}") from None
