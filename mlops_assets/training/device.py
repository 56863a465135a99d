"""Which device a training runs on, and why. Leases and pools of devices do not live here."""

import logging
from dataclasses import dataclass
from typing import Literal

DeviceRequest = Literal["auto", "cpu", "cuda"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceChoice:
    """The device that was chosen: torch's name of it, its hardware name, and the reason in words."""

    device: Literal["cpu", "cuda"]
    hardware: str
    reason: str

    @property
    def gpu_count(self) -> int:
        """GPUs that the training uses."""
        return 1 if self.device == "cuda" else 0

    @property
    def gpu_type(self) -> str:
        """Hardware name of the GPU, `none` on CPU."""
        return self.hardware if self.device == "cuda" else "none"


def choose_device(requested: DeviceRequest) -> DeviceChoice:
    """Choose the device for a training and log the reason.

    `auto` takes CUDA when this build of torch can use it. `cuda` without a usable GPU falls back to the CPU with a
    warning.
    """
    import torch

    available = torch.cuda.is_available()
    if requested != "cpu" and available:
        name = torch.cuda.get_device_name(0)
        choice = DeviceChoice("cuda", name, f"device {requested!r}: {name} is available")
        _log.info("training on cuda: %s", choice.reason)
        return choice
    why = "torch was built without CUDA" if torch.version.cuda is None else "no usable CUDA device"
    if requested == "cuda":
        choice = DeviceChoice("cpu", "cpu", f"device 'cuda' was asked for, but {why}: falling back to the CPU")
        _log.warning("training on cpu: %s", choice.reason)
        return choice
    reason = "device 'cpu' was asked for" if requested == "cpu" else f"device 'auto': {why}"
    _log.info("training on cpu: %s", reason)
    return DeviceChoice("cpu", "cpu", reason)
