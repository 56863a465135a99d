"""The ways to people that a deployment has set, by name: what each takes is one notice. When is `delivery.py`'s business."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from mlops_assets.foundation.access import access_control
from mlops_assets.foundation.errors import InputError, SettingsError
from mlops_assets.foundation.messages import checked_mail_url, checked_webhook, post_to_slack, send_mail
from mlops_assets.foundation.policies import AlertingPolicy, ChannelName, Role
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import Settings
from mlops_assets.monitoring.findings import Routing
from mlops_assets.monitoring.pagerduty import send_to_pagerduty
from mlops_assets.monitoring.sentry import parse_dsn, send_to_sentry
from mlops_assets.monitoring.severity import Severity
from mlops_assets.monitoring.wording import NoticeMessage, as_read

# Takes one notice, or raises NotTakenError.
Send = Callable[[NoticeMessage], None]

ALIASES: Mapping[str, ChannelName] = {
    "#ml-ops": "slack",
    "ml-ops": "slack",
    "slack": "slack",
    "#ml-ops-alerts": "slack_alerts",
    "ml-ops-alerts": "slack_alerts",
    "slack_alerts": "slack_alerts",
    "email": "email",
    "e-mail": "email",
    "pagerduty": "pagerduty",
    "page_oncall": "pagerduty",
    "sentry": "sentry",
    "log": "log",
}
_LEVELS = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING, Severity.CRITICAL: logging.CRITICAL}
_log = logging.getLogger("alerts")


def channel_named(name: str) -> ChannelName:
    """Return the channel that a name of any source stands for.

    Raises:
        InputError: it stands for none.
    """
    found = ALIASES.get(name.strip().casefold())
    if found is None:
        raise InputError(f"{name!r} is no channel; use one of {', '.join(ALIASES)}")
    return found


def alert_routing(settings: Settings) -> Routing:
    """Return what is told where in a deployment.

    Raises:
        SettingsError: a way is set to something else than its address.
    """
    policy = load_profile(settings.policy_profile).alerting
    return Routing(policy, frozenset(alert_channels(settings, policy)))


def alert_channels(settings: Settings, policy: AlertingPolicy) -> dict[ChannelName, Send]:
    """Return what sends a notice, by channel; the log is always there.

    Without a webhook of its own, `slack_alerts` is the channel of `slack`. E-mails need somebody to get them: a role
    table, or MLOPS_ALERT_RECIPIENTS.

    Raises:
        SettingsError: a way is set to something else than its address.
    """
    seconds = policy.delivery.answer_seconds
    channels: dict[ChannelName, Send] = {"log": send_to_log}
    if settings.slack_webhook is not None:
        channels["slack"] = _slack(settings.slack_webhook.get_secret_value(), "MLOPS_SLACK_WEBHOOK", seconds)
        channels["slack_alerts"] = channels["slack"]
    if settings.slack_alerts_webhook is not None:
        webhook = settings.slack_alerts_webhook.get_secret_value()
        channels["slack_alerts"] = _slack(webhook, "MLOPS_SLACK_ALERTS_WEBHOOK", seconds)
    people = access_control(settings).people
    recipients = {
        escalated: _recipients(settings, people, policy.roles_told(escalated=escalated)) for escalated in (False, True)
    }
    if settings.smtp_url is not None and any(recipients.values()):
        channels["email"] = _mail(checked_mail_url(settings.smtp_url.get_secret_value()), recipients, seconds)
    if settings.pagerduty_routing_key is not None:
        channels["pagerduty"] = _pagerduty(
            settings.pagerduty_url, settings.pagerduty_routing_key.get_secret_value(), seconds
        )
    if settings.sentry_dsn is not None:
        project = parse_dsn(settings.sentry_dsn.get_secret_value())
        channels["sentry"] = lambda message: send_to_sentry(project, settings.environment, message, seconds=seconds)
    return channels


def send_to_log(message: NoticeMessage) -> None:
    """Write one line to the logger `alerts`."""
    level = logging.INFO if message.kind in {"recovered", "acknowledged"} else _LEVELS[message.severity]
    _log.log(level, "%s", as_read(message).text.replace("\n", "; "))


def _slack(webhook: str, setting: str, seconds: float) -> Send:
    url = checked_webhook(webhook, setting)
    return lambda message: post_to_slack(url, as_read(message), setting=setting, seconds=seconds)


def _mail(url: str, recipients: Mapping[bool, Sequence[str]], seconds: float) -> Send:
    def send(message: NoticeMessage) -> None:
        # Who was told by the escalation is told how it ends.
        told = recipients[message.escalated]
        send_mail(url, replace(as_read(message), recipients=tuple(told)), seconds=seconds)

    return send


def _pagerduty(url: str, routing_key: str, seconds: float) -> Send:
    if not url.startswith(("https://", "http://")):
        raise SettingsError(
            f"MLOPS_PAGERDUTY_URL={url!r}: expected https://events.pagerduty.com/v2/enqueue or the EU's"
        )
    return lambda message: send_to_pagerduty(url, routing_key, message, seconds=seconds)


def _recipients(settings: Settings, people: Mapping[str, Sequence[Role]], wanted: Sequence[Role]) -> tuple[str, ...]:
    named = settings.alert_recipients.split(", ") if settings.alert_recipients else []
    holders = [person for person, roles in people.items() if "@" in person and set(wanted) & set(roles)]
    return tuple(dict.fromkeys((*named, *holders)))
