"""What the server saw is what training sees: logged decisions replayed through the offline path."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
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
from mlops_assets.training.policy import GreedyPolicy
from mlops_assets_tests.lifecycle.conftest import FirstLifecycle
from mlops_assets_tests.serving.live import LiveServer

pytestmark = pytest.mark.slow
_BATCH = 1000


@pytest.mark.parametrize(("name", "batches"), [("execution", 6), ("generation", 4)])
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
    server.end()
    with read_transaction(engine) as session:
        logged = [one for one in session.scalars(select(PredictionRecord)) if one.prediction_id in asked]
    assert len(logged) == batches * _BATCH
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
    """Training and serving run two runtimes, and they disagree on states that the parity check did not draw."""
    spec = AGENTS[name]
    folder = (
        first_lifecycle.world.settings.paths.models(name) / first_lifecycle.world.record("dqn_model", name)["run_id"]
    )
    random = np.random.default_rng(2)
    states = random.random((10_000, len(spec.state_fields)), dtype=np.float32)
    expected = GreedyPolicy.from_network(load_checkpoint(folder / "policy.pt").network).q_values(states)
    exported = GreedyPolicy.from_onnx(folder / "policy.onnx")
    found = exported.q_values(states)
    assert np.abs(found - expected).max() <= 1e-5 * max(1.0, float(np.abs(expected).max()))
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9999
    assert exported.state_fields == spec.state_fields
