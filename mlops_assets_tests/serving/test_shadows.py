"""Versions in the shadow: asked for themselves, behind the answers, whatever they do."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlops_assets.experiences.text_embedding import TextEmbedder
from mlops_assets.experiments.experiments import Experiment
from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.serving.cache import AnswerCache
from mlops_assets.serving.decide import Decider, absent_features
from mlops_assets.serving.models import ServedModel, ServedModels
from mlops_assets.serving.requests import request_model
from mlops_assets.serving.shadows import ShadowRequest, ShadowScorer, versions_to_ask
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets_tests.programs import wait_for
from mlops_assets_tests.serving.served import request_of, served_model

NOW = datetime(2026, 3, 6, tzinfo=UTC)
Rows = list[Mapping[str, Any]]


def asked(spec: AgentSpec, model: ServedModel, number: int, text: str = "") -> ShadowRequest:
    """A request whose context is full of one number."""
    context = np.full(len(spec.context), number / 100, dtype=np.float32)
    return ShadowRequest(f"p{number}", NOW, context, text, absent_features(spec, 1), model)


def scored(requests: Sequence[ShadowRequest], answers: int) -> tuple[Rows, list[str]]:
    """Ask, and stop: so many answers come of what waits, however slow the machine is."""
    rows: Rows = []
    failures: list[str] = []
    scorer = ShadowScorer(rows.extend, 1000, failures.append)
    scorer.start()
    scorer.ask(requests)
    scorer.stop()
    wait_for(lambda: len(rows) >= answers)
    return rows, failures


def computing(model: ServedModel, evaluate: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> ServedModel:
    """The version with another runtime."""
    size, actions = model.policy.state_size, model.policy.action_count
    policy = GreedyPolicy(evaluate, state_size=size, action_count=actions, weights="w")
    return replace(model, semver="9.0.0", policy=policy)


def test_each_builds_its_own_state() -> None:
    """A candidate that reads texts is judged on vectors of the champion's embedder."""
    spec = AGENTS["requirements"]
    texts = ["as a user i search for a product", "as an admin i export the data"]
    model = served_model(spec, "2.0.0", seed=3)
    other = replace(
        model, semver="3.0.0", text_embedder=TextEmbedder.fit([*texts[::-1], "a third"], spec.text_dimensions, 1)
    )
    requests = [asked(spec, one, i, texts[i % 2]) for i in range(20) for one in (model, other)]
    rows, failures = scored(requests, 40)
    assert (len(rows), failures) == (40, [])
    for request in requests:
        states = request.model.states(request.context[None], [request.text], request.features)
        expected = request.model.policy.q_values(states.values)[0]
        (row,) = (
            one
            for one in rows
            if one["prediction_id"] == request.prediction_id and one["model_version"] == request.model.semver
        )
        np.testing.assert_allclose(row["q_values"], expected, rtol=1e-5, atol=1e-5)
        assert row["action"] == int(expected.argmax())


def test_a_broken_one_is_a_finding_and_no_more() -> None:
    """A candidate that fails takes the others with it."""
    spec = AGENTS["execution"]
    good = served_model(spec, "2.0.0")

    def broken(_: NDArray[np.float32]) -> NDArray[np.float32]:
        raise RuntimeError("no kernel")

    rows, failures = scored([asked(spec, one, i) for i in range(10) for one in (computing(good, broken), good)], 10)
    assert {row["model_version"] for row in rows} == {"2.0.0"}
    assert len(rows) == 10
    assert failures == ["shadow"]


def test_what_is_no_number_is_a_finding_and_not_logged() -> None:
    """One NaN of a candidate, and a database that knows none refuses the whole chunk of rows."""
    spec = AGENTS["execution"]
    good = served_model(spec, "2.0.0")

    def diverged(states: NDArray[np.float32]) -> NDArray[np.float32]:
        values = np.zeros((len(states), len(spec.actions)), dtype=np.float32)
        values[1], values[3] = np.nan, -np.inf
        return values

    rows, failures = scored([asked(spec, one, i) for i in range(5) for one in (computing(good, diverged), good)], 8)
    assert failures == ["shadow"]
    assert [row["prediction_id"] for row in rows if row["model_version"] == "9.0.0"] == ["p0", "p2", "p4"]
    assert len(rows) == 8


