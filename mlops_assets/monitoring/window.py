"""The decisions of one agent in a window of time, as numpy arrays: what drift, performance and reports are computed from."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.sql import ColumnElement

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.tables import PredictionRecord
from mlops_assets.monitoring.sampling import key_hashes, stratified_rows
from mlops_assets.monitoring.window_rows import WindowRows, microseconds, read_keys, read_rows

EMBEDDING_NORM: Final = "requirement_text_embedding_norm"
EMBEDDING_DISTANCE: Final = "requirement_text_embedding_distance"
CATEGORICAL: Final = ("browser", "ui_framework", "test_type", "action")
# A sample holds every part of the window alike.
_TIME_SLICES: Final = 24

Texts = NDArray[np.str_]
Times = NDArray[np.datetime64]


@dataclass(frozen=True)
class DecisionWindow:
    """N of one agent's `total` decisions with `start <= event_time < end`, in the order of time.

    `states` (N, D) and `q_values` (N, A) are NaN in rows whose logged vector has another length than the agent's now;
    `missing` (N, D): entries for which a default stood. `degraded`: answered without online features. `fallback`: by the
    champion in a treatment's place; `failed`: because the treatment failed on the request. `episode` and `user` number
    equal names, `user` -1 where none was given. Times are UTC, datetime64[us].

    What came of a decision, as far as it was told by `as_of` (None: all that is told): `reward` NaN, `done` False,
    `best_action` -1, `action_values` (N, A) NaN and `received_at` NaT where nothing was.
    """

    agent: str
    version: str | None
    start: datetime
    end: datetime
    as_of: datetime | None
    total: int
    versions: Texts
    event_time: Times
    states: NDArray[np.float32]
    missing: NDArray[np.bool_]
    q_values: NDArray[np.float32]
    action: NDArray[np.int64]
    explored: NDArray[np.bool_]
    propensity: NDArray[np.float64]
    confidence: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    degraded: NDArray[np.bool_]
    fallback: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    episode: NDArray[np.int64]
    step: NDArray[np.int64]
    user: NDArray[np.int64]
    browser: Texts
    ui_framework: Texts
    test_type: Texts
    reward: NDArray[np.float64]
    done: NDArray[np.bool_]
    best_action: NDArray[np.int64]
    action_values: NDArray[np.float32]
    received_at: Times

    def __len__(self) -> int:
        """Return how many decisions are in the arrays."""
        return len(self.action)

    @property
    def sampled(self) -> bool:
        """Whether only a part of the window's decisions was read."""
        return len(self) < self.total

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Decisions whose best action is known (N,)."""
        return self.best_action >= 0


def read_window(
    engine: Engine,
    spec: AgentSpec,
    start: datetime,
    end: datetime,
    *,
    version: str | None = None,
    as_of: datetime | None = None,
    max_rows: int | None = None,
) -> DecisionWindow:
    """Read the decisions of one agent with `start <= event_time < end`, of one version if it is given.

    With more than `max_rows` of them, that many are read: of each 24th of the window and each action its share,
    chosen by hashes of prediction ids, so that every machine reads the same.

    Args:
        engine: operational database.
        spec: the agent.
        start: aware.
        end: aware.
        version: semantic version; None for all.
        as_of: outcomes that were received later are left out; None for none.
        max_rows: the most decisions to read.

    Raises:
        InputError: the window ends before it starts, or `max_rows` is less than 1.
        StorageError: the database does not answer.
    """
    if not start < end:
        raise InputError(f"the window from {start} to {end} holds no time; give an end after its start")
    if max_rows is not None and max_rows < 1:
        raise InputError(f"max_rows is {max_rows}; give at least 1, or None for all decisions")
    where = [
        PredictionRecord.agent == spec.name,
        PredictionRecord.event_time >= start,
        PredictionRecord.event_time < end,
        *([] if version is None else [PredictionRecord.model_version == version]),
    ]
    with read_transaction(engine) as session:
        # Below the ORM, which takes as long for a row as the database does.
        connection = session.connection()
        total, keys = _chosen(connection, where, start, end, max_rows)
        rows = read_rows(connection, spec, where, as_of=as_of, keys=keys)
    return _window(rows, spec, start, end, version=version, as_of=as_of, total=total)


def columns(
    window: DecisionWindow, spec: AgentSpec, *, embedding_centre: NDArray[np.float32] | None = None
) -> Mapping[str, NDArray[np.float64] | Texts]:
    """Return the named columns (N,) that drift is looked for in: those of `decision_columns`, and latency."""
    found = decision_columns(
        spec,
        states=window.states,
        action=window.action,
        confidence=window.confidence,
        texts={"browser": window.browser, "ui_framework": window.ui_framework, "test_type": window.test_type},
        embedding_centre=embedding_centre,
    )
    return {**found, "latency_ms": window.latency_ms}


def decision_columns(
    spec: AgentSpec,
    *,
    states: NDArray[np.float32],
    action: NDArray[np.int64],
    confidence: NDArray[np.float64],
    texts: Mapping[str, NDArray[Any]],
    embedding_centre: NDArray[np.float32] | None = None,
) -> dict[str, NDArray[np.float64] | Texts]:
    """Return named columns (N,) of decisions with states (N, D), served or logged before.

    Every state field but the entries of the text embedding, which are one column: their distance from `embedding_centre`
    (text_dimensions,), such as the reference's mean, or without it their norm. Then confidence. Those named in
    `CATEGORICAL` are texts; `action` holds names.
    """
    text = [name.startswith("requirement_text_embedding_") for name in spec.state_fields]
    found: dict[str, NDArray[np.float64] | Texts] = {
        name: states[:, index].astype(np.float64) for index, name in enumerate(spec.state_fields) if not text[index]
    }
    if spec.text_dimensions:
        embedding = states[:, np.array(text)].astype(np.float64)
        away = embedding if embedding_centre is None else embedding - embedding_centre.astype(np.float64)
        name = EMBEDDING_NORM if embedding_centre is None else EMBEDDING_DISTANCE
        found[name] = np.sqrt(np.einsum("nd,nd->n", away, away))
    found["confidence"] = confidence
    found |= {name: values.astype(str) for name, values in texts.items()}
    found["action"] = _action_names(action, spec)
    return found


def served_versions(engine: Engine, spec: AgentSpec, start: datetime, end: datetime) -> Mapping[str, int]:
    """Return how many decisions each version took with `start <= event_time < end`, the most first."""
    query = (
        select(PredictionRecord.model_version, func.count())
        .where(
            PredictionRecord.agent == spec.name, PredictionRecord.event_time >= start, PredictionRecord.event_time < end
        )
        .group_by(PredictionRecord.model_version)
        .order_by(func.count().desc(), PredictionRecord.model_version)
    )
    with read_transaction(engine) as session:
        return {version: int(count) for version, count in session.execute(query)}


def newest_moment(engine: Engine, spec: AgentSpec, clock: Clock, *, data_clock: bool) -> datetime:
    """Return the time on the clock of an agent's decisions, up to which reports look back.

    With `data_clock` (see `Settings.data_clock`) that is the newest decision's; before the first one, the deployment's.
    """
    if not data_clock:
        return clock.now()
    with read_transaction(engine) as session:
        query = select(func.max(PredictionRecord.event_time)).where(PredictionRecord.agent == spec.name)
        newest: datetime | None = session.scalar(query)
    return newest or clock.now()


def _chosen(
    connection: Connection, where: list[ColumnElement[bool]], start: datetime, end: datetime, max_rows: int | None
) -> tuple[int, list[str] | None]:
    """How many decisions there are, and the ids of those to read; None for all."""
    total = int(connection.execute(select(func.count()).select_from(PredictionRecord).where(*where)).scalar_one())
    if max_rows is None or total <= max_rows:
        return total, None
    ids, times, actions = read_keys(connection, where)
    begin, length = microseconds(start), microseconds(end) - microseconds(start)
    slices = (times.astype(np.int64) - begin) * _TIME_SLICES // length
    rows = stratified_rows(slices * (int(actions.max()) + 1) + actions, key_hashes(ids), max_rows)
    return len(ids), [ids[row] for row in rows.tolist()]


def _action_names(actions: NDArray[np.int64], spec: AgentSpec) -> Texts:
    """Names of actions (N,); one beyond the agent's own, of an older catalogue, has its number."""
    most = max(len(spec.actions), int(actions.max(initial=-1)) + 1)
    names = [*spec.actions, *(str(number) for number in range(len(spec.actions), most))]
    return np.array(names, dtype=np.str_)[actions]


