"""Users of the A/A test as the server logs them."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from sqlalchemy import Engine

from mlops_assets.experiments.assignment import aa_arm
from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.tables import Base
from mlops_assets_tests.experiences.served import outcome_row, prediction_row, write

SPEC = AGENTS["execution"]
HOUR = timedelta(hours=1)
Finding = Callable[[bool], bool]


def serve(
    engine: Engine,
    users: range,
    at: datetime,
    *,
    spec: AgentSpec = SPEC,
    champion: str = "1.0.0",
    failed: Finding = lambda _treated: False,
    wrong: Finding = lambda _treated: False,
    lost: Finding = lambda _treated: False,
) -> None:
    """Write a decision of each user in half an hour, all of them in the test, as the server logs them."""

    def rows() -> Iterator[Base]:
        for user in users:
            arm = aa_arm(spec.name, champion, f"user-{user}", 0.5)
            treated = arm == "treatment"
            if lost(treated):
                continue
            one = prediction_row(
                spec,
                f"aa-{at:%d%H%M}-{user}",
                event_time=at + HOUR / 2 * (user - users.start) / len(users),
                user_hash=f"user-{user}",
                model_version=champion,
                aa_arm=arm,
                fallback="failed" if failed(treated) else None,
            )
            yield one
            yield outcome_row(one, 0.0, best_action=one.action + wrong(treated))

    write(engine, rows())
