"""Messages on a real SMTP conversation and a real HTTP post; no secret in any error."""

import json
from dataclasses import replace
from email import message_from_bytes
from email.policy import default

import pytest

from mlops_assets.foundation.errors import SettingsError, TransientError
from mlops_assets.foundation.messages import Message, message_ways, send_mail
from mlops_assets.foundation.posting import NotTakenError
from mlops_assets.foundation.settings import Settings, load_settings
from mlops_assets_tests.foundation.mailbox import Channel, Mailbox, running

MESSAGE = Message("CRITICAL: Model Rollback", "5% → 20%\n- errors", ("sre@company.com", "mlops@company.com"))


def test_mail_reaches_every_recipient() -> None:
    """Arrows and line breaks arrive as they were sent, or the reason for a rollback cannot be read at night."""
    mailbox = Mailbox()
    with running(mailbox):
        message_ways(load_settings({"MLOPS_SMTP_URL": mailbox.url}))["e-mail"](MESSAGE)
    (sent,) = mailbox.messages
    received = message_from_bytes(sent.encode(), policy=default)
    assert mailbox.recipients == ["sre@company.com", "mlops@company.com"]
    assert received["Subject"] == "CRITICAL: Model Rollback"
    assert received.get_content().splitlines() == ["5% → 20%", "- errors"]


def test_without_recipients_no_mail() -> None:
    """A deployment without a role table has nobody to mail, which is no failure to be tried again for ever."""
    mailbox = Mailbox()
    with running(mailbox):
        message_ways(load_settings({"MLOPS_SMTP_URL": mailbox.url}))["e-mail"](Message("subject", "text"))
    assert (mailbox.messages, mailbox.recipients) == ([], [])


def test_slack_gets_the_text() -> None:
    """A webhook that is posted something else than `text` answers with an error to nobody."""
    channel = Channel()
    with running(channel):
        message_ways(load_settings({"MLOPS_SLACK_WEBHOOK": channel.url}))["Slack"](MESSAGE)
    assert [json.loads(body) for body in channel.posted] == [{"text": MESSAGE.text}]


def test_what_is_said_calls_nobody_in_slack() -> None:
    """An error message of a stranger's test calls the whole channel, or what stands in angle brackets is not read."""
    channel = Channel()
    with running(channel):
        text = '<!channel> "a" & b < c'
        message_ways(load_settings({"MLOPS_SLACK_WEBHOOK": channel.url}))["Slack"](Message("subject", text))
    assert [json.loads(body) for body in channel.posted] == [{"text": '&lt;!channel&gt; "a" &amp; b &lt; c'}]


def test_failures_are_transient_and_show_no_secret() -> None:
    """The password of the mail server or the webhook's URL ends in the daemon's log."""
    mailbox, channel = Mailbox(), Channel()
    mailbox.taking = channel.taking = False
    with running(mailbox), running(channel):
        for environ in ({"MLOPS_SMTP_URL": mailbox.url}, {"MLOPS_SLACK_WEBHOOK": channel.url}):
            ((_, way),) = message_ways(load_settings(environ)).items()
            with pytest.raises(TransientError, match="did not take the message"):
                way(MESSAGE)
    environ = {
        "MLOPS_SMTP_URL": "smtp://me:hush-hush@127.0.0.1:1",
        "MLOPS_SLACK_WEBHOOK": "http://127.0.0.1:1/hush-hush",
    }
    settings = load_settings(environ)
    assert "hush" not in repr(settings)
    for way in message_ways(settings).values():
        with pytest.raises(TransientError) as caught:
            way(MESSAGE)
        assert "hush" not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "environ",
    [
        {"MLOPS_SMTP_URL": "mail.company.com:hush"},
        {"MLOPS_SMTP_URL": "smtp://me:hush@mail:port"},
        {"MLOPS_SMTP_URL": "http://hush"},
        {"MLOPS_SLACK_WEBHOOK": "file:///hush"},
    ],
)
def test_what_is_no_url_of_the_way_is_refused(environ: dict[str, str]) -> None:
    """A way with a typo is silently off, or reads a file."""
    with pytest.raises(SettingsError) as caught:
        message_ways(load_settings(environ))
    assert "hush" not in str(caught.value)
    assert next(iter(environ)) in str(caught.value)


def test_a_message_is_taken_once_the_server_says_so() -> None:
    """A server that takes a message and then says nothing more is sent it again and again."""
    mailbox = Mailbox()
    mailbox.silent_after_data = True
    with running(mailbox):
        send_mail(mailbox.url, replace(MESSAGE, message_id="<7@alerts>"), seconds=2.0)
    (sent,) = mailbox.messages
    assert message_from_bytes(sent.encode(), policy=default)["Message-ID"] == "<7@alerts>"


@pytest.mark.parametrize(
    ("code", "refused"),
    [("451 later", False), ("421 closing", False), ("550 no such user", True), ("552 too big", True)],
)
@pytest.mark.parametrize("at", ["recipient", "data"])
def test_what_is_refused_for_good_is_told_from_what_may_pass(code: str, refused: bool, at: str) -> None:
    """One message that no server takes holds back all others of the channel, or a busy server counts as a bad message."""
    mailbox = Mailbox()
    mailbox.refusal = (at, code)
    with running(mailbox), pytest.raises(NotTakenError) as caught:
        send_mail(mailbox.url, MESSAGE, seconds=2.0)
    assert caught.value.refused == refused
    assert mailbox.messages == []


def test_one_bad_recipient_keeps_the_message_from_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody has left the company, and nobody is mailed any more; or nobody hears that somebody was not."""
    mailbox = Mailbox()
    mailbox.unknown = {"sre@company.com"}
    with running(mailbox):
        send_mail(mailbox.url, MESSAGE, seconds=2.0)
    assert len(mailbox.messages) == 1
    assert "took 'CRITICAL: Model Rollback', but not for sre@company.com" in caplog.text


def test_off_by_default() -> None:
    """A laptop mails somebody's boss."""
    assert message_ways(Settings()) == {}
