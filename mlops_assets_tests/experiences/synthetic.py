"""A small, deterministic experience source for tests: random decisions, a batch a day, labels one day later."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa

from mlops_assets.experiences.environment import DecisionEnvironment, ExperienceBatch
from mlops_assets.experiences.schema import REQUIREMENT_TEXTS, experience_schema, label_schema
from mlops_assets.foundation.agents import AgentSpec, ContextField
from mlops_assets.foundation.policies import DataPolicy
from mlops_assets.foundation.profiles import load_profile

START = datetime(2026, 1, 5, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
_VERBS = ("add", "open", "empty", "share", "save", "buy", "print")

AGENT = AgentSpec(
    name="requirements",
    purpose="Test agent.",
    episode="A session.",
    reward="Random.",
    reward_low=-100.0,
    reward_high=100.0,
    discount=0.9,
    actions=("skip", "smoke", "functional", "exhaustive"),
    context=tuple(ContextField(f"field_{i}", "A number.") for i in range(3)),
    text_dimensions=4,
    features=(),
)


def policy(**changes: object) -> DataPolicy:
    """The bootstrap policy with changes."""
    return load_profile("aiwebtest").data.bootstrap.model_copy(update=changes)


@dataclass(frozen=True)
class SyntheticSource:
    """`episodes` episodes of `steps` decisions on each of `days` days; `alter` may break a batch."""

    days: int = 3
    episodes: int = 5
    steps: int = 4
    seed: int = 0
    spec: AgentSpec = AGENT
    source_name: str = "synthetic"
    live: bool = False
    alter: Callable[[int, ExperienceBatch], ExperienceBatch] = field(default=lambda _, batch: batch)

    @property
    def name(self) -> str:
        return self.source_name

    def as_of(self, now: datetime) -> datetime:
        return now if self.live else START + timedelta(days=self.days)

    def batches(self, spec: AgentSpec, cursor: str | None) -> Iterator[ExperienceBatch]:
        assert spec.name == self.spec.name
        first = 0 if cursor is None else int(cursor) + 1
        for day in range(first, self.days):
            yield self.alter(day, self._batch(day))

    def environment(self, spec: AgentSpec, episode_ids: Sequence[str]) -> DecisionEnvironment:
        raise NotImplementedError

    def until(self, days: int) -> "SyntheticSource":
        """The same world, known until another day."""
        return replace(self, days=days)

    def _batch(self, day: int) -> ExperienceBatch:
        rng = np.random.default_rng((self.seed, day))
        rows, width = self.episodes * self.steps, len(self.spec.context)
        episode, step = np.divmod(np.arange(rows), self.steps)
        names = [f"{day:04d}-{e:05d}" for e in episode]
        ids = pa.array([f"{name}-{s}" for name, s in zip(names, step, strict=True)])
        seconds = (episode * 86_000 // self.episodes) + step
        times = _timestamps(START + timedelta(days=day), seconds)
        texts = [f"req-{e % 7}" for e in episode]
        experiences = pa.Table.from_arrays(
            [
                ids,
                pa.array([f"app-{e % 3}" for e in episode]),
                pa.array([f"test-{s}" for s in step]),
                pa.array(texts),
                pa.array(names),
                pa.array(step, pa.int32()),
                times,
                pa.FixedSizeListArray.from_arrays(pa.array(rng.random(rows * width, dtype=np.float32)), width),
                pa.array(rng.integers(0, len(self.spec.actions), rows), pa.int32()),
                pa.array(rng.normal(0, 10, rows).clip(-99, 99), pa.float32()),
                pa.array(step == self.steps - 1),
                pa.array(np.full(rows, 0.25), pa.float32()),
                pa.array([("react", "vue")[e % 2] for e in episode]),
                pa.array([("chromium", "firefox")[e % 2] for e in episode]),
                pa.array(["e2e"] * rows),
            ],
            schema=experience_schema(self.spec),
        )
        values = rng.normal(0, 1, rows * len(self.spec.actions)).astype(np.float32)
        labels = pa.Table.from_arrays(
            [
                ids,
                pa.array(values.reshape(rows, -1).argmax(axis=1), pa.int32()),
                pa.FixedSizeListArray.from_arrays(pa.array(values), len(self.spec.actions)),
                times,
                _timestamps(START + timedelta(days=day + 1), seconds),
            ],
            schema=label_schema(self.spec),
        )
        requirements = pa.table(
            {
                "requirement_id": [f"req-{i}" for i in range(7)],
                "text": [f"As a user I can {verb} the cart" for verb in _VERBS],
                "area": ["forms"] * 7,
            },
            schema=REQUIREMENT_TEXTS,
        )
        return ExperienceBatch(experiences, labels, requirements, cursor=str(day))


def replaced(table: pa.Table, column: str, changes: dict[int, object]) -> pa.Table:
    """`table` with some values of one column replaced by row; the column becomes nullable and free of its list size."""
    values = table[column].to_pylist()
    for row, value in changes.items():
        values[row] = value
    type_ = table.schema.field(column).type
    loose = pa.list_(type_.value_type) if pa.types.is_fixed_size_list(type_) else type_
    return table.set_column(table.schema.get_field_index(column), pa.field(column, loose), pa.array(values, loose))


def day_of(offset: int) -> date:
    """The UTC day of a batch."""
    return (START + timedelta(days=offset)).date()


def _timestamps(start: datetime, seconds: np.ndarray) -> pa.Array:
    micros = int(start.timestamp()) * 1_000_000 + seconds.astype(np.int64) * 1_000_000
    return pa.array(micros, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
