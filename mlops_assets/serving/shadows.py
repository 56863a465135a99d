"""Versions in the shadow: asked what was answered already, in a thread of their own. Nobody waits for them.

Each builds the state vector by itself, since versions differ in how they see texts. When they do not keep up, requests
are dropped and counted; whatever a candidate does, neither answers nor their log depend on it. `latency_ms` is a request's
part of its pass: of versions that were asked the same, it can be compared, with that of an answer it cannot.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_assets.registry.catalogue import CHAMPION
from mlops_assets.serving.decide import Decision, Features
from mlops_assets.serving.models import SERVED_ALIASES, ServedModel, ServedModels

# So many are asked in one pass; a pass of a usual network takes a millisecond.
_PASS_ROWS = 256
_STOP_SECONDS = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShadowRequest:
    """One answered request that `model` is to be asked as well: context (C,), text, and features of length 1."""

    prediction_id: str
    event_time: datetime
    context: NDArray[np.float32]
    text: str
    features: Features
    model: ServedModel


def versions_to_ask(models: ServedModels, decision: Decision) -> list[ServedModel]:
    """Return the versions behind other aliases than the champion's that were not asked yet, each once.

    While a rollout is in the shadow, the champion too: the candidate's latency is compared with its in the same passes. So
    are both while the candidate answers everybody, where nothing else would tell a slower model from a slower machine.
    """
    agent = decision.row["agent"]
    behind = [model for alias in SERVED_ALIASES if (model := models.get(agent, alias)) is not None]
    found = {model.key: model for model in behind}
    champion = models.get(agent, CHAMPION)
    done = {decision.model.key, decision.asked.key} | (set() if champion is None else {champion.key})
    waiting = [model for key, model in found.items() if key not in done]
    if champion is None:
        return waiting
    share = decision.row["treatment_share"]
    if share == 1.0 and decision.model.key != champion.key:
        return [*waiting, decision.model, champion]
    return [*waiting, champion] if share == 0.0 else waiting


class ShadowScorer:
    """Asks the shadows of one server process.

    Args:
        write: takes rows of the table `shadow_prediction`.
        queue_rows: most requests that wait.
        on_failure: called when a version fails, or gives what is no number.
    """

    def __init__(
        self, write: Callable[[Sequence[Mapping[str, Any]]], None], queue_rows: int, on_failure: Callable[[str], None]
    ) -> None:
        self._write = write
        self._queue_rows = queue_rows
        self._on_failure = on_failure
        self._waiting: deque[ShadowRequest] = deque()
        self._arrived, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._ask_forever, name="shadows", daemon=True)
        self._passes = 0
        self.dropped = 0

    def start(self) -> None:
        """Start asking."""
        self._thread.start()

    def ask(self, requests: Sequence[ShadowRequest]) -> None:
        """Take requests, or drop them when too many wait."""
        if len(self._waiting) + len(requests) > self._queue_rows:
            self.dropped += len(requests)
            return
        self._waiting.extend(requests)
        if requests:
            self._arrived.set()

    def stop(self) -> None:
        """Ask what waits, within a bound, and end."""
        self._stopping.set()
        self._arrived.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)

    def _ask_forever(self) -> None:
        while self._waiting or not self._stopping.is_set():
            if not self._waiting:
                self._arrived.wait()
                self._arrived.clear()
            by_model: dict[tuple[str, str], list[ShadowRequest]] = {}
            for _ in range(min(_PASS_ROWS, len(self._waiting))):
                request = self._waiting.popleft()
                by_model.setdefault(request.model.key, []).append(request)
            turns = list(by_model.values())
            # The first of a pass finds cold caches, and takes twice as long: each version is first as often as last.
            for requests in turns if self._passes % 2 else reversed(turns):
                self._ask(requests)
            self._passes += 1

    def _ask(self, requests: list[ShadowRequest]) -> None:
        try:
            rows = _answers(requests)
        except BaseException:  # noqa: BLE001 - a candidate may fail in any way; in the shadow that is a finding
            self._on_failure("shadow")
            _log.exception("shadow version %s failed", requests[0].model.key)
            return
        # NaN is no JSON: PostgreSQL refuses it, and the rows around it; SQLite gives it to whoever asks for the decision.
        finite = [row for row in rows if np.isfinite(row["q_values"]).all()]
        if len(finite) < len(rows):
            self._on_failure("shadow")
            _log.error(
                "shadow version %s gave Q-values that are not finite to %d of %d requests",
                requests[0].model.key,
                len(rows) - len(finite),
                len(rows),
            )
        self._write(finite)


def _answers(requests: Sequence[ShadowRequest]) -> list[dict[str, Any]]:
    model = requests[0].model
    started = time.perf_counter()
    features = {name: np.concatenate([one.features[name] for one in requests]) for name in requests[0].features}
    context = np.stack([one.context for one in requests])
    states = model.states(context, [one.text for one in requests], features)
    values = model.policy.q_values(states.values)
    each_ms = (time.perf_counter() - started) * 1000.0 / len(requests)
    return [
        {
            "prediction_id": request.prediction_id,
            "model_name": model.spec.registered_model,
            "model_version": model.semver,
            "q_values": row.tolist(),
            "action": int(row.argmax()),
            "latency_ms": each_ms,
            "event_time": request.event_time,
        }
        for request, row in zip(requests, values, strict=True)
    ]
