"""Pictures of a performance report: as wide as the window that shows them, and a gap where nothing is known."""

import struct
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.baseline import Baseline
from mlops_assets.monitoring.pictures import trend_picture, window_picture
from mlops_assets.monitoring.summary import daily_trend
from mlops_assets.monitoring.window import read_window
from mlops_assets_tests.experiments.test_report import DIALOG_WIDTH
from mlops_assets_tests.monitoring.traffic import serve

SPEC = AGENTS["execution"]
START = datetime(2026, 3, 9, tzinfo=UTC)
END = START + timedelta(days=1)


def width(picture: bytes) -> int:
    assert picture.startswith(b"\x89PNG")
    return int(struct.unpack(">I", picture[16:20])[0])


def test_pictures_of_much_little_and_nothing(sqlite_engine: Engine) -> None:
    """The report of an idle agent fails on its picture, or a picture is wider than the UI shows."""
    serve(sqlite_engine, SPEC, 300, start=START)
    serve(sqlite_engine, SPEC, 20, start=END, prefix="q", labelled=0.0)
    policy = load_profile("aiwebtest").monitoring
    trends = [daily_trend(sqlite_engine, spec, END, policy) for spec in (SPEC, AGENTS["generation"])]
    drawn = [trend_picture(trend, title="trend") for trend in trends]
    whole = read_window(sqlite_engine, SPEC, START, END)
    for window in (whole, read_window(sqlite_engine, SPEC, END, END + timedelta(days=1))):
        drawn += [
            window_picture(window, Baseline(accuracy=0.9), concept_window=size, title="w") for size in (100, 1000)
        ]
    assert all(800 < width(picture) <= DIALOG_WIDTH for picture in drawn)
    assert len(set(drawn)) == 5  # without labels, both concept windows look the same
