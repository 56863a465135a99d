"""The ways to people, each against a real receiver of its protocol; none shows its secret."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from mlops_assets.foundation.errors import InputError, SettingsError
from mlops_assets.foundation.posting import NotTakenError
from mlops_assets.foundation.settings import load_settings
from mlops_assets.monitoring.channels import Send, alert_channels, alert_routing, channel_named, send_to_log
from mlops_assets.monitoring.findings import Alert
from mlops_assets.monitoring.notices import AlertState, NoticeKind
from mlops_assets.monitoring.severity import Severity
from mlops_assets.monitoring.wording import NoticeMessage, as_read, message_of
from mlops_assets_tests.foundation.mailbox import running
from mlops_assets_tests.monitoring.alerting import NOW, finding, limits, policy
from mlops_assets_tests.monitoring.receivers import ROUTING_KEY, Answer, Mail, Slack, receiving


def a_notice(kind: NoticeKind = "raised", severity: str = "WARNING", number: int = 1, **state: object) -> NoticeMessage:
    known = AlertState(Severity(severity), "open", 3, NOW, NOW, NOW, **state)  # type: ignore[arg-type]
    return message_of(Alert(17, finding(severity), known), kind, number, NOW, "")


def channels(environ: Mapping[str, str]) -> dict[str, Send]:
    quick = policy(delivery=limits(answer_seconds=0.5))
    return {str(name): send for name, send in alert_channels(load_settings(environ), quick).items()}


def test_slack_takes_the_text_with_its_id() -> None:
    """A webhook that is posted something else than `text` answers with an error to nobody."""
    slack, message = Slack(), a_notice()
    with receiving(slack):
        channels({"MLOPS_SLACK_WEBHOOK": slack.url})["slack"](message)
    assert slack.taken == [{"text": as_read(message).text, "id": message.id}]


def test_slack_has_two_channels() -> None:
    """C-25: what is an alert in one source is news in the other; with one webhook, both are there."""
    news, alarms = Slack(), Slack()
    with receiving(news, alarms):
        both = channels({"MLOPS_SLACK_WEBHOOK": news.url, "MLOPS_SLACK_ALERTS_WEBHOOK": alarms.url})
        both["slack"](a_notice())
        both["slack_alerts"](a_notice(number=2))
        assert (len(news.taken), len(alarms.taken)) == (1, 1)
        channels({"MLOPS_SLACK_WEBHOOK": news.url})["slack_alerts"](a_notice(number=3))
        assert len(news.taken) == 2
    assert set(channels({"MLOPS_SLACK_ALERTS_WEBHOOK": alarms.url})) == {"log", "slack_alerts"}


def test_mail_goes_to_roles_and_further_when_it_escalates(tmp_path: Path) -> None:
    """INC-5: the escalation goes to the same person who did not answer, or its end to fewer than its beginning."""
    roles = tmp_path / "roles.yaml"
    roles.write_text(
        "ml@company.com: [ml_engineer]\nops@company.com: [mlops]\nnight@company.com: [sre]\nbot: [sre]\n",
        encoding="utf-8",
    )
    mail = Mail()
    with running(mail):
        environ = {
            "MLOPS_SMTP_URL": mail.url,
            "MLOPS_ROLES_FILE": str(roles),
            "MLOPS_ALERT_RECIPIENTS": "ml-alerts@company.com,night@company.com",
        }
        send = channels(environ)["email"]
        send(a_notice())
        first, mail.recipients = mail.recipients, []
        send(a_notice("escalated", "CRITICAL", 2, escalated_at=NOW))
        second, mail.recipients = mail.recipients, []
        send(a_notice("recovered", "CRITICAL", 3, escalated_at=NOW))
    assert first == ["ml-alerts@company.com", "night@company.com", "ops@company.com"]
    assert second == mail.recipients == [*first[:2], "ml@company.com", "ops@company.com"]
    assert [one["Subject"] for one in mail.mails] == [
        "WARNING: Error rate 0.013 (execution-agent-dqn)",
        "ESCALATED, CRITICAL: Error rate 0.013 (execution-agent-dqn)",
        "RECOVERED, WAS CRITICAL: Error rate 0.013 (execution-agent-dqn)",
    ]
    assert mail.mails[0]["Message-ID"] == f"<{a_notice().id}@alerts.mlops-assets>"


def test_only_what_is_set() -> None:
    """A laptop pages somebody; or e-mails to nobody are taken for sent."""
    assert set(channels({})) == {"log"}
    assert set(channels({"MLOPS_SMTP_URL": "smtp://mail"})) == {"log"}
    everything = {
        "MLOPS_SMTP_URL": "smtp://mail",
        "MLOPS_ALERT_RECIPIENTS": "a@b.com",
        "MLOPS_SLACK_WEBHOOK": "https://slack",
        "MLOPS_PAGERDUTY_ROUTING_KEY": ROUTING_KEY,
        "MLOPS_SENTRY_DSN": "https://k@sentry/1",
    }
    assert set(channels(everything)) == {"log", "slack", "slack_alerts", "email", "pagerduty", "sentry"}
    assert alert_routing(load_settings(everything)).channels == set(channels(everything))


@pytest.mark.parametrize(
    "environ",
    [
        {"MLOPS_SLACK_ALERTS_WEBHOOK": "file:///hush"},
        {"MLOPS_SENTRY_DSN": "https://sentry/1?hush"},
        {"MLOPS_SENTRY_DSN": "https://hush@sentry/project"},
        {"MLOPS_SENTRY_DSN": "https://hush@sentry:x/1"},
        {"MLOPS_PAGERDUTY_URL": "file:///etc", "MLOPS_PAGERDUTY_ROUTING_KEY": ROUTING_KEY},
        {"MLOPS_PAGERDUTY_ROUTING_KEY": "hush"},
        {"MLOPS_ALERT_RECIPIENTS": "a@b.com, nobody"},
        {"MLOPS_SMTP_URL": "hush", "MLOPS_ALERT_RECIPIENTS": "a@b.com"},
    ],
)
def test_what_is_no_address_is_refused_at_once(environ: dict[str, str]) -> None:
    """A way with a typo is found out on the night on which it is needed; or its error shows the secret."""
    with pytest.raises(SettingsError, match=next(iter(environ))) as caught:
        channels(environ)
    assert "hush" not in str(caught.value)


def test_the_log_has_one_line() -> None:
    """With no way set, it is all there is: a CRITICAL that is logged as INFO is read by nobody."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("alerts")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        for message in (a_notice(), a_notice("raised", "CRITICAL"), a_notice("recovered", "CRITICAL")):
            send_to_log(message)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert [record.levelname for record in records] == ["WARNING", "CRITICAL", "INFO"]
    assert records[0].getMessage().startswith("WARNING: Error rate 0.013 (execution-agent-dqn); error rate is")
    assert "\n" not in records[0].getMessage()


