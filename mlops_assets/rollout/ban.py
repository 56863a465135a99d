"""Versions that may not start again for a while, so that automation does not send users through the same harm twice."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Engine

from mlops_assets.rollout.ledger import steps
from mlops_assets.rollout.state import Step


def banned(engine: Engine, training_hash: str, model_name: str, now: datetime, cool_down_hours: float) -> str | None:
    """Return why what was trained so may not start now, None when it may."""
    return ban_of(steps(engine, model_name=model_name), training_hash, now, cool_down_hours)


def ban_of(done: Sequence[Step], training_hash: str, now: datetime, cool_down_hours: float) -> str | None:
    """Return which rollout's rollback bans a training until when; None when none does.

    The identity is what was trained on, and how: the same data and settings give the same weights under another number.
    """
    for step in reversed(done):
        if step.kind != "rolled_back" or step.state.training_hash != training_hash:
            continue
        until = step.at + timedelta(hours=cool_down_hours)
        if now < until:
            return (
                f"{step.state.candidate}, trained the same way on the same data, was taken back by {step.state.name}; "
                f"it is banned until {until:%Y-%m-%d %H:%M} UTC, so train on newer data or wait"
            )
    return None
