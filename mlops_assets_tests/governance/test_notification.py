"""Messages to approvers, on a real SMTP conversation and a real HTTP post."""

import json

from mlops_assets.foundation.settings import Settings, load_settings
from mlops_assets.governance.notification import notifiers
from mlops_assets_tests.foundation.mailbox import Channel, Mailbox, running
from mlops_assets_tests.governance.conftest import ML, QA
from mlops_assets_tests.governance.test_follow_up import REQUEST


def test_mail_reaches_every_approver_with_the_link() -> None:
    """An approver who is not told approves nothing, and one without the link does not know where."""
    mailbox = Mailbox()
    with running(mailbox):
        environ = {"MLOPS_SMTP_URL": mailbox.url, "MLOPS_APPROVALS_URL": "https://mlops.company.com/"}
        notifiers(load_settings(environ))["e-mail"](REQUEST)
    (message,) = mailbox.messages
    assert mailbox.recipients == [ML, QA]
    assert f"Subject: Approval needed: {REQUEST.model_name} 1.0.0" in message
    assert "https://mlops.company.com/approvals/requirements-agent-dqn/1.0.0" in message
    assert "- new architecture" in message
    assert "needs 2 approvals" in message


def test_slack_gets_the_same_text() -> None:
    """A channel that is told something else than the approvers discusses something else."""
    channel = Channel()
    with running(channel):
        notifiers(load_settings({"MLOPS_SLACK_WEBHOOK": channel.url}))["Slack"](REQUEST)
    (body,) = channel.posted
    assert "http://127.0.0.1:8000/approvals/requirements-agent-dqn/1.0.0" in json.loads(body)["text"]


def test_off_by_default() -> None:
    """A laptop mails somebody's boss."""
    assert notifiers(Settings()) == {}
