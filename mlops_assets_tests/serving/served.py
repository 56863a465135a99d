"""Versions in service without a lifecycle: small policies, run as ONNX files as in production."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_assets.experiences.text_embedding import TextEmbedder
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.registry.catalogue import CHAMPION
from mlops_assets.serving.models import ServedModel, ServedModels
from mlops_assets.training.policy import GreedyPolicy

_TEXTS = ("As a user I search for a product", "As a user I fill in the form", "As an admin I export the data")


def served_model(
    spec: AgentSpec, semver: str = "1.0.0", *, values: Sequence[float] | None = None, seed: int = 0
) -> ServedModel:
    """A linear policy in service: with `values` each state has these Q-values, else weights are drawn from `seed`."""
    size, actions = len(spec.state_fields), len(spec.actions)
    if values is None:
        rng = np.random.default_rng(seed)
        weight, bias = rng.normal(size=(size, actions)), rng.normal(size=actions)
    else:
        weight, bias = np.zeros((size, actions)), np.asarray(values, dtype=np.float64)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.onnx"
        write_linear_policy(path, spec, weight, bias)
        policy = GreedyPolicy.from_onnx(path)
    return ServedModel(
        spec=spec,
        semver=semver,
        mlflow_version=semver.partition(".")[0],
        run_id=f"run-{semver}",
        data_hash=f"data-{semver}",
        training_hash=f"training-{semver}",
        policy=policy,
        text_embedder=TextEmbedder.fit(_TEXTS, spec.text_dimensions, seed=0) if spec.text_dimensions else None,
    )


def favouring(spec: AgentSpec, action: int, semver: str = "1.0.0") -> ServedModel:
    """A version that always takes one action."""
    return served_model(spec, semver, values=[float(number == action) for number in range(len(spec.actions))])


def champions(*models: ServedModel) -> ServedModels:
    """These versions as the champions of their agents."""
    return ServedModels(MappingProxyType({(model.spec.name, CHAMPION): model for model in models}))


def request_of(spec: AgentSpec, **changes: Any) -> dict[str, Any]:
    """A valid request of POST /predict."""
    request: dict[str, Any] = {
        "agent": spec.name,
        "agent_id": "agent-1",
        "test_id": "test-1",
        "context": {field.name: (field.low + field.high) / 2 for field in spec.context},
    }
    return request | changes


def write_linear_policy(path: Path, spec: AgentSpec, weight: NDArray[Any], bias: NDArray[Any]) -> None:
    """Write an exported policy `states @ weight + bias`: weight (D, A), bias (A,)."""
    from onnx import TensorProto, helper, numpy_helper, save

    size, actions = weight.shape
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["states", "weight", "bias"], ["q_values"])],
        spec.registered_model,
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", size])],
        [helper.make_tensor_value_info("q_values", TensorProto.FLOAT, ["batch", actions])],
        [
            numpy_helper.from_array(weight.astype(np.float32), "weight"),
            numpy_helper.from_array(bias.astype(np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    facts = {
        "actions": spec.actions[:actions],
        "state_fields": spec.state_fields,
        "weights_hash": f"linear-{path.stem}",
    }
    helper.set_model_props(model, {name: json.dumps(fact) for name, fact in facts.items()})
    save(model, str(path))
