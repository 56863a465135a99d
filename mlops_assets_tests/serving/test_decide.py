"""The decision: variants, exploration, fallback, cache and the log row, with every draw given."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlops_assets.experiments.assignment import aa_arm
from mlops_assets.experiments.experiments import Experiment, Treatment
from mlops_assets.experiments.segments import Segment
from mlops_assets.features.vector import column_name, state_vector
from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.errors import NotReadyError
from mlops_assets.serving.cache import AnswerCache
from mlops_assets.serving.decide import Decider, Decision, absent_features, confidence_of, new_prediction_id
from mlops_assets.serving.models import ServedModel, ServedModels
from mlops_assets.serving.parsing import parse_request
from mlops_assets.serving.requests import DecisionRequest, request_model
from mlops_assets.serving.treatments import BoundedCalls
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets_tests.serving.served import request_of, served_model

SPEC = AGENTS["execution"]
NOW = datetime(2026, 3, 6, 12, tzinfo=UTC)
CHAMPION, CHALLENGER = served_model(SPEC, "1.0.0", seed=1), served_model(SPEC, "2.0.0", seed=2)
MODELS = ServedModels({("execution", "champion"): CHAMPION, ("execution", "challenger"): CHALLENGER})
FEATURES = {
    column_name(field): np.array(["failed"], dtype=object) if field.name == "last_execution_status" else np.array([0.5])
    for field in SPEC.features
}


def experiment(share: float, status: Any = "running") -> Experiment:
    """An experiment that sends `share` of the users to the challenger."""
    return Experiment("checkout", "execution", "salt", "challenger", share, status, NOW)


def asked(spec: AgentSpec, **changes: Any) -> DecisionRequest:
    """A validated request; `context` changes single fields."""
    document = request_of(spec)
    context = document["context"] | changes.pop("context", {})
    return request_model(spec.name).model_validate(document | changes | {"context": context})


def computing(evaluate: Callable[[NDArray[np.float32]], NDArray[np.float32]], semver: str) -> ServedModel:
    """A version whose runtime is `evaluate`."""
    policy = GreedyPolicy(evaluate, state_size=len(SPEC.state_fields), action_count=len(SPEC.actions), weights="w")
    return replace(CHAMPION, semver=semver, policy=policy)


def decider(*draws: float, epsilon: float = 0.0, entries: int = 100) -> Decider:
    """A decider with its draws."""
    left = list(draws)
    return Decider(
        epsilon=epsilon,
        cache=AnswerCache(entries, 300.0),
        pseudonym=lambda user: f"pseudonym of {user}",
        uniform=lambda: left.pop(0),
    )


def decide(by: Decider, *, models: ServedModels = MODELS, spec: AgentSpec = SPEC, **changes: Any) -> Decision:
    """One decision."""
    given: dict[str, Any] = {"experiment": None, "features": FEATURES, "now": NOW, "started": 0.0, "channel": "http"}
    fixed = {name: changes.pop(name) for name in list(changes) if name in {*given, "prediction_id"}}
    return by.decide(asked(spec, **changes), models=models, **{**given, **fixed})


def test_in_the_aa_test_the_champion_is_asked_as_a_candidate_is() -> None:
    """Without a candidate's time limit and its fallback, the test would not see what these do to users."""

    def slow(states: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(len(states))
        if len(calls) == 1:
            time.sleep(0.2)
        return np.ones((len(states), len(SPEC.actions)), dtype=np.float32)

    calls: list[int] = []
    models = ServedModels({("execution", "champion"): computing(slow, "1.0.0")})
    treatments = BoundedCalls(timeout_ms=50.0, failures=5, open_seconds=1.0)
    by = Decider(
        epsilon=0.0,
        cache=AnswerCache(0, 1.0),
        pseudonym=str,
        uniform=lambda: 1.0,
        treatments=treatments,
        aa_share=0.5,
    )
    treated, control = (
        next(user for user in map(str, range(100)) if aa_arm("execution", "1.0.0", user, 0.5) == arm)
        for arm in ("treatment", "control")
    )
    late = decide(by, models=models, user_id=treated)
    assert (late.row["aa_arm"], late.row["fallback"], late.row["model_alias"]) == ("treatment", "failed", "champion")
    assert late.failure is not None
    assert len(calls) == 2
    fine = decide(by, models=models, user_id=control)
    assert (fine.row["aa_arm"], fine.row["fallback"], fine.row["experiment"]) == ("control", None, None)
    treatments.stop()


def test_the_vector_is_the_one_that_training_builds() -> None:
    """A server with an order of its own decides on other numbers than the network learnt (B-12)."""
    made = decide(decider())
    context = np.array([asked(SPEC).context_values], dtype=np.float32)
    expected = state_vector(SPEC, context, np.zeros((1, 0), np.float32), FEATURES).values[0]
    np.testing.assert_array_equal(made.vector, expected)
    np.testing.assert_array_equal(np.frombuffer(made.row["state"], "<f4"), expected)
    np.testing.assert_allclose(made.row["q_values"], CHAMPION.policy.q_values(expected[None])[0], rtol=1e-6)
    assert made.row["action"] == int(np.argmax(made.row["q_values"]))
    assert made.action_name == SPEC.actions[made.row["action"]]
    assert (made.row["status"], made.row["missing_features"]) == ("ok", [])


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_every_agent_is_answered_and_texts_count(name: str) -> None:
    """An agent that reads requirement texts decides without them."""
    spec = AGENTS[name]
    models = ServedModels({(name, "champion"): served_model(spec)})
    features = absent_features(spec, 1)
    text = {"requirement_text": "search for a product"} if spec.text_dimensions else {}
    made = decide(decider(), models=models, spec=spec, features=features, **text)
    assert len(made.row["q_values"]) == len(spec.actions)
    if spec.text_dimensions:
        block = slice(len(spec.context), len(spec.context) + spec.text_dimensions)
        other = decide(decider(), models=models, spec=spec, features=features, requirement_text="export the data")
        assert np.abs(made.vector[block]).sum() > 0
        assert not np.array_equal(made.vector[block], other.vector[block])
        silent = decide(decider(), models=models, spec=spec, features=features, requirement_text="")
        assert np.abs(silent.vector[block]).sum() == 0


def test_without_online_features_the_answer_says_so() -> None:
    """Defaults pass for measured values, and nobody can tell why the agent decided as it did."""
    made = decide(decider(), features=None)
    assert made.row["status"] == "degraded"
    assert made.row["missing_features"] == [column_name(field) for field in SPEC.features]
    expired = {**FEATURES, column_name(SPEC.features[1]): np.array([np.nan])}
    assert decide(decider(), features=expired).row["missing_features"] == [column_name(SPEC.features[1])]


def test_only_users_of_a_running_experiment_are_in_it() -> None:
    """Decisions without a user are counted into an arm, and its share is no longer the one that was set."""
    everyone = experiment(1.0)
    named = decide(decider(), experiment=everyone, user_id="ann")
    assert (named.row["variant"], named.row["experiment"]) == ("treatment", "checkout")
    assert (named.row["model_version"], named.row["model_alias"]) == ("2.0.0", "challenger")
    assert named.row["user_hash"] == "pseudonym of ann"
    anonymous = decide(decider(), experiment=everyone, user_id=None)
    assert (anonymous.row["variant"], anonymous.row["experiment"]) == ("control", None)
    assert (anonymous.row["model_version"], anonymous.row["user_hash"]) == ("1.0.0", None)
    versions = {"control": "1.0.0", "treatment": "2.0.0"}
    assert (named.row["arms"], anonymous.row["arms"]) == ({"versions": versions, "shares": {"treatment": 1.0}}, None)
    paused = decide(decider(), experiment=experiment(1.0, "paused"), user_id="ann")
    assert (paused.row["variant"], paused.row["experiment"], paused.row["model_version"]) == ("control", None, "1.0.0")


def test_each_treatment_answers_its_own_users() -> None:
    """Users of the second treatment get the first one's model, or are logged as its users."""
    both = replace(experiment(0.4), more=(Treatment("shadow", 0.4),))
    shadow = served_model(SPEC, "3.0.0", seed=3)
    models = ServedModels({**MODELS.by_alias, ("execution", "shadow"): shadow})
    users = {both.variant(user): user for user in map(str, range(50))}
    made = {arm: decide(decider(), models=models, experiment=both, user_id=user).row for arm, user in users.items()}
    assert {arm: (row["variant"], row["model_version"], row["model_alias"]) for arm, row in made.items()} == {
        "control": ("control", "1.0.0", "champion"),
        "challenger": ("challenger", "2.0.0", "challenger"),
        "shadow": ("shadow", "3.0.0", "shadow"),
    }
    for row in made.values():
        assert row["arms"] == {
            "versions": {"control": "1.0.0", "challenger": "2.0.0", "shadow": "3.0.0"},
            "shares": {"challenger": 0.4, "shadow": 0.4},
        }
        assert row["treatment_share"] == pytest.approx(0.8)
    # While one of them is gone, its users cannot be told from the control's, and nothing counts.
    gone = [decide(decider(), experiment=both, user_id=user).row for user in users.values()]
    assert [(row["treatment_share"], row["arms"]) for row in gone] == [(None, None)] * 3
    # Until it has no users any more.
    alone = replace(both, more=(Treatment("shadow", 0.0),))
    row = decide(decider(), experiment=alone, user_id=users["challenger"]).row
    assert (row["variant"], row["treatment_share"], row["arms"]["versions"]) == (
        "challenger",
        0.4,
        {"control": "1.0.0", "challenger": "2.0.0"},
    )


def test_users_outside_the_segment_get_the_control_and_are_not_counted() -> None:
    """A test of one browser gives its treatment to all of them, or counts those it is not for."""
    only = replace(experiment(1.0), segment=Segment(choices={"browser": ("firefox",)}))
    inside = decide(decider(), experiment=only, user_id="ann", browser="firefox")
    assert (inside.row["variant"], inside.row["experiment"], inside.row["treatment_share"]) == (
        "treatment",
        "checkout",
        1.0,
    )
    outside = decide(decider(), experiment=only, user_id="ann", browser="chromium")
    assert (outside.row["variant"], outside.row["experiment"], outside.row["treatment_share"]) == (
        "control",
        None,
        None,
    )
    assert outside.row["model_version"] == "1.0.0"


def test_an_experiment_whose_challenger_is_gone_is_answered_by_the_champion() -> None:
    """Between a rollback and the end of the experiment its users get no answer."""
    alone = ServedModels({("execution", "champion"): CHAMPION})
    made = decide(decider(), models=alone, experiment=experiment(1.0), user_id="ann")
    assert (made.row["model_version"], made.row["model_alias"], made.row["variant"]) == (
        "1.0.0",
        "champion",
        "treatment",
    )
    # Or its outcomes would be credited to a model that never answered.
    assert (made.row["status"], made.row["fallback"]) == ("ok", "absent")
    # Both arms get the champion, so neither says anything of the treatment.
    control = decide(decider(), models=alone, experiment=experiment(0.0), user_id="ann")
    assert (made.row["treatment_share"], control.row["treatment_share"]) == (None, None)
    assert (made.row["arms"], control.row["arms"]) == (None, None)
    # And that it had no features is a fact of its own.
    blind = decide(decider(), models=alone, experiment=experiment(1.0), user_id="ann", features=None)
    assert (blind.row["status"], blind.row["fallback"]) == ("degraded", "absent")


@pytest.mark.parametrize("failure", ["raises", "nan"])
def test_the_champion_answers_for_a_candidate_that_fails(failure: str) -> None:
    """A bad candidate takes its users' answers with it, or answers with numbers that are none."""

    def broken(states: NDArray[np.float32]) -> NDArray[np.float32]:
        if failure == "raises":
            raise RuntimeError("no kernel")
        return np.full((len(states), len(SPEC.actions)), np.nan, dtype=np.float32)

    models = ServedModels(
        {("execution", "champion"): CHAMPION, ("execution", "challenger"): computing(broken, "2.0.0")}
    )
    made = decide(decider(), models=models, experiment=experiment(1.0), user_id="ann")
    assert (made.row["fallback"], made.row["model_version"], made.row["variant"]) == ("failed", "1.0.0", "treatment")
    assert made.failure is not None
    assert "2.0.0" in made.failure
    assert made.row["arms"]["versions"]["treatment"] == "2.0.0"
    only = ServedModels({("execution", "champion"): computing(broken, "1.0.0")})
    with pytest.raises((RuntimeError, ArithmeticError)):
        decide(decider(), models=only)


def test_without_a_champion_there_is_no_answer() -> None:
    """The challenger alone answers although nobody approved it for everybody."""
    with pytest.raises(NotReadyError, match="execution-agent-dqn has no champion"):
        decide(decider(), models=ServedModels({("execution", "challenger"): CHALLENGER}))


def test_exploration_is_uniform_and_its_propensity_exact() -> None:
    """A wrong propensity biases every off-policy estimate that is made from the log."""
    greedy = decide(decider()).row["action"]
    actions = len(SPEC.actions)
    for other in range(actions):
        made = decide(decider(0.05, (other + 0.5) / actions, epsilon=0.1))
        assert made.row["action"] == other
        assert made.row["explored"] == (other != greedy)
        assert made.row["propensity"] == pytest.approx(0.1 / actions + (0.9 if other == greedy else 0.0))
    kept = decide(decider(0.1, epsilon=0.1))
    assert (kept.row["action"], kept.row["explored"]) == (greedy, False)
    assert kept.row["propensity"] == pytest.approx(0.9 + 0.1 / actions)
    assert decide(decider()).row["propensity"] == 1.0


def test_the_cache_knows_versions_and_still_counts() -> None:
    """After a promotion the old version's answers come back (B-65), or a hit is not logged."""
    calls: list[int] = []

    def counting(states: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(len(states))
        return CHAMPION.policy.q_values(states)

    by = decider()
    first = ServedModels({("execution", "champion"): computing(counting, "1.0.0")})
    second = ServedModels({("execution", "champion"): computing(counting, "1.1.0")})
    whole = {field.name: 1.0 for field in SPEC.context if field.low <= 1.0 <= field.high}
    one, two, promoted = (decide(by, models=models, context=whole) for models in (first, first, second))
    assert [made.row["cached"] for made in (one, two, promoted)] == [False, True, False]
    assert one.row["q_values"] == two.row["q_values"]
    assert one.row["prediction_id"] != two.row["prediction_id"]
    assert (by.cache.hits, len(calls)) == (1, 2)
    # 1 and 1.0 are one number, and the order of a JSON object is none.
    fields = asked(SPEC, context=whole).context.model_dump()
    turned = {name: int(value) if value == int(value) else value for name, value in reversed(fields.items())}
    assert list(turned) != list(fields)
    assert any(isinstance(value, int) for value in turned.values())
    body = json.dumps({**request_of(SPEC), "context": turned}).encode()
    again = by.decide(
        parse_request(body, {}), models=second, experiment=None, features=FEATURES, now=NOW, started=0.0, channel="http"
    )
    assert again.row["cached"]
    np.testing.assert_array_equal(again.vector, promoted.vector)


def test_a_decision_without_episode_is_its_own() -> None:
    """Decisions that belong to nothing are learnt from as one endless episode."""
    made = decide(decider(), prediction_id="fixed")
    assert (made.row["prediction_id"], made.row["episode_id"], made.row["step"]) == ("fixed", "fixed", 0)
    in_cycle = decide(decider(), episode_id="cycle-7", step=3)
    assert (in_cycle.row["episode_id"], in_cycle.row["step"]) == ("cycle-7", 3)


def test_confidence_is_the_softmax_margin() -> None:
    """Its definition stands in the agent catalogue, and the next agent takes it as input."""
    assert confidence_of(np.array([0.0, 0.0], np.float32)) == 0.0
    assert confidence_of(np.array([1.0, 0.0], np.float32)) == pytest.approx(np.tanh(0.5), abs=1e-7)
    assert confidence_of(np.array([1e30, 0.0, 0.0], np.float32)) == 1.0
    assert confidence_of(np.array([3.0], np.float32)) == 1.0


def test_ids_are_unique_and_in_order_of_time() -> None:
    """Two servers give one id, or ids scatter over the whole index."""
    ids = [new_prediction_id(NOW + timedelta(milliseconds=i)) for i in range(2000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 2000
    assert {len(one) for one in ids} == {32}


def test_a_served_model_is_one_object_for_both_aliases() -> None:
    """A version behind two aliases is asked twice as its own shadow."""
    both = ServedModels({("execution", "champion"): CHAMPION, ("execution", "challenger"): CHAMPION})
    assert both.all() == (CHAMPION,)
    assert isinstance(both.get("execution", "challenger"), ServedModel)
    assert both.get("execution", "shadow") is None
