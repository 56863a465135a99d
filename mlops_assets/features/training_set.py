"""Point-in-time training sets: a snapshot's decisions with state vectors and labels, split by time, named by hash."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_assets.experiences.snapshot_files import remove_leftovers
from mlops_assets.experiences.snapshots import Snapshot
from mlops_assets.features.daily import Int64
from mlops_assets.features.decision_table import (
    UNLABELLED,
    DecisionTable,
    decision_schema,
    fixed_lists,
    matrix,
    read_decisions,
    write_decisions,
)
from mlops_assets.features.point_in_time import microseconds
from mlops_assets.features.store import FeatureStoreAdapter
from mlops_assets.features.vector import StateVectors, column_name, feature_arrays, state_vector
from mlops_assets.features.views import views_of
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.foundation.file_lock import file_lock
from mlops_assets.foundation.files import atomic_folder, canonical_json, digest
from mlops_assets.foundation.paths import ArtifactPaths

__all__ = ["DecisionTable", "TrainingSet", "build_training_set", "open_training_set"]

_TRAIN = "train.parquet"
_HOLDOUT = "holdout.parquet"
_MANIFEST = "manifest.json"
_HASH_ROWS = 128 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class TrainingSet:
    """One published training set.

    `rows` train and `holdout_rows` evaluate: every training decision is before `split_time`, every held-out one at or
    after it; None without held-out rows, when no time has whole episodes on both sides. Left out and counted: episodes
    with a missing step (`incomplete_*`), and episodes on both sides of the split (`straddling_*`). `missing_rates` is
    the share of decisions, per Feast feature, for which the default stands.
    """

    agent: str
    training_hash: str
    data_hash: str
    folder: Path
    rows: int
    holdout_rows: int
    labelled_rows: int
    holdout_labelled_rows: int
    split_time: datetime | None
    vector_fields: tuple[str, ...]
    incomplete_episodes: int
    incomplete_rows: int
    straddling_episodes: int
    straddling_rows: int
    missing_rates: Mapping[str, float]

    def train(self) -> DecisionTable:
        """Read the training decisions."""
        return read_decisions(self.folder / _TRAIN)

    def holdout(self) -> DecisionTable:
        """Read the held-out decisions."""
        return read_decisions(self.folder / _HOLDOUT)


def build_training_set(
    snapshot: Snapshot, spec: AgentSpec, store: FeatureStoreAdapter, *, paths: ArtifactPaths, holdout_share: float
) -> TrainingSet:
    """Join features and labels to the snapshot's decisions, split them by time, and publish both parts.

    Features are those valid at each decision's time; labels those known at the snapshot's cutoff. The held-out part is
    about the latest `holdout_share` of the decisions, in whole episodes. The same content has the same hash and folder.

    Raises:
        InputError: no decision is left once incomplete episodes are out.
        StorageError: the disk is full or read-only.
    """
    decisions, incomplete_episodes, incomplete_rows = _whole_episodes(snapshot.experiences())
    if decisions.num_rows == 0:
        raise InputError(
            f"snapshot {snapshot.data_hash} of {spec.name} has no whole episode: each of its {incomplete_episodes} "
            "episodes lacks a step; see the quarantine list for the decisions that were kept out"
        )
    vectors = _state_vectors(decisions, snapshot, spec, store)
    best_action, action_values = _labels(decisions["experience_id"], snapshot.labels(), len(spec.actions))
    table = _decision_columns(decisions, vectors, best_action, action_values)
    in_train, in_holdout, split_time = _split(decisions, holdout_share)
    straddling = ~(in_train | in_holdout)
    facts = {
        "agent": spec.name,
        "data_hash": snapshot.data_hash,
        "rows": int(in_train.sum()),
        "holdout_rows": int(in_holdout.sum()),
        "labelled_rows": int((best_action[in_train] != UNLABELLED).sum()),
        "holdout_labelled_rows": int((best_action[in_holdout] != UNLABELLED).sum()),
        "split_time": split_time,
        "vector_fields": list(spec.state_fields),
        "incomplete_episodes": incomplete_episodes,
        "incomplete_rows": incomplete_rows,
        "straddling_episodes": len(pc.unique(decisions["episode_id"].filter(pa.array(straddling)))),
        "straddling_rows": int(straddling.sum()),
        "missing_rates": _missing_rates(spec, vectors),
    }
    training_hash = digest({"content": _content_hash(table), **facts})
    folder = paths.training_sets(spec.name) / training_hash
    with file_lock(folder.with_name(".lock")):
        remove_leftovers(folder.parent)
        if not folder.exists():
            with atomic_folder(folder) as temporary:
                write_decisions(temporary / _TRAIN, table.filter(pa.array(in_train)))
                write_decisions(temporary / _HOLDOUT, table.filter(pa.array(in_holdout)))
                (temporary / _MANIFEST).write_text(canonical_json(facts), encoding="utf-8")
    return open_training_set(spec.name, training_hash, paths=paths)


def open_training_set(agent: str, training_hash: str, *, paths: ArtifactPaths) -> TrainingSet:
    """Open a published training set.

    Raises:
        NotReadyError: no such training set was published.
    """
    folder = paths.training_sets(agent) / training_hash
    try:
        facts: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotReadyError(
            f"agent {agent!r} has no training set {training_hash}: materialise training_set for it first"
        ) from None
    split_time = facts.pop("split_time")
    return TrainingSet(
        training_hash=training_hash,
        folder=folder,
        split_time=None if split_time is None else datetime.fromisoformat(split_time),
        vector_fields=tuple(facts.pop("vector_fields")),
        **facts,
    )


def _whole_episodes(experiences: pa.Table) -> tuple[pa.Table, int, int]:
    """Decisions of the episodes that have every step, in order of episode start and step; left out: episodes, rows."""
    # Rows come in order of time, so numbers given at first sight are in order of the episodes' first decisions.
    episode = experiences["episode_id"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    step = experiences["step"].to_numpy()
    order = np.lexsort((step, episode))
    episode, step, done = episode[order], step[order], experiences["done"].to_numpy()[order]
    first = np.flatnonzero(np.diff(episode, prepend=-1))
    lengths = np.diff(np.append(first, len(episode)))
    position = np.arange(len(episode)) - np.repeat(first, lengths)
    is_last = np.zeros(len(episode), dtype=np.bool_)
    is_last[first + lengths - 1] = True
    broken = (step != position) | (done != is_last)
    incomplete = np.bincount(episode, weights=broken, minlength=len(first)) > 0
    left_out = incomplete[episode]
    whole = experiences.take(pa.array(order[~left_out]))
    return whole, int(incomplete.sum()), int(left_out.sum())


def _state_vectors(
    decisions: pa.Table, snapshot: Snapshot, spec: AgentSpec, store: FeatureStoreAdapter
) -> StateVectors:
    entities = decisions.select(["test_id", "agent_id", "event_time"])
    features = feature_arrays(store.historical(entities, views_of(spec)), spec)
    text = _text_vectors(decisions["requirement_id"], snapshot)
    return state_vector(spec, matrix(decisions["state"]), text, features)


def _text_vectors(requirement_ids: pa.ChunkedArray, snapshot: Snapshot) -> NDArray[np.float32]:
    """Embedding of each decision's requirement text (N, T), zeros without one."""
    texts = snapshot.requirement_texts()
    embedded = snapshot.embedder().transform(texts["text"].to_pylist())
    no_text = np.zeros((1, embedded.shape[1]), dtype=np.float32)
    found = pc.index_in(requirement_ids, value_set=texts["requirement_id"].combine_chunks())
    return np.concatenate([embedded, no_text])[pc.fill_null(found, len(embedded)).to_numpy()]


