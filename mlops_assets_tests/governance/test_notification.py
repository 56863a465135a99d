"""Messages to approvers on a real SMTP conversation and a real HTTP post; no secret in any error."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mlops_assets.foundation.errors import SettingsError, TransientError
from mlops_assets.foundation.settings import Settings, load_settings
from mlops_assets.governance.notification import notifiers
from mlops_assets_tests.governance.conftest import ML, QA
from mlops_assets_tests.governance.test_follow_up import REQUEST


class Mailbox(socketserver.ThreadingTCPServer):
    """A mail server that takes everything, or answers 451 to every message."""

    allow_reuse_address = True
    daemon_threads = True
    taking = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.messages: list[str] = []
        self.recipients: list[str] = []


class Conversation(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self.say("220 ready")
        while line := self.rfile.readline().decode().strip():
            word = line.split()[0].upper()
            if word == "QUIT":
                return self.say("221 bye")
            if word == "RCPT":
                self.server.recipients.append(line.split("<")[1].split(">")[0])
            if word == "DATA":
                self.data()
            else:
                self.say("250 ok")
        return None

    def data(self) -> None:
        self.say("354 go on")
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            lines.append(line.decode())
        if self.server.taking:
            self.server.messages.append("".join(lines))
        self.say("250 taken" if self.server.taking else "451 later")

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_mail_reaches_every_approver_with_the_link() -> None:
    """An approver who is not told approves nothing, and one without the link does not know where."""
    mailbox = Mailbox()
    with running(mailbox):
        settings = load_settings(
            {
                "MLOPS_SMTP_URL": f"smtp://127.0.0.1:{mailbox.server_address[1]}",
                "MLOPS_APPROVALS_URL": "https://mlops.company.com/",
            }
        )
        notifiers(settings)["e-mail"](REQUEST)
    (message,) = mailbox.messages
    assert mailbox.recipients == [ML, QA]
    assert f"Subject: Approval needed: {REQUEST.model_name} 1.0.0" in message
    assert "https://mlops.company.com/approvals/requirements-agent-dqn/1.0.0" in message
    assert "- new architecture" in message
    assert "needs 2 approvals" in message


def test_slack_gets_the_same_text() -> None:
    """A webhook that is posted something else than `text` answers with an error to nobody."""
    posted: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Hook)
    with running(server):
        settings = load_settings({"MLOPS_SLACK_WEBHOOK": f"http://127.0.0.1:{server.server_address[1]}/services/T/B"})
        notifiers(settings)["Slack"](REQUEST)
    (body,) = posted
    assert "http://127.0.0.1:8000/approvals/requirements-agent-dqn/1.0.0" in json.loads(body)["text"]


def test_failures_are_transient_and_show_no_secret() -> None:
    """The password of the mail server or the webhook's URL ends in the daemon's log."""
    mailbox = Mailbox()
    mailbox.taking = False
    with running(mailbox):
        url = f"smtp://127.0.0.1:{mailbox.server_address[1]}"
        with pytest.raises(TransientError, match="did not take the message"):
            notifiers(load_settings({"MLOPS_SMTP_URL": url}))["e-mail"](REQUEST)
    environ = {
        "MLOPS_SMTP_URL": "smtp://me:hush-hush@127.0.0.1:1",
        "MLOPS_SLACK_WEBHOOK": "http://127.0.0.1:1/hush-hush",
    }
    settings = load_settings(environ)
    assert "hush" not in repr(settings)
    for way in notifiers(settings).values():
        with pytest.raises(TransientError) as caught:
            way(REQUEST)
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
        notifiers(load_settings(environ))
    assert "hush" not in str(caught.value)
    assert next(iter(environ)) in str(caught.value)


def test_off_by_default() -> None:
    """A laptop mails somebody's boss."""
    assert notifiers(Settings()) == {}
