"""Prometheus' expressions that rules and dashboards share: text only. The metrics are those of the two servers' `/metrics`."""

from collections.abc import Sequence

DECISIONS, OPERATIONS = "decisions", "operations"
# What the decision server answered with 5xx: the server's own fault.
SERVER_ERRORS = 'ml_requests_refused_total{status=~"5.."}'
ANSWERS = "ml_prediction_requests_total"
LATENCY = "ml_prediction_latency_seconds"
CONFIDENCE = "ml_prediction_probability"
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


def duration(minutes: float) -> str:
    """Return a length of time as Prometheus writes it, such as `1h30m`, to the millisecond."""
    rest = round(minutes * 60_000)
    parts = []
    for unit, milliseconds in _UNITS:
        count, rest = divmod(rest, milliseconds)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def summed(of: str, by: Sequence[str] = ()) -> str:
    """Return the sum over all labels but those of `by`."""
    return f"sum by ({', '.join(by)}) ({of})" if by else f"sum({of})"


def rate(metric: str, window: str, by: Sequence[str] = ()) -> str:
    """Return how much a counter grows a second, over all processes."""
    return summed(f"rate({metric}[{window}])", by)


def increase(metric: str, window: str, by: Sequence[str] = ()) -> str:
    """Return how much a counter grew in the window, over all processes."""
    return summed(f"increase({metric}[{window}])", by)


def quantile(level: float, histogram: str, window: str, by: Sequence[str] = (), where: str = "") -> str:
    """Return a quantile of what was observed in the window: of rates of the buckets, which only ever grow (B-59)."""
    return f"histogram_quantile({level:g}, {rate(f'{histogram}_bucket{where}', window, ['le', *by])})"


def mean(histogram: str, window: str, by: Sequence[str] = (), where: str = "") -> str:
    """Return the mean of what was observed in the window."""
    return f"{rate(f'{histogram}_sum{where}', window, by)} / {rate(f'{histogram}_count{where}', window, by)}"


def known_zero(counted: str) -> str:
    """Return a sum of counters, 0 where the server answers and has nothing to count yet, and nothing where it does not."""
    return f'({counted} or 0 * sum(up{{job="{DECISIONS}"}} == 1))'


def asked(window: str) -> str:
    """Return how many requests were answered or failed in the window."""
    return f"{known_zero(increase(ANSWERS, window))} + {known_zero(increase(SERVER_ERRORS, window))}"


def error_share(window: str) -> str:
    """Return which share of the requests the server failed to answer."""
    failed = known_zero(rate(SERVER_ERRORS, window))
    return f"{failed} / ({known_zero(rate(ANSWERS, window))} + {failed})"


def degraded_share(window: str) -> str:
    """Return which share of the answers went out without online features."""
    degraded = rate(f'{ANSWERS}{{status="degraded"}}', window)
    return f"{known_zero(degraded)} / {rate(ANSWERS, window)}"
