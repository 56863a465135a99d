"""Requests as bytes: what is taken, and how everything else is refused, field by field."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.experiences.identity import MAX_TEST_ID, IdentityRules
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.tables import PredictionRecord
from mlops_assets.serving.api_documents import example_request
from mlops_assets.serving.boundary import ProblemError
from mlops_assets.serving.parsing import parse_batch, parse_outcomes, parse_request

SPEC = AGENTS["execution"]
GOOD = example_request(SPEC)


def refused(document: Any) -> ProblemError:
    """How a document is refused."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(ProblemError) as error:
        parse_request(body, {})
    return error.value


def status_of(parse: Callable[[], object]) -> int:
    """The status of the answer."""
    try:
        parse()
    except ProblemError as problem:
        return problem.response().status_code
    return 200


def with_context(**changes: Any) -> dict[str, Any]:
    """A request with other context fields."""
    return {**GOOD, "context": {**GOOD["context"], **changes}}


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_the_documented_example_is_taken(name: str) -> None:
    """The first request that a user copies is refused."""
    spec = AGENTS[name]
    asked = parse_request(json.dumps(example_request(spec)).encode(), {})
    assert asked.agent == name
    assert len(asked.context_values) == len(spec.context)
    assert asked.context_values[0] == example_request(spec)["context"][spec.context[0].name]


@pytest.mark.parametrize(
    ("document", "field", "message"),
    [
        ({**GOOD, "extra": 1}, "extra", "Extra inputs are not permitted"),
        (with_context(extra=1), "context.extra", "Extra inputs are not permitted"),
        ({k: v for k, v in GOOD.items() if k != "test_id"}, "test_id", "Field required"),
        (with_context(budget_left=1.01), "context.budget_left", "less than or equal to 1"),
        (with_context(budget_left=-0.01), "context.budget_left", "greater than or equal to 0"),
        (with_context(budget_left="0.5"), "context.budget_left", "valid number"),
        (with_context(budget_left=True), "context.budget_left", "valid number"),
        (with_context(budget_left=None), "context.budget_left", "valid number"),
        ({**GOOD, "user_id": ""}, "user_id", "at least 1 character"),
        ({**GOOD, "user_id": "u" * 101}, "user_id", "at most 100 characters"),
        ({**GOOD, "agent_id": "a\nb"}, "agent_id", "match pattern"),
        ({**GOOD, "test_id": "a\x00b"}, "test_id", "match pattern"),
        ({**GOOD, "step": 1}, "body", "step needs episode_id"),
        ({**GOOD, "episode_id": "e"}, "body", "episode_id needs step"),
        ({**GOOD, "test_id": "t" * (MAX_TEST_ID + 1)}, "test_id", f"at most {MAX_TEST_ID} characters"),
        ({**GOOD, "step": -1, "episode_id": "e"}, "step", "greater than or equal to 0"),
        ({**GOOD, "step": 1.0, "episode_id": "e"}, "step", "valid integer"),
        ({**GOOD, "requirement_text": "x"}, "requirement_text", "Extra inputs are not permitted"),
        ({**GOOD, "context": []}, "context", "an object"),
        ({"context": {}}, "agent", "name the agent"),
        ({**GOOD, "agent": 7}, "agent", "name the agent"),
        ([], "agent", "name the agent"),
    ],
)
def test_a_wrong_field_is_named(document: Any, field: str, message: str) -> None:
    """A client is told that something is wrong, and not what (B-63)."""
    problem = refused(document)
    assert problem.status == 422
    assert field in [error["field"] for error in problem.errors]
    assert any(message in error["message"] for error in problem.errors if error["field"] == field)
    assert field in problem.detail


def test_an_episode_begins_at_a_step_that_is_said() -> None:
    """Decisions that all stand at the default step are one to the episode, and the outcomes of the others are lost."""
    for step in (0, 1):
        asked = parse_request(json.dumps({**GOOD, "episode_id": "e", "step": step}).encode(), {})
        assert (asked.episode_id, asked.step) == ("e", step)
    alone = parse_request(json.dumps({**GOOD, "episode_id": None}).encode(), {})
    assert (alone.episode_id, alone.step) == (None, 0)