def _labels(experience_ids: pa.ChunkedArray, labels: pa.Table, actions: int) -> tuple[Int64, NDArray[np.float32]]:
    """Labelled best action (N,) and action values (N, A) of each decision, -1 and NaN without a label."""
    best = np.append(np.asarray(labels["best_action"].to_numpy(), dtype=np.int64), UNLABELLED)
    values = np.concatenate([matrix(labels["action_values"]), np.full((1, actions), np.nan, dtype=np.float32)])
    found = pc.index_in(experience_ids, value_set=labels["experience_id"].combine_chunks())
    row = pc.fill_null(found, labels.num_rows).to_numpy()
    return best[row], values[row]


def _decision_columns(
    decisions: pa.Table, vectors: StateVectors, best_action: Int64, action_values: NDArray[np.float32]
) -> pa.Table:
    schema = decision_schema(vectors.values.shape[1], action_values.shape[1])
    computed = {
        "state": fixed_lists(vectors.values),
        "best_action": pa.array(best_action, pa.int32()),
        "action_values": fixed_lists(action_values),
    }
    columns = {name: computed[name] if name in computed else decisions[name] for name in schema.names}
    return pa.table(columns).cast(schema).combine_chunks()


def _split(decisions: pa.Table, holdout_share: float) -> tuple[Mask, Mask, datetime | None]:
    """Mark the training and the held-out decisions; no time when no split leaves both parts with an episode.

    The split is the start of the episode for which the share of decisions from there on is nearest to `holdout_share`.
    """
    times = microseconds(decisions["event_time"])
    first = np.flatnonzero(decisions["step"].to_numpy() == 0)
    lengths = np.diff(np.append(first, len(times)))
    start, end = np.minimum.reduceat(times, first), np.maximum.reduceat(times, first)
    candidates = np.unique(start)
    by_start, by_end = np.argsort(start, kind="stable"), np.argsort(end, kind="stable")
    before = np.append(0, np.cumsum(lengths[by_start]))[np.searchsorted(start[by_start], candidates)]
    trained = np.append(0, np.cumsum(lengths[by_end]))[np.searchsorted(end[by_end], candidates)]
    candidates, held_out = candidates[trained > 0], (len(times) - before)[trained > 0]
    if not len(candidates):
        everything = np.ones(len(times), dtype=np.bool_)
        return everything, ~everything, None
    split = candidates[np.argmin(np.abs(held_out - holdout_share * len(times)))]
    in_train, in_holdout = np.repeat(end < split, lengths), np.repeat(start >= split, lengths)
    return in_train, in_holdout, _EPOCH + timedelta(microseconds=int(split))


def _missing_rates(spec: AgentSpec, vectors: StateVectors) -> dict[str, float]:
    rates = vectors.missing.mean(axis=0)
    return {column_name(field): float(rate) for field, rate in zip(spec.features, rates, strict=True)}


class _HashingSink(io.RawIOBase):
    """A file that keeps nothing but the sha256 of what is written."""

    def __init__(self) -> None:
        self.hasher = sha256()

    def writable(self) -> bool:
        return True

    def write(self, block: Any) -> int:
        self.hasher.update(block)
        return len(block)


def _content_hash(table: pa.Table) -> str:
    """Hex sha256 of the rows, as an Arrow stream."""
    sink = _HashingSink()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), table.schema) as writer:
        writer.write_table(table, max_chunksize=_HASH_ROWS)
    return sink.hasher.hexdigest()
