"""Served decisions and their late outcomes as an experience source; the tables are filled by the serving room.

Which episodes are whole is decided in `served_episodes.py`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sqlalchemy import Connection, DateTime, Engine, Select, func, or_, select, type_coerce
from sqlalchemy.orm import Session

from mlops_assets.experiences.environment import ExperienceBatch
from mlops_assets.experiences.schema import REQUIREMENT_TEXTS, TIMESTAMP, experience_schema, label_schema
from mlops_assets.experiences.served_episodes import Arrivals, LoggedSteps, Position, whole_since
from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import Base, OutcomeRecord, PredictionRecord

_OUTCOMES_A_READ: Final = 50_000
_DECISIONS_A_BATCH: Final = 50_000
# SQLite takes 32,766 values in one statement, and 1,000 nested conditions.
_KEYS_A_QUERY: Final = 5_000
_RANGES_A_QUERY: Final = 200
# More of them alive at once reach the oldest generation of the garbage collector: half as fast.
_ROWS_AT_ONCE: Final = 500
_FLOAT32: Final = np.dtype("<f4")

_Prediction, _Outcome = PredictionRecord, OutcomeRecord
_LOGGED: Final = (
    "prediction_id", "agent_id", "test_id", "requirement_id", "episode_id", "step", "event_time", "state", "action",
    "propensity", "ui_framework", "browser", "test_type", "requirement_text",
)  # fmt: skip
_HAPPENED: Final = ("reward", "done", "best_action", "action_values", "occurred_at")
_COLUMNS: Final = (*_LOGGED, *_HAPPENED, "outcome_id")
_TIMES: Final = frozenset({"event_time", "received_at", "occurred_at"})

Columns = Mapping[str, Sequence[Any]]


class PredictionLog:
    """Experience source over what was served: an episode is delivered, once, when its last outcome has come.

    An outcome's label is known from its `occurred_at` on (never before its decision), not from `received_at`: served
    decisions may take place in the time of the data, while outcomes are received in that of the machine. A logged
    vector that has not the length of the agent's state is null, and so quarantined by who collects.
    """

    name = "prediction-log"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known_until: int | None = None

    def as_of(self, now: datetime) -> datetime:
        """Return `now`, or the newest decision's time if that is later, as on a clock of the data.

        What completes after this call waits for the next one: it would be later than the time returned here.
        """
        with read_transaction(self._engine) as session:
            self._known_until = _newest_outcome(session)
            newest = [
                session.scalar(select(func.max(_Prediction.event_time)).where(_Prediction.agent == agent))
                for agent in AGENTS
            ]
        return max([now, *(time for time in newest if time is not None)])

    def batches(self, spec: AgentSpec, cursor: str | None) -> Iterator[ExperienceBatch]:
        """Yield the episodes that became whole after `cursor`, in the order of completion.

        Memory follows the batch, not the history. A last batch without rows says that outcomes were read which
        complete nothing yet.

        Raises:
            InputError: the cursor is not one of this source's.
        """
        reported = position = Position.parse(cursor)
        until = self._known_until
        if until is None:
            with read_transaction(self._engine) as session:
                until = _newest_outcome(session)
        while True:
            with read_transaction(self._engine) as session:
                # Below the ORM, which takes as long for a row as the database does.
                position, decisions = _read_on(session.connection(), spec, position, until)
            if decisions is None:
                break
            if decisions["outcome_id"]:
                reported = position
                yield _batch(spec, decisions, position.to_cursor())
        if position != reported:
            yield _batch(spec, dict.fromkeys(_COLUMNS, ()), position.to_cursor())

    def environment(self, spec: AgentSpec, episode_ids: Sequence[str]) -> None:
        """Return None: what other actions would have brought is not known of a served decision."""
        del spec, episode_ids


def _newest_outcome(session: Session) -> int:
    return session.scalar(select(func.max(_Outcome.id))) or 0


def _read_on(
    connection: Connection, spec: AgentSpec, position: Position, until: int
) -> tuple[Position, Columns | None]:
    """Read the next outcomes: the position after them and the decisions they complete; None when there is no more."""
    arrivals, episodes = _arrived(connection, spec, position, until)
    if not len(arrivals.ids):
        return position, None
    log = _logged_steps(connection, spec, episodes)
    rows, arrivals = whole_since(log, position, arrivals, max_rows=_DECISIONS_A_BATCH)
    return position.after(arrivals), _decisions(connection, log.outcome_id[rows].tolist())


def _arrived(connection: Connection, spec: AgentSpec, position: Position, until: int) -> tuple[Arrivals, list[str]]:
    """Outcomes of all agents that are not read yet, the lowest numbers first, and this agent's episodes among them.

    An outcome counts once its prediction is there as well.
    """
    names = ("id", "received_at", "agent", "episode")
    query = (
        select(_Outcome.id, _column(_Outcome, "received_at"), _Prediction.agent, _Prediction.episode_id)
        .join(_Prediction, _Prediction.prediction_id == _Outcome.prediction_id)
        .order_by(_Outcome.id)
    )
    late = [
        query.where(or_(*(_Outcome.id.between(*one) for one in ranges)))
        for ranges in _pieces(position.open_ids, _RANGES_A_QUERY)
    ]
    further = query.where(_Outcome.id > position.outcome_id, _Outcome.id <= until).limit(_OUTCOMES_A_READ)
    found = _read(connection, [*late, further], names)
    arrivals = Arrivals(np.array(found["id"], dtype=np.int64), _microseconds(found["received_at"]))
    own = (name for agent, name in zip(found["agent"], found["episode"], strict=True) if agent == spec.name)
    return arrivals, list(dict.fromkeys(own))


def _logged_steps(connection: Connection, spec: AgentSpec, episodes: Sequence[str]) -> LoggedSteps:
    query = (
        select(_Prediction.episode_id, _Prediction.step, _Outcome.id, _Outcome.done)
        .outerjoin(_Outcome, _Outcome.prediction_id == _Prediction.prediction_id)
        .where(_Prediction.agent == spec.name)
    )
    pieces = [query.where(_Prediction.episode_id.in_(piece)) for piece in _pieces(episodes, _KEYS_A_QUERY)]
    found = _read(connection, pieces, ("episode", "step", "outcome_id", "done"))
    number = {name: index for index, name in enumerate(episodes)}
    return LoggedSteps(
        episode=np.array([number[name] for name in found["episode"]], dtype=np.int64),
        step=np.array(found["step"], dtype=np.int64),
        outcome_id=np.array([outcome or 0 for outcome in found["outcome_id"]], dtype=np.int64),
        done=np.array(found["done"], dtype=np.bool_),
    )


def _decisions(connection: Connection, outcome_ids: Sequence[int]) -> Columns:
    """Read the decisions with these outcomes, in the given order."""
    columns = [_column(_Prediction, name) for name in _LOGGED] + [_column(_Outcome, name) for name in _HAPPENED]
    query = select(*columns, _Outcome.id).join(_Prediction, _Prediction.prediction_id == _Outcome.prediction_id)
    pieces = [query.where(_Outcome.id.in_(piece)) for piece in _pieces(outcome_ids, _KEYS_A_QUERY)]
    found = _read(connection, pieces, _COLUMNS)
    row = {number: index for index, number in enumerate(found["outcome_id"])}
    order = [row[number] for number in outcome_ids]
    return {name: [values[index] for index in order] for name, values in found.items()}


def _column(table: type[Base], name: str) -> Any:
    """A column as it is selected: times as the driver reads them, since a call for each takes longer than to read them."""
    column = getattr(table, name)
    return type_coerce(column, DateTime()) if name in _TIMES else column


def _read(connection: Connection, queries: Iterable[Select[Any]], names: Sequence[str]) -> Columns:
    """Read the columns of several queries, one below the other."""
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for query in queries:
        for rows in connection.execute(query).partitions(_ROWS_AT_ONCE):
            for column, values in zip(columns.values(), zip(*rows, strict=True), strict=True):
                column.extend(values)
    return columns


def _batch(spec: AgentSpec, decisions: Columns, cursor: str) -> ExperienceBatch:
    columns = {**decisions, "experience_id": decisions["prediction_id"]}
    contexts = _contexts(spec, columns["state"])
    experiences = {
        field.name: contexts if field.name == "state" else pa.array(columns[field.name], field.type)
        for field in experience_schema(spec)
    }
    return ExperienceBatch(pa.table(experiences), _labels(spec, columns), _requirement_texts(columns), cursor)


def _contexts(spec: AgentSpec, states: Sequence[bytes]) -> pa.Array:
    """The first entries of the logged vectors, null where a vector has another length than the agent's state."""
    width = len(spec.state_fields)
    sound = np.array([len(state) == width * _FLOAT32.itemsize for state in states], dtype=np.bool_)
    blank = bytes(width * _FLOAT32.itemsize)
    vectors = b"".join(state if good else blank for state, good in zip(states, sound.tolist(), strict=True))
    contexts = np.frombuffer(vectors, dtype=_FLOAT32).reshape(-1, width)[:, : len(spec.context)]
    values = pa.array(contexts.astype(np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, len(spec.context), mask=pa.array(~sound))


def _labels(spec: AgentSpec, columns: Columns) -> pa.Table:
    schema = label_schema(spec)
    labelled = np.array(
        [
            best is not None and values is not None
            for best, values in zip(columns["best_action"], columns["action_values"], strict=True)
        ],
        dtype=np.bool_,
    )
    made_at = _microseconds(columns["event_time"])
    known_at = np.maximum(made_at, _microseconds(columns["occurred_at"]))
    values = [found if found and len(found) == len(spec.actions) else None for found in columns["action_values"]]
    found = {
        "experience_id": pa.array(columns["experience_id"], pa.string()),
        "best_action": pa.array(columns["best_action"], pa.int32()),
        "action_values": pa.array(values, schema.field("action_values").type),
        "event_time": pa.array(made_at).cast(TIMESTAMP),
        "label_time": pa.array(known_at).cast(TIMESTAMP),
    }
    return pa.table(found).filter(pa.array(labelled))


def _requirement_texts(columns: Columns) -> pa.Table:
    pairs = dict.fromkeys(zip(columns["requirement_id"], columns["requirement_text"], strict=True))
    rows = [{"requirement_id": name, "text": text, "area": ""} for name, text in pairs if name and text]
    return pa.Table.from_pylist(rows, schema=REQUIREMENT_TEXTS)


def _microseconds(times: Sequence[datetime]) -> NDArray[np.int64]:
    return np.asarray(pa.array(times, TIMESTAMP).cast(pa.int64()).to_numpy(), dtype=np.int64)


def _pieces(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))
