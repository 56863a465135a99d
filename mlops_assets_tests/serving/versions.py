"""Further registered versions of an agent, for tests of what happens when an alias moves."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mlflow import MlflowClient

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.serving.models import load_served_model
from mlops_assets.training.tracking import TrainingTracker
from mlops_assets_tests.serving.served import write_linear_policy


def register_linear_version(
    tracking_uri: str, spec: AgentSpec, semver: str, *, seed: int, exported_for: AgentSpec | None = None
) -> str:
    """Log and register a small policy of random weights; return MLflow's number of the version.

    `exported_for`: the agent as its file describes it, where that is another one.
    """
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    store = MlflowStore(tracking_uri)
    experiment = client.get_experiment_by_name(spec.experiment)
    run_id = client.create_run(experiment.experiment_id).info.run_id
    random = np.random.default_rng(seed)
    weight = random.normal(size=(len(spec.state_fields), len(spec.actions)))
    bias = random.normal(size=len(spec.actions))
    states = random.random((2, len(spec.state_fields)), dtype=np.float32)
    embedder = load_served_model(store, spec, "1").text_embedder
    with TemporaryDirectory() as folder:
        policy = Path(folder) / "policy.onnx"
        write_linear_policy(policy, exported_for or spec, weight, bias)
        values = (states @ weight + bias).astype(np.float32)
        TrainingTracker(tracking_uri).log_model(run_id, policy, spec, states, values, text_embedder=embedder)
    client.set_terminated(run_id, "FINISHED")
    tags = {"semantic_version": semver, "training_hash": f"t{seed}", "data_version": f"d{seed}"}
    return store.create_version(
        spec.registered_model,
        store.verified_model(run_id, spec),
        run_id=run_id,
        tags=tags,
        purpose=spec.purpose,
        description=semver,
    )
