"""Messages to approvers: e-mail by SMTP and a Slack webhook, both off unless they are set. Nothing is decided here."""

import json
import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from http.client import HTTPException
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from mlops_assets.foundation.errors import SettingsError, TransientError
from mlops_assets.foundation.settings import Settings
from mlops_assets.governance.approval_requests import ApprovalRequest

# A sensor's tick waits for it.
_SECONDS = 10.0
_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
_FORM = "use smtp://, smtp+starttls:// or smtps://<user>:<password>@<host>:<port>"


def notifiers(settings: Settings) -> dict[str, Callable[[ApprovalRequest], None]]:
    """Return what tells the approvers of a request, by the name of the way; empty when none is set.

    Raises:
        SettingsError: a way is set to something else than its URL.
    """
    ways: dict[str, Callable[[ApprovalRequest], None]] = {}
    if settings.smtp_url is not None:
        url = settings.smtp_url.get_secret_value()
        _parsed(url)
        ways["e-mail"] = lambda request: send_mail(url, request, link(settings, request))
    if settings.slack_webhook is not None:
        webhook = settings.slack_webhook.get_secret_value()
        if not webhook.startswith(("https://", "http://")):
            raise SettingsError("MLOPS_SLACK_WEBHOOK=<hidden>: expected the https:// URL of an incoming webhook")
        ways["Slack"] = lambda request: post_to_slack(webhook, request, link(settings, request))
    return ways


def link(settings: Settings, request: ApprovalRequest) -> str:
    """Return where the request can be read and decided on."""
    base = settings.approvals_url or f"http://{settings.serving_host}:{settings.serving_port}"
    return f"{base.rstrip('/')}/approvals/{request.model_name}/{request.semver}"


def text_of(request: ApprovalRequest, url: str) -> str:
    """Say what is asked, of whom, why, and until when."""
    asked = f"{request.model_name} {request.semver} needs {request.min_approvals} approvals"
    of_whom = f"{', '.join(request.required_approvers)} until {request.expires_at:%Y-%m-%d %H:%M} UTC"
    reasons = [f"- {reason}" for reason in request.reasons]
    return "\n".join([f"{asked} of {of_whom}.", *reasons, url])


def send_mail(url: str, request: ApprovalRequest, link_url: str) -> None:
    """Mail every approver who may still vote.

    Raises:
        TransientError: the server did not take the message; it names the host, never the password.
    """
    scheme, host, port, user, password = _parsed(url)
    message = EmailMessage()
    message["Subject"] = f"Approval needed: {request.model_name} {request.semver}"
    message["From"] = user if user and "@" in user else f"mlops@{host}"
    message["To"] = ", ".join(request.awaited or request.required_approvers)
    message.set_content(text_of(request, link_url))
    try:
        with _connection(scheme, host, port) as server:
            if user:
                server.login(user, password or "")
            server.send_message(message)
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise TransientError(
            f"SMTP server {host}:{port} did not take the message ({type(error).__name__}); see MLOPS_SMTP_URL"
        ) from None


def post_to_slack(webhook: str, request: ApprovalRequest, link_url: str) -> None:
    """Post to the channel of the webhook.

    Raises:
        TransientError: it did not take the message; the URL is a secret and not named.
    """
    body = json.dumps({"text": text_of(request, link_url)}).encode()
    headers = {"Content-Type": "application/json"}
    try:
        with urlopen(Request(webhook, body, headers), timeout=_SECONDS):  # noqa: S310 - http(s) only, see `notifier`
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
