"""Feast, and nothing else that speaks to it: definitions from `views.py`, the online store, historical retrieval.

Measured with Feast 0.67, and made up for here: online reads do not enforce the time to live, SQLite lets an older row
overwrite a newer one, incremental materialisation misses late rows, historical retrieval returns rows in any order.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sqlalchemy import Engine

from mlops_assets.features.daily import Int64
from mlops_assets.features.light_import import hidden, unchecked_types
from mlops_assets.features.offline import (
    count_rows,
    create_view_folder,
    groups_of,
    read_rows,
    replace_rows,
    view_folder,
)
from mlops_assets.features.point_in_time import microseconds, newest_rows, point_in_time_rows, take_rows
from mlops_assets.features.redis_url import redis_connection_string, redis_errors
from mlops_assets.features.vector import FeatureBlock, feature_block
from mlops_assets.features.views import (
    AGENT_CONTEXT_FEATURES,
    CREATED_TIMESTAMP,
    ENTITIES,
    EVENT_TIMESTAMP,
    PROJECT,
    TEST_EXECUTION_FEATURES,
    VIEWS,
    EntitySpec,
    ViewSpec,
    views_of,
)
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.foundation.file_lock import file_lock
from mlops_assets.foundation.files import storage_errors
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.settings import Settings

if TYPE_CHECKING:
    from feast import Entity, FeatureStore, FeatureView

TEST_GROUP = "tests"
# SQLite takes 32,766 values in one statement.
_ONLINE_BATCH = 10_000
_REGISTRY_SECONDS = 60
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# A module of its own, since it inherits from Feast's store: Feast imports it by this name.
REDIS_STORE = "mlops_assets.features.redis_online_store.RoundTripRedisOnlineStore"

# View, keys, features.
_Wanted = tuple[ViewSpec, list[str], list[str]]
# Event time in microseconds and values of one key.
_Row = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Materialization:
    """What one view's online copy got. `kept_newer` keys had a newer row online already and kept it."""

    view: str
    source_rows: int
    keys_written: int
    kept_newer: int
    last_event_time: datetime | None


def open_feature_store(settings: Settings, engine: Engine) -> "FeatureStoreAdapter":
    """Return the feature store of a deployment; nothing is opened.

    In production its registry is in the operational database, since machines share no folder.
    """
    redis = settings.redis_url
    shared = engine.url.render_as_string(hide_password=False) if settings.environment == "production" else None
    return FeatureStoreAdapter(
        settings.paths, redis_url=redis.get_secret_value() if redis else None, registry_url=shared
    )


def feast_entity(entity: EntitySpec) -> "Entity":
    """Make Feast's object of an entity."""
    from feast import Entity, ValueType

    return Entity(
        name=entity.name, join_keys=[entity.name], value_type=ValueType.STRING, description=entity.description
    )


def feast_view(view: ViewSpec, paths: ArtifactPaths) -> "FeatureView":
    """Make Feast's object of a view whose rows lie below `paths`."""
    from feast import FeatureView, Field, FileSource
    from feast.data_format import ParquetFormat
    from feast.types import Float32, Int64, String

    types = {"float32": Float32, "int64": Int64, "string": String}
    source = FileSource(
        name=f"{view.name}_source",
        # A folder: Feast's DuckDB store reads every parquet file in it, and resolves no relative path.
        path=str(view_folder(paths, view).absolute()),
        file_format=ParquetFormat(),
        timestamp_field=EVENT_TIMESTAMP,
        created_timestamp_column=CREATED_TIMESTAMP,
    )
    return FeatureView(
        name=view.name,
        entities=[feast_entity(view.entity)],
        ttl=view.ttl,
        schema=[Field(name=view.key, dtype=String)]
        + [Field(name=f.name, dtype=types[f.dtype], description=f.description) for f in view.features],
        online=True,
        source=source,
        description=view.description,
        tags=dict(view.tags),
    )


