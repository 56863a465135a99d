import logging

import pytest
import torch

from mlops_assets.training.device import choose_device


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: "NVIDIA GeForce RTX 3070")


@pytest.mark.usefixtures("no_gpu")
def test_cuda_without_a_gpu_falls_back_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A run that was to be fast and is slow without a word, or that dies on a laptop."""
    with caplog.at_level(logging.INFO):
        choice = choose_device("cuda")
    assert (choice.device, choice.gpu_count, choice.gpu_type) == ("cpu", 0, "none")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "falling back to the CPU" in record.message


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("requested", "reason"), [("auto", "device 'auto'"), ("cpu", "was asked for")])
def test_the_cpu_is_chosen_with_its_reason(requested: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody can tell from a log why a training ran where it ran."""
    with caplog.at_level(logging.INFO):
        choice = choose_device(requested)  # type: ignore[arg-type]
    assert choice.device == "cpu"
    assert reason in choice.reason
    assert [record.levelno for record in caplog.records] == [logging.INFO]


@pytest.mark.usefixtures("one_gpu")
def test_a_gpu_is_taken_unless_the_cpu_is_asked_for() -> None:
    """An idle GPU under `auto`, or a busy one under `cpu`."""
    choice = choose_device("auto")
    assert (choice.device, choice.gpu_count, choice.gpu_type) == ("cuda", 1, "NVIDIA GeForce RTX 3070")
    assert choose_device("cuda").device == "cuda"
    assert choose_device("cpu").device == "cpu"
