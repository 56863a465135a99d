"""Five illnesses of a really trained agent each raise their own alarm; a healthy one raises none."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.monitoring.health import check_health, entropy
from mlops_assets.monitoring.health_reference import HealthReference
from mlops_assets.monitoring.version_decisions import VersionDecisions
from mlops_assets_tests.monitoring.faults import FAULTS
from mlops_assets_tests.monitoring.simulated import agent, play, world_of

POLICY = load_profile("aiwebtest").health
AGENTS = ("requirements", "execution")
WINDOWS, USERS_A_WINDOW = 300, 200


@cache
def reference(name: str) -> HealthReference:
    """Frozen from six days of the agent's own decisions."""
    own = agent(name)
    decided = play(world_of(own.spec), range(10, 16), own.policy)
    return HealthReference.of(decided, POLICY, discount=own.spec.discount, seed=1)


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("alarm", FAULTS)
def test_each_fault_raises_its_own_alarm_and_no_other(name: str, alarm: str) -> None:
    """An illness goes unseen, or sends people to look for another."""
    own = agent(name)
    report = check_health(reference(name), FAULTS[alarm](own), POLICY, own.spec.actions)
    assert report.alarms == (alarm,)
    assert report.verdict == "alarm"
    (finding,) = [one for one in report.findings if one.verdict == "alarm"]
    assert finding.p_value is not None
    assert finding.p_value < POLICY.alpha
    assert {one.verdict for one in report.findings} == {"alarm", "ok"}


@pytest.mark.parametrize("name", AGENTS)
def test_healthy_windows_raise_no_alarm(name: str) -> None:
    """More than 1 % of healthy windows ring: 300 windows of 200 users, drawn from twenty days after the reference."""
    own = agent(name)
    pool = play(world_of(own.spec), range(20, 40), own.policy)
    users = np.arange(int(pool.cluster.max()) + 1)
    first = np.searchsorted(pool.cluster, users)
    last = np.searchsorted(pool.cluster, users, side="right")
    random = np.random.default_rng(0)
    rung: dict[str, int] = {}
    for _ in range(WINDOWS):
        drawn = random.choice(users, USERS_A_WINDOW, replace=False)
        rows = np.concatenate([np.arange(first[user], last[user]) for user in drawn])
        report = check_health(reference(name), pool.take(rows), POLICY, own.spec.actions)
        assert all(one.verdict != "insufficient_data" for one in report.findings)
        for one in report.alarms:
            rung[one] = rung.get(one, 0) + 1
    assert all(count <= 0.01 * WINDOWS for count in rung.values()), rung


def test_the_order_of_rows_does_not_matter() -> None:
    """Rows as they come from a log, with episodes mixed, are taken for one long episode."""
    own = agent("requirements")
    window = play(world_of(own.spec), range(20, 21), own.policy)
    mixed = window.take(np.random.default_rng(0).permutation(len(window)))
    one, other = (check_health(reference("requirements"), x, POLICY, own.spec.actions) for x in (window, mixed))
    assert [finding.statistic for finding in one.findings] == pytest.approx([f.statistic for f in other.findings])


def _few(window: VersionDecisions) -> VersionDecisions:
    return window.take(slice(100))


def _no_outcomes(window: VersionDecisions) -> VersionDecisions:
    return replace(window, reward=np.full(len(window), np.nan, dtype=np.float32))


@pytest.mark.parametrize(
    ("without", "unknown"),
    [
        (_few, {"action_mix", "dead_action", "overestimation", "td_tail", "unseen_states"}),
        (_no_outcomes, {"overestimation", "td_tail"}),
        (
            lambda window: window.take(slice(0)),
            {"action_mix", "dead_action", "overestimation", "td_tail", "unseen_states"},
        ),
    ],
)
def test_insufficient_data_by_itself(without, unknown: set[str]) -> None:  # type: ignore[no-untyped-def]
    """An alarm without data says that all is well, or silences the others."""
    own = agent("requirements")
    window = without(play(world_of(own.spec), range(20, 21), own.policy))
    report = check_health(reference("requirements"), window, POLICY, own.spec.actions)
    assert {one.alarm for one in report.findings if one.verdict == "insufficient_data"} == unknown
    assert report.alarms == ()
    assert report.verdict == ("insufficient_data" if len(unknown) == 5 else "ok")
    assert all("are needed" in one.words for one in report.findings if one.alarm in unknown)


def test_words_and_document() -> None:
    """An alarm says a number and not what to look at, or has no JSON."""
    own = agent("requirements")
    report = check_health(reference("requirements"), FAULTS["dead_action"](own), POLICY, own.spec.actions)
    found = report.document()["findings"][1]
    assert own.spec.actions[-1] in found["words"]
    assert found["alarm"] == "dead_action"


def test_another_versions_reference_is_refused() -> None:
    """A version with another number of actions is judged by somebody else's health."""
    own = agent("requirements")
    window = play(world_of(own.spec), range(20, 21), own.policy)
    with pytest.raises(InputError, match="take the reference of the same version"):
        check_health(reference("requirements"), window, POLICY, own.spec.actions[:-1])
    with pytest.raises(InputError, match="take the reference of the same version"):
        check_health(reference("requirements"), replace(window, state=window.state[:, :3]), POLICY, own.spec.actions)


def test_entropy() -> None:
    """The entropy is not Shannon's."""
    from scipy.stats import entropy as theirs

    shares = np.array([0.5, 0.3, 0.2, 0.0])
    assert entropy(shares) == pytest.approx(theirs(shares))
