"""Explanations of decisions that outlive what they were made with."""

from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.tables import ShadowPredictionRecord
from mlops_assets.serving.explain import explain_prediction
from mlops_assets_tests.experiences.served import SERVED_AT, prediction_row, state_bytes, write

SPEC = AGENTS["execution"]
FIELDS = len(SPEC.state_fields)
FOUR, THREE = [0.0, 2.0, 1.0, 0.5], [0.0, 2.0, 1.0]


def explained(engine: Engine, *, fields: int = FIELDS, q_values: list[float] = FOUR, **changes: Any) -> dict[str, Any]:
    """The explanation of a decision with a state of so many fields; a shadow of it gave the same Q-values."""
    shadow = ShadowPredictionRecord(
        prediction_id="p1",
        model_name=SPEC.registered_model,
        model_version="2.0.0",
        q_values=q_values,
        action=1,
        latency_ms=0.5,
        event_time=SERVED_AT,
    )
    made = prediction_row(SPEC, "p1", state=state_bytes(np.arange(fields)), q_values=q_values, **changes)
    write(engine, [made, shadow])
    found = explain_prediction(engine, "p1")
    assert found is not None
    return found


def test_names_are_those_of_the_catalogue(engine: Engine) -> None:
    """Whoever asks why gets numbers without names."""
    found = explained(engine)
    assert not found["catalogue_changed"]
    assert (found["action_name"], list(found["features"])) == ("low", list(SPEC.state_fields))
    (shadow,) = found["shadows"]
    assert (shadow["action_name"], shadow["q_values"]) == ("low", dict(zip(SPEC.actions, FOUR, strict=True)))


@pytest.mark.parametrize("agent", ["execution", "abolished"])
def test_a_decision_of_another_catalogue_is_told_by_position(engine: Engine, agent: str) -> None:
    """After a change of the catalogue nobody can ask about decisions before it: each such question is an error 500."""
    found = explained(engine, agent=agent, fields=3, q_values=THREE)
    assert found["catalogue_changed"]
    assert found["features"] == {"0": 0.0, "1": 1.0, "2": 2.0}
    assert (found["action_name"], found["q_values"]) == ("1", {"0": 0.0, "1": 2.0, "2": 1.0})
    (shadow,) = found["shadows"]
    assert (shadow["action_name"], shadow["q_values"]) == ("1", found["q_values"])


def test_what_the_catalogue_still_names_is_named(engine: Engine) -> None:
    """A new feature takes the names of the actions away as well."""
    found = explained(engine, fields=FIELDS - 1)
    assert found["catalogue_changed"]
    assert found["features"]["0"] == 0.0
    assert (found["action_name"], found["shadows"][0]["action_name"]) == ("low", "low")
