"""The one state vector: order, defaults, flags, shapes."""

import numpy as np
import pyarrow as pa
import pytest

from mlops_assets.features.vector import column_name, feature_arrays, feature_block, replace_context, state_vector
from mlops_assets.features.views import view_spec
from mlops_assets.foundation.agents import AGENTS, AgentSpec, agent_spec
from mlops_assets.foundation.errors import InputError, SettingsError

GENERATION = agent_spec("generation")


def inputs(spec: AgentSpec, rows: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Distinct numbers everywhere, so that a swapped column shows."""
    width = len(spec.context)
    context = np.arange(rows * width, dtype=np.float32).reshape(rows, width)
    text = 1000 + np.arange(rows * spec.text_dimensions, dtype=np.float32).reshape(rows, spec.text_dimensions)
    features = {column_name(field): 2000.0 + 100 * i + np.arange(rows) for i, field in enumerate(spec.features)}
    return context, text, features


@pytest.mark.parametrize("name", list(AGENTS))
def test_every_number_stands_under_its_declared_name(name: str) -> None:
    """A reordered vector trains well and serves nonsense, and nothing crashes."""
    spec = AGENTS[name]
    context, text, features = inputs(spec, 3)
    vectors = state_vector(spec, context, text, dict(reversed(features.items())))
    named = dict(zip(spec.state_fields, vectors.values.T, strict=True))
    for position, field in enumerate(spec.context):
        assert named[field.name].tolist() == context[:, position].tolist()
    for position in range(spec.text_dimensions):
        assert named[f"requirement_text_embedding_{position:02d}"].tolist() == text[:, position].tolist()
    for key, values in features.items():
        assert named[key].tolist() == values.tolist()
    assert vectors.values.dtype == np.float32
    assert not vectors.missing.any()


def test_missing_values_take_the_declared_default_and_are_flagged() -> None:
    """A missing pass rate served as 0 looks like a test that always fails."""
    context, text, features = inputs(GENERATION, 2)
    context[1, 0] = np.nan
    features["test_execution_features__pass_rate_7d"][0] = np.nan
    features["test_execution_features__failure_count"][1] = np.inf
    vectors = state_vector(GENERATION, context, text, features)
    named = dict(zip(GENERATION.state_fields, vectors.values.T, strict=True))
    names = [column_name(field) for field in GENERATION.features]
    assert named["test_execution_features__pass_rate_7d"].tolist() == [1.0, features[names[1]][1]]
    assert named["test_execution_features__failure_count"][1] == 0.0
    assert named[GENERATION.context[0].name][1] == GENERATION.context[0].default
    flagged = [(row, names[column]) for row, column in np.argwhere(vectors.missing)]
    assert flagged == [(0, "test_execution_features__pass_rate_7d"), (1, "test_execution_features__failure_count")]


def test_run_statuses_become_ordered_numbers_and_unknown_ones_are_missing() -> None:
    """A status that a new framework invents is read as a number that means something else."""
    _, _, features = inputs(GENERATION, 5)
    statuses = np.array(["passed", "skipped", "failed", "exploded", None], dtype=object)
    features["test_execution_features__last_execution_status"] = statuses
    block = feature_block(GENERATION, features, 5)
    position = [column_name(f) for f in GENERATION.features].index("test_execution_features__last_execution_status")
    assert block.values[:, position].tolist() == [0.0, 0.5, 1.0, 0.0, 0.0]
    assert block.missing[:, position].tolist() == [False, False, False, True, True]


def test_joined_tables_give_nan_for_null_whatever_the_type() -> None:
    """A null count read as 0 is flagged as present."""
    columns = {}
    for field in GENERATION.features:
        kind = next(f for f in view_spec(field.view).features if f.name == field.name).dtype
        columns[column_name(field)] = pa.array([None, "failed" if kind == "string" else 1], kind)
    arrays = feature_arrays(pa.table(columns), GENERATION)
    block = feature_block(GENERATION, arrays, 2)
    assert block.missing[0].all()
    assert not block.missing[1].any()
    assert (block.values[1] == 1.0).all()


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("context", "context has shape"),
        ("text", "text embedding has shape"),
        ("length", "has shape"),
        ("absent", "test_execution_features__pass_rate_7d is absent"),
    ],
)
def test_a_wrong_shape_is_refused_by_name(what: str, expected: str) -> None:
    """A wrong shape is broadcast into a vector of the right length."""
    context, text, features = inputs(GENERATION, 2)
    if what == "context":
        context = context[:, :1]
    elif what == "text":
        text = text[:1]
    elif what == "length":
        features["test_execution_features__pass_rate_7d"] = np.zeros(1)
    else:
        del features["test_execution_features__pass_rate_7d"]
    with pytest.raises(InputError, match=expected):
        state_vector(GENERATION, context, text, features)


def test_replacing_the_context_leaves_the_rest_and_the_original_alone() -> None:
    """A rollout that writes into the held-out states evaluates the next policy on the last one's path."""
    states = state_vector(GENERATION, *inputs(GENERATION, 2)).values
    before = states.copy()
    context = np.full((2, len(GENERATION.context)), 7.0, dtype=np.float32)
    replaced = replace_context(GENERATION, states, context)
    assert (states == before).all()
    assert (replaced[:, : context.shape[1]] == 7.0).all()
    assert (replaced[:, context.shape[1] :] == before[:, context.shape[1] :]).all()
    with pytest.raises(InputError, match="context has shape"):
        replace_context(GENERATION, states, context[:, 1:])


def test_an_unknown_view_is_refused_with_the_known_ones() -> None:
    """A misspelt view in the agent catalogue fails deep inside Feast."""
    with pytest.raises(SettingsError, match="test_execution_features, agent_context_features"):
        view_spec("test_features")
