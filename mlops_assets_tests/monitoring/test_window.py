"""The arrays of a window against the rows that were written, on both engines."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import Engine, select

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.clock import FixedClock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.tables import OutcomeRecord, PredictionRecord
from mlops_assets.monitoring.window import (
    CATEGORICAL,
    EMBEDDING_DISTANCE,
    EMBEDDING_NORM,
    columns,
    newest_moment,
    read_window,
    served_versions,
)
from mlops_assets_tests.experiences.served import outcome_row, prediction_row, state_bytes
from mlops_assets_tests.monitoring.traffic import serve

SPEC = AGENTS["execution"]
START = datetime(2026, 3, 9, tzinfo=UTC)
END = START + timedelta(days=1)


def test_every_array_is_what_was_logged(engine: Engine) -> None:
    """A column is of another row, a time is shifted by a zone, or a NULL became a value."""
    missing = SPEC.state_fields[-2]
    serve(
        engine,
        SPEC,
        400,
        start=START - timedelta(hours=2),
        hours=28.0,
        labelled=0.5,
        changes=lambda row: {
            "explored": row % 7 == 0,
            "status": "degraded" if row % 11 == 0 else "ok",
            "fallback": {0: "failed", 1: "absent"}.get(row % 13),
            "missing_features": [missing] if row % 5 == 0 else [],
            "test_type": f"type-{row % 2}",
        },
    )
    window = read_window(engine, SPEC, START, END)
    with read_transaction(engine) as session:
        told = {one.prediction_id: one for one in session.scalars(select(OutcomeRecord))}
        rows = list(
            session.scalars(
                select(PredictionRecord)
                .where(PredictionRecord.event_time >= START, PredictionRecord.event_time < END)
                .order_by(PredictionRecord.event_time)
            )
        )
    assert 0 < len(rows) < 400
    assert (len(window), window.total, window.sampled) == (len(rows), len(rows), False)
    for index, row in enumerate(rows):
        assert window.event_time[index] == np.datetime64(row.event_time.replace(tzinfo=None), "us")
        np.testing.assert_array_equal(window.states[index], np.frombuffer(row.state, dtype="<f4"))
        np.testing.assert_allclose(window.q_values[index], row.q_values, rtol=1e-6)
        assert window.missing[index].nonzero()[0].tolist() == (
            [SPEC.state_fields.index(missing)] if row.missing_features else []
        )
        exact = ("action", "explored", "propensity", "confidence", "latency_ms", "step", "browser", "test_type")
        assert [getattr(window, name)[index] for name in exact] == [getattr(row, name) for name in exact]
        assert (window.versions[index], window.degraded[index]) == (row.model_version, row.status == "degraded")
        assert (window.fallback[index], window.failed[index]) == (row.fallback is not None, row.fallback == "failed")
        outcome = told.get(row.prediction_id)
        if outcome is None:
            assert np.isnan(window.reward[index])
            assert np.isnan(window.action_values[index]).all()
            assert np.isnat(window.received_at[index])
            assert (window.best_action[index], window.done[index]) == (-1, False)
        else:
            assert window.reward[index] == outcome.reward
            assert (window.best_action[index], window.done[index]) == (outcome.best_action, outcome.done)
            np.testing.assert_allclose(window.action_values[index], outcome.action_values)
            assert window.received_at[index] == np.datetime64(outcome.received_at.replace(tzinfo=None), "us")
    for codes, names in (
        (window.episode, [row.episode_id for row in rows]),
        (window.user, [row.user_hash for row in rows]),
    ):
        pairs = set(zip(codes.tolist(), names, strict=True))
        assert len(pairs) == len(set(names)) == len({code for code, _ in pairs})
        assert all((code == -1) == (name is None) for code, name in pairs)


def test_the_window_is_half_open_and_of_one_version(engine: Engine) -> None:
    """A decision on the edge counts in two windows, or another version's is taken for this one's."""
    with transaction(engine) as session:
        for name, at, version in (
            ("before", START - timedelta(microseconds=1), "1.0.0"),
            ("first", START, "1.0.0"),
            ("other", START + timedelta(hours=1), "2.0.0"),
            ("last", END - timedelta(microseconds=1), "1.0.0"),
            ("after", END, "1.0.0"),
        ):
            session.add(prediction_row(SPEC, name, event_time=at, model_version=version))
        session.add(prediction_row(AGENTS["generation"], "foreign", event_time=START))
    assert len(read_window(engine, SPEC, START, END)) == 3
    own = read_window(engine, SPEC, START, END, version="1.0.0")
    microsecond = np.timedelta64(1, "us")
    assert own.event_time.tolist() == [
        np.datetime64("2026-03-09T00:00:00", "us").item(),
        (np.datetime64("2026-03-10T00:00:00", "us") - microsecond).item(),
    ]
    assert served_versions(engine, SPEC, START, END) == {"1.0.0": 2, "2.0.0": 1}


def test_what_was_told_later_is_not_known(engine: Engine) -> None:
    """A check of yesterday is judged by labels of today, and its repetition says something else."""
    with transaction(engine) as session:
        for name, hours in (("early", 1), ("late", 5)):
            made = prediction_row(SPEC, name, event_time=START)
            session.add(made)
            session.add(outcome_row(made, 1.0, best_action=2, received_at=START + timedelta(hours=hours)))
    window = read_window(engine, SPEC, START, END, as_of=START + timedelta(hours=2))
    assert window.best_action.tolist() == [2, -1]
    assert np.isnan(window.reward).tolist() == [False, True]
    assert read_window(engine, SPEC, START, END).best_action.tolist() == [2, 2]


def test_a_sample_is_of_the_whole_window_and_always_the_same(engine: Engine) -> None:
    """A sample is the newest rows only, or two workers see two samples; nobody is told that it is one."""
    serve(engine, SPEC, 2000, start=START)
    whole = read_window(engine, SPEC, START, END)
    sample = read_window(engine, SPEC, START, END, max_rows=500)
    assert (len(sample), sample.total, sample.sampled) == (500, 2000, True)
    assert (np.diff(sample.event_time) >= np.timedelta64(0)).all()
    hours = (sample.event_time - sample.event_time[0]).astype(int) // 3_600_000_000
    assert np.bincount(hours, minlength=24).min() >= 18
    for action in range(len(SPEC.actions)):
        assert abs((sample.action == action).sum() - (whole.action == action).sum() / 4) <= 24
    again = read_window(engine, SPEC, START, END, max_rows=500)
    np.testing.assert_array_equal(sample.states, again.states)
    assert sample.total == len(whole)


def test_rows_of_an_older_catalogue_are_kept_as_unknown(engine: Engine) -> None:
    """One old row breaks the window, or its numbers are read as those of other fields."""
    with transaction(engine) as session:
        session.add(prediction_row(SPEC, "a-short", event_time=START, state=state_bytes([1.0, 2.0]), q_values=[1.0]))
        made = prediction_row(SPEC, "b-sound", event_time=START, missing_features=["no_longer_a_feature"])
        session.add(made)
        session.add(outcome_row(made, 1.0, best_action=len(SPEC.actions) + 1, action_values=[1.0, 2.0]))
        session.add(prediction_row(SPEC, "c-action", event_time=START, action=len(SPEC.actions) + 1))
    window = read_window(engine, SPEC, START, END)
    assert np.isnan(window.states[0]).all()
    assert np.isnan(window.q_values[0]).all()
    assert np.isfinite(window.states[1:]).all()
    assert not window.missing.any()
    assert window.best_action.tolist() == [-1, -1, -1]
    assert np.isnan(window.action_values).all()
    assert columns(window, SPEC)["action"].tolist() == [SPEC.actions[1], SPEC.actions[1], str(len(SPEC.actions) + 1)]


def test_an_empty_window_has_empty_arrays(engine: Engine) -> None:
    """Nothing served is a crash somewhere in numpy."""
    window = read_window(engine, SPEC, START, END, max_rows=10)
    assert (len(window), window.total) == (0, 0)
    assert window.states.shape == (0, len(SPEC.state_fields))
    assert window.missing.shape == (0, len(SPEC.state_fields))
    assert all(len(column) == 0 for column in columns(window, SPEC).values())


def test_columns_are_the_fields_and_one_for_the_text(sqlite_engine: Engine) -> None:
    """Drift is looked for in sixteen columns of an embedding, and one of them always seems to drift."""
    spec = AGENTS["requirements"]
    serve(sqlite_engine, spec, 40, start=START)
    window = read_window(sqlite_engine, spec, START, END)
    found = columns(window, spec)
    text = [name for name in spec.state_fields if name.startswith("requirement_text_embedding_")]
    others = [name for name in spec.state_fields if name not in text]
    assert list(found) == [*others, EMBEDDING_NORM, "confidence", *CATEGORICAL, "latency_ms"]
    for name in others:
        np.testing.assert_array_equal(found[name], window.states[:, spec.state_fields.index(name)].astype(float))
    first = spec.state_fields.index(text[0])
    embedding = window.states[:, first : first + len(text)].astype(float)
    np.testing.assert_allclose(found[EMBEDDING_NORM], np.linalg.norm(embedding, axis=1))
    centre = np.full(len(text), 0.5, dtype=np.float32)
    away = columns(window, spec, embedding_centre=centre)
    np.testing.assert_allclose(away[EMBEDDING_DISTANCE], np.linalg.norm(embedding - 0.5, axis=1))
    assert all(found[name].dtype.kind == "U" for name in CATEGORICAL)
    assert EMBEDDING_NORM not in columns(read_window(sqlite_engine, SPEC, START, END), SPEC)


@pytest.mark.parametrize(("end", "max_rows", "words"), [(START, None, "holds no time"), (END, 0, "at least 1")])
def test_what_makes_no_window_is_refused(
    sqlite_engine: Engine, end: datetime, max_rows: int | None, words: str
) -> None:
    """A typo in the hours reads as "nothing was served"."""
    with pytest.raises(InputError, match=words):
        read_window(sqlite_engine, SPEC, START, end, max_rows=max_rows)


def test_pages_join_without_a_gap(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first row of a page, or one of the same instant, is lost or read twice."""
    with transaction(engine) as session:
        for number in range(23):
            # Three decisions share each instant.
            at = START + timedelta(microseconds=number // 3)
            session.add(prediction_row(SPEC, f"p{number:02d}", event_time=at, latency_ms=float(number)))
    monkeypatch.setattr("mlops_assets.monitoring.window_rows._PAGE_ROWS", 4)
    assert read_window(engine, SPEC, START, END).latency_ms.tolist() == [float(number) for number in range(23)]
    assert len(read_window(engine, SPEC, START, END, max_rows=9)) == 9


def test_reports_of_a_closed_history_end_with_it(engine: Engine) -> None:
    """The last day of simulated traffic is looked for in the machine's present, or before there is any in 1970."""
    clock = FixedClock(END + timedelta(days=300))
    assert newest_moment(engine, SPEC, clock, data_clock=True) == clock.instant
    serve(engine, SPEC, 3, start=START, hours=3.0)
    assert newest_moment(engine, SPEC, clock, data_clock=True) == START + timedelta(hours=2)
    assert newest_moment(engine, SPEC, clock, data_clock=False) == clock.instant
    assert newest_moment(engine, AGENTS["generation"], clock, data_clock=True) == clock.instant
