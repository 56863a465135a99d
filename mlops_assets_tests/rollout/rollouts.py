"""A rollout under way, for tests of this room."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from mlops_assets.foundation.policies import STAGE_SHARES, RolloutPolicy, StageName
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.rollout.state import RolloutState

# A Monday.
BEGIN = datetime(2026, 1, 5, 8, tzinfo=UTC)
POLICY: RolloutPolicy = load_profile("aiwebtest").rollout


def rollout(stage: StageName = "shadow", **changes: Any) -> RolloutState:
    """A running rollout of 1.1.0 against 1.0.0, at the begin of a stage."""
    state = RolloutState(
        name="rollout-execution-1.1.0-1",
        model_name="execution-agent-dqn",
        agent="execution",
        candidate="1.1.0",
        champion="1.0.0",
        training_hash="a" * 64,
        salt="salt",
        number=1,
        status="running",
        stage=stage,
        share=STAGE_SHARES[stage],
        started_at=BEGIN,
        since=BEGIN,
    )
    return replace(state, **changes)
