"""A real SMTP conversation and a real webhook on loopback, for tests of what is sent to people."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer


class Mailbox(socketserver.ThreadingTCPServer):
    """A mail server that takes everything, or answers 451 to every message.

    `refusal`: at which of the words `recipient` and `data` it says what; `unknown`: recipients that it does not have;
    `silent_after_data`: having taken a message it says nothing more.
    """

    allow_reuse_address = True
    daemon_threads = True
    taking = True
    silent_after_data = False
    refusal: tuple[str, str] | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.unknown: set[str] = set()
        self.messages: list[str] = []
        self.recipients: list[str] = []

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.server_address[1]}"


class Conversation(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self.say("220 ready")
        while line := self.rfile.readline().decode().strip():
            word = line.split()[0].upper()
            if word == "QUIT":
                # Who has nothing more to say may be gone.
                with suppress(OSError):
                    self.say("221 bye")
                return
            if word == "DATA":
                self.data()
            else:
                self.say(self.recipient(line.split("<")[1].split(">")[0]) if word == "RCPT" else "250 ok")

    def recipient(self, address: str) -> str:
        refusal = self.server.refusal
        if refusal is not None and refusal[0] == "recipient":
            return refusal[1]
        if address in self.server.unknown:
            return "550 no such user"
        self.server.recipients.append(address)
        return "250 ok"

    def data(self) -> None:
        self.say("354 go on")
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            lines.append(line.decode())
        refusal = self.server.refusal
        if refusal is not None:
            return self.say(refusal[1])
        if self.server.taking:
            self.server.messages.append("".join(lines))
        self.say("250 taken" if self.server.taking else "451 later")
        if self.server.silent_after_data:
            self.rfile.read()
        return None

    def say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class Channel(HTTPServer):
    """A webhook that takes every post, or answers 500."""

    taking = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hook)
        self.posted: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/services/T/B"


class Hook(BaseHTTPRequestHandler):
    server: Channel

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.server.taking:
            self.server.posted.append(body)
        self.send_response(200 if self.server.taking else 500)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


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
