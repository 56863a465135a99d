"""The policy as ONNX: written, and checked against torch. `onnx_session.py` opens it, without torch.

The graph is built here, node by node: torch's exporter takes seconds in every fresh process (65 s on two busy cores)
and needs onnxscript at run time. The network has five kinds of nodes, and the parity check proves each file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import atomic_write
from mlops_assets.training.network import INPUT_LIMIT, DuelingQNetwork, weights_hash
from mlops_assets.training.onnx_session import INPUT, OUTPUT, open_session, run_session

if TYPE_CHECKING:
    import onnx

# Counts up when the graph or its metadata change in a way that readers have to know.
EXPORT_VERSION = 2
# Operators and file format that ONNX Runtime reads since 1.14.
_OPSET, _IR_VERSION = 17, 8
# Largest accepted difference to torch, as a share of the largest Q-value: single precision, another order of summation.
_PARITY_TOLERANCE = 1e-5
_PARITY_ROWS = 256


@dataclass(frozen=True)
class OnnxParity:
    """Comparison of the exported policy with torch on real states, for batches of 1 and of all rows."""

    rows: int
    max_difference: float
    tolerance: float
    same_actions: float

    @property
    def passed(self) -> bool:
        """Whether no Q-value differs by more than the tolerance."""
        return self.max_difference <= self.tolerance


def export_onnx(path: Path, network: DuelingQNetwork, spec: AgentSpec, states: NDArray[np.float32]) -> OnnxParity:
    """Write the network as ONNX, check it against torch on up to 256 rows of `states` (N, D), then publish the file.

    The file takes raw states `states` (batch, D) float32, any batch size, and gives `q_values` (batch, A) float32 in
    units of the reward. Its metadata names the export's version, the agent, the actions, the state fields in order, the
    signature (name, type and shape of input and output) and the hash of the weights.

    Raises:
        InputError: there are no states to check on, or the exported policy does not compute what the network computes.
    """
    import onnx

    if len(states) == 0:
        raise InputError(f"no states to check the exported policy of {spec.name} on: give at least one row")
    model = _to_onnx(network, spec)
    onnx.checker.check_model(model, full_check=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        parity = compare_with_torch(temporary, network, states)
        if not parity.passed:
            raise InputError(
                f"the exported policy of {spec.name} differs from torch by {parity.max_difference:.3g} on "
                f"{parity.rows} states, allowed is {parity.tolerance:.3g}: use the checkpoint, and report this"
            )
    return parity


def compare_with_torch(path: Path, network: DuelingQNetwork, states: NDArray[np.float32]) -> OnnxParity:
    """Compare the Q-values of an ONNX file with the network's on up to 256 rows, evenly spaced over `states`."""
    sample = states[np.linspace(0, len(states) - 1, min(len(states), _PARITY_ROWS)).astype(np.int64)]
    session = open_session(path)
    with torch.no_grad():
        expected = network(torch.from_numpy(sample)).numpy()
    together = run_session(session, sample)
    single = np.concatenate([run_session(session, sample[i : i + 1]) for i in range(min(len(sample), 8))])
    difference = max(float(np.abs(together - expected).max()), float(np.abs(single - expected[: len(single)]).max()))
    return OnnxParity(
        rows=len(sample),
        max_difference=difference,
        tolerance=_PARITY_TOLERANCE * max(1.0, float(np.abs(expected).max())),
        same_actions=float((together.argmax(axis=1) == expected.argmax(axis=1)).mean()),
    )


def _to_onnx(network: DuelingQNetwork, spec: AgentSpec) -> onnx.ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    constants: dict[str, NDArray[np.float32]] = {
        "input_mean": _array(network.input_mean),
        "input_scale": _array(network.input_scale),
        "limit_low": np.float32(-INPUT_LIMIT) * np.ones((), np.float32),
        "limit_high": np.float32(INPUT_LIMIT) * np.ones((), np.float32),
    }
    nodes = [
        helper.make_node("Sub", [INPUT, "input_mean"], ["centred"]),
        helper.make_node("Div", ["centred", "input_scale"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "limit_low", "limit_high"], ["hidden_0"]),
    ]
    linear = [layer for layer in network.trunk if isinstance(layer, torch.nn.Linear)]
    for i, layer in enumerate(linear):
        constants[f"weight_{i}"], constants[f"bias_{i}"] = _array(layer.weight), _array(layer.bias)
        nodes += [
            helper.make_node("Gemm", [f"hidden_{i}", f"weight_{i}", f"bias_{i}"], [f"linear_{i}"], transB=1),
            helper.make_node("Relu", [f"linear_{i}"], [f"hidden_{i + 1}"]),
        ]
    constants["weight_q"], constants["bias_q"] = _dueling_layer(network)
    nodes.append(helper.make_node("Gemm", [f"hidden_{len(linear)}", "weight_q", "bias_q"], [OUTPUT], transB=1))
    graph = helper.make_graph(
        nodes,
        spec.registered_model,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", network.state_size])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", network.actions])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(
        graph,
        producer_name="mlops_assets",
        model_version=EXPORT_VERSION,
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    metadata = {
        "export_version": EXPORT_VERSION,
        "agent": spec.name,
        "actions": spec.actions,
        "state_fields": spec.state_fields,
        "signature": {
            "inputs": {INPUT: ["float32", ["batch", network.state_size]]},
            "outputs": {OUTPUT: ["float32", ["batch", network.actions]]},
        },
        "weights_hash": weights_hash(network),
    }
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    return model


def _dueling_layer(network: DuelingQNetwork) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Heads, dueling combination and output scale are linear: one layer (A, hidden), (A,), folded in float64."""
    actions = network.actions
    combine = np.concatenate([np.ones((actions, 1)), np.eye(actions) - 1.0 / actions], axis=1)
    combine *= float(network.value_scale)
    weight = combine @ _array(network.heads.weight).astype(np.float64)
    bias = combine @ _array(network.heads.bias).astype(np.float64)
    return weight.astype(np.float32), bias.astype(np.float32)


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().cpu().numpy()
    return array
