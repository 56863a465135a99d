"""The documented nginx in front of the server: it is accepted, asks for certificates, and hides what clients claim."""

import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mlops_assets.serving.client import DecisionClient, ServingError
from mlops_assets_tests.programs import free_port, system_program
from mlops_assets_tests.serving.loopback import served

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "serving-security.md"
FRAME = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {block}
}}
"""


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(
        [system_program("openssl", "openssl"), *arguments], cwd=folder, check=True, capture_output=True, timeout=60
    )


def _certificate(folder: Path, name: str, authority: str) -> None:
    """Make a key and a certificate of an authority; made here, valid for a day, thrown away."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]
    _openssl(
        folder, "req", *key, "-subj", f"/CN={name}", "-out", f"{name}.csr", "-addext", "subjectAltName=IP:127.0.0.1"
    )
    signed = ["-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-CAcreateserial", "-copy_extensions", "copy"]
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, "-days", "1", "-out", f"{name}.crt")


def _authority(folder: Path, name: str) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]
    _openssl(folder, "req", "-x509", *key, "-subj", f"/CN={name}", "-days", "1", "-out", f"{name}.crt")


@dataclass(frozen=True)
class Proxy:
    """nginx with the documented server block, and the certificates around it."""

    url: str
    tls: Path

    def context(self, client: str | None) -> ssl.SSLContext:
        """What a client trusts and shows."""
        context = ssl.create_default_context(cafile=str(self.tls / "server-ca.crt"))
        if client is not None:
            context.load_cert_chain(self.tls / f"{client}.crt", self.tls / f"{client}.key")
        return context


def _documented_block() -> str:
    found = re.findall(r"```nginx\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The documented block, with paths and ports of this test only."""
    nginx = system_program("nginx", "nginx-light")
    folder = tmp_path_factory.mktemp("nginx")
    for authority in ("server-ca", "clients-ca", "strangers-ca"):
        _authority(folder, authority)
    for name, authority in (("server", "server-ca"), ("runner", "clients-ca"), ("stranger", "strangers-ca")):
        _certificate(folder, name, authority)

    async def echo(request: Request) -> JSONResponse:
        return JSONResponse(
            {
                "size": len(await request.body()),
                "authorization": request.headers.get("authorization"),
                "address": request.client.host if request.client else None,
                "scheme": request.url.scheme,
            }
        )

    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])
    with served(app) as upstream:
        port = free_port()
        command = [
            nginx,
            "-p",
            str(folder),
            "-c",
            str(_configuration(folder, upstream, port)),
            "-e",
            f"{folder}/error.log",
        ]
        tested = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False, timeout=30)
        assert tested.returncode == 0, tested.stderr
        assert "warn" not in tested.stderr
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        found = Proxy(f"https://127.0.0.1:{port}", folder)
        try:
            _wait_for(found)
            yield found
        finally:
            process.terminate()
            process.wait(timeout=30)


def _configuration(folder: Path, upstream: int, port: int) -> Path:
    block = _documented_block()
    for written, here in (
        ("/etc/mlops/tls/", f"{folder}/"),
        ("127.0.0.1:8000", f"127.0.0.1:{upstream}"),
        ("listen 8443 ssl", f"listen 127.0.0.1:{port} ssl"),
    ):
        assert written in block
        block = block.replace(written, here)
    file = folder / "nginx.conf"
    file.write_text(FRAME.format(folder=folder, block=block), encoding="utf-8")
    return file


def _wait_for(proxy: Proxy) -> None:
    deadline = time.monotonic() + 30.0
    while True:
        try:
            if httpx.get(proxy.url, verify=proxy.context("runner")).status_code == 200:
                return
        except httpx.TransportError:
            assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_client_with_a_certificate_gets_through_with_its_token(proxy: Proxy) -> None:
    """The proxy would swallow the token, or believe the address that a client writes."""
    with httpx.Client(verify=proxy.context("runner")) as client:
        answer = client.get(proxy.url, headers={"Authorization": "Bearer t", "X-Forwarded-For": "6.6.6.6"}).json()
    assert answer == {"size": 0, "authorization": "Bearer t", "address": "127.0.0.1", "scheme": "https"}


@pytest.mark.parametrize("certificate", [None, "stranger"])
def test_a_client_without_a_certificate_of_the_authority_does_not(proxy: Proxy, certificate: str | None) -> None:
    """Mutual TLS that lets anybody in looks exactly as the one that works."""
    response = httpx.get(proxy.url, verify=proxy.context(certificate))
    assert response.status_code == 400
    assert "certificate" in response.text


def test_a_body_over_the_limit_ends_at_the_proxy(proxy: Proxy) -> None:
    """The proxy's limit below the server's would refuse batches that are allowed."""
    with httpx.Client(verify=proxy.context("runner")) as client:
        assert client.post(proxy.url, content=b"x" * 1_048_576).json()["size"] == 1_048_576
        assert client.post(proxy.url, content=b"x" * 1_048_577).status_code == 413


def test_the_client_shows_its_certificate(proxy: Proxy) -> None:
    """The documented lines of Python would end before the handshake does."""
    with (
        DecisionClient(proxy.url, "t", ssl_context=proxy.context("runner")) as client,
        pytest.raises(ServingError) as error,
    ):
        client.health()
    assert error.value.status == 200  # the handshake passed; the test's upstream is not the API
