"""Evidently's report for real: what is drawn, from how many rows, and that the page needs no network."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.monitoring.evidently_report import draw_report


def frame(count: int, shift: float, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "latency_ms": random.normal(shift, 1.0, count),
            "constant": np.zeros(count),
            "never": np.full(count, np.nan),
            "infinite": np.where(np.arange(count) % 9 == 0, np.inf, random.random(count)),
            "browser": random.choice(["chromium", "webkit"], count),
        }
    )


def test_a_report_is_drawn_from_a_sample_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """People believe that a page of a sample is of everything, the page is blank without a network, or JSON holds NaN."""
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    # A second side with more rows, so that only it is sampled.
    done = draw_report(frame(300, 0.0, 0), frame(900, 2.0, 1), tmp_path, sample_rows=400, title="drift of <execution>")
    assert (done.reference_drawn, done.reference_rows, done.current_drawn, done.current_rows) == (300, 300, 400, 900)
    assert done.left_out == ("never",)
    assert "a sample of 400 of 900 decisions" in done.note
    page = done.html.read_text(encoding="utf-8")
    assert done.note in page
    assert "drift of &lt;execution&gt;" in page
    assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']https?://[^\"']+", page) == []
    document = json.loads(done.json.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    drift = {
        one["config"]["column"]: one["value"]
        for one in document["evidently"]["metrics"]
        if one["metric_name"].startswith("ValueDrift")
    }
    assert set(drift) == {"latency_ms", "constant", "infinite", "browser"}
    # A p-value or a distance, as Evidently chose: two standard deviations are seen either way.
    assert min(drift["latency_ms"], 1 - min(1.0, drift["latency_ms"])) < 0.05
    assert any(one["metric_name"] == "RowCount()" and one["value"] == 400 for one in document["evidently"]["metrics"])
    assert os.environ["DO_NOT_TRACK"] == "1"


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    """An empty side breaks inside of a vendor, and a page of the last time stays."""
    with pytest.raises(InputError, match="the current side has no rows"):
        draw_report(frame(10, 0.0, 0), frame(0, 0.0, 0), tmp_path, sample_rows=10, title="none")
    with pytest.raises(InputError, match="no column has values on both sides: never"):
        draw_report(frame(9, 0, 0)[["never"]], frame(9, 0, 0)[["never"]], tmp_path, sample_rows=10, title="none")
    assert list(tmp_path.iterdir()) == []
