"""Figures from the prediction log against the same figures by numpy."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import Engine

from mlops_assets.experiments.experiments import Experiment
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import transaction
from mlops_assets.serving.explain import explain_prediction
from mlops_assets.serving.status import experiment_status, monitoring_status
from mlops_assets_tests.experiences.served import outcome_row, prediction_row, state_bytes

SPEC = AGENTS["execution"]
START = datetime(2026, 3, 6, tzinfo=UTC)
PERCENTILES = {"latency_p50_ms": 50, "latency_p95_ms": 95, "latency_p99_ms": 99}


def nearest_ranks(latencies: Sequence[float]) -> list[float]:
    """What numpy says."""
    return list(np.percentile(latencies, list(PERCENTILES.values()), method="inverted_cdf"))


@pytest.fixture
def logged(engine: Engine) -> Engine:
    """400 decisions, a minute apart, in two arms of an experiment; every other one with an outcome."""
    random = np.random.default_rng(0)
    with transaction(engine) as session:
        for i in range(400):
            treated = i % 4 == 0
            made = prediction_row(
                SPEC,
                f"p{i:03d}",
                event_time=START + timedelta(minutes=i),
                model_version="2.0.0" if treated else "1.0.0",
                variant="treatment" if treated else "control",
                experiment="checkout",
                user_hash=f"user-{i % 40}",
                latency_ms=float(random.lognormal()),
                status="degraded" if i % 10 == 0 else "ok",
                missing_features=list(SPEC.state_fields[-2:]) if i % 10 == 0 else [],
                fallback={0: "failed", 20: "absent"}.get(i % 40),
                action=int(random.integers(4)),
                cached=i % 3 == 0,
            )
            session.add(made)
            if i % 2 == 0:
                label = {"best_action": 1, "action_values": [0.0, 1.0, 0.0, 0.0]} if i % 8 == 0 else {}
                session.add(outcome_row(made, reward=i / 10 - 20, **label))
    return engine


def test_groups_agree_with_numpy(logged: Engine) -> None:
    """A dashboard shows percentiles of something else, or counts an unlabelled decision as wrong."""
    found = monitoring_status(logged, START + timedelta(minutes=100), START + timedelta(minutes=300))
    assert [(one["model_version"], one["variant"]) for one in found] == [("1.0.0", "control"), ("2.0.0", "treatment")]
    random = np.random.default_rng(0)
    latencies, actions = [], []
    for _ in range(400):
        latencies.append(random.lognormal())
        actions.append(int(random.integers(4)))
    for group, treated in zip(found, (False, True), strict=True):
        rows = [i for i in range(100, 300) if (i % 4 == 0) == treated]
        with_outcome = [i for i in rows if i % 2 == 0]
        labelled = [i for i in rows if i % 8 == 0]
        assert group["predictions"] == len(rows)
        assert group["users"] == len({i % 40 for i in rows})
        assert group["degraded"] == sum(i % 10 == 0 for i in rows)
        # An answer without features by the champion in the candidate's place is both.
        assert group["fallbacks"] == sum(i % 20 == 0 for i in rows)
        assert group["failed"] == sum(i % 40 == 0 for i in rows)
        assert group["mean_missing_features"] == pytest.approx(np.mean([2 if i % 10 == 0 else 0 for i in rows]))
        assert group["cached"] == sum(i % 3 == 0 for i in rows)
        assert (group["outcomes"], group["labelled"]) == (len(with_outcome), len(labelled))
        if with_outcome:
            assert group["mean_reward"] == pytest.approx(np.mean([i / 10 - 20 for i in with_outcome]))
        if labelled:
            assert group["accuracy"] == pytest.approx(np.mean([actions[i] == 1 for i in labelled]))
        else:
            assert group["accuracy"] is None
        own = [latencies[i] for i in rows]
        assert [group[name] for name in PERCENTILES] == pytest.approx(nearest_ranks(own))


@pytest.mark.parametrize("count", [1, 2, 3, 19, 20, 21, 99, 100, 101])
def test_percentiles_of_few_decisions(engine: Engine, count: int) -> None:
    """A percentile is one rank off: of a hundred latencies the p50 is the 51st, or of one there is none."""
    latencies = [float(i + 1) for i in np.random.default_rng(count).permutation(count)]
    with transaction(engine) as session:
        for i, latency_ms in enumerate(latencies):
            session.add(prediction_row(SPEC, f"p{i}", event_time=START, latency_ms=latency_ms))
    (found,) = monitoring_status(engine, START, START + timedelta(seconds=1))
    assert [found[name] for name in PERCENTILES] == nearest_ranks(latencies)


def test_an_empty_window_has_no_groups(logged: Engine) -> None:
    """Nothing served shows as a latency of zero."""
    assert monitoring_status(logged, START - timedelta(days=2), START) == []


def test_an_experiments_arms(logged: Engine) -> None:
    """The arms are those of all experiments together."""
    running = Experiment("checkout", "execution", "salt", "challenger", 0.25, "running", START)
    found = experiment_status(logged, running)
    assert (found["name"], found["treatment_share"], found["status"]) == ("checkout", 0.25, "running")
    assert {name: figures["predictions"] for name, figures in found["variants"].items()} == {
        "control": 300,
        "treatment": 100,
    }
    other = Experiment("other", "execution", "salt", "challenger", 0.25, "running", START)
    assert experiment_status(logged, other)["variants"] == {}


def test_an_explanation_names_every_feature(engine: Engine) -> None:
    """The values of a decision are shown under the names of others."""
    values = np.arange(len(SPEC.state_fields)) / 100
    with transaction(engine) as session:
        made = prediction_row(SPEC, "p1", state=state_bytes(values), q_values=[0.0, 2.0, 1.0, 0.5])
        session.add(made)
        session.add(outcome_row(made, 3.0))
    found = explain_prediction(engine, "p1")
    assert found is not None
    assert list(found["features"]) == list(SPEC.state_fields)
    np.testing.assert_allclose(list(found["features"].values()), values, rtol=1e-6)
    assert found["q_values"] == {"skip": 0.0, "low": 2.0, "normal": 1.0, "high": 0.5}
    assert (found["action_name"], found["outcome"]["reward"]) == ("low", 3.0)
    assert (found["training_snapshot"], found["shadows"]) == (None, [])
    assert found["model"] == {"name": "execution-agent-dqn", "version": "1.0.0", "alias": "champion"}
    assert explain_prediction(engine, "absent") is None


def test_versions_over_all_variants(logged: Engine) -> None:
    """A version's percentile is the mean of its variants', or another agent's decisions are among them."""
    end = START + timedelta(days=1)
    with transaction(logged) as session:
        session.add(prediction_row(AGENTS["generation"], "other", event_time=START, latency_ms=1e6))
    (found,) = monitoring_status(logged, START, end, by=["agent"], agent="execution")
    random = np.random.default_rng(0)
    latencies = []
    for _ in range(400):
        latencies.append(random.lognormal())
        random.integers(4)
    assert (found["agent"], found["predictions"], found["failed"]) == ("execution", 400, 10)
    assert [found[name] for name in PERCENTILES] == pytest.approx(nearest_ranks(latencies))
