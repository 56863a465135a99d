"""The peer: a state vector in, a decision out, by a minimal BentoML service with eager torch.

bentoml serve benchmarks.peers.bento_torch:Peer, with PEER_MODEL naming a checkpoint.
"""

import os
from pathlib import Path
from typing import Any

import bentoml
import torch


@bentoml.service(traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Peer:
    """One checkpoint."""

    def __init__(self) -> None:
        from mlops_assets.training.checkpoint import load_checkpoint

        torch.set_num_threads(1)
        self.network = load_checkpoint(Path(os.environ["PEER_MODEL"])).network.eval()

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(self, state: list[float]) -> dict[str, Any]:
        """Decide."""
        with torch.inference_mode():
            values = self.network(torch.tensor([state]))[0]
        return {"action": int(values.argmax()), "q_values": values.tolist()}
