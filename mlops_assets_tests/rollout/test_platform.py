"""A platform that treats the same version differently: nothing starts or goes on, and what harms is taken back all the same."""

from datetime import timedelta

import pytest

from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.errors import NotReadyError
from mlops_assets.rollout.commands import main
from mlops_assets.rollout.guard import RolloutGuard
from mlops_assets.rollout.ledger import current
from mlops_assets_tests.experiments import aa_users
from mlops_assets_tests.rollout.conftest import MODEL, Tower
from mlops_assets_tests.rollout.crowds import crowd

SPEC = AGENTS["requirements"]
ALARM = "the A/A test aa-requirements-1.0.0-0 alarms: of the same version, failed is 100.00% on the way of a candidate"


def break_platform(tower: Tower) -> None:
    """Let three hours go by in which the A/A test's users of a candidate's way fail."""
    clock = tower.office.clock
    aa_users.serve(tower.engine, range(300), clock.instant, spec=SPEC, failed=lambda treated: treated)
    clock.instant += timedelta(hours=3)


def test_nothing_starts_until_people_say_that_it_is_mended(small_tower: Tower) -> None:
    """A rollout on a platform that fails every candidate ends with a ban of a good one."""
    tower = small_tower
    break_platform(tower)
    tick = tower.rollouts.tick(MODEL)
    assert (tick.state, tick.kind) == (None, None)
    assert "1.1.0 waits: " in tick.reasons[0]
    assert ALARM in tick.reasons[0]
    with pytest.raises(NotReadyError, match="reset-aa"):
        tower.rollouts.start(MODEL, "1.1.0", user="mlops@company.com", reason="now")
    found = tower.rollouts.aa_test(MODEL)
    assert found is not None
    assert str(found).startswith(ALARM)
    tower.rollouts.reset_aa_test(MODEL, user="mlops@company.com", reason="the pool was too small")
    assert tower.rollouts.tick(MODEL).kind == "started"
    events = [(one.event_type, one.user) for one in tower.office.events()]
    assert ("aa_test_reset", "mlops@company.com") in events


def test_a_rollout_under_way_is_held_and_harm_still_ends_it(small_tower: Tower) -> None:
    """A stage that is passed on a broken comparison, or a bad candidate that is kept for want of a good one."""
    tower = small_tower
    tower.rollouts.tick(MODEL)
    state, clock = current(tower.engine, MODEL), tower.office.clock
    assert state is not None
    crowd(tower.engine, state, range(1200), clock.instant)
    break_platform(tower)
    tick = tower.rollouts.tick(MODEL)
    assert (tick.kind, tick.state) == (None, state)
    assert tick.reasons[0].startswith(ALARM)
    tower.rollouts.reset_aa_test(MODEL, user="mlops@company.com", reason="mended")
    assert tower.rollouts.tick(MODEL).kind == "advanced"
    first = current(tower.engine, MODEL)
    assert first is not None
    break_platform(tower)
    assert tower.rollouts.tick(MODEL).kind is None
    crowd(tower.engine, first, range(10_000, 14_000), clock.instant, failed=lambda _user, treated: treated)
    clock.instant += timedelta(hours=1)
    guard = RolloutGuard(tower.engine, tower.policy, served=clock, clock=clock)
    for _ in range(5):
        guard.refresh()
    ended = current(tower.engine, MODEL)
    assert ended is not None
    assert ended.status == "rolled_back"


def test_an_alarm_is_said_while_nothing_waits(small_tower: Tower) -> None:
    """Who looks at the sensor learns of it only with the next candidate, a month later."""
    tower = small_tower
    state = tower.rollouts.tick(MODEL).state
    assert state is not None
    tower.rollouts.change(MODEL, "abort", user="mlops@company.com", reason="later")
    break_platform(tower)
    reasons = tower.rollouts.tick(MODEL).reasons
    assert reasons[0] == "nothing waits for a rollout"
    assert reasons[1].startswith(ALARM)


@pytest.mark.parametrize("user", ["rollout", " "])
def test_no_service_and_nobody_begins_the_test_anew(
    small_tower: Tower, capsys: pytest.CaptureFixture[str], user: str
) -> None:
    """An automaton says that people have mended what makes it wait."""
    settings = small_tower.office.settings
    environ = {
        "MLOPS_HOME": str(settings.home),
        "MLOPS_DATABASE_URL": small_tower.engine.url.render_as_string(hide_password=False),
        "MLFLOW_TRACKING_URI": small_tower.office.runs.tracking_uri,
    }
    argv = ["reset-aa", "--model-name", MODEL, "--user", user, "--reason", "mended"]
    assert main(argv, environ) != 0
    said = capsys.readouterr().err
    assert "act under your own name" in said or "nobody is named as user" in said
    assert "aa_test_reset" not in {one.event_type for one in small_tower.office.events()}