def test_names_of_channels() -> None:
    """C-25: '#ml-ops' of one source and 'page_oncall' of another are sent to nobody."""
    assert [channel_named(name) for name in ("#ml-ops", "ml-ops-alerts", "E-Mail", " page_oncall ")] == [
        "slack",
        "slack_alerts",
        "email",
        "pagerduty",
    ]
    with pytest.raises(InputError, match=r"'#general' is no channel; use one of #ml-ops"):
        channel_named("#general")


@pytest.mark.parametrize(
    ("answer", "refused", "wait", "text"),
    [
        (Answer(500), False, None, "it answered 500"),
        (Answer(503, {"Retry-After": "7"}), False, 7.0, "it answered 503, asked to wait 7 s"),
        (Answer(429, {"Retry-After": "30"}), False, 30.0, "it answered 429, asked to wait 30 s"),
        (Answer(429), False, None, "it answered 429"),
        (Answer(404), False, None, "it answered 404"),
        (Answer(302, {"Location": "http://127.0.0.1:1/"}), False, None, "it answered 302"),
        (Answer(400), True, None, "it answered 400"),
        (Answer(413), True, None, "it answered 413"),
        (Answer(delay_seconds=2.0), False, None, "did not take the message"),
    ],
)
def test_what_was_not_taken(answer: Answer, refused: bool, wait: float | None, text: str) -> None:
    """A redirected or late message counts as told, or one bad message stops all the others."""
    slack = Slack()
    with receiving(slack):
        slack.answers.append(answer)
        with pytest.raises(NotTakenError, match=text) as caught:
            channels({"MLOPS_SLACK_WEBHOOK": slack.url})["slack"](a_notice())
    assert (caught.value.refused, caught.value.retry_after_seconds) == (refused, wait)
    assert "hush" not in str(caught.value)
    assert "MLOPS_SLACK_WEBHOOK" in str(caught.value)
