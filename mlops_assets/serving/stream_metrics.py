"""Prometheus metrics of the stream: gauges read from the broker at every scrape, a counter of what was done."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mlops_assets.foundation.errors import MlopsError
from mlops_assets.serving.redis_stream import StreamLag


class StreamMetrics(Collector):
    """`stream_up`, `stream_lag_messages`, `stream_pending_messages`, `stream_oldest_age_seconds`, `stream_dead_letters`.

    Read when they are asked for, so that they grow while a consumer hangs; without the broker only `stream_up 0` is
    there: unknown is not zero. `stream_messages_total{outcome}` counts what this process did.
    """

    def __init__(self, registry: CollectorRegistry, lag: Callable[[], StreamLag]) -> None:
        self._lag = lag
        self._messages = Counter("stream_messages", "Messages handled.", ["outcome"], registry=registry)
        registry.register(self)

    def count(self, outcome: str, messages: int = 1) -> None:
        """Count messages: answered, repeated, retried, or dead."""
        if messages:
            self._messages.labels(outcome).inc(messages)

    def describe(self) -> Iterable[Metric]:
        """Name the gauges without asking the broker, as registering does."""
        return [GaugeMetricFamily(name, text) for name, text in _GAUGES.items()]

    def collect(self) -> Iterable[Metric]:
        """Ask the broker."""
        try:
            lag = self._lag()
        except MlopsError:  # told by the gauge itself
            return [GaugeMetricFamily("stream_up", _GAUGES["stream_up"], value=0)]
        values = (1, lag.waiting, lag.pending, lag.oldest_age_seconds, lag.dead_letters)
        return [
            GaugeMetricFamily(name, text, value=value)
            for (name, text), value in zip(_GAUGES.items(), values, strict=True)
        ]


_GAUGES = {
    "stream_up": "1 while the broker answers.",
    "stream_lag_messages": "Messages that were not delivered yet.",
    "stream_pending_messages": "Messages that were delivered and are not settled.",
    "stream_oldest_age_seconds": "Age of the oldest message without an answer.",
    "stream_dead_letters": "Messages that were given up.",
}
