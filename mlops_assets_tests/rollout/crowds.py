"""Users of a rollout as serving logs them, with arms by the real assignment."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from sqlalchemy import Engine

from mlops_assets.experiments.assignment import CONTROL, assign
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.tables import Base, ShadowPredictionRecord
from mlops_assets.rollout.state import RolloutState
from mlops_assets_tests.experiences.served import outcome_row, prediction_row, write

Finding = Callable[[int, bool], bool]


def nobody(_user: int, _treated: bool) -> bool:
    """No user."""
    return False


def crowd(
    engine: Engine,
    state: RolloutState,
    users: range,
    at: datetime,
    *,
    seconds_apart: float = 0.1,
    failed: Finding = nobody,
    slow: Finding = nobody,
    wrong: Finding = nobody,
) -> int:
    """Let new users ask once each, one after another; returns how many were treated.

    Where the candidate has nobody or everybody, both versions are asked in the shadow too, and the champion decides as the
    candidate does. `slow` requests take 9 ms, all others 2.
    """
    spec = agent_spec(state.agent)
    variants = {user: assign(state.salt, f"user-{user}", state.share) for user in users}

    def rows() -> Iterator[Base]:
        for user, variant in variants.items():
            treated = variant != CONTROL
            prediction = prediction_row(
                spec,
                f"{state.number}-{user}",
                event_time=at + timedelta(seconds=seconds_apart * (user - users.start)),
                user_hash=f"user-{user}",
                experiment=state.name,
                variant=variant,
                treatment_share=state.share,
                model_version=state.candidate if treated else state.champion,
                browser=("chromium", "firefox", "webkit")[user % 3],
                fallback="failed" if failed(user, treated) else None,
                latency_ms=9.0 if slow(user, treated) else 2.0,
            )
            yield prediction
            if state.share in {0.0, 1.0}:
                for version in (state.candidate, state.champion):
                    yield ShadowPredictionRecord(
                        prediction_id=prediction.prediction_id,
                        model_name=state.model_name,
                        model_version=version,
                        q_values=prediction.q_values,
                        action=prediction.action,
                        latency_ms=0.2 + 1e-9 * user,
                        event_time=prediction.event_time,
                    )
            best = (prediction.action + wrong(user, treated)) % len(spec.actions)
            yield outcome_row(prediction, 0.0, best_action=best)

    write(engine, rows())
    return sum(variant != CONTROL for variant in variants.values())
