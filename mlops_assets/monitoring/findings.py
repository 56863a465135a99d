"""What is found, what became of it, and on which ways people are told: the records of alerts, without a database."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import AlertingPolicy, ChannelName
from mlops_assets.monitoring.notices import AlertState, NoticeKind
from mlops_assets.monitoring.severity import Severity

_LONGEST_KEY = 200
_LONGEST_TITLE = 255
LOG: ChannelName = "log"
PAGER: ChannelName = "pagerduty"


@dataclass(frozen=True)
class Finding:
    """Something that people have to know.

    Args:
        key: what it is about; two findings with the same key are the same alert.
        severity: how bad it is now.
        title: one line.
        body: what was found, with the numbers.
        source: the check that found it.
        agent: the agent that it is about; empty: none.
        model_name: the registered model that it is about; empty: none.
        details: values as JSON, for machines.

    Raises:
        InputError: the key or the title is empty, or longer than the database takes.
    """

    key: str
    severity: Severity
    title: str
    body: str
    source: str
    agent: str = ""
    model_name: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, longest in (("key", self.key, _LONGEST_KEY), ("title", self.title, _LONGEST_TITLE)):
            if not value.strip() or len(value) > longest:
                raise InputError(f"{name} {value[:longest]!r} of a finding: expected 1 to {longest} characters")


@dataclass(frozen=True)
class Alert:
    """An alert as it is kept: the newest finding, and what became of it."""

    id: int
    finding: Finding
    state: AlertState


@dataclass(frozen=True)
class Routing:
    """The policy of a profile, and the channels that a deployment has set."""

    policy: AlertingPolicy
    channels: frozenset[ChannelName]

    def of(self, severity: Severity, kind: NoticeKind, told: frozenset[ChannelName]) -> tuple[ChannelName, ...]:
        """Return where a notice goes: `told` are the channels that had one of the same alert before.

        Who was told of an alert is told of its end; that somebody has it is the pager's business alone.
        """
        if kind == "recovered":
            wanted = told
        elif kind == "acknowledged":
            wanted = told & {LOG, PAGER}
        elif kind == "escalated":
            wanted = frozenset(self.policy.escalation)
        else:
            wanted = frozenset(self.policy.routes[severity.value])
        return tuple(sorted(wanted & self.channels))
