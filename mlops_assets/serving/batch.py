"""Batch scoring: decisions for any number of rows, chunk by chunk, in parts that survive `kill -9`. No Dagster, no Ray.

`score_batch` reads, checks and joins; `answer` turns one chunk into one part, in this process or on a Ray worker.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlops_assets.features.decision_table import fixed_lists
from mlops_assets.features.vector import column_name, state_vector
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError, MlopsError, TransientError
from mlops_assets.foundation.file_lock import file_lock
from mlops_assets.foundation.files import digest
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.serving.batch_features import BatchFeatures
from mlops_assets.serving.batch_input import BatchInput
from mlops_assets.serving.batch_parts import PREDICTIONS, PartFolder, Tally, encode_part, part_schema, tally_of
from mlops_assets.serving.batch_rows import Rows, prepare_rows
from mlops_assets.serving.models import ServedModel

# What the policy takes in one forward pass: a hidden layer of 256 then takes 64 MiB, whatever the size of the input.
CHUNK_ROWS = 65_536
PROGRESS_ROWS = 1_000
_FORMAT = 1
_NOT_FINITE = "the model gives no finite action values"


@dataclass(frozen=True)
class Chunk:
    """One chunk's rows, and the features of those that can be scored: all that `answer` needs besides the model."""

    number: int
    rows: Rows
    features: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Answers:
    """One scored chunk: its part as parquet, and how long its rows were in the network."""

    number: int
    content: bytes
    tally: Tally
    network_seconds: float


Scorer = Callable[[Iterator[Chunk]], Iterator[Answers]]


@dataclass(frozen=True)
class BatchResult:
    """A finished batch. `kept_parts` were there from an earlier run; with `reused` all of it was.

    `network_rows_per_second` is that of one core, through the network alone; None where nothing was scored.
    """

    key: str
    folder: Path
    model_version: str
    tally: Tally
    parts: int
    kept_parts: int
    reused: bool
    network_rows_per_second: float | None
    seconds: float

    @property
    def predictions(self) -> Path:
        """Folder of the parts, which reads as one parquet data set."""
        return self.folder / PREDICTIONS


def answer(model: ServedModel, chunk: Chunk) -> Answers:
    """Decide one chunk, greedily; the lowest of equal actions. Equal chunks give equal bytes on equal processors."""
    spec, rows = model.spec, chunk.rows
    states = state_vector(spec, rows.context, _embedded(model, rows), chunk.features)
    started = time.perf_counter()
    q_values = model.policy.q_values(states.values)
    network_seconds = time.perf_counter() - started
    part = _part(model, rows, q_values, states.missing)
    return Answers(chunk.number, encode_part(part), tally_of(part), network_seconds)


def confidences(q_values: NDArray[np.float32]) -> NDArray[np.float64]:
    """`confidence_of` for Q-values (N, A): softmax margins (N,)."""
    ordered = np.sort(q_values.astype(np.float64), axis=1)
    if ordered.shape[1] == 1:
        return np.ones(len(ordered))
    weights = np.exp(ordered - ordered[:, -1:])
    return np.asarray((weights[:, -1] - weights[:, -2]) / weights.sum(axis=1))


def score_batch(
    batch: BatchInput,
    model: ServedModel,
    features: BatchFeatures,
    *,
    paths: ArtifactPaths,
    scorer: Scorer | None = None,
    log: Callable[[str], None] = lambda _: None,
    chunk_rows: int = CHUNK_ROWS,
    progress_rows: int = PROGRESS_ROWS,
) -> BatchResult:
    """Score every row of the input, and publish the decisions under a name made of everything that they depend on.

    The same rows, model and features have the same folder: a finished one is reused, and of one that was killed the
    parts that are whole are kept. A second process that scores the same waits for the first.

    Args:
        batch: the rows.
        model: the version that decides.
        features: where features come from.
        paths: the home folder.
        scorer: turns chunks into answers, in any order; by default `answer`, one after another in this process.
        log: told how far it is whenever a chunk crossed a multiple of `progress_rows`, and at the end.
        chunk_rows: rows in a part.
        progress_rows: see `log`.

    Raises:
        InputError: a file of the input cannot be read, or changed meanwhile; nothing is published.
        TransientError: the features changed meanwhile; nothing is published.
        NotReadyError: the online store was never set up.
        StorageError: the disk is full or read-only.
    """
    started = time.perf_counter()
    spec = model.spec
    if batch.spec.name != spec.name:
        raise InputError(
            f"{batch.name} has rows of agent {batch.spec.name!r}, {spec.registered_model} decides for agent "
            f"{spec.name!r}; give each agent its own batch"
        )
    facts = _identity(batch, model, features, chunk_rows)
    folder = paths.batch_predictions(spec.name) / digest(facts)
    tally, kept, network_seconds = Tally(), {}, 0.0
    with file_lock(folder / ".lock"):
        parts = PartFolder(folder, rows=batch.rows, chunk_rows=chunk_rows)
        finished = parts.published()
        if finished is None:
            kept = parts.whole_parts()
            if kept:
                log(f"{len(kept):,} of {len(parts.numbers):,} parts are there already and are kept")
            report = _Progress(log, batch.rows, progress_rows, sum(kept.values(), Tally()))
            wanted = [number for number in parts.numbers if number not in kept]
            chunks = _chunks(batch, features, chunk_rows, wanted)
            try:
                for answers in (scorer or partial(map, partial(answer, model)))(chunks):
                    parts.write(answers.number, answers.content)
                    report.add(answers.tally)
                    network_seconds += answers.network_seconds
            finally:
                changed = _changed(batch, features, facts)
                if changed is not None:
                    # Nobody knows what was read: before, after, or some of both.
                    parts.discard()
            if changed is not None:
                raise changed
            tally = report.tally
            parts.publish({**facts, "source": batch.name, "run_id": model.run_id}, tally)
    scored = tally.answered - sum(each.answered for each in kept.values())
    return BatchResult(
        key=folder.name,
        folder=folder,
        model_version=model.semver,
        tally=tally if finished is None else finished,
        parts=len(parts.numbers),
        kept_parts=len(kept) if finished is None else len(parts.numbers),
        reused=finished is not None,
        network_rows_per_second=scored / network_seconds if network_seconds else None,
        seconds=time.perf_counter() - started,
    )


