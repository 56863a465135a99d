"""Offline dueling double DQN on a table of logged decisions. Tracking, artifacts and evaluation live elsewhere."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import huber_loss, mse_loss

from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError
from mlops_assets.training.config import DqnConfig
from mlops_assets.training.device import DeviceChoice, DeviceRequest, choose_device
from mlops_assets.training.network import DuelingQNetwork, weights_hash
from mlops_assets.training.optimizer import AdamW, FlatParameters

# Decisions on which the curves' Q-values and agreement rates are measured: standard error of a rate about one point.
_PROBE_ROWS = 2048
# Below this spread an input or the reward counts as constant and keeps scale 1.
_MIN_SPREAD = 1e-6
# One process trains one agent here; batch size and learning rate are defined per process.
_PROCESSES = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CurvePoint:
    """State of the training after `update` gradient updates; means over the updates since the last point.

    `loss` is in squared standard deviations of the reward, `q_value_mean` in units of the reward. `train_accuracy` is
    the share of labelled training decisions in a fixed probe whose greedy action is the labelled best (NaN without
    labels), `exploration_rate` the share of the probe in which the logged action is not the greedy one.
    """

    update: int
    seconds: float
    loss: float
    q_value_mean: float
    learning_rate: float
    gradient_norm: float
    train_accuracy: float
    exploration_rate: float

    def metrics(self) -> dict[str, float]:
        """Everything but update and time, without what is unknown."""
        values = {name: value for name, value in asdict(self).items() if name not in {"update", "seconds"}}
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def summary(self, updates: int) -> str:
        """One line for a log."""
        return (
            f"update {self.update} of {updates}: loss {self.loss:.4f}, mean Q {self.q_value_mean:.2f}, "
            f"agreement with labels {self.train_accuracy:.3f}, {self.seconds:.0f} s"
        )


@dataclass(frozen=True)
class TrainedAgent:
    """A finished training: the network (on the CPU, in evaluation mode) and how it came to be."""

    network: DuelingQNetwork
    curve: tuple[CurvePoint, ...]
    seconds: float
    updates: int
    transitions: int
    device: DeviceChoice
    seed: int
    config: DqnConfig
    weights_hash: str

    @property
    def updates_per_second(self) -> float:
        """Gradient updates per second of wall time."""
        return self.updates / self.seconds


class _Replay(NamedTuple):
    """Transitions on the device: normalised states, rewards in units of their scale, discount 0 at an episode's end."""

    states: Tensor
    next_states: Tensor
    actions: Tensor
    rewards: Tensor
    discounts: Tensor


class _Probe(NamedTuple):
    states: Tensor
    actions: Tensor
    best_actions: Tensor


def train(
    table: DecisionTable,
    spec: AgentSpec,
    config: DqnConfig,
    *,
    device: DeviceRequest = "auto",
    seed: int,
    progress: Callable[[CurvePoint], None] | None = None,
) -> TrainedAgent:
    """Train one agent from logged decisions; labels are used for the curves only, never for learning.

    Targets are r + gamma * Q_target(s', argmax over a of Q_online(s', a)) (van Hasselt et al. 2016); the target network
    is a running average of the online one. The same table, configuration and seed give the same weights bit for bit on
    the CPU of one machine.

    Args:
        table: training decisions in order of time.
        spec: the agent; its number of state fields and actions must be the table's.
        config: hyper-parameters.
        device: `auto` takes a GPU when there is one.
        seed: of initial weights and of the order of transitions.
        progress: called with every new point of the curves.

    Raises:
        InputError: the table is empty, does not fit the agent, or holds a value that is not finite.
    """
    _check_table(table, spec)
    choice = choose_device(device)
    started = time.perf_counter()
    with _determinism(config.threads, seed, choice.device):
        learner = _Learner(table, spec, config, torch.device(choice.device), seed)
        curve = tuple(learner.run(started, progress))
        network = learner.online.cpu().eval()
    seconds = time.perf_counter() - started
    return TrainedAgent(
        network=network,
        curve=curve,
        seconds=seconds,
        updates=config.updates,
        transitions=learner.size,
        device=choice,
        seed=seed,
        config=config,
        weights_hash=weights_hash(network),
    )


