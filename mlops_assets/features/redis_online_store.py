"""Feast's online store on Redis, for a server: rows of several views in one round trip, and no long waits.

Feast has that trip inside its general retrieval only, which takes three times as long for one decision around it. Each
trip saved is a turn of the operating system's scheduler, to Redis and back, which on a busy machine is what reading costs.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import redis
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from redis.backoff import NoBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from feast import FeatureView, RepoConfig
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey


class RoundTripRedisOnlineStoreConfig(RedisOnlineStoreConfig):  # type: ignore[misc] # Feast has no types
    """Feast finds it by its name beside the store's."""

    type: Literal["mlops_assets.features.redis_online_store.RoundTripRedisOnlineStore"] = (
        "mlops_assets.features.redis_online_store.RoundTripRedisOnlineStore"
    )


class RoundTripRedisOnlineStore(RedisOnlineStore):  # type: ignore[misc] # Feast has no types
    """Stores what Feast's own stores, in the same form."""

    def _get_client(self, online_store_config: RedisOnlineStoreConfig) -> redis.Redis:
        if self._client is None:
            client: redis.Redis = super()._get_client(online_store_config)
            # Once, for a connection that a restarted Redis has forgotten. The default sleeps between its tries, up to
            # seconds, in which nobody notices that Redis is back: when to try again is up to whoever asks.
            client.set_retry(Retry(NoBackoff(), retries=1))
        return self._client

    def online_read_views(
        self, config: "RepoConfig", wanted: "Sequence[tuple[FeatureView, list[EntityKey], list[str]]]"
    ) -> list[list[tuple[Any, Any]]]:
        """Return what `online_read` gives for each (view, entity keys, features), asked of Redis in one pipeline."""
        plans = []
        for view, entities, features in wanted:
            # A list of its own: Feast adds the time's field to it.
            names, fields = self._generate_hset_keys_for_features(view, list(features))
            keys = self._generate_redis_keys_for_entities(config, entities)
            plans.append((view.name, names, [(key, fields) for key in keys]))
        replies: Iterator[Any] = iter(
            self._read_hash_fields(config, [command for _, _, commands in plans for command in commands])
        )
        return [
            self._convert_redis_values_to_protobuf(list(islice(replies, len(commands))), name, names)
            for name, names, commands in plans
        ]
