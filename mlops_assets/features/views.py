"""The feature views as data: entities, columns, time to live. `store.py` makes Feast's objects, `tables.py` rows."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import pyarrow as pa

from mlops_assets.experiences.schema import TIMESTAMP
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.files import digest

PROJECT = "aiwebtest"
EVENT_TIMESTAMP = "event_timestamp"
CREATED_TIMESTAMP = "created"

FeatureType = Literal["float32", "int64", "string"]

_ARROW_TYPES: dict[FeatureType, pa.DataType] = {"float32": pa.float32(), "int64": pa.int64(), "string": pa.string()}


@dataclass(frozen=True)
class EntitySpec:
    """One key of the feature store; its name is its join key."""

    name: str
    description: str


@dataclass(frozen=True)
class Feature:
    """One column of a view."""

    name: str
    dtype: FeatureType
    description: str


@dataclass(frozen=True)
class ViewSpec:
    """One feature view: at most one row per key and UTC day, valid from `event_timestamp` for `ttl`."""

    name: str
    entity: EntitySpec
    ttl: timedelta
    features: tuple[Feature, ...]
    description: str
    tags: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """Join key column."""
        return self.entity.name

    @property
    def schema(self) -> pa.Schema:
        """Schema of the offline rows."""
        fixed = [
            pa.field(self.key, pa.string(), nullable=False),
            pa.field(EVENT_TIMESTAMP, TIMESTAMP, nullable=False),
            pa.field(CREATED_TIMESTAMP, TIMESTAMP, nullable=False),
        ]
        return pa.schema(fixed + [pa.field(f.name, _ARROW_TYPES[f.dtype]) for f in self.features])

    def column(self, feature: str) -> str:
        """Name of a feature of this view in a joined table, as Feast's full feature names spell it."""
        return f"{self.name}__{feature}"

    @property
    def version(self) -> str:
        """Short hash of the definition; runs record it, since a changed view makes other state vectors."""
        columns = [[feature.name, feature.dtype, feature.description] for feature in self.features]
        return digest({"key": self.key, "ttl_seconds": self.ttl.total_seconds(), "features": columns})[:12]

    @property
    def timestamp_column(self) -> str:
        """Name of the joined row's own event time in a joined table."""
        return f"{self.name}__{EVENT_TIMESTAMP}"


TEST = EntitySpec("test_id", "Test case identifier")
AGENT = EntitySpec("agent_id", "Agent identifier")

TEST_EXECUTION_FEATURES = ViewSpec(
    name="test_execution_features",
    entity=TEST,
    ttl=timedelta(days=30),
    features=(
        Feature("execution_time_ms", "float32", "Mean duration of the runs of 30 days, skipped ones left out."),
        Feature("pass_rate_7d", "float32", "Passed over passed and failed runs of 7 days."),
        Feature("pass_rate_30d", "float32", "Passed over passed and failed runs of 30 days."),
        Feature("failure_count", "int64", "Failed runs of 30 days."),
        Feature("last_execution_status", "string", "Status of the last run: passed, failed or skipped."),
        Feature("avg_retry_count", "float32", "Mean retries of a run of 30 days."),
        Feature(
            "flakiness_score",
            "float32",
            "Share of the passed and failed runs of 30 days that passed only on a retry, or whose verdict changed "
            "against the run before.",
        ),
    ),
    description="How a test behaved up to the last complete UTC day.",
    tags=(("team", "qa"), ("domain", "test_automation")),
)

AGENT_CONTEXT_FEATURES = ViewSpec(
    name="agent_context_features",
    entity=AGENT,
    ttl=timedelta(days=7),
    features=(
        Feature("recent_accuracy", "float32", "Share of the labels of 7 days that name the action taken."),
        Feature("recent_reward", "float32", "Mean reward of the decisions of 7 days."),
        Feature("tests_generated_24h", "int64", "Decisions of 24 hours that made or ran a test."),
        Feature("success_rate_7d", "float32", "Share of the decisions of 7 days with a reward above 0."),
        Feature(
            "avg_confidence_score", "float32", "Mean probability that the policy gave to the action it took, 7 days."
        ),
    ),
    description="How an agent did up to the last complete UTC day.",
    tags=(("team", "qa"), ("domain", "test_automation")),
)

VIEWS: tuple[ViewSpec, ...] = (TEST_EXECUTION_FEATURES, AGENT_CONTEXT_FEATURES)
ENTITIES: tuple[EntitySpec, ...] = (TEST, AGENT)


def view_spec(name: str) -> ViewSpec:
    """Look a view up by name.

    Raises:
        SettingsError: there is no such view.
    """
    for view in VIEWS:
        if view.name == name:
            return view
    raise SettingsError(f"unknown feature view {name!r}; known views: {', '.join(v.name for v in VIEWS)}")


def views_of(spec: AgentSpec) -> tuple[ViewSpec, ...]:
    """The views that an agent's state vector reads."""
    names = {field.view for field in spec.features}
    return tuple(view for view in VIEWS if view.name in names)
