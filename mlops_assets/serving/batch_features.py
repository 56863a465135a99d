"""Features of a batch's rows: as of each row's own time, or as of now from the online store. No model."""

from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from mlops_assets.features.offline import view_folder
from mlops_assets.features.store import FeatureStoreAdapter
from mlops_assets.features.vector import feature_arrays
from mlops_assets.features.views import views_of
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.files import digest, sha256_file
from mlops_assets.foundation.paths import ArtifactPaths


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

    def arrays(self, keys: pa.Table, *, timed: bool) -> dict[str, NDArray[Any]]:
        """Join features to M rows: per `"view__name"` an array (M,), as `state_vector` takes them.

        Args:
            keys: `agent_id`, `test_id` where the agent has features of tests, `event_time` where `timed`.
            timed: whether the rows have times of their own.

        Raises:
            NotReadyError: the online store was never set up.
            TransientError: Redis does not answer.
        """
        views = views_of(self.spec)
        if timed:
            return feature_arrays(self.store.historical(keys, views), self.spec)
        joined: dict[str, NDArray[Any]] = {}
        for view in views:
            # Many rows share a test, nearly all an agent: each is asked for once.
            encoded = keys[view.key].combine_chunks().dictionary_encode()
            found = self.store.online(pa.table({view.key: encoded.dictionary}), self.as_of, [view])
            rows = encoded.indices.cast(pa.int64())
            joined |= {name: found[name].take(rows) for name in found.column_names}
        return feature_arrays(pa.table(joined), self.spec)
