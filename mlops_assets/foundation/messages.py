"""Messages to people: e-mail by SMTP and a Slack webhook, both off unless they are set. What is said is others' business."""

import json
import smtplib
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from http.client import HTTPException
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from mlops_assets.foundation.errors import SettingsError, TransientError
from mlops_assets.foundation.settings import Settings

# A sensor's tick waits for it.
_SECONDS = 10.0
_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
_FORM = "use smtp://, smtp+starttls:// or smtps://<user>:<password>@<host>:<port>"


@dataclass(frozen=True)
class Message:
    """What is told; `recipients` are e-mail addresses, a channel has its own readers."""

    subject: str
    text: str
    recipients: Sequence[str] = ()


Way = Callable[[Message], None]


def message_ways(settings: Settings) -> dict[str, Way]:
    """Return what sends a message, by the name of the way; empty when none is set.

    Raises:
        SettingsError: a way is set to something else than its URL.
    """
    ways: dict[str, Way] = {}
    if settings.smtp_url is not None:
        url = settings.smtp_url.get_secret_value()
        _parsed(url)
        ways["e-mail"] = lambda message: send_mail(url, message)
    if settings.slack_webhook is not None:
        webhook = settings.slack_webhook.get_secret_value()
        if not webhook.startswith(("https://", "http://")):
            raise SettingsError("MLOPS_SLACK_WEBHOOK=<hidden>: expected the https:// URL of an incoming webhook")
        ways["Slack"] = lambda message: post_to_slack(webhook, message)
    return ways


def send_mail(url: str, message: Message) -> None:
    """Mail the recipients; without any, nothing is sent.

    Raises:
        TransientError: the server did not take the message; it names the host, never the password.
    """
    if not message.recipients:
        return
    scheme, host, port, user, password = _parsed(url)
    mail = EmailMessage()
    mail["Subject"] = message.subject
    mail["From"] = user if user and "@" in user else f"mlops@{host}"
    mail["To"] = ", ".join(message.recipients)
    mail.set_content(message.text)
    try:
        with _connection(scheme, host, port) as server:
            if user:
                server.login(user, password or "")
            server.send_message(mail)
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise TransientError(
            f"SMTP server {host}:{port} did not take the message ({type(error).__name__}); see MLOPS_SMTP_URL"
        ) from None


def post_to_slack(webhook: str, message: Message) -> None:
    """Post to the channel of the webhook.

    Raises:
        TransientError: it did not take the message; the URL is a secret and not named.
    """
    body = json.dumps({"text": message.text}).encode()
    headers = {"Content-Type": "application/json"}
    try:
        with urlopen(Request(webhook, body, headers), timeout=_SECONDS):  # noqa: S310 - http(s) only, see `message_ways`
            pass
    except (HTTPException, OSError, ValueError) as error:
        raise TransientError(
            f"the Slack webhook did not take the message ({type(error).__name__}); see MLOPS_SLACK_WEBHOOK"
        ) from None


def _connection(scheme: str, host: str, port: int) -> smtplib.SMTP:
    if scheme == "smtps":
        return smtplib.SMTP_SSL(host, port, timeout=_SECONDS, context=ssl.create_default_context())
    server = smtplib.SMTP(host, port, timeout=_SECONDS)
    if scheme == "smtp+starttls":
        try:
            server.starttls(context=ssl.create_default_context())
        except BaseException:
            server.close()
            raise
    return server


def _parsed(url: str) -> tuple[str, str, int, str | None, str | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise SettingsError(f"MLOPS_SMTP_URL=<hidden>: is no URL; {_FORM}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise SettingsError(f"MLOPS_SMTP_URL=<hidden>: is no URL of a mail server; {_FORM}")
    user, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
    return parts.scheme, parts.hostname, port or _PORTS[parts.scheme], user, password