def _window(
    rows: WindowRows,
    spec: AgentSpec,
    start: datetime,
    end: datetime,
    *,
    version: str | None,
    as_of: datetime | None,
    total: int,
) -> DecisionWindow:
    best = rows.integers("best_action", absent=-1)
    # A label from an older catalogue is none of this agent's.
    known = (best >= 0) & (best < len(spec.actions))
    fallback = rows.texts("fallback")
    return DecisionWindow(
        agent=spec.name,
        version=version,
        start=start,
        end=end,
        as_of=as_of,
        total=total,
        versions=rows.texts("model_version"),
        event_time=rows.times("event_time"),
        states=rows.states(),
        missing=rows.missing(),
        q_values=rows.vectors("q_values"),
        action=rows.integers("action"),
        explored=rows.integers("explored").astype(np.bool_),
        propensity=rows.numbers("propensity"),
        confidence=rows.numbers("confidence"),
        latency_ms=rows.numbers("latency_ms"),
        degraded=rows.texts("status") == "degraded",
        fallback=fallback != "",
        failed=fallback == "failed",
        episode=rows.codes("episode_id"),
        step=rows.integers("step"),
        user=rows.codes("user_hash"),
        browser=rows.texts("browser"),
        ui_framework=rows.texts("ui_framework"),
        test_type=rows.texts("test_type"),
        reward=rows.numbers("reward"),
        done=rows.integers("done", absent=0).astype(np.bool_),
        best_action=np.where(known, best, -1),
        action_values=rows.vectors("action_values"),
        received_at=rows.times("received_at"),
    )
