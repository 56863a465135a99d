"""One object to raise alerts with, for code that lives as long as its process: the names of the sources, and handlers."""

import logging
from collections.abc import Callable

from sqlalchemy import Engine

from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import transaction
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import digest
from mlops_assets.monitoring.alerts import acknowledge, announce, raise_alert, recover
from mlops_assets.monitoring.channels import channel_named
from mlops_assets.monitoring.findings import Alert, Finding, Routing
from mlops_assets.monitoring.severity import Severity, severity_of

Handler = Callable[[Alert], None]
_BY_HAND = "send_alert"
_log = logging.getLogger(__name__)


class AlertDesk:
    """Raises alerts, each in a transaction of its own, and calls the handlers that were registered with it.

    Args:
        engine: operational database.
        routing: of the deployment.
        clock: time of the alerts.
    """

    def __init__(self, engine: Engine, routing: Routing, clock: Clock) -> None:
        self._engine = engine
        self._routing = routing
        self._clock = clock
        self._handlers: list[Handler] = []

    def register_alert_handler(self, handler: Handler) -> None:
        """Call `handler` in this process with every alert that this desk raises or ends, once it is written.

        A handler reacts, such as by pausing an experiment; it is called at every occurrence, also where people are not
        told again. One that fails is logged, and keeps nobody from being told. What has to survive a crash is no handler's
        business: it reads the table.
        """
        self._handlers.append(handler)

    def raise_alert(self, finding: Finding) -> Alert:
        """Say that something is found (`alerts.raise_alert`)."""
        with transaction(self._engine) as session:
            alert = raise_alert(session, finding, self._routing, self._clock.now())
        self._handle(alert)
        return alert

    def recover(self, key: str, *, for_good: bool = False, note: str = "") -> Alert | None:
        """Say that nothing is found any more (`alerts.recover`)."""
        with transaction(self._engine) as session:
            alert = recover(session, key, self._routing, self._clock.now(), for_good=for_good, note=note)
        if alert is not None:
            self._handle(alert)
        return alert

    def acknowledge(self, which: int | str, user: str) -> Alert:
        """Say that a person looks after an alert (`alerts.acknowledge`)."""
        return acknowledge(self._engine, which, user=user, routing=self._routing, now=self._clock.now())

    def send_alert(self, title: str, message: str, severity: str) -> Alert | None:
        """Raise an alert under its title, with a severity of any known scale; None where that says that all is well.

        Raises:
            InputError: the severity is of no known scale, or the title is empty.
        """
        known = severity_of(severity)
        if known is None:
            self.recover(f"{_BY_HAND}:{digest(title)}", note=message)
            return None
        return self.raise_alert(Finding(f"{_BY_HAND}:{digest(title)}", known, title, message, source=_BY_HAND))

    def send_notification(self, channel: str, message: str) -> None:
        """Tell one channel something that happened; it has no end and waits for nobody. Twice at one instant it is told once.

        Raises:
            InputError: there is no such channel, the deployment has not set it, or there is nothing to say.
        """
        name, now = channel_named(channel), self._clock.now()
        if name not in self._routing.channels:
            raise InputError(f"channel {name} is not set here; docs/alerts.md names its settings")
        if not message.strip():
            raise InputError("the message is empty; say what happened")
        title = message.strip().splitlines()[0][:120]
        key = f"notification:{digest([name, message, now])}"
        finding = Finding(key, Severity.INFO, title, message, source="send_notification")
        with transaction(self._engine) as session:
            announce(session, finding, self._routing, now, channels=(name,))

    def send_slack_message(self, channel: str, message: str) -> None:
        """Tell `#ml-ops` or `#ml-ops-alerts` something that happened.

        Raises:
            InputError: it is no channel of Slack, or not set.
        """
        if channel_named(channel) not in {"slack", "slack_alerts"}:
            raise InputError(f"{channel!r} is no channel of Slack; use #ml-ops or #ml-ops-alerts")
        self.send_notification(channel, message)

    def _handle(self, alert: Alert) -> None:
        for handler in self._handlers:
            try:
                handler(alert)
            except Exception:  # noqa: BLE001 - somebody else's code, after the fact: it is on record
                _log.error("an alert handler failed on alert %s", alert.id, exc_info=True)
