"""What the server saw is what training sees: logged decisions replayed through the offline path."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from sqlalchemy import select

from mlops_assets.experiences.snapshots import open_snapshot
from mlops_assets.features.store import open_feature_store
from mlops_assets.features.vector import feature_arrays, state_vector
from mlops_assets.features.views import views_of
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.database import create_operational_engine, read_transaction
from mlops_assets.foundation.settings import load_settings
from mlops_assets.foundation.tables import ModelVersionRecord, PredictionRecord
from mlops_assets.training.checkpoint import load_checkpoint
from mlops_assets.training.network import weights_hash
from mlops_assets.training.onnx_export import EXPORT_VERSION
from mlops_assets.training.onnx_session import open_session, session_metadata
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets_tests.lifecycle.conftest import FirstLifecycle
from mlops_assets_tests.serving.live import LiveServer

pytestmark = pytest.mark.slow
_BATCH = 1000
_SINGLES = 50


@pytest.mark.parametrize(("name", "batches"), [("execution", 6), ("generation", 4), ("requirements", 1)])
def test_ten_thousand_decisions_are_the_same_offline(
    served_home: Path, new_server: Callable[..., LiveServer], name: str, batches: int
) -> None:
    """Training and serving disagree about a feature, and the model decides on numbers that it never learnt from."""
    spec = AGENTS[name]
    settings = load_settings({"MLOPS_HOME": str(served_home)})
    engine = create_operational_engine(settings.database)
    server = new_server(served_home)
    with read_transaction(engine) as session:
        version = session.scalars(
            select(ModelVersionRecord).where(
                ModelVersionRecord.model_name == spec.registered_model, ModelVersionRecord.stage == "Production"
            )
        ).one()
    snapshot = open_snapshot(name, version.data_hash, paths=settings.paths, engine=engine)
    known = snapshot.experiences(columns=("test_id", "agent_id")).to_pydict()
    texts = [*snapshot.requirement_texts()["text"].to_pylist(), ""] if spec.text_dimensions else [""]
    random = np.random.default_rng(1)
    asked: dict[str, dict[str, object]] = {}
    for _ in range(batches):
        rows = random.integers(0, len(known["test_id"]), _BATCH)
        requests = [
            {
                "agent": name,
                # Some that nobody has heard of: their features are missing on both sides.
                "test_id": known["test_id"][row] if row % 10 else f"new-{row}",
                "agent_id": known["agent_id"][row] if row % 7 else "new-agent",
                "context": {f.name: float(np.float32(random.uniform(f.low, f.high))) for f in spec.context},
                **(
                    {"requirement_id": "r", "requirement_text": texts[row % len(texts)]} if spec.text_dimensions else {}
                ),
            }
            for row in rows
        ]
        answer = server.post("/predict/batch", {"requests": requests})
        assert answer.status_code == 200, answer.text
        asked |= {one["prediction_id"]: req for one, req in zip(answer.json()["predictions"], requests, strict=True)}
    # A single request goes another way to the store than the blocks of a batch.
    asked |= {server.decide(request)["prediction_id"]: request for request in requests[:_SINGLES]}
    server.end()
    with read_transaction(engine) as session:
        logged = [one for one in session.scalars(select(PredictionRecord)) if one.prediction_id in asked]
    assert len(logged) == batches * _BATCH + _SINGLES
    assert {one.status for one in logged} == {"ok"}
    columns = {key: [getattr(one, key) for one in logged] for key in ("test_id", "agent_id", "event_time")}
    entities = pa.table({**columns, "event_time": pa.array(columns["event_time"], pa.timestamp("us", "UTC"))})
    features = feature_arrays(open_feature_store(settings, engine).historical(entities, views_of(spec)), spec)
    context = np.array([list(asked[one.prediction_id]["context"].values()) for one in logged], dtype=np.float32)
    embedded = snapshot.embedder().transform([one.requirement_text for one in logged])
    offline = state_vector(spec, context, embedded, features)
    served = np.stack([np.frombuffer(one.state, "<f4") for one in logged])
    assert np.abs(offline.values - served).max() <= 1e-6
    flags = np.array([[f"{f.view}__{f.name}" in one.missing_features for f in spec.features] for one in logged])
    np.testing.assert_array_equal(offline.missing, flags)
    assert 0.05 < flags.mean() < 0.5
    policy = GreedyPolicy.from_onnx(settings.paths.models(name) / version.run_id / "policy.onnx")
    actions = policy.actions(offline.values)
    np.testing.assert_array_equal(actions, [one.action for one in logged])
    engine.dispose()


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_the_exported_policy_computes_what_torch_computes(first_lifecycle: FirstLifecycle, name: str) -> None:
    """Training and serving run two runtimes, and they disagree on states that the parity check did not draw.

    The bound is 1e-5 of a state's largest Q-value, and 1e-5 where none is above 1. It cannot be absolute: Q-values of
    these rewards reach 150, where neighbouring float32 numbers lie 1.5e-5 apart; torch itself is 3e-5 from its float64
    result there.
    """
    spec = AGENTS[name]
    folder = (
        first_lifecycle.world.settings.paths.models(name) / first_lifecycle.world.record("dqn_model", name)["run_id"]
    )
    random = np.random.default_rng(2)
    states = random.random((10_000, len(spec.state_fields)), dtype=np.float32)
    network = load_checkpoint(folder / "policy.pt").network
    expected = GreedyPolicy.from_network(network).q_values(states)
    found = GreedyPolicy.from_onnx(folder / "policy.onnx").q_values(states)
    bounds = 1e-5 * np.maximum(1.0, np.abs(expected).max(axis=1))
    assert (np.abs(found - expected).max(axis=1) <= bounds).all()
    with torch.inference_mode():
        exact = deepcopy(network).double()(torch.from_numpy(states.astype(np.float64))).numpy()
    assert (np.abs(found - exact).max(axis=1) <= bounds).all()
    # Another action only where both are worth the same within that bound.
    lost = expected.max(axis=1) - expected[np.arange(len(states)), found.argmax(axis=1)]
    assert (lost <= 2 * bounds).all()
    assert (lost == 0).mean() > 0.999


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_the_exported_policy_says_what_it_takes(first_lifecycle: FirstLifecycle, name: str) -> None:
    """A reader of the file has to guess the order of its inputs, or which export made it."""
    spec = AGENTS[name]
    record = first_lifecycle.world.record("dqn_model", name)
    folder = first_lifecycle.world.settings.paths.models(name) / record["run_id"]
    session = open_session(folder / "policy.onnx")
    states, q_values = len(spec.state_fields), len(spec.actions)
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("states", "tensor(float)", ["batch", states])
    assert (given.name, given.type, given.shape) == ("q_values", "tensor(float)", ["batch", q_values])
    assert session.get_modelmeta().version == EXPORT_VERSION
    assert session_metadata(session) == {
        "export_version": EXPORT_VERSION,
        "agent": name,
        "actions": list(spec.actions),
        "state_fields": list(spec.state_fields),
        "signature": {
            "inputs": {"states": ["float32", ["batch", states]]},
            "outputs": {"q_values": ["float32", ["batch", q_values]]},
        },
        "weights_hash": weights_hash(load_checkpoint(folder / "policy.pt").network),
    }
