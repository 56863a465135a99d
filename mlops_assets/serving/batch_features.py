"""Features of a batch's rows: as of each row's own time, or as of now from the online store. No model."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_assets.features.offline import view_folder
from mlops_assets.features.store import FeatureStoreAdapter
from mlops_assets.features.vector import feature_arrays
from mlops_assets.features.views import ViewSpec, views_of
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.files import digest, sha256_file
from mlops_assets.foundation.paths import ArtifactPaths

Join = Callable[[pa.Table], dict[str, NDArray[Any]]]
# Some hundred MiB at the most, whatever the size of the input.
_REMEMBERED_KEYS = 1_000_000


@dataclass(frozen=True)
class BatchFeatures:
    """Where the features come from; `as_of` is what time it is for rows that have none of their own."""

    spec: AgentSpec
    store: FeatureStoreAdapter
    paths: ArtifactPaths
    as_of: datetime

    def identity(self, *, timed: bool) -> dict[str, Any]:
        """Say what the values depend on, so that answers from other values are never taken for these.

        Feature rows count for whole UTC days, so what is valid now changes at midnight only: a batch that was killed is
        resumed on the same day, and scored again on the next.
        """
        files = [
            sha256_file(file)
            for view in views_of(self.spec)
            for file in sorted(view_folder(self.paths, view).glob("*.parquet"))
        ]
        if timed:
            return {"mode": "point_in_time", "rows": digest(files)}
        now = self.as_of.astimezone(UTC)
        return {
            "mode": "online",
            "rows": digest(files),
            "materialized_until": self.store.materialized_until(),
            # At midnight sharp a row of its time to live is still valid; a moment later it is not.
            "day": now.isoformat() if now.timetz() == time(tzinfo=UTC) else now.date().isoformat(),
        }

    def join(self, *, timed: bool) -> Join:
        """Return the function that joins features to one chunk of a batch after another.

        It takes M rows of keys: `agent_id`, `test_id` where the agent has features of tests, `event_time` where `timed`.
        It gives per `"view__name"` an array (M,), as `state_vector` takes them.

        Raises (when called):
            NotReadyError: the online store was never set up.
            TransientError: Redis does not answer.
        """
        views = views_of(self.spec)
        if timed:
            return lambda keys: feature_arrays(self.store.historical(keys, views), self.spec)
        readers = [_OnlineReader(self.store, view, self.as_of) for view in views]

        def join(keys: pa.Table) -> dict[str, NDArray[Any]]:
            columns = [column for reader in readers for column in reader.read(keys).items()]
            return feature_arrays(pa.table(dict(columns)), self.spec)

        return join


class _OnlineReader:
    """Reads one view online; what was asked for before is remembered: chunks share their tests, and nearly all agents.

    Asking Feast again for 2,000 tests in every chunk takes longer than everything else together.
    """

    def __init__(self, store: FeatureStoreAdapter, view: ViewSpec, as_of: datetime) -> None:
        self._store, self._view, self._as_of = store, view, as_of
        self._keys = pa.array([], pa.string())
        self._rows: pa.Table | None = None

    def read(self, keys: pa.Table) -> dict[str, pa.ChunkedArray]:
        """Return the view's columns, one row for each row of `keys`."""
        asked = keys[self._view.key].combine_chunks().dictionary_encode()
        new = asked.dictionary.filter(pc.is_null(pc.index_in(asked.dictionary, value_set=self._keys)))
        if self._rows is None or len(self._keys) + len(new) > _REMEMBERED_KEYS:
            self._keys, self._rows, new = new[:0], None, asked.dictionary
        if self._rows is None or len(new):
            found = self._store.online(pa.table({self._view.key: new}), self._as_of, [self._view])
            self._keys = pa.concat_arrays([self._keys, new])
            self._rows = pa.concat_tables([*([] if self._rows is None else [self._rows]), found]).combine_chunks()
        rows = pc.index_in(asked.dictionary, value_set=self._keys).take(asked.indices)
        return {name: self._rows[name].take(rows) for name in self._rows.column_names}
