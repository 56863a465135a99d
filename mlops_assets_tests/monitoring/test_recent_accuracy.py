"""Accuracy of the newest labelled decisions against the version's own: what counts, and what is certain."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.recent_accuracy import RecentAccuracy, recent_accuracy
from mlops_assets_tests.monitoring.traffic import serve

SPEC = AGENTS["execution"]
PROFILE = load_profile("aiwebtest")
DAY = datetime(2026, 3, 9, tzinfo=UTC)
END = DAY + timedelta(days=2)


def judged(engine: Engine, baseline: float | None = 0.9, as_of: datetime | None = END) -> RecentAccuracy:
    return recent_accuracy(
        engine,
        SPEC,
        "1.0.0",
        baseline,
        END,
        as_of=as_of,
        monitoring=PROFILE.monitoring,
        drift=PROFILE.drift,
        evaluation=PROFILE.evaluation,
    )


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.9, "ok"), (0.95, "ok"), (0.82, "warning"), (0.6, "critical")])
def test_the_band_of_the_certain_drop(engine: Engine, accuracy: float, verdict: str) -> None:
    """A model that got worse is called fine, or one that got better or met chance is retrained."""
    serve(engine, SPEC, 1500, start=DAY, hours=20.0, accuracy=accuracy, seed=3)
    found = judged(engine)
    assert found.labelled == PROFILE.monitoring.concept_window
    assert found.accuracy is not None
    assert found.accuracy.estimate == pytest.approx(accuracy, abs=0.03)
    assert found.drop_rel == pytest.approx((0.9 - found.accuracy.estimate) / 0.9)
    assert found.certain_drop_rel is not None
    assert 0.0 <= found.certain_drop_rel <= max(found.drop_rel or 0.0, 0.0)
    assert found.verdict == verdict


def test_only_what_had_time_for_its_label_counts(sqlite_engine: Engine) -> None:
    """Labels that come early are of the easy ones: last night's decisions hide that the day before went wrong."""
    serve(sqlite_engine, SPEC, 400, start=DAY, hours=20.0, accuracy=0.5, seed=1)
    serve(sqlite_engine, SPEC, 400, start=DAY + timedelta(days=1, hours=1), hours=20.0, accuracy=1.0, prefix="late-")
    found = judged(sqlite_engine)
    assert found.labelled == 400
    assert found.accuracy is not None
    assert found.accuracy.estimate == pytest.approx(0.5, abs=0.08)


def test_the_newest_count_and_unlabelled_ones_do_not(sqlite_engine: Engine) -> None:
    """An unlabelled decision counts as wrong, or an old success covers what goes wrong now."""
    serve(sqlite_engine, SPEC, 2000, start=DAY - timedelta(days=3), hours=20.0, accuracy=1.0, prefix="old-")
    serve(sqlite_engine, SPEC, 2500, start=DAY, hours=20.0, accuracy=0.7, labelled=0.5, seed=2)
    found = judged(sqlite_engine)
    assert found.labelled == 1000
    assert found.accuracy is not None
    assert found.accuracy.estimate == pytest.approx(0.7, abs=0.05)


def test_too_little_is_not_zero(sqlite_engine: Engine) -> None:
    """Few labels, or a baseline that nobody knows, become a drop of nothing, or a division by it."""
    serve(sqlite_engine, SPEC, 30, start=DAY, hours=20.0, accuracy=0.1)
    few = judged(sqlite_engine)
    assert (few.verdict, few.labelled, few.drop_rel) == ("insufficient_data", 30, None)
    serve(sqlite_engine, SPEC, 500, start=DAY, hours=20.0, accuracy=0.1, prefix="more-")
    for baseline in (None, 0.0):
        unknown = judged(sqlite_engine, baseline)
        assert (unknown.verdict, unknown.certain_drop_rel) == ("insufficient_data", None)
        assert unknown.accuracy is not None
    # Outcomes arrive half an hour after their decision.
    assert judged(sqlite_engine, as_of=DAY).labelled == 0
    assert np.isfinite(judged(sqlite_engine).certain_drop_rel or np.nan)
