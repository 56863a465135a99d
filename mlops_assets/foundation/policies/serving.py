"""How the decision server protects itself and its answers."""

from typing import Annotated

from pydantic import Field

from mlops_assets.foundation.policies.base import Count, NotNegative, Positive, Section


class ServingPolicy(Section):
    """How the decision server protects itself and its answers.

    `feature_timeout_ms`: longest wait for online features; `breaker_failures` refused or late lookups in a row open the
    circuit breaker for `breaker_open_seconds`, in which answers go out with default features, flagged. The cache holds
    `cache_entries` answers of `cache_ttl_seconds`. An answer is durable after `log_flush_ms`; with `log_queue_rows`
    answers not yet durable, new requests are refused. `registry_poll_ms`: how often aliases, traffic splits and tokens
    are looked up. A version on trial is waited for `treatment_timeout_ms`, then the champion answers; late
    `breaker_failures` times in a row, it is not asked for `breaker_open_seconds`. `rate_per_second` and `rate_burst` limit
    each token, `max_body_bytes` and `max_batch_rows` a request.

    A stream's consumer has `stream_batch` messages in hand at most; one that nobody held for `stream_claim_idle_seconds`
    is taken over, after `stream_max_deliveries` it is given up. It waits `stream_feature_patience_seconds` for a feature
    store that is away before it answers with default features, flagged.
    """

    feature_timeout_ms: Positive
    breaker_failures: Annotated[int, Field(ge=1)]
    breaker_open_seconds: Positive
    cache_entries: Count
    cache_ttl_seconds: Positive
    treatment_timeout_ms: Positive
    log_flush_ms: Annotated[float, Field(gt=0.0, le=100.0)]
    log_queue_rows: Annotated[int, Field(ge=1)]
    registry_poll_ms: Annotated[float, Field(gt=0.0, le=1000.0)]
    rate_per_second: Positive
    rate_burst: Annotated[int, Field(ge=1)]
    max_body_bytes: Annotated[int, Field(ge=1024)]
    max_batch_rows: Annotated[int, Field(ge=1)]
    stream_batch: Annotated[int, Field(ge=1)]
    stream_claim_idle_seconds: Positive
    stream_max_deliveries: Annotated[int, Field(ge=1)]
    stream_feature_patience_seconds: NotNegative
