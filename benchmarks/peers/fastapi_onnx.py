"""The peer: a state vector in, a decision out, by FastAPI and ONNX Runtime; no features, no log, no variants.

uvicorn benchmarks.peers.fastapi_onnx:app, with PEER_MODEL naming an exported policy.
"""

import os

import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel


class Asked(BaseModel):
    """A state vector."""

    state: list[float]


class Answered(BaseModel):
    """The greedy action."""

    action: int
    q_values: list[float]


options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"])
app = FastAPI()


@app.post("/predict")
async def predict(asked: Asked) -> Answered:
    """Decide."""
    values = session.run(None, {"states": np.array([asked.state], dtype=np.float32)})[0][0]
    return Answered(action=int(values.argmax()), q_values=values.tolist())


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    """Ready."""
    return {"status": "ready"}
