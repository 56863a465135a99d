"""The log is read as it was written, and no more of it than is asked for."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine

from mlops_assets.experiments.decisions import decisions, drawn_by
from mlops_assets.experiments.metrics import MetricScale, Pair
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.tables import ShadowPredictionRecord
from mlops_assets_tests.experiences.served import SERVED_AT, outcome_row, prediction_row, write
from mlops_assets_tests.experiments.served_users import NAME, SPEC

ARMS = {"versions": {"control": "1.0.0", "treatment": "1.1.0"}, "shares": {"treatment": 0.2}}


@pytest.mark.parametrize("slices", [(), ("browser", "ui_framework")])
def test_decisions_come_with_outcomes_arms_and_slices(engine: Engine, slices: tuple[str, ...]) -> None:
    """Arms that are read as text name no versions, so that a champion that moved would count."""
    rows = [
        prediction_row(
            SPEC,
            f"p{minute}",
            event_time=SERVED_AT + timedelta(minutes=minute),
            **{"experiment": NAME, "variant": "control", "treatment_share": 0.2, "user_hash": "ann", **changes},
        )
        for minute, changes in enumerate(
            (
                {"arms": ARMS},
                {"arms": ARMS, "browser": "webkit"},
                {"arms": None},
                {"user_hash": None},
                {"experiment": None, "treatment_share": None},
                {"experiment": "another"},
                {"treatment_share": None},
                {"arms": {**ARMS, "shares": {"treatment": 0.5}}},
                {},
            )
        )
    ]
    write(engine, [*rows, outcome_row(rows[1], 50.0, best_action=2)])
    with read_transaction(engine) as session:
        found = decisions(
            session, drawn_by(NAME), SERVED_AT, SERVED_AT + timedelta(minutes=7), MetricScale(0.0, 1.0, {}, slices)
        )
    assert found["event_time"].tolist() == [SERVED_AT + timedelta(minutes=minute) for minute in (1, 2, 7)]
    assert found["arms"].tolist() == [ARMS, None, {**ARMS, "shares": {"treatment": 0.5}}]
    assert found["best_action"].fillna(-1).tolist() == [2, -1, -1]
    assert found["reward"].fillna(-1.0).tolist() == [50.0, -1.0, -1.0]
    assert [name for name in found if name in {"browser", "ui_framework", "test_type"}] == list(slices)
    if slices:
        assert found["browser"].tolist() == ["webkit", "chromium", "chromium"]


def test_a_pair_is_what_both_versions_answered_in_the_shadow(engine: Engine) -> None:
    """Answers of another model or version, or from before everybody had the treatment, are compared."""
    rows = [
        prediction_row(
            SPEC,
            f"p{minute}",
            event_time=SERVED_AT + timedelta(minutes=minute),
            experiment=NAME,
            variant="treatment",
            treatment_share=share,
            user_hash="ann",
        )
        for minute, share in enumerate((0.5, 1.0, 1.0), start=1)
    ]
    shadows = [
        ShadowPredictionRecord(
            prediction_id=row.prediction_id,
            model_name=model,
            model_version=version,
            q_values=row.q_values,
            action=action,
            latency_ms=ms,
            event_time=row.event_time,
        )
        for row in rows[:2]
        for model, version, action, ms in (
            ("execution-agent-dqn", "1.0.0", 1, 2.0),
            ("execution-agent-dqn", "1.1.0", 2, 3.0),
            ("execution-agent-dqn", "1.2.0", 3, 4.0),
            ("generation-agent-dqn", "1.0.0", 4, 5.0),
        )
    ]
    write(engine, [*rows, *shadows])
    pair = Pair("execution-agent-dqn", "1.0.0", "1.1.0", 1.1, 0.95)
    with read_transaction(engine) as session:
        found = decisions(
            session, drawn_by(NAME), None, SERVED_AT + timedelta(minutes=7), MetricScale(0.0, 1.0, {}, (), pair)
        )
    columns = found[["first_action", "first_ms", "second_action", "second_ms"]].astype(float).fillna(-1.0)
    assert columns.to_numpy().tolist() == [[-1.0] * 4, [1.0, 2.0, 2.0, 3.0], [-1.0] * 4]


def test_of_nothing_there_is_nothing(engine: Engine) -> None:
    """The first look of an experiment, before anybody came, fails."""
    with read_transaction(engine) as session:
        assert len(decisions(session, drawn_by(NAME), None, SERVED_AT, MetricScale(0.0, 1.0, {}, ("browser",)))) == 0


def test_an_explored_action_is_no_choice_of_the_version(engine: Engine) -> None:
    """A deployment that explores a fifth of its decisions calls every version wrong in a sixth of them."""
    rows = [
        prediction_row(
            SPEC,
            f"p{number}",
            event_time=SERVED_AT + timedelta(minutes=number),
            experiment=NAME,
            variant="control",
            treatment_share=0.2,
            user_hash="ann",
            explored=explored,
        )
        for number, explored in enumerate((False, True), start=1)
    ]
    write(engine, [*rows, *(outcome_row(row, 5.0, best_action=2) for row in rows)])
    with read_transaction(engine) as session:
        found = decisions(
            session, drawn_by(NAME), None, SERVED_AT + timedelta(minutes=7), MetricScale(0.0, 1.0, {}, ())
        )
    assert found["best_action"].fillna(-1).tolist() == [2, -1]
    assert found["reward"].tolist() == [5.0, 5.0]
