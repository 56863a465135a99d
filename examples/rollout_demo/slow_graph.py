"""A policy whose file computes much for nothing, wherever a context field is odd; what it answers stays the same."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from examples.rollout_demo.users import Oddity
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.files import atomic_write
from mlops_assets.training.onnx_session import INPUT, OUTPUT

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

# Together some 25 ms on one core, half of what a request of a version on trial may take.
_SIZE, _ROUNDS = 128, 150


def slow_down(policy: Path, spec: AgentSpec, oddity: Oddity) -> None:
    """Add a branch to the exported policy: with an odd state in the batch, a matrix is multiplied over and over."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(policy))
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["plain" if name == OUTPUT else name for name in node.output]
    constants = {
        "field": np.array(spec.state_fields.index(oddity.field), dtype=np.int64),
        "edge": np.array(oddity.edge, dtype=np.float32),
        "rounds": np.array(_ROUNDS, dtype=np.int64),
        "matrix": np.full((_SIZE, _SIZE), 0.5 / _SIZE, dtype=np.float32),
        "go_on": np.array(True),  # noqa: FBT003 - numpy's way to write it
        "nothing": np.zeros((), dtype=np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.extend(
        [
            helper.make_node("Gather", [INPUT, "field"], ["values"], axis=1),
            helper.make_node("ReduceMax", ["values"], ["highest"], keepdims=0),
            helper.make_node("Greater", ["highest", "edge"], ["odd"]),
            helper.make_node("If", ["odd"], ["more"], then_branch=_laborious(), else_branch=_idle()),
            helper.make_node("Add", ["plain", "more"], [OUTPUT]),
        ]
    )
    onnx.checker.check_model(model, full_check=True)
    with atomic_write(policy) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def _laborious() -> "GraphProto":
    """Multiply the matrix with itself in a loop, and give zero."""
    from onnx import TensorProto, helper

    shape = [_SIZE, _SIZE]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "matrix"], ["after"]),
            helper.make_node("Identity", ["still"], ["on"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, shape),
        ],
    )
    return _giving_zero(
        [
            helper.make_node("Loop", ["rounds", "go_on", "matrix"], ["product"], body=body),
            helper.make_node("ReduceMean", ["product"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        ],
        "zero",
    )


def _idle() -> "GraphProto":
    from onnx import helper

    return _giving_zero([helper.make_node("Identity", ["nothing"], ["none"])], "none")


def _giving_zero(nodes: "list[NodeProto]", name: str) -> "GraphProto":
    from onnx import TensorProto, helper

    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [])])
