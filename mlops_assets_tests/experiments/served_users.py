"""Users of an experiment as serving logs them, with arms by the real assignment."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta

from sqlalchemy import Engine

from mlops_assets.experiments.assignment import TREATMENT, assign
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.tables import Base
from mlops_assets_tests.experiences.served import SERVED_AT, outcome_row, prediction_row, write

SPEC = AGENTS["execution"]
NAME, SALT = "checkout", "salt"


def serve(
    engine: Engine,
    users: range,
    *,
    share: float | Mapping[str, float],
    at: datetime = SERVED_AT,
    seconds_apart: float = 10.0,
    requests: int = 1,
    failed: Callable[[int, bool], bool] = lambda _user, _treated: False,
    wrong: Callable[[int, bool], bool] = lambda _user, _treated: False,
    slow: Callable[[int, bool], bool] = lambda _user, _treated: False,
    labelled: bool = True,
    versions: Mapping[str, str] | None = None,
) -> list[bool]:
    """Write the decisions of users, one after another, and say who was treated; `versions` stand behind the arms."""
    variants = [assign(SALT, f"user-{user}", share) for user in users]
    shares = share if isinstance(share, Mapping) else {TREATMENT: share}
    logged = None if versions is None and shares is not share else {"versions": versions or {}, "shares": shares}

    def rows() -> Iterator[Base]:
        for user, variant in zip(users, variants, strict=True):
            treated = variant != "control"
            for request in range(requests):
                prediction = prediction_row(
                    SPEC,
                    f"{'-'.join(map(str, shares.values()))}-{user}-{request}",
                    event_time=at + timedelta(seconds=seconds_apart * (user - users.start) + request),
                    user_hash=f"user-{user}",
                    experiment=NAME,
                    variant=variant,
                    treatment_share=sum(shares.values()),
                    arms=logged,
                    fallback="failed" if failed(user, treated) else None,
                    latency_ms=500.0 if slow(user, treated) else 2.0,
                )
                yield prediction
                if labelled:
                    best = (
                        prediction.action if not wrong(user, treated) else (prediction.action + 1) % len(SPEC.actions)
                    )
                    yield outcome_row(prediction, 0.0, best_action=best)

    write(engine, rows())
    return [variant != "control" for variant in variants]
