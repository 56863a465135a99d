from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from mlops_assets.foundation.errors import InputError
from mlops_assets.training.learner import TrainedAgent
from mlops_assets.training.network import DuelingQNetwork
from mlops_assets.training.onnx_export import compare_with_torch, export_onnx
from mlops_assets.training.onnx_session import open_session, run_session
from mlops_assets_tests.training.samples import TOY, toy_table

STATES = toy_table(50).state


@pytest.mark.parametrize("hidden_sizes", [(4,), (16, 8), (7, 5, 3)])
def test_it_computes_what_torch_computes(hidden_sizes: tuple[int, ...], tmp_path: Path) -> None:
    """The policy in production decides otherwise than the one that was evaluated."""
    torch.manual_seed(5)
    network = DuelingQNetwork(3, 2, hidden_sizes).eval()
    network.input_mean.copy_(torch.tensor([0.5, 0.1, -3.0]))
    network.input_scale.copy_(torch.tensor([0.3, 2.0, 1e-3]))
    network.value_scale.fill_(17.0)
    path = tmp_path / "policy.onnx"
    parity = export_onnx(path, network, TOY, STATES)
    assert parity.passed
    assert parity.rows == 150
    assert parity.same_actions == 1.0
    session = open_session(path)
    for rows in (1, 2, 150):
        with torch.no_grad():
            expected = network(torch.from_numpy(STATES[:rows])).numpy()
        np.testing.assert_allclose(run_session(session, STATES[:rows]), expected, rtol=1e-4, atol=1e-5)


def test_another_network_is_not_in_parity(trained: TrainedAgent, tmp_path: Path) -> None:
    """A parity check that passes anything."""
    path = tmp_path / "policy.onnx"
    export_onnx(path, trained.network, TOY, STATES)
    torch.manual_seed(5)
    parity = compare_with_torch(path, DuelingQNetwork(3, 2, (32, 32)).eval(), STATES)
    assert not parity.passed
    assert parity.max_difference > 0.01


def test_a_policy_that_is_not_in_parity_is_not_published(tmp_path: Path) -> None:
    """A wrong ONNX file that lies where the next step looks for it."""
    network = DuelingQNetwork(3, 2, (4,)).eval()
    network.value_scale.fill_(float("nan"))
    path = tmp_path / "policy.onnx"
    with pytest.raises(InputError, match="differs from torch"):
        export_onnx(path, network, TOY, STATES)
    assert list(tmp_path.iterdir()) == []


def test_the_same_weights_give_the_same_file(trained: TrainedAgent, tmp_path: Path) -> None:
    """A policy whose hash changes with every export cannot be compared between machines."""
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file in files:
        export_onnx(file, trained.network, TOY, STATES)
    assert files[0].read_bytes() == files[1].read_bytes()
    model = onnx.load(str(files[0]))
    assert {node.op_type for node in model.graph.node} == {"Sub", "Div", "Clip", "Gemm", "Relu"}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_bad_files_are_named(tmp_path: Path, trained: TrainedAgent) -> None:
    """An ONNX Runtime error out of C++ without a file name."""
    with pytest.raises(InputError, match="train the agent first"):
        open_session(tmp_path / "absent.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"broken\.onnx is not loadable as ONNX"):
        open_session(broken)
    foreign = tmp_path / "foreign.onnx"
    export_onnx(foreign, trained.network, TOY, STATES)
    model = onnx.load(str(foreign))
    model.graph.input[0].name = model.graph.node[0].input[0] = "x"
    onnx.save(model, str(foreign))
    with pytest.raises(InputError, match="expected one input 'states'"):
        open_session(foreign)
    with pytest.raises(InputError, match="no states"):
        export_onnx(tmp_path / "none.onnx", trained.network, TOY, STATES[:0])
