"""Exported policies on ONNX Runtime: opened, run, asked for their metadata. No torch: serving starts without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError

if TYPE_CHECKING:
    import onnxruntime

INPUT, OUTPUT = "states", "q_values"


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file on one CPU thread: the network is too small for more, and serving runs many side by side.

    Raises:
        InputError: the file is missing or no policy of this project.
    """
    import onnxruntime

    if not path.is_file():
        raise InputError(f"no exported policy at {path}: train the agent first")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # ONNX Runtime's errors share no public base class.
        raise InputError(f"{path} is not loadable as ONNX ({type(error).__name__}: {error})") from error
    if [tensor.name for tensor in session.get_inputs()] != [INPUT]:
        raise InputError(f"{path} takes {[t.name for t in session.get_inputs()]}, expected one input {INPUT!r}")
    return session


def run_session(session: onnxruntime.InferenceSession, states: NDArray[np.float32]) -> NDArray[np.float32]:
    """Q-values (N, A) of raw states (N, D)."""
    values: NDArray[np.float32] = session.run([OUTPUT], {INPUT: states})[0]
    return values


def session_metadata(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """Metadata that `export_onnx` wrote: export_version, agent, actions, state_fields, signature, weights_hash."""
    stored = session.get_modelmeta().custom_metadata_map
    return {key: json.loads(value) for key, value in stored.items()}
