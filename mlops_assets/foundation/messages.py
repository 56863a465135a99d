"""Messages to people: e-mail by SMTP and a Slack webhook, both off unless they are set. What is said is others' business."""

import json
import logging
import smtplib
import ssl
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from email.message import EmailMessage
from html import escape
from urllib.parse import unquote, urlsplit

from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.posting import NotTakenError, cut_off, post
from mlops_assets.foundation.settings import Settings

# A sensor's tick waits for it.
_SECONDS = 10.0
_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
_PERMANENT = 500  # RFC 5321, 4.2.1: 5yz is not to be tried again as it is
_log = logging.getLogger(__name__)
_FORM = "use smtp://, smtp+starttls:// or smtps://<user>:<password>@<host>:<port>"


@dataclass(frozen=True)
class Message:
    """What is told; `recipients` are e-mail addresses, a channel has its own readers.

    `message_id`: what an e-mail is known by, so that one that came twice can be told; None: it gets one on its way.
    """

    subject: str
    text: str
    recipients: Sequence[str] = ()
    message_id: str | None = None


Way = Callable[[Message], None]


def message_ways(settings: Settings) -> dict[str, Way]:
    """Return what sends a message, by the name of the way; empty when none is set.

    Raises:
        SettingsError: a way is set to something else than its URL.
    """
    ways: dict[str, Way] = {}
    if settings.smtp_url is not None:
        url = checked_mail_url(settings.smtp_url.get_secret_value())
        ways["e-mail"] = lambda message: send_mail(url, message)
    if settings.slack_webhook is not None:
        webhook = checked_webhook(settings.slack_webhook.get_secret_value(), "MLOPS_SLACK_WEBHOOK")
        ways["Slack"] = lambda message: post_to_slack(webhook, message)
    return ways


def send_mail(url: str, message: Message, *, seconds: float = _SECONDS) -> None:
    """Mail the recipients; without any, nothing is sent. It is taken once the server says so, whatever follows.

    Raises:
        NotTakenError: the server did not take the message; it names the host, never the password.
        SettingsError: the URL is none of a mail server.
    """
    if not message.recipients:
        return
    scheme, host, port, user, password = _parsed(url)
    mail = EmailMessage()
    mail["Subject"] = message.subject
    mail["From"] = user if user and "@" in user else f"mlops@{host}"
    mail["To"] = ", ".join(message.recipients)
    if message.message_id is not None:
        mail["Message-ID"] = message.message_id
    mail.set_content(message.text)
    try:
        server = _connected(scheme, host, port, seconds)
        with closing(server), cut_off(lambda: [server.sock], seconds):
            if user:
                server.login(user, password or "")
            refused = server.send_message(mail)
            _leave(server)
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise NotTakenError(
            f"SMTP server {host}:{port} did not take the message ({type(error).__name__}); see MLOPS_SMTP_URL",
            refused=_is_of_this_message(error),
        ) from None
    if refused:
        _log.error("SMTP server %s:%s took %r, but not for %s", host, port, message.subject, ", ".join(sorted(refused)))


def _is_of_this_message(error: Exception) -> bool:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= _PERMANENT for code, _ in error.recipients.values())
    if isinstance(error, smtplib.SMTPDataError):
        return error.smtp_code >= _PERMANENT
    return isinstance(error, ValueError)


def post_to_slack(
    webhook: str, message: Message, *, setting: str = "MLOPS_SLACK_WEBHOOK", seconds: float = _SECONDS
) -> None:
    """Post to the channel of the webhook, as it stands: nothing in it is a link or calls `<!channel>`.

    Raises:
        NotTakenError: it did not take the message; the URL is a secret and not named.
    """
    # https://docs.slack.dev/messaging/formatting-message-text#escaping: these three, and no others.
    body = json.dumps({"text": escape(message.text, quote=False)}).encode()
    headers = {"Content-Type": "application/json"}
    post(webhook, body, headers, to="the Slack webhook", setting=setting, seconds=seconds)


def checked_mail_url(url: str) -> str:
    """Return the URL of a mail server, if it can be one.

    Raises:
        SettingsError: it cannot.
    """
    _parsed(url)
    return url


def checked_webhook(url: str, setting: str) -> str:
    """Return the URL of an incoming webhook, if it can be one.

    Raises:
        SettingsError: it cannot.
    """
    if not url.startswith(("https://", "http://")):
        raise SettingsError(f"{setting}=<hidden>: expected the https:// URL of an incoming webhook")
    return url


def _leave(server: smtplib.SMTP) -> None:
    """Say good-bye and wait for no answer: the message is taken, and one that stays away would let it be sent again."""
    with suppress(smtplib.SMTPException, OSError):
        server.putcmd("quit")


def _connected(scheme: str, host: str, port: int, seconds: float) -> smtplib.SMTP:
    if scheme == "smtps":
        return smtplib.SMTP_SSL(host, port, timeout=seconds, context=ssl.create_default_context())
    server = smtplib.SMTP(host, port, timeout=seconds)
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