def test_every_identity_of_a_test_is_taken() -> None:
    """A test with a long title has experiences and features, and no decision can be asked for."""
    test_id = IdentityRules().identity("a.spec.ts", "long title " * 50, "chromium").test_id
    assert len(test_id) == MAX_TEST_ID
    assert parse_request(json.dumps({**GOOD, "test_id": test_id}).encode(), {}).test_id == test_id


def test_the_log_has_room_for_every_identity() -> None:
    """PostgreSQL refuses a longer text: the decision is answered, and its row is set aside."""
    assert PredictionRecord.__table__.c.test_id.type.length >= MAX_TEST_ID


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b'{"agent": NaN}', b"[" * 5000, b'{"a": Infinity}', b'"\\ud800"']
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    """NaN gets into a state vector, or a malformed body is a server error."""
    problem = refused(body)
    assert problem.status == 422


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    """NaN passes every comparison with a bound."""
    body = json.dumps(with_context(budget_left="@")).replace('"@"', number).encode()
    assert refused(body).status == 422


def test_unknown_agents_and_experiments_are_not_found() -> None:
    """A misspelt agent looks like a malformed request."""
    problem = refused({**GOOD, "agent": "executor"})
    assert (problem.status, problem.detail) == (
        404,
        "there is no agent 'executor'; known agents: requirements, generation, execution",
    )
    assert refused({**GOOD, "experiment": "absent"}).status == 404


def test_a_batch_names_the_entry() -> None:
    """One bad request of a thousand has to be looked for."""
    body = json.dumps({"requests": [GOOD, with_context(budget_left=2)]}).encode()
    with pytest.raises(ProblemError) as error:
        parse_batch(body, {}, 10)
    assert error.value.errors[0]["field"] == "requests.1.context.budget_left"
    assert len(parse_batch(json.dumps({"requests": [GOOD, GOOD]}).encode(), {}, 10)) == 2
    for bad in ({"requests": []}, {"requests": [GOOD] * 11}, {"requests": GOOD}, [GOOD], {"requests": [GOOD], "x": 1}):
        with pytest.raises(ProblemError, match="a list of 1 to 10 entries"):
            parse_batch(json.dumps(bad).encode(), {}, 10)


def test_outcomes_are_validated_strictly() -> None:
    """A label without its values, or a reward in quotes, goes into the training data."""
    good = {"prediction_id": "p", "reward": 1}
    assert parse_outcomes(json.dumps({"outcomes": [good]}).encode(), 10)[0].done
    for bad in (
        {**good, "reward": "1"},
        {**good, "best_action": 1},
        {**good, "extra": 1},
        {"reward": 1},
        {**good, "done": 1},
    ):
        with pytest.raises(ProblemError) as error:
            parse_outcomes(json.dumps({"outcomes": [good, bad]}).encode(), 10)
        assert error.value.status == 422
        assert error.value.errors[0]["field"].startswith("outcomes.1")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
MUTATED = st.builds(
    lambda keys, value, context: {
        **{k: v for k, v in GOOD.items() if k not in keys},
        **({"context": {**GOOD["context"], **context}} if "context" not in keys else {}),
        **dict.fromkeys(keys, value),
    },
    st.sets(st.sampled_from([*GOOD, "user_id", "experiment", "episode_id", "step", "new"]), max_size=3),
    JSON,
    st.dictionaries(st.sampled_from([*GOOD["context"], "new"]), JSON, max_size=3),
)


@pytest.mark.slow
@settings(max_examples=10_000)
@given(
    st.one_of(
        st.binary(max_size=200),
        JSON.map(lambda x: json.dumps(x).encode()),
        MUTATED.map(lambda x: json.dumps(x).encode()),
    )
)
def test_ten_thousand_bodies_are_taken_or_refused(body: bytes) -> None:
    """Some body is neither a request nor a refusal, and the client sees a server error."""
    for parse in (lambda: [parse_request(body, {})], lambda: parse_batch(body, {}, 5), lambda: parse_outcomes(body, 5)):
        assert status_of(parse) in {200, 404, 422}
