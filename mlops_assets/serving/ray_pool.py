"""The room's only words with Ray: chunks are scored by tasks of a cluster, with the function that scores them here.

A worker fetches the model from the registry by itself, once: it is the version and the weights that it is told, or an
error. The cluster's machines need this package and MLFLOW_TRACKING_URI's server within reach; features and files are
read, and parts written, by the caller alone.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.errors import InputError, SettingsError, TransientError
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.serving.batch import Answers, Chunk, answer
from mlops_assets.serving.models import ServedModel, load_served_model

_CONNECT_SECONDS = 10.0
# Chunks on their way per CPU: one at work, and one that waits, so that no worker does.
_CHUNKS_PER_CPU = 2
# A worker that was killed is replaced, and its chunk scored again.
_RETRIES = 3


@dataclass(frozen=True)
class RegisteredSource:
    """Where a worker finds the model, and which weights it has to find there; the URI may hold a password."""

    tracking_uri: str = field(repr=False)
    agent: str
    mlflow_version: str
    weights_hash: str


def ray_scorer(address: str, tracking_uri: str, model: ServedModel) -> Callable[[Iterator[Chunk]], Iterator[Answers]]:
    """Return a scorer, for `score_batch`, that works on the Ray cluster at `address`; it connects when it is used.

    Raises (when used):
        SettingsError: Ray is not installed.
        TransientError: no cluster answers at the address, or it broke down.
    """
    source = RegisteredSource(tracking_uri, model.spec.name, model.mlflow_version, model.policy.weights_hash)

    def score(chunks: Iterator[Chunk]) -> Iterator[Answers]:
        first = next(chunks, None)
        if first is not None:
            with _connected(address) as ray:
                yield from _score(ray, source, _with_first(first, chunks))

    return score


def answer_registered(source: RegisteredSource, chunk: Chunk) -> Answers:
    """Score one chunk by a registered version: what a Ray task runs."""
    return answer(_model(source), chunk)


@lru_cache(maxsize=1)
def _model(source: RegisteredSource) -> ServedModel:
    model = load_served_model(MlflowStore(source.tracking_uri), agent_spec(source.agent), source.mlflow_version)
    if model.policy.weights_hash != source.weights_hash:
        raise InputError(
            f"{model.spec.registered_model} version {source.mlflow_version} has other weights in the registry as this Ray "
            "worker sees it; set MLFLOW_TRACKING_URI to an address that is the same registry on every machine of the cluster"
        )
    return model


def _with_first(first: Chunk, rest: Iterator[Chunk]) -> Iterator[Chunk]:
    yield first
    yield from rest


def _score(ray: Any, source: RegisteredSource, chunks: Iterator[Chunk]) -> Iterator[Answers]:
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < 1:
        raise TransientError("the Ray cluster has no CPU; start workers with --num-cpus, then score again")
    task = ray.remote(num_cpus=1, max_retries=_RETRIES)(answer_registered)
    running: list[Any] = []
    try:
        for chunk in chunks:
            running.append(task.remote(source, chunk))
            if len(running) >= cpus * _CHUNKS_PER_CPU:
                yield _next(ray, running)
        while running:
            yield _next(ray, running)
    except ray.exceptions.RayTaskError as error:
        # What went wrong in the task, as it would have here.
        raise (error.cause if isinstance(error.cause, Exception) else error) from error
    except ray.exceptions.RayError as error:
        raise TransientError(f"the Ray cluster broke down ({error}); see to it, then score again") from error


def _next(ray: Any, running: list[Any]) -> Answers:
    (done, *_), _ = ray.wait(running, num_returns=1)
    running.remove(done)
    answers: Answers = ray.get(done)
    return answers


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Connect this process to the cluster for the block; `local` starts one of this machine's cores for it."""
    # Ray reports its use to its makers unless told not to, and reads this at import.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"RAY_ADDRESS={address} asks for Ray, which is not installed: install mlops-assets[ray], or unset it"
        ) from error
    _reach(address)
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ray.exceptions.RayError, ValueError) as error:
        raise TransientError(
            f"no Ray cluster at RAY_ADDRESS={address} ({error}); start it, or correct or unset RAY_ADDRESS"
        ) from error
    try:
        # Ray makes SIGTERM leave the process at once, over the head of whoever runs this.
        if main:
            signal.signal(signal.SIGTERM, before)
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Ask at `host:port` whether anybody is there: Ray itself tries for 20 s, and then names another address."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise TransientError(
            f"nobody answers at RAY_ADDRESS={address} ({error}); start the Ray cluster, or correct or unset RAY_ADDRESS"
        ) from error
