"""The scan of model files, on files that really carry what it looks for."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from mlops_assets.evaluation.security import scan_files
from mlops_assets.foundation.errors import InputError


class Evil:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


def problems(*files: Path) -> list[str]:
    return [finding.problem for finding in scan_files(list(files)).findings]


def test_a_clean_checkpoint_passes(tmp_path: Path) -> None:
    """A scan that cries wolf is switched off."""
    checkpoint = tmp_path / "policy.pt"
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    metadata = {"actions": ["a", "b"], "seed": 7, "scale": 1.5, "note": None, "flags": [True, False]}
    torch.save({"state": network.state_dict(), "metadata": metadata, "order": OrderedDict(a=1)}, checkpoint)
    report = scan_files([checkpoint])
    assert report.safe
    assert report.files == ("policy.pt",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_checkpoint_that_runs_code_is_found_and_not_run(tmp_path: Path, protocol: int) -> None:
    """torch.load of a foreign file is remote code execution; the scan must see it without doing it."""
    mark = tmp_path / "executed"
    checkpoint = tmp_path / "policy.pt"
    torch.save({"state": Evil(mark)}, checkpoint, pickle_protocol=protocol)
    found = problems(checkpoint)
    assert any("touch" in problem or "STACK_GLOBAL" in problem or "getattr" in problem for problem in found), found
    assert not mark.exists()


def test_bare_and_hidden_pickles_are_found(tmp_path: Path) -> None:
    """A pickle does not stop being one under another name, or two archives deep."""
    payload = pickle.dumps(Evil(tmp_path / "executed"))
    bare = tmp_path / "scaler.pkl"
    bare.write_bytes(payload)
    old = tmp_path / "old.pth"
    old.write_bytes(payload)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("model/data.pkl", payload)
    outer = tmp_path / "package.pt2"
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("extra/inputs.pt", inner.getvalue())
    assert any("STACK_GLOBAL" in problem for problem in problems(bare))
    assert problems(old) == ["is no zip archive: torch's old format is one bare pickle"]
    assert any(problem.startswith("extra/inputs.pt: model/data.pkl names a callable") for problem in problems(outer))
    assert not (tmp_path / "executed").exists()


def test_nesting_has_an_end(tmp_path: Path) -> None:
    """Archives in archives in archives are an attack on the scanner, not a model."""
    content = b""
    for depth in range(6):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(f"{depth}.zip", content)
        content = buffer.getvalue()
    bomb = tmp_path / "bomb.zip"
    bomb.write_bytes(content)
    assert any("archives deep" in problem for problem in problems(bomb))


def test_a_huge_member_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip bomb fills the memory of whoever looks into it."""
    monkeypatch.setattr("mlops_assets.evaluation.security._MAX_MEMBER_BYTES", 1000)
    bomb = tmp_path / "policy.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\0" * 100_000)
    assert problems(bomb) == ["model/data.pkl unpacks to 100000 bytes"]


def test_damaged_files_are_findings(tmp_path: Path) -> None:
    """What cannot be read cannot be called safe."""
    damaged = tmp_path / "scaler.pkl"
    damaged.write_bytes(b"\x80\x02garbage")
    checkpoint = tmp_path / "policy.pt"
    with zipfile.ZipFile(checkpoint, "w") as archive:
        archive.writestr("readme.txt", "nothing to load")
    broken = tmp_path / "policy.onnx"
    broken.write_bytes(b"no model")
    assert "damaged pickle" in problems(damaged)[0]
    assert "does not load with weights_only=True" in problems(checkpoint)[0]
    assert problems(broken)[0].startswith("is no ONNX model")


def test_onnx_that_reaches_outside(tmp_path: Path) -> None:
    """An ONNX file can name any file as its weights, and operators that need a foreign library."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    def model(domain: str, location: str | None) -> Path:
        weight = numpy_helper.from_array(np.ones((2, 2), dtype=np.float32), "w")
        if location is not None:
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value=location)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
            [weight],
        )
        opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
        path = tmp_path / "policy.onnx"
        path.write_bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())
        return path

    assert problems(model("", None)) == []
    assert problems(model("", "weights.bin")) == []
    assert "com.evil" in problems(model("com.evil", None))[0]
    assert "outside its folder" in problems(model("", "../../etc/passwd"))[0]
    assert "outside its folder" in problems(model("", "/etc/passwd"))[0]


def test_files_that_nothing_executes_are_left_alone(tmp_path: Path) -> None:
    """Configuration and pictures are part of a model's folder."""
    note = tmp_path / "config.yaml"
    note.write_text("a: 1")
    assert scan_files([note]).safe


def test_nothing_to_scan_is_no_pass(tmp_path: Path) -> None:
    """Having no finding on no file would open the gate."""
    with pytest.raises(InputError, match="no model file"):
        scan_files([])
    with pytest.raises(InputError, match=r"gone\.pt"):
        scan_files([tmp_path / "gone.pt"])