def crossed(before: int, after: int, every: int, total: int) -> bool:
    """Whether the way from `before` to `after` rows passed a multiple of `every`, or ended at the total."""
    return after // every > before // every or (before < after == total)


class _Progress:
    """Counts, and tells the log when it is time: also in the middle of a chunk's size, and for the last partial one."""

    def __init__(self, log: Callable[[str], None], total: int, every: int, tally: Tally) -> None:
        self.tally = tally
        self._log, self._total, self._every = log, total, every

    def add(self, tally: Tally) -> None:
        before, self.tally = self.tally.rows, self.tally + tally
        if crossed(before, self.tally.rows, self._every, self._total):
            self._log(
                f"{self.tally.rows:,} of {self._total:,} rows ({self.tally.rows / self._total:.0%}), "
                f"{self.tally.refused:,} refused, {self.tally.incomplete:,} with a missing feature"
            )


def _identity(batch: BatchInput, model: ServedModel, features: BatchFeatures, chunk_rows: int) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "chunk_rows": chunk_rows,
        "agent": model.spec.name,
        # Ranges and defaults decide as well.
        "catalogue": digest(asdict(model.spec)),
        "input": batch.content_hash,
        "model": model.spec.registered_model,
        "model_version": model.semver,
        "weights_hash": model.policy.weights_hash,
        "features": features.identity(timed=batch.timed),
    }


def _changed(batch: BatchInput, features: BatchFeatures, facts: Mapping[str, Any]) -> MlopsError | None:
    """Return the error for answers that are not from what their name says; None where they are."""
    if batch.changed():
        return InputError(f"{batch.name} changed while it was scored, so nothing was published; score it again")
    if features.identity(timed=batch.timed) != facts["features"]:
        return TransientError(
            f"the features changed while {batch.name} was scored, so nothing was published; score it again, apart from "
            "their refresh"
        )
    return None


def _chunks(batch: BatchInput, features: BatchFeatures, chunk_rows: int, numbers: Sequence[int]) -> Iterator[Chunk]:
    join = features.join(timed=batch.timed)
    for number, table in batch.chunks(chunk_rows, numbers):
        rows = prepare_rows(table, batch.spec, number * chunk_rows)
        yield Chunk(number, rows, join(rows.keys))


def _embedded(model: ServedModel, rows: Rows) -> NDArray[np.float32]:
    """Embed each row's text (M, T), as `ServedModel.states` does, but each distinct text once."""
    if model.text_embedder is None or not any(rows.texts):
        return np.zeros((len(rows.context), model.spec.text_dimensions), dtype=np.float32)
    return model.text_embedder.transform(rows.texts)[rows.text_codes]


def _part(model: ServedModel, rows: Rows, q_values: NDArray[np.float32], missing: NDArray[np.bool_]) -> pa.Table:
    spec = model.spec
    finite: NDArray[np.bool_] = np.all(np.isfinite(q_values), axis=1)
    # Where each row's answer stands, and for which rows there is none.
    place = np.cumsum(rows.usable) - 1
    answered = rows.usable.copy()
    answered[rows.usable] = finite
    reasons = rows.reasons
    if not finite.all():
        reasons = pa.array(
            [
                reason or (None if done else _NOT_FINITE)
                for reason, done in zip(reasons.to_pylist(), answered, strict=True)
            ],
            pa.string(),
        )
    at = pa.array(place, mask=~answered)
    actions = q_values.argmax(axis=1).astype(np.int32)
    names = pa.array(spec.actions)
    columns = {
        "row": pa.array(np.arange(rows.first_row, rows.first_row + len(rows))),
        "request_id": rows.request_ids,
        "agent": pa.repeat(spec.name, len(rows)),
        "action": pa.array(actions).take(at),
        "action_name": names.take(pa.array(actions).take(at)),
        "q_values": fixed_lists(q_values).cast(pa.list_(pa.float32())).take(at),
        "confidence": pa.array(confidences(np.where(finite[:, None], q_values, 0.0))).take(at),
        "missing_features": _missing_names(spec, missing).take(at),
        "reason": reasons,
        "model_version": pa.repeat(model.semver, len(rows)),
    }
    return pa.table(columns, schema=part_schema())


def _missing_names(spec: AgentSpec, missing: NDArray[np.bool_]) -> pa.Array:
    """Names of the missing features (M,), as lists: there are few patterns, so each is spelt once."""
    names = [column_name(feature) for feature in spec.features]
    bits = missing @ (1 << np.arange(len(names), dtype=np.int64))
    patterns, codes = np.unique(bits, return_inverse=True)
    lists = [[name for place, name in enumerate(names) if pattern >> place & 1] for pattern in patterns.tolist()]
    return pa.array(lists, pa.list_(pa.string())).take(pa.array(codes))
