"""Batches with features around them: tables of rows, a home with a filled feature store, and answers made by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlops_assets.features.store import FeatureStoreAdapter
from mlops_assets.features.vector import column_name, feature_arrays
from mlops_assets.features.views import (
    AGENT_CONTEXT_FEATURES,
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    TEST_EXECUTION_FEATURES,
    ViewSpec,
)
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.serving.batch import BatchResult, Chunk, score_batch
from mlops_assets.serving.batch_features import BatchFeatures
from mlops_assets.serving.batch_input import BatchInput, parquet_input
from mlops_assets.serving.batch_rows import prepare_rows
from mlops_assets.serving.decide import confidence_of
from mlops_assets.serving.models import ServedModel

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
AS_OF = MONDAY + timedelta(days=9, hours=12)
CHUNK_ROWS = 64
TEXTS = ("", "As a user I fill in the form", "As a user I search for a product", "nothing that was ever seen")
# The last ones have no features at all.
TESTS, AGENT_IDS = tuple(f"test-{i}" for i in range(9)), tuple(f"agent-{i}" for i in range(4))


@dataclass(frozen=True)
class Home:
    """A home whose feature store holds ten days of rows, and is materialised at `AS_OF`."""

    paths: ArtifactPaths
    spec: AgentSpec

    @property
    def store(self) -> FeatureStoreAdapter:
        """The feature store."""
        return FeatureStoreAdapter(self.paths)

    @property
    def features(self) -> BatchFeatures:
        """The features of batches."""
        return BatchFeatures(self.spec, self.store, self.paths, AS_OF)

    def score(self, batch: BatchInput, model: ServedModel, **options: Any) -> BatchResult:
        """Score in chunks of 64 rows."""
        return score_batch(
            batch,
            model,
            self.features,
            paths=self.paths,
            **{"chunk_rows": CHUNK_ROWS, "progress_rows": 1000, **options},
        )

    def score_table(self, table: pa.Table, model: ServedModel, **options: Any) -> pa.Table:
        """Score a table, and read the decisions back."""
        return read(self.score(self.input(table), model, **options))

    def input(self, table: pa.Table, name: str = "batch.parquet") -> BatchInput:
        """Write a table beside the home, and open it."""
        path = self.paths.home.parent / name
        pq.write_table(table, path)
        return parquet_input(path, self.spec)


def home(folder: Path, spec: AgentSpec) -> Home:
    """Make a home below `folder`."""
    paths = ArtifactPaths(folder / "home")
    store = FeatureStoreAdapter(paths)
    store.apply()
    store.write_test_features(_feature_rows(TEST_EXECUTION_FEATURES, TESTS[:-2]))
    store.write_agent_features(spec.name, _feature_rows(AGENT_CONTEXT_FEATURES, AGENT_IDS[:-1]))
    store.materialize(AS_OF)
    return Home(paths, spec)


def rows(spec: AgentSpec, count: int, *, seed: int = 0, timed: bool = False, ids: bool = True) -> pa.Table:
    """Rows as a user writes them: one column for each context field."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"request_id": [f"r-{seed}-{i}" for i in range(count)]} if ids else {}
    columns["agent_id"] = [AGENT_IDS[i] for i in rng.integers(len(AGENT_IDS), size=count)]
    columns["test_id"] = [TESTS[i] for i in rng.integers(len(TESTS), size=count)]
    if spec.text_dimensions:
        columns["requirement_text"] = [TEXTS[i] for i in rng.integers(len(TEXTS), size=count)]
    if timed:
        hours = rng.uniform(0, 24 * 45, size=count)
        columns["event_time"] = pa.array(
            [MONDAY + timedelta(hours=float(hour)) for hour in hours], pa.timestamp("us", "UTC")
        )
    for field in spec.context:
        columns[field.name] = rng.uniform(field.low, field.high, size=count).astype(np.float32)
    return pa.table(columns)


def as_states(table: pa.Table, spec: AgentSpec) -> pa.Table:
    """The same rows with one list column `state`."""
    names = [field.name for field in spec.context]
    state = np.column_stack([table[name].to_numpy() for name in names])
    return table.drop_columns(names).append_column("state", pa.array(state.tolist(), pa.list_(pa.float32())))


def read(result: BatchResult) -> pa.Table:
    """Read all parts, as their users do."""
    table: pa.Table = pq.read_table(result.predictions)
    return table


def parts(result: BatchResult) -> dict[str, bytes]:
    """Bytes of every part."""
    return {file.name: file.read_bytes() for file in sorted(result.predictions.iterdir())}


def by_hand(home: Home, model: ServedModel, table: pa.Table, *, chunk_rows: int = CHUNK_ROWS) -> list[dict[str, Any]]:
    """What each row has to be answered: states by the served model's own function, and the bare policy.

    In portions of the same size, since the last bit of a matrix product depends on it.
    """
    portions = [table.slice(begin, chunk_rows) for begin in range(0, table.num_rows, chunk_rows)]
    answers = [answer for portion in portions for answer in _answers(home, model, portion)]
    for number, answer in enumerate(answers):
        answer["row"] = number
    return answers


def first_chunk(home: Home, batch: BatchInput) -> Chunk:
    """The first chunk as a worker gets it."""
    ((number, table),) = batch.chunks(CHUNK_ROWS, [0])
    rows = prepare_rows(table, home.spec, 0)
    return Chunk(number, rows, home.features.join(timed=batch.timed)(rows.keys))


def _answers(home: Home, model: ServedModel, table: pa.Table) -> list[dict[str, Any]]:
    spec = home.spec
    context = np.column_stack([table[field.name].to_numpy() for field in spec.context]).astype(np.float32)
    count = table.num_rows
    texts = table["requirement_text"].to_pylist() if spec.text_dimensions else [""] * count
    if "event_time" in table.column_names:
        features = feature_arrays(home.store.historical_by_feast(table), spec)
    else:
        tests, agents = table["test_id"].to_pylist(), table["agent_id"].to_pylist()
        features = home.store.online_features(spec, tests, agents, AS_OF)
    states = model.states(context, texts, features)
    q_values = model.policy.q_values(states.values)
    names = [column_name(feature) for feature in spec.features]
    ids = table["request_id"].to_pylist()
    return [
        {
            "request_id": ids[i],
            "agent": spec.name,
            "action": int(q_values[i].argmax()),
            "action_name": spec.actions[int(q_values[i].argmax())],
            "q_values": q_values[i].tolist(),
            "confidence": confidence_of(q_values[i]),
            "missing_features": [name for name, absent in zip(names, states.missing[i], strict=True) if absent],
            "reason": None,
            "model_version": model.semver,
        }
        for i in range(count)
    ]


def _feature_rows(view: ViewSpec, keys: Sequence[str]) -> pa.Table:
    """Rows of every key for ten days, with holes."""
    rng = np.random.default_rng(len(view.name))
    days = [(key, day) for day in range(10) for key in keys if rng.random() < 0.8]
    draw = {
        "string": lambda: ["passed", "failed", "skipped", None][rng.integers(4)],
        "int64": lambda: int(rng.integers(9)),
        "float32": partial(rng.uniform, 0.0, 1.0),
    }
    times = [MONDAY + timedelta(days=day) for _, day in days]
    columns: dict[str, list[Any]] = {
        view.key: [key for key, _ in days],
        EVENT_TIMESTAMP: times,
        CREATED_TIMESTAMP: times,
        **{feature.name: [draw[feature.dtype]() for _ in days] for feature in view.features},
    }
    return pa.table({name: pa.array(columns[name], view.schema.field(name).type) for name in view.schema.names})
