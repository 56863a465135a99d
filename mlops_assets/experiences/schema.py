"""The canonical tables of this room as Arrow schemas. Timestamps are microseconds, UTC, everywhere."""

import pyarrow as pa

from mlops_assets.foundation.agents import AgentSpec

TIMESTAMP = pa.timestamp("us", tz="UTC")

STATUSES = ("passed", "failed", "skipped")

EXECUTIONS = pa.schema(
    [
        pa.field(
            "execution_id", pa.string(), nullable=False
        ),  # sha256 over (source_hash, source_line, attempt identity)
        pa.field("test_id", pa.string(), nullable=False),  # normalised identity: suite, name, project
        pa.field("test_name", pa.string(), nullable=False),  # title as reported
        pa.field("suite", pa.string(), nullable=False),
        pa.field("project", pa.string(), nullable=False),  # browser or project name, "" when the report has none
        pa.field("framework", pa.string(), nullable=False),  # playwright, pytest, cypress, allure, ctrf, junit, ...
        pa.field("status", pa.string(), nullable=False),  # one of STATUSES: the final status after retries
        pa.field("started_at", TIMESTAMP, nullable=False),
        pa.field("duration_ms", pa.float64(), nullable=False),
        pa.field("retries", pa.int32(), nullable=False),
        pa.field("flaky", pa.bool_(), nullable=False),
        pa.field("cycle_id", pa.string(), nullable=False),  # CI run; unique per source
        pa.field("cycle_started_at", TIMESTAMP, nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("source_hash", pa.string(), nullable=False),
    ]
)


def experience_schema(spec: AgentSpec) -> pa.Schema:
    """Schema of one agent's logged decisions.

    `state` holds the logged context only, `len(spec.context)` numbers in catalogue order. The next state of a decision is the
    state of the decision with the same `episode_id` and `step + 1`; `done` marks an episode's last decision.
    `propensity` is the behaviour policy's probability of `action` at that state.
    """
    return pa.schema(
        [
            pa.field("experience_id", pa.string(), nullable=False),
            pa.field("agent_id", pa.string(), nullable=False),  # the agent's instance: one per web app or CI project
            pa.field("test_id", pa.string(), nullable=False),
            pa.field("requirement_id", pa.string(), nullable=False),  # "" for agents without requirement text
            pa.field("episode_id", pa.string(), nullable=False),
            pa.field("step", pa.int32(), nullable=False),
            pa.field("event_time", TIMESTAMP, nullable=False),
            pa.field("state", pa.list_(pa.float32(), len(spec.context)), nullable=False),
            pa.field("action", pa.int32(), nullable=False),
            pa.field("reward", pa.float32(), nullable=False),
            pa.field("done", pa.bool_(), nullable=False),
            pa.field("propensity", pa.float32(), nullable=False),
            pa.field("ui_framework", pa.string(), nullable=False),
            pa.field("browser", pa.string(), nullable=False),
            pa.field("test_type", pa.string(), nullable=False),
        ]
    )


def label_schema(spec: AgentSpec) -> pa.Schema:
    """Schema of late labels: `best_action` is the labelled best action of a decision, known from `label_time` on.

    `action_values` holds the exact value of every action (return to go under the optimal policy after it), so that regret is exact.
    """
    return pa.schema(
        [
            pa.field("experience_id", pa.string(), nullable=False),
            pa.field("best_action", pa.int32(), nullable=False),
            pa.field("action_values", pa.list_(pa.float32(), len(spec.actions)), nullable=False),
            pa.field("event_time", TIMESTAMP, nullable=False),
            pa.field("label_time", TIMESTAMP, nullable=False),
        ]
    )


REQUIREMENT_TEXTS = pa.schema(
    [
        pa.field("requirement_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("area", pa.string(), nullable=False),
    ]
)
