"""The checks of parity and of time find nothing in a sound store, and find what is planted."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pyarrow as pa
import pytest
from sqlalchemy import Engine

from mlops_assets.features.parity import check_no_future, check_parity, sample_decisions
from mlops_assets.features.refresh import refresh_agent_features
from mlops_assets.features.store import FeatureStoreAdapter
from mlops_assets.features.views import AGENT_CONTEXT_FEATURES, TEST_EXECUTION_FEATURES, VIEWS, ViewSpec
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets_tests.experiences.synthetic import START, SyntheticSource
from mlops_assets_tests.features.samples import rows_of, snapshot_of

SPEC = agent_spec("generation")
END = START + timedelta(days=10)


@pytest.fixture
def store(paths: ArtifactPaths, sqlite_engine: Engine) -> FeatureStoreAdapter:
    """Ten days of features of three agent ids and two tests, online as of the tenth day's end."""
    adapter = FeatureStoreAdapter(paths)
    adapter.apply()
    snapshot = snapshot_of(SyntheticSource(days=10, spec=SPEC), paths, sqlite_engine)
    refresh_agent_features(SPEC, snapshot, adapter, paths=paths)
    rows = [
        {"key": f"test-{n}", "at": at, "failure_count": at, "pass_rate_7d": 0.1 * at} for n in (0, 1) for at in (2, 9)
    ]
    adapter.write_test_features(rows_of(TEST_EXECUTION_FEATURES, rows))
    adapter.materialize(END)
    return adapter


@pytest.fixture
def sample(store: FeatureStoreAdapter, paths: ArtifactPaths, sqlite_engine: Engine) -> pa.Table:
    """Forty decisions of the snapshot."""
    return sample_decisions(snapshot_of(SyntheticSource(days=10, spec=SPEC), paths, sqlite_engine), 40, seed=1)


def test_a_sample_is_drawn_by_its_seed(sample: pa.Table, paths: ArtifactPaths, sqlite_engine: Engine) -> None:
    """A check that looks at other rows on every run cannot be reproduced."""
    snapshot = snapshot_of(SyntheticSource(days=10, spec=SPEC), paths, sqlite_engine)
    assert sample_decisions(snapshot, 40, seed=1).equals(sample)
    assert not sample_decisions(snapshot, 40, seed=2).equals(sample)
    assert sample_decisions(snapshot, 10_000, seed=1).num_rows == 200
    assert sample.column_names == ["test_id", "agent_id", "event_time"]


def test_a_sound_store_agrees_three_ways(store: FeatureStoreAdapter, sample: pa.Table) -> None:
    """A false alarm here would stop every lifecycle."""
    report = check_parity(store, sample, END)
    assert report.passed
    assert report.entities == len(set(zip(sample["test_id"].to_pylist(), sample["agent_id"].to_pylist(), strict=True)))
    assert report.values == 12 * report.entities
    assert 0 < report.present < report.values
    assert report.listed == ()


def test_a_value_that_serving_does_not_have_is_found(store: FeatureStoreAdapter, sample: pa.Table) -> None:
    """Training on values that serving never sees: training-serving skew."""
    store.write_test_features(
        rows_of(TEST_EXECUTION_FEATURES, [{"key": "test-0", "at": 9, "failure_count": 99, "pass_rate_7d": 0.9}]),
        start=END - timedelta(days=1),
    )
    report = check_parity(store, sample, END)
    assert not report.passed
    wrong = next(m for m in report.listed if m.column.endswith("failure_count") and m.entity == "test-0")
    assert (wrong.expected, wrong.found, wrong.path) == (99, 9, "online")
    assert {mismatch.path for mismatch in report.listed} == {"online"}


def test_a_sound_join_has_no_value_of_the_future(
    store: FeatureStoreAdapter, sample: pa.Table, paths: ArtifactPaths
) -> None:
    """A false alarm here would stop every lifecycle."""
    report = check_no_future(store, sample, paths=paths)
    assert report.passed
    assert report.decisions == 40
    assert 0 < report.joined < 80
    assert report.newest_age is not None
    assert timedelta(0) <= report.newest_age <= timedelta(days=1)


class Leaking(FeatureStoreAdapter):
    """A store whose join looks a day ahead."""

    def historical(self, entities: pa.Table, views: Sequence[ViewSpec] = VIEWS) -> pa.Table:
        times = [time + timedelta(days=1) for time in entities["event_time"].to_pylist()]
        column = pa.array(times, pa.timestamp("us", "UTC"))
        return super().historical(entities.set_column(2, "event_time", column), views)


def test_a_join_that_looks_ahead_is_found(store: FeatureStoreAdapter, sample: pa.Table, paths: ArtifactPaths) -> None:
    """The check compares the join with itself."""
    report = check_no_future(Leaking(paths), sample, paths=paths)
    assert not report.passed
    assert report.newest_age is not None
    assert report.newest_age < timedelta(0)
    first = report.listed[0]
    assert first.found[0] != first.expected[0]
    assert report.violations >= len(report.listed) > 0


def test_a_moment_without_features_is_parity_of_nothing(store: FeatureStoreAdapter, sample: pa.Table) -> None:
    """Features of the future, online since the last run, must not be served to a replay of the past."""
    long_ago: datetime = START - timedelta(days=1)
    report = check_parity(store, sample, long_ago)
    assert report.passed
    assert report.present == 0
    assert AGENT_CONTEXT_FEATURES.name in {column.split("__")[0] for column in store.historical(sample).column_names}