class FeatureStoreAdapter:
    """The feature store of one home folder: offline parquet, SQL registry, SQLite or Redis online.

    `entities` tables hold the columns `test_id` and `agent_id`, one row per decision. Joined tables hold, in the same
    order and under full names (`view__feature`), every feature of every view and the event time of the row it came
    from, null where no row was valid.
    """

    def __init__(self, paths: ArtifactPaths, *, redis_url: str | None = None, registry_url: str | None = None) -> None:
        """Remember where the stores are; nothing is opened.

        Args:
            paths: the home folder.
            redis_url: online store `redis://[user:password@]host[:port][/db]`, `rediss` for TLS; None: SQLite.
            registry_url: SQLAlchemy URL of the registry; None: SQLite.

        Raises:
            SettingsError: the Redis URL is not one.
        """
        self._paths = paths
        self._redis_url = redis_url
        self._online_store: dict[str, Any] = (
            {"type": "sqlite", "path": str((paths.features / "online.db").absolute())}
            if redis_url is None
            # Feast's own guard on Redis drops a corrected row too, since it is as old as the stored one.
            else {"type": REDIS_STORE, "connection_string": redis_connection_string(redis_url), "skip_dedup": True}
        )
        self._served_views: dict[str, FeatureView] = {}
        self._registry_url = registry_url or f"sqlite:///{(paths.features / 'registry.db').absolute()}"

    @staticmethod
    def import_feast() -> None:
        """Import Feast for a server that only reads: in 1.3 s instead of 8 (two quiet cores).

        Without torch, which Feast takes in only to know one more type of column (2.5 s), and without the run-time checks
        of its own constructors' arguments, for which typeguard compiles its classes once more (4 s; and two threads that
        compile at a time upset CPython 3.11: "AST constructor recursion depth mismatch").
        """
        with hidden("torch"), unchecked_types():
            import feast  # noqa: F401 - for its effect

    @cached_property
    def _feast(self) -> "FeatureStore":
        from feast import FeatureStore, RepoConfig

        with storage_errors(self._paths.features):
            self._paths.features.mkdir(parents=True, exist_ok=True)
        return FeatureStore(
            config=RepoConfig(
                project=PROJECT,
                provider="local",
                # SQL: a registry file loses the definitions of whoever applies at the same time.
                registry={
                    "registry_type": "sql",
                    "path": self._registry_url,
                    "cache_ttl_seconds": _REGISTRY_SECONDS,
                },
                online_store=self._online_store,
                offline_store={"type": "duckdb"},
                entity_key_serialization_version=3,
            )
        )

    def apply(self) -> None:
        """Register entities and views and make the empty stores; a second call changes nothing.

        Raises:
            StorageError: the home cannot be written.
        """
        with self._locked():
            for view in VIEWS:
                create_view_folder(self._paths, view)
            self._feast.apply([*map(feast_entity, ENTITIES), *(feast_view(view, self._paths) for view in VIEWS)])

    def write_test_features(self, rows: pa.Table, *, start: datetime | None = None) -> None:
        """Replace the offline rows of all tests with an event time from `start` on (None: all of them) by `rows`."""
        replace_rows(self._paths, TEST_EXECUTION_FEATURES, TEST_GROUP, rows, start=start or _BEGINNING)

    def write_agent_features(self, agent: str, rows: pa.Table, *, start: datetime | None = None) -> None:
        """Replace the offline rows of one agent with an event time from `start` on (None: all of them) by `rows`.

        Raises:
            InputError: an agent id has rows of another agent, whose values it would take.
        """
        view = AGENT_CONTEXT_FEATURES
        others = [group for group in groups_of(self._paths, view) if group != agent]
        taken = pc.unique(read_rows(self._paths, view, groups=others, columns=[view.key])[view.key])
        shared = pc.unique(rows[view.key].filter(pc.is_in(rows[view.key], value_set=taken))).to_pylist()
        if shared:
            raise InputError(
                f"agent ids {shared[:5]} of {agent} are ids of another agent ({', '.join(others)}) already; "
                "an agent id names one agent's instance: give them names of their own"
            )
        replace_rows(self._paths, view, agent, rows, start=start or _BEGINNING)

    def materialize(
        self, as_of: datetime, *, start: datetime | None = None, views: Sequence[ViewSpec] = VIEWS
    ) -> tuple[Materialization, ...]:
        """Copy each key's newest row with `start < event time <= as_of` to the online store.

        `as_of` is a moment, not a date: what was computed today is online today. `start` is each view's time to live
        before `as_of` by default, so late rows are found; an older row never overwrites a newer one.

        Raises:
            NotReadyError: `apply` was never called.
            SettingsError: Redis refuses the user or password.
            TransientError: Redis does not answer.
        """
        with self._locked(), self._online_errors():
            return tuple(self._materialize(view, as_of, start or as_of - view.ttl) for view in views)

    def materialized_until(self) -> datetime | None:
        """Return the latest moment that the online store was brought to; None before the first time.

        Raises:
            NotReadyError: `apply` was never called.
        """
        ends = [self._registered(view).most_recent_end_time for view in VIEWS]
        return max((end.replace(tzinfo=end.tzinfo or UTC) for end in ends if end is not None), default=None)

    def _materialize(self, view: ViewSpec, as_of: datetime, start: datetime) -> Materialization:
        registered = self._registered(view)
        newest = newest_rows(view, read_rows(self._paths, view, start=start, end=as_of))
        _, online = self._read_online([(view, newest[view.key].to_pylist(), [view.features[0].name])])[0]
        fresh = newest.filter(pa.array(microseconds(newest[EVENT_TIMESTAMP]) >= online))
        if fresh.num_rows:
            self._feast.write_to_online_store(view.name, df=fresh.to_pandas())
        # Feast's own record: `feast materialize-incremental` goes on from here.
        self._feast.registry.apply_materialization(registered, PROJECT, start, as_of)
        return Materialization(
            view=view.name,
            source_rows=count_rows(self._paths, view),
            keys_written=fresh.num_rows,
            kept_newer=newest.num_rows - fresh.num_rows,
            last_event_time=pc.max(newest[EVENT_TIMESTAMP]).as_py(),
        )

    def historical(self, entities: pa.Table, views: Sequence[ViewSpec] = VIEWS) -> pa.Table:
        """Join the features as of each decision's `event_time`, a third column of `entities`; in `entities`' order."""
        times = microseconds(entities["event_time"])
        joined: dict[str, pa.ChunkedArray] = {}
        for view in views:
            rows = self._rows_for(view, times)
            positions = point_in_time_rows(view, rows, entities[view.key], times)
            taken = take_rows(view, rows, positions)
            joined |= dict(zip(taken.column_names, taken.columns, strict=True))
        return pa.table(joined)

    def _rows_for(self, view: ViewSpec, times: Int64) -> pa.Table:
        if not len(times):
            return view.schema.empty_table()
        first, last = (datetime.fromtimestamp(int(t) / 1e6, tz=UTC) for t in (times.min(), times.max()))
        # A float does not hold today's microseconds.
        margin = timedelta(seconds=1)
        return read_rows(self._paths, view, start=first - view.ttl - margin, end=last + margin)

    def historical_by_feast(self, entities: pa.Table) -> pa.Table:
        """Join as `historical` does, by Feast's own retrieval: the reference for it, for samples; no event times.

        Raises:
            NotReadyError: `apply` was never called.
        """
        for view in VIEWS:
            self._registered(view)
        frame = entities.select(["test_id", "agent_id", "event_time"]).to_pandas()
        frame = frame.rename(columns={"event_time": EVENT_TIMESTAMP}).assign(row=np.arange(len(frame)))
        references = [f"{view.name}:{feature.name}" for view in VIEWS for feature in view.features]
        job = self._feast.get_historical_features(frame, features=references, full_feature_names=True)
        joined = job.to_arrow().sort_by("row")
        fields = [pa.field(v.column(f.name), v.schema.field(f.name).type) for v in VIEWS for f in v.features]
        return pa.table({field.name: _without_nan(joined[field.name].cast(field.type)) for field in fields})

    def online(self, entities: pa.Table, as_of: datetime, views: Sequence[ViewSpec] = VIEWS) -> pa.Table:
        """Read the online store as of now, `as_of`: rows past their time to live, or of the future, count as missing.

        Raises:
            NotReadyError: `apply` was never called.
            SettingsError: Redis refuses the user or password.
            TransientError: Redis does not answer.
        """
        wanted = [(v, entities[v.key].to_pylist(), [feature.name for feature in v.features]) for v in views]
        joined: dict[str, pa.Array] = {}
        for (view, _, names), (columns, times) in zip(wanted, self._read_online(wanted), strict=True):
            invalid = _invalid(view, times, as_of)
            joined[view.timestamp_column] = pa.array(times, pa.timestamp("us", "UTC"), mask=invalid)
            for name, values in zip(names, columns, strict=True):
                kind = view.schema.field(name).type
                joined[view.column(name)] = pc.if_else(pa.array(invalid), pa.scalar(None, kind), pa.array(values, kind))
        return pa.table(joined)

    def online_features(
        self, spec: AgentSpec, test_ids: Sequence[str], agent_ids: Sequence[str], as_of: datetime | Sequence[datetime]
    ) -> dict[str, NDArray[Any]]:
        """Read what `state_vector` takes of N decisions: per `"view__name"` an array (N,), NaN or None where missing.

        The same values as `online`, without Arrow between them: a single decision takes a third of the time.

        Raises:
            NotReadyError: `apply` was never called.
            SettingsError: Redis refuses the user or password.
            TransientError: Redis does not answer.
        """
        keys = {TEST_EXECUTION_FEATURES.key: list(test_ids), AGENT_CONTEXT_FEATURES.key: list(agent_ids)}
        wanted = [
            (view, keys[view.key], [field.name for field in spec.features if field.view == view.name])
            for view in views_of(spec)
        ]
        found: dict[str, NDArray[Any]] = {}
        for (view, _, names), (columns, times) in zip(wanted, self._read_online(wanted), strict=True):
            invalid = _invalid(view, times, as_of)
            for name, values in zip(names, columns, strict=True):
                # As text where it is one: numbers become NaN for None by the conversion itself.
                array = np.array(values, dtype=object if _is_text(view, name) else np.float64)
                array[invalid] = None if array.dtype == object else np.nan
                found[view.column(name)] = array
        return found

    def get_features_for_inference(
        self, spec: AgentSpec, test_ids: Sequence[str], agent_ids: Sequence[str], as_of: datetime
    ) -> FeatureBlock:
        """Read the agent's online features (N, F), in training order, missing or expired ones as flagged defaults."""
        return feature_block(spec, self.online_features(spec, test_ids, agent_ids, as_of), rows=len(test_ids))

    def _read_online(self, wanted: Sequence[_Wanted]) -> list[tuple[list[list[Any]], Int64]]:
        """Per view: values by feature, and event times in microseconds, -1 where a key has no row.

        Asks the online store itself: Feast's general retrieval on top of it takes three times as long for one key.
        """
        unique = [list(dict.fromkeys(keys)) for _, keys, _ in wanted]
        rows: list[dict[str, _Row]] = [{} for _ in wanted]
        with self._online_errors():
            for begin in range(0, max(map(len, unique), default=0), _ONLINE_BATCH):
                batches = [keys[begin : begin + _ONLINE_BATCH] for keys in unique]
                answers = self._ask_online([(w[0], keys, w[2]) for w, keys in zip(wanted, batches, strict=True)])
                for known, keys, answer in zip(rows, batches, answers, strict=True):
                    known.update(zip(keys, map(_row, answer), strict=True))
        return [
            (
                [[known[key][1].get(name) for key in keys] for name in names],
                np.fromiter((known[key][0] for key in keys), dtype=np.int64, count=len(keys)),
            )
            for known, (_, keys, names) in zip(rows, wanted, strict=True)
        ]

    def _ask_online(self, wanted: Sequence[_Wanted]) -> list[list[tuple[Any, Any]]]:
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        config = self._feast.config
        asked = [
            (
                self._served_view(view),
                [EntityKey(join_keys=[view.key], entity_values=[Value(string_val=key)]) for key in keys],
                names,
            )
            for view, keys, names in wanted
        ]
        if self._redis_url:
            answers: list[list[tuple[Any, Any]]] = self._provider.online_store.online_read_views(config, asked)
            return answers
        return [self._provider.online_read(config, view, entities, names) for view, entities, names in asked]

    @cached_property
    def _provider(self) -> Any:
        from feast.infra.provider import get_provider

        return get_provider(self._feast.config)

    def _served_view(self, view: ViewSpec) -> "FeatureView":
        """The registered view, looked up once: a view changes with the code, and a reader started anew.

        Not again and again, as Feast does: with its registry in the operational database, online features would be
        away whenever that is.
        """
        known = self._served_views.get(view.name)
        if known is None:
            known = self._served_views[view.name] = self._registered(view)
        return known

    def _registered(self, view: ViewSpec) -> "FeatureView":
        with self._unregistered_is_not_ready():
            return self._feast.registry.get_feature_view(view.name, PROJECT)

    @contextmanager
    def _unregistered_is_not_ready(self) -> Iterator[None]:
        from feast.errors import FeatureViewNotFoundException

        try:
            yield
        except FeatureViewNotFoundException as error:
            raise NotReadyError(
                f"{error} in {self._paths.features}: materialise the feature assets first, or run "
                "`feast -c feature_repo apply`"
            ) from None

    def _online_errors(self) -> AbstractContextManager[None]:
        return redis_errors(self._redis_url) if self._redis_url else nullcontext()

    def _locked(self) -> AbstractContextManager[None]:
        return file_lock(self._paths.features / ".feast.lock")


def _invalid(view: ViewSpec, times: Int64, as_of: datetime | Sequence[datetime]) -> NDArray[np.bool_]:
    """Where there is no row, or none that is valid at `as_of`."""
    moments = [as_of] if isinstance(as_of, datetime) else as_of
    now = np.array([(moment - _BEGINNING) // _MICROSECOND for moment in moments], dtype=np.int64)
    return (times < 0) | (times > now) | (now - times > view.ttl // _MICROSECOND)


def _row(answer: tuple[datetime | None, dict[str, Any] | None]) -> _Row:
    """Event time in microseconds, -1 without a row, and values, of one key's answer by Feast."""
    moment, values = answer
    if moment is None or not values:
        return -1, {}
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (aware - _BEGINNING) // _MICROSECOND, {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """A value of Feast's wire format as a number or a text; None for an absent one."""
    kind = value.WhichOneof("val")
    return None if kind in {None, "null_val"} else getattr(value, kind)


def _is_text(view: ViewSpec, feature: str) -> bool:
    return next(one.dtype for one in view.features if one.name == feature) == "string"


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Feast gives absent numbers as NaN, the parquet files hold them as null."""
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
