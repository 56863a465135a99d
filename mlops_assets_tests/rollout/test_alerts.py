"""What people read of a step: enough to act on at night, and the worst of it first."""

from datetime import timedelta

import pytest

from mlops_assets.rollout.alerts import alert_of
from mlops_assets.rollout.state import Kind, Step, after
from mlops_assets_tests.rollout.rollouts import BEGIN, rollout


def told(kind: Kind, *reasons: str, **changes: str) -> list[str]:
    state = rollout("5_percent") if kind == "started" else after(rollout("5_percent"), kind, BEGIN, **changes)
    message = alert_of(Step(kind, state, reasons, {}, "rollout", BEGIN + timedelta(hours=6)), ("sre@company.com",))
    assert message.recipients == ("sre@company.com",)
    return [message.subject, *message.text.splitlines()]


def test_a_rollback_says_from_what_to_what_and_why() -> None:
    """Without the versions nobody knows what users have now; without the reason, whether to look for it."""
    assert told("rolled_back", "errors are 2.4 times the champion's", "evidence 310 to 1") == [
        "CRITICAL: Model Rollback (execution-agent-dqn)",
        "CRITICAL: Model Rollback",
        "execution-agent-dqn: from 1.1.0 to 1.0.0, stage 5_percent, 0% of the users",
        "- errors are 2.4 times the champion's",
        "- evidence 310 to 1",
        "rollout-execution-1.1.0-1, by rollout, 2026-01-05 14:00:00 UTC",
    ]


def test_the_start_says_what_will_come() -> None:
    """The shares are those of the stages, not of a text that was written once."""
    subject, _, versions, *_ = told("started")
    assert subject == "INFO: Gradual rollout initiated (5% → 20% → 50% → 100%) (execution-agent-dqn)"
    assert versions == "execution-agent-dqn: 1.1.0 against 1.0.0, stage 5_percent, 5% of the users"


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        ("advanced", "INFO: Rollout at 20%"),
        ("paused", "INFO: Rollout paused"),
        ("stalled", "WARNING: Rollout undecided in 5_percent"),
        ("aborted", "WARNING: Rollout aborted"),
        ("superseded", "WARNING: Rollout superseded"),
    ],
)
def test_titles(kind: Kind, title: str) -> None:
    """A subject that says no more than "rollout" is read last."""
    assert told(kind, **({"to": "20_percent"} if kind == "advanced" else {}))[1] == title