class _Learner:
    """Networks, optimiser and replay of one training."""

    def __init__(
        self, table: DecisionTable, spec: AgentSpec, config: DqnConfig, device: torch.device, seed: int
    ) -> None:
        self.config = config
        newest = slice(max(0, len(table.reward) - config.buffer_size), None)
        states = torch.from_numpy(table.state[newest])
        rewards = torch.from_numpy(table.reward[newest])
        self.size = len(rewards)
        self.generator = torch.Generator().manual_seed(seed)
        self.online = DuelingQNetwork(states.shape[1], len(spec.actions), config.hidden_sizes)
        _fit_scales(self.online, states, rewards)
        self.online.to(device)
        self.target = deepcopy(self.online).requires_grad_(requires_grad=False)
        self.replay = _to_replay(table, newest, self.online, config.discount(spec), device)
        self.probe = self._draw_probe(table.best_action[newest], device)
        self.flat = {net: FlatParameters(net) for net in (self.online, self.target)}
        self.optimizer = AdamW(
            self.flat[self.online],
            weight_decay=config.weight_decay,
            max_gradient_norm=config.max_gradient_norm,
        )
        self.loss_function = huber_loss if config.loss == "huber" else mse_loss

    def _learning_rate(self, update: int) -> float:
        first = self.config.scaled_learning_rate(_PROCESSES)
        return first * 0.5 * (1 + math.cos(math.pi * update / self.config.updates))

    def _draw_probe(self, best_actions: NDArray[np.int64], device: torch.device) -> _Probe:
        rows = torch.randperm(self.size, generator=self.generator)[:_PROBE_ROWS]
        labels = torch.from_numpy(best_actions)[rows].to(device)
        rows = rows.to(device)
        return _Probe(self.replay.states[rows], self.replay.actions[rows], labels)

    def run(self, started: float, progress: Callable[[CurvePoint], None] | None) -> Iterator[CurvePoint]:
        """Do all updates; yield a point of the curves after every `report_every` of them and after the last."""
        config = self.config
        online, target = self.flat[self.online].values, self.flat[self.target].values
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        done = reported = 0
        for rows in self._blocks():
            for batch in self._with_targets(rows):
                loss, norm = self._update(*batch)
                losses.append(loss)
                norms.append(norm)
            done += len(rows)
            target.lerp_(online, 1 - config.target_decay)
            if done - reported >= config.report_every or done == config.updates:
                point = self._measure(done, time.perf_counter() - started, losses, norms)
                reported = done
                losses.clear()
                norms.clear()
                if progress is not None:
                    progress(point)
                yield point

    def _blocks(self) -> Iterator[Tensor]:
        """Row numbers of the batches, block by block, (updates, batch size): epoch after epoch in random order."""
        left = self.config.updates
        stream = torch.empty(0, dtype=torch.int64)
        while left:
            updates = min(self.config.updates_per_block, left)
            needed = updates * self.config.global_batch_size(_PROCESSES)
            while len(stream) < needed:
                stream = torch.cat((stream, torch.randperm(self.size, generator=self.generator)))
            rows, stream = stream[:needed], stream[needed:]
            left -= updates
            yield rows.view(updates, -1).to(self.replay.rewards.device)

    @torch.no_grad()
    def _with_targets(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """States, actions and double-DQN targets of the block's batches: one large product instead of one an update."""
        flat = rows.flatten()
        next_states = self.replay.next_states[flat]
        greedy = self.online.scaled_values(next_states).argmax(dim=1, keepdim=True)
        future = self.target.scaled_values(next_states).gather(1, greedy).squeeze(1)
        targets = self.replay.rewards[flat] + self.replay.discounts[flat] * future
        actions = self.replay.actions[rows].unsqueeze(2)
        return zip(self.replay.states[rows], actions, targets.view(rows.shape), strict=True)

    def _update(self, states: Tensor, actions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """One gradient update; returns loss and gradient norm before clipping."""
        values = self.online.scaled_values(states).gather(1, actions).squeeze(1)
        loss: Tensor = self.loss_function(values, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), self.optimizer.step(self._learning_rate(self.optimizer.steps))

    @torch.no_grad()
    def _measure(self, update: int, seconds: float, losses: list[Tensor], norms: list[Tensor]) -> CurvePoint:
        values = self.online.scaled_values(self.probe.states)
        greedy = values.argmax(dim=1)
        labelled = self.probe.best_actions >= 0
        hits = (greedy == self.probe.best_actions)[labelled].double()
        point = CurvePoint(
            update=update,
            seconds=seconds,
            loss=float(torch.stack(losses).mean()),
            q_value_mean=float(values.amax(dim=1).mean() * self.online.value_scale),
            learning_rate=self._learning_rate(update),
            gradient_norm=float(torch.stack(norms).mean()),
            train_accuracy=float(hits.mean()) if len(hits) else math.nan,
            exploration_rate=float((greedy != self.probe.actions).double().mean()),
        )
        if not math.isfinite(point.loss):
            raise InputError(
                f"the training diverged at update {update}: loss {point.loss}. Lower learning_rate or max_gradient_norm"
            )
        _log.info("%s", point.summary(self.config.updates))
        return point


def _check_table(table: DecisionTable, spec: AgentSpec) -> None:
    rows = len(table.reward)
    if rows == 0:
        raise InputError(f"the training set of {spec.name} has no decisions: ingest experiences first")
    width = len(spec.state_fields)
    if table.state.shape != (rows, width) or table.next_state.shape != (rows, width):
        raise InputError(
            f"{spec.name}: states have shape {table.state.shape} and next states {table.next_state.shape}, "
            f"expected ({rows}, {width}): rebuild the training set with this version of the agent catalogue"
        )
    if table.action.min() < 0 or table.action.max() >= len(spec.actions):
        raise InputError(
            f"{spec.name}: actions run from {table.action.min()} to {table.action.max()}, "
            f"expected 0 to {len(spec.actions) - 1}"
        )
    for name, values in (("state", table.state), ("reward", table.reward), ("next_state", table.next_state)):
        finite = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).all(axis=1)
        if name == "next_state":
            finite |= table.done
        if not finite.all():
            raise InputError(
                f"{spec.name}: {name} of decision {table.experience_id[int(np.argmin(finite))]!r} is not finite "
                f"({int((~finite).sum())} such rows): rebuild the training set from a validated snapshot"
            )


def _fit_scales(network: DuelingQNetwork, states: Tensor, rewards: Tensor) -> None:
    """Fit input normalisation and output scale on the training set; a constant input or reward keeps scale 1."""
    scale = states.std(dim=0, correction=0)
    network.input_mean.copy_(states.mean(dim=0))
    network.input_scale.copy_(torch.where(scale > _MIN_SPREAD, scale, torch.ones_like(scale)))
    spread = rewards.std(correction=0)
    network.value_scale.copy_(torch.where(spread > _MIN_SPREAD, spread, torch.ones_like(spread)))


def _to_replay(
    table: DecisionTable, newest: slice, network: DuelingQNetwork, discount: float, device: torch.device
) -> _Replay:
    done = torch.from_numpy(table.done[newest]).to(device)
    next_states = network.normalise(torch.from_numpy(table.next_state[newest]).to(device))
    return _Replay(
        states=network.normalise(torch.from_numpy(table.state[newest]).to(device)),
        # A decision without successor may carry anything there; 0 * NaN would be NaN.
        next_states=next_states.masked_fill_(done.unsqueeze(1), 0.0),
        actions=torch.from_numpy(table.action[newest]).to(device),
        rewards=torch.from_numpy(table.reward[newest]).to(device) / network.value_scale,
        discounts=torch.where(done, 0.0, discount),
    )


@contextmanager
def _determinism(threads: int, seed: int, device: str) -> Iterator[None]:
    """Seeded initial weights, a fixed number of threads and, on the CPU, deterministic kernels inside; as before outside."""
    before = (torch.get_num_threads(), torch.get_deterministic_debug_mode())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        # Refuses kernels without a fixed order, as use_deterministic_algorithms does, but without importing the compiler:
        # 820 modules, 3.7 s of CPU time in every process.
        # On a GPU it would refuse matrix products outright unless CUBLAS_WORKSPACE_CONFIG is set before CUDA starts.
        torch.set_deterministic_debug_mode("error" if device == "cpu" else before[1])
        try:
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.set_deterministic_debug_mode(before[1])
