"""Texts of expressions: lengths of time as Prometheus reads them, and sums whose absence means what it says."""

import pytest

from mlops_assets.monitoring import promql


@pytest.mark.parametrize(
    ("minutes", "text"),
    [(0.0, "0s"), (0.02, "1s200ms"), (1.0, "1m"), (5.0, "5m"), (90.0, "1h30m"), (1440.0, "1d"), (4680.0, "3d6h")],
)
def test_durations(minutes: float, text: str) -> None:
    """`for: 0.02m` or `for: 78.0h` is refused, and with it the whole file."""
    assert promql.duration(minutes) == text


def test_sums_keep_the_labels_that_are_asked_for() -> None:
    """Quantiles over versions that are mixed up tell of none."""
    assert promql.rate("a_total", "5m") == "sum(rate(a_total[5m]))"
    assert promql.increase("a_total", "5m", ["b"]) == "sum by (b) (increase(a_total[5m]))"
    assert promql.quantile(0.99, "a", "5m", ["b"], '{c="d"}') == (
        'histogram_quantile(0.99, sum by (le, b) (rate(a_bucket{c="d"}[5m])))'
    )
    assert promql.mean("a", "5m") == "sum(rate(a_sum[5m])) / sum(rate(a_count[5m]))"


def test_zero_is_known_only_where_the_server_answers() -> None:
    """`or vector(0)` shows no errors while nobody is scraped at all."""
    assert promql.known_zero("sum(a)") == '(sum(a) or 0 * sum(up{job="decisions"} == 1))'
    assert "vector(" not in promql.error_share("5m") + promql.degraded_share("5m") + promql.asked("5m")
