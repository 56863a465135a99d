"""Pictures of drift checks hold every column and check, and do not show what was not measured."""

import struct
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.monitoring.heatmap import drift_heatmap, psi_chart, psi_table
from mlops_assets_tests.experiments.test_report import DIALOG_WIDTH
from mlops_assets_tests.monitoring.test_summary import check

END = datetime(2026, 3, 9, tzinfo=UTC)


def psi(**columns: float | None) -> dict[str, dict[str, float | None]]:
    return {name: {"psi": value, "ks": 0.1} for name, value in columns.items()}


def test_rows_are_columns_and_columns_are_checks() -> None:
    """Yesterday's drift stands under today, or too little data shows as no drift."""
    checks = [
        check(END, "critical", columns=psi(browser=0.4, latency_ms=None)),
        check(END - timedelta(hours=2), "ok", columns=psi(browser=0.01, latency_ms=0.5)),
        check(END - timedelta(hours=1), "insufficient_data"),
    ]
    names, table = psi_table(checks)
    assert names == ["latency_ms", "browser"]
    np.testing.assert_array_equal(table, [[0.5, np.nan, np.nan], [0.01, np.nan, 0.4]])
    picture = drift_heatmap(checks, critical=0.3, title="drift")
    assert picture.startswith(b"\x89PNG")
    assert 800 < struct.unpack(">I", picture[16:20])[0] <= DIALOG_WIDTH


def test_a_chart_of_one_check() -> None:
    """The chart is as high for forty columns as for two, and nobody can read their names."""
    few = psi_chart({"columns": psi(a=0.1, b=0.2, c=None)}, bands={"warning": 0.2}, title="few")
    many = psi_chart({"columns": psi(**{f"c{i}": i / 100 for i in range(40)})}, bands={}, title="many")
    heights = [struct.unpack(">I", picture[20:24])[0] for picture in (few, many)]
    assert heights[1] > 2 * heights[0]


def test_nothing_to_draw_is_said() -> None:
    """An empty picture looks like no drift."""
    with pytest.raises(InputError, match="no drift check holds a column"):
        drift_heatmap([check(END, "insufficient_data")], critical=0.3, title="none")
    with pytest.raises(InputError, match="no column of the drift check has a PSI"):
        psi_chart({"columns": psi(a=None)}, bands={}, title="none")
