"""Evidence that is kept with the looks is the evidence of all their users, found once."""

from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import Engine, delete, update

from mlops_assets.experiments.evidence import History, kept_history, replay
from mlops_assets.experiments.frequentist import Moments
from mlops_assets.experiments.metrics import MetricScale
from mlops_assets.experiments.units import read_looks, take_look
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.tables import ExperimentLook, ExperimentUnit
from mlops_assets_tests.experiences.served import SERVED_AT, prediction_row, write
from mlops_assets_tests.experiments.served_users import NAME, SPEC, serve

DESIGN = load_profile("aiwebtest").ab_test.model_copy(
    update={"user_window_minutes": 10.0, "outcome_delay_minutes": 5.0}
)
SCALE = MetricScale(reward_low=-50.0, reward_high=150.0, slow={"slow": 100.0})


def look(engine: Engine, hours: float) -> History:
    """Look so long after the first request, and say what is known."""
    take_look(engine, NAME, DESIGN, SCALE, now=SERVED_AT + timedelta(hours=hours))
    return kept_history(engine, NAME, DESIGN)


def serve_hour(engine: Engine, hour: int, share: float) -> None:
    """Serve 300 users within an hour; those of the treatment fail now and then."""
    at = SERVED_AT + timedelta(hours=hour)
    serve(
        engine, range(100 * hour, 100 * hour + 300), share=share, seconds_apart=10.0, at=at,
        failed=lambda user, treated: treated and user % 9 == 0, wrong=lambda user, _: user % 7 == 0,
    )  # fmt: skip


def test_evidence_is_found_once_and_is_that_of_a_replay(engine: Engine) -> None:
    """A report of the second week reads every user of the first again, or finds something else than it did then."""
    assert look(engine, 0.0) == replay(read_looks(engine, NAME), DESIGN)
    for hour, share in enumerate((0.1, 0.3, 0.35, 0.5)):
        serve_hour(engine, hour, share)
        for minutes in (20.0, 59.9):
            found = look(engine, hour + minutes / 60)
            assert found == replay(read_looks(engine, NAME), DESIGN)
    assert len(found.over_time) == 9
    assert found.arms["treatment"].metrics["failed"].harm.log_e > 3.0
    assert found.over_looks("treatment", "failed")[0][-1] == found.arms["treatment"].metrics["failed"].harm.log_e
    assert sum(found.arms["treatment"].users) > 400
    with transaction(engine) as session:
        session.execute(delete(ExperimentUnit))
    assert kept_history(engine, NAME, DESIGN) == found


def test_two_treatments_and_the_time_before_are_kept_as_well(engine: Engine) -> None:
    """A treatment that begins later takes over the other's evidence, or its users' past is lost on the way to the next look."""
    design = DESIGN.model_copy(update={"pre_period_days": 3.0})
    times = (SERVED_AT - timedelta(hours=user) for user in range(1, 60))
    write(
        engine, [prediction_row(SPEC, f"old-{i}", event_time=at, user_hash=f"user-{i}") for i, at in enumerate(times)]
    )
    for hour, shadow in enumerate((0.0, 0.3, 0.4)):
        shares = {"challenger": 0.3, "shadow": shadow}
        serve(
            engine, range(200), share=shares, seconds_apart=10.0, at=SERVED_AT + timedelta(hours=hour),
            slow=lambda user, _: user % 5 == 0,
        )  # fmt: skip
        take_look(engine, NAME, design, SCALE, now=SERVED_AT + timedelta(hours=hour + 0.99))
        found = kept_history(engine, NAME, design)
        assert found == replay(read_looks(engine, NAME), design)
    assert list(found.over_time[0]) == ["challenger"]
    assert found.over_looks("shadow", "slow")[0][0] == 0.0
    assert found.arms["challenger"].metrics["slow"].control_before.seen > 20
    assert found.arms["shadow"].users[1] > 50


@pytest.mark.parametrize("stored", [None, {"format": 0, "log_e": {}, "arms": {}}])
def test_looks_without_evidence_of_this_form_get_it(engine: Engine, stored: dict[str, object] | None) -> None:
    """Looks of before the upgrade, or of a server that was killed in between, count as empty."""
    for hour in range(3):
        serve_hour(engine, hour, 0.4 + hour / 100)
        found = look(engine, hour + 0.99)
    with transaction(engine) as session:
        session.execute(update(ExperimentLook).where(ExperimentLook.look >= 1).values(evidence=stored))
    assert kept_history(engine, NAME, DESIGN) == found
    with transaction(engine) as session:
        kept = session.get_one(ExperimentLook, (NAME, 2)).evidence
    assert kept is not None
    assert kept["log_e"]["treatment"]["failed"][0] == found.arms["treatment"].metrics["failed"].harm.log_e


def test_nothing_is_known_before_the_first_look(engine: Engine) -> None:
    """A report of a minute after the start fails."""
    assert kept_history(engine, NAME, DESIGN) == History(None, {}, ())


def test_moments_of_parts_are_those_of_the_whole() -> None:
    """Means and spreads over many looks drift away from those of their users."""
    random = np.random.default_rng(0)
    parts = [random.beta(0.3, 2.0, size) for size in (1, 50, 0, 700)]
    whole = Moments()
    for part in parts:
        whole = whole.plus(Moments.of(part))
    values = np.concatenate(parts)
    assert (whole.users, whole.mean) == (751, pytest.approx(values.mean()))
    assert whole.variance == pytest.approx(values.var(ddof=1))