def test_each_is_first_as_often_as_last() -> None:
    """The first of a pass finds cold caches: a candidate that is always first looks twice as slow as its champion."""
    spec = AGENTS["execution"]
    good = served_model(spec, "1.0.0")
    order: list[str] = []
    rows: Rows = []

    def noting(semver: str) -> ServedModel:
        def evaluate(states: NDArray[np.float32]) -> NDArray[np.float32]:
            order.append(semver)
            return np.zeros((len(states), len(spec.actions)), dtype=np.float32)

        return replace(computing(good, evaluate), semver=semver)

    pair = (noting("1.1.0"), noting("1.0.0"))
    scorer = ShadowScorer(rows.extend, 1000, lambda _what: None)
    scorer.start()
    for i in range(10):
        scorer.ask([asked(spec, one, i) for one in pair])
        wait_for(lambda: len(rows) == 2 * (i + 1))  # noqa: B023 - waited for here
    scorer.stop()
    firsts = order[::2]
    assert [firsts.count(one.semver) for one in pair] == [5, 5]
    assert {tuple(order[i : i + 2]) for i in range(0, 20, 2)} == {("1.1.0", "1.0.0"), ("1.0.0", "1.1.0")}


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, ["1.1.0", "1.0.0"]), (0.05, ["1.1.0"]), (1.0, ["1.1.0", "1.0.0"]), (None, ["1.1.0"])]
)
def test_both_are_asked_while_either_has_all_users(share: float | None, expected: list[str]) -> None:
    """A candidate's evaluation is compared with whole requests, or the champion evaluates twice all its life."""
    spec = AGENTS["execution"]
    champion, candidate = served_model(spec, "1.0.0"), served_model(spec, "1.1.0")
    # The version on trial is the challenger, too.
    versions = {"champion": champion, "candidate": candidate, "challenger": candidate}
    models = ServedModels({("execution", alias): model for alias, model in versions.items()})
    split = None
    if share is not None:
        split = Experiment(
            "rollout-execution-1.1.0-1", "execution", "salt", "candidate", share, "running", NOW,
            splits_anonymous=True, treatment_version="1.1.0",
        )  # fmt: skip
    by = Decider(epsilon=0.0, cache=AnswerCache(10, 300.0), pseudonym=str, uniform=lambda: 0.5)
    request = request_model(spec.name).model_validate(request_of(spec, user_id="user-1"))
    decided = by.decide(request, models=models, experiment=split, features=None, now=NOW, started=0.0, channel="http")
    assert decided.row["model_version"] == ("1.1.0" if share == 1.0 else "1.0.0")
    assert [model.semver for model in versions_to_ask(models, decided)] == expected


def test_who_does_not_keep_up_is_asked_less() -> None:
    """A candidate that hangs fills the memory, or holds up the answers."""
    spec = AGENTS["execution"]
    taken, gate = threading.Event(), threading.Event()
    model = served_model(spec, "2.0.0")

    def slow(states: NDArray[np.float32]) -> NDArray[np.float32]:
        taken.set()
        gate.wait(120)
        return np.zeros((len(states), len(spec.actions)), dtype=np.float32)

    rows: Rows = []
    hanging = computing(model, slow)
    scorer = ShadowScorer(rows.extend, 50, lambda _what: None)
    scorer.start()
    scorer.ask([asked(spec, hanging, 0)])
    assert taken.wait(30)
    begin = time.monotonic()
    for i in range(1, 101):
        scorer.ask([asked(spec, hanging, i)])
    # Who waited for the candidate would wait for the gate.
    assert time.monotonic() - begin < 60
    assert scorer.dropped == 50
    assert rows == []
    gate.set()
    scorer.stop()
    wait_for(lambda: len(rows) >= 51)
    assert [row["prediction_id"] for row in rows] == [f"p{i}" for i in range(51)]


def test_they_are_asked_first_in_turns() -> None:
    """Who is asked first pays for cold caches: a candidate as fast as the champion measures 1.4 times its latency."""
    spec = AGENTS["execution"]
    first, second = served_model(spec, "1.0.0"), served_model(spec, "2.0.0", seed=1)
    rows: Rows = []
    scorer = ShadowScorer(rows.extend, 1000, lambda _what: None)
    scorer.ask([asked(spec, one, i) for i in range(384) for one in (first, second)])
    scorer.start()
    scorer.stop()
    wait_for(lambda: len(rows) >= 768)
    passes = [rows[begin : begin + 256] for begin in (0, 256, 512)]
    assert [{row["model_version"] for row in one} for one in passes] == [{"1.0.0", "2.0.0"}] * 3
    begun = [one[0]["model_version"] for one in passes]
    assert begun[0] != begun[1] != begun[2]
