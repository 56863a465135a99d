"""The image of the server as BentoML's own tooling makes it, up to where a container engine would take over."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from mlops_assets_tests.programs import free_port, system_program

ROOT = Path(__file__).resolve().parents[2]
BENTOML = Path(sys.executable).parent / "bentoml"
SECRET = "5eed-of-all-secrets"
QUIET = {"BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


@dataclass(frozen=True)
class Image:
    """What `bentoml build` left: the bento's folder with its Dockerfile, and the one that `containerize` would build."""

    bento: Path
    dockerfile: str
    containerized: str

    def files(self) -> list[str]:
        """Paths inside the bento."""
        return [str(path.relative_to(self.bento)) for path in self.bento.rglob("*") if path.is_file()]

    def instruction(self, name: str) -> str:
        """The last instruction of a kind, without its name, as a line."""
        joined = self.dockerfile.replace("\\\n", " ")
        found = re.findall(rf"^{name}\s+(.*)$", joined, flags=re.MULTILINE)
        assert found, f"no {name} in the Dockerfile"
        return " ".join(str(found[-1]).split())


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The bento of this checkout, built among files that must not get in."""
    context, home = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("bentoml")
    bytecode = shutil.ignore_patterns("__pycache__")
    for folder in ("mlops_assets", "feature_repo", "deploy", "requirements"):
        shutil.copytree(ROOT / folder, context / folder, ignore=bytecode)
    for file in ("bentofile.yaml", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / file, context / file)
    for unwanted in (
        ".env",
        ".mlops/pseudonym.key",
        ".mlops/mlops_assets/key",
        ".git/config",
        "mlops_assets_tests/test_secret.py",
        "mlops_assets/__pycache__/secret.pyc",
        "vendored/mlops_assets/secret.py",
    ):
        (context / unwanted).parent.mkdir(parents=True, exist_ok=True)
        (context / unwanted).write_text(SECRET, encoding="utf-8")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "BENTOML_HOME": str(home / "bentoml"),
        "MLOPS_PSEUDONYM_KEY": SECRET,
        "MLOPS_DATABASE_URL": f"postgresql://mlops:{SECRET}@database/mlops",
        **QUIET,
    }

    def run(*command: str | Path) -> str:
        # BentoML takes a template only from below the working folder, also from its own temporary one.
        temporary = {"TMPDIR": str(context)}
        result = subprocess.run(
            command, cwd=context, env=environment | temporary, capture_output=True, text=True, check=False, timeout=300
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    run(BENTOML, "build")
    # BentoML wraps a long path at the width of a terminal that is not there.
    bento = Path(run(BENTOML, "get", "decisions:latest", "--output", "path").replace("\n", ""))
    target = home / "Dockerfile"
    program = f"import bentoml; bentoml.container.get_containerfile('decisions:latest', output_path={str(target)!r})"
    run(sys.executable, "-c", program)
    dockerfiles = (bento / "env/docker/Dockerfile", target)
    built, containerized = (file.read_text(encoding="utf-8") for file in dockerfiles)
    return Image(bento, built, containerized)


def test_both_ways_to_an_image_end_alike(image: Image) -> None:
    """`bentoml containerize` would make an image without what the template adds."""
    end = image.dockerfile.index("# Block SETUP_BENTO_ENTRYPOINT")
    assert "HEALTHCHECK" in image.dockerfile[end:]
    assert image.containerized.strip().endswith(image.dockerfile[end:].strip())


def test_the_server_is_not_root(image: Image) -> None:
    """A hole in a parser would be root in the container."""
    assert image.instruction("USER") == "bentoml"
    assert "ARG BENTO_USER_UID=1034\n" in image.dockerfile
    after = image.dockerfile.rpartition("USER bentoml")[2]
    assert "USER" not in after
    assert "RUN mkdir -p $MLOPS_HOME" in after


def test_it_is_python_3_11_with_the_locked_packages(image: Image) -> None:
    """Another interpreter, or newer packages, would serve what was never tested."""
    assert image.instruction("FROM").startswith("python:3.11-slim ")
    assert "uv venv -p 3.11 /app/.venv" in image.dockerfile
    installed = (image.bento / "env/python/requirements.txt").read_text(encoding="utf-8")
    assert not (image.bento / "env/python/requirements.lock.txt").exists()
    lock = (ROOT / "requirements/runtime.lock").read_text(encoding="utf-8")
    pinned = {line.split(" ")[0] for line in lock.splitlines() if re.match(r"[A-Za-z0-9]", line)}
    assert len(pinned) > 200
    assert pinned == {line.strip() for line in installed.splitlines() if re.match(r"[A-Za-z0-9]", line)}


def test_nothing_but_the_code_is_in_it(image: Image) -> None:
    """Tests, data or a key in an image are in every registry that it is pushed to."""
    files = image.files()
    inside = {path.split("/")[1] for path in files if path.startswith("src/")}
    assert inside == {"mlops_assets", "feature_repo", "LICENSE", "bentofile.yaml"}
    assert "src/mlops_assets/serving/service.py" in files
    assert "src/mlops_assets/foundation/profiles/aiwebtest.yaml" in files
    assert any(path.startswith("src/mlops_assets/foundation/migrations/versions/") for path in files)
    assert not [path for path in files if "test" in Path(path).name and path.startswith("src/mlops_assets/serving")]
    assert not [path for path in files if "__pycache__" in path]
    holding = [path for path in files if SECRET.encode() in (image.bento / path).read_bytes()]
    assert holding == []
    assert SECRET not in image.dockerfile


def test_it_listens_to_the_outside_and_refuses_to_start_without_a_database(image: Image) -> None:
    """On loopback nobody reaches it; without production it would serve from an empty SQLite file."""
    for line in ("MLOPS_SERVING_HOST=0.0.0.0", "MLOPS_SERVING_PORT=3000", "MLOPS_ENVIRONMENT=production"):
        assert f"ARG {line}" in image.dockerfile
    assert "EXPOSE 3000" in image.dockerfile
    for name in ("BENTOML_DO_NOT_TRACK", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"):
        assert f"ENV {name}=${name}" in image.dockerfile
    result = subprocess.run(
        [sys.executable, "-m", "mlops_assets.serving"],
        cwd=image.bento / "src",
        env={"PATH": os.environ["PATH"], "MLOPS_ENVIRONMENT": "production", "MLOPS_SERVING_HOST": "::"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 2
    assert "MLOPS_DATABASE_URL" in result.stderr


def test_the_bento_names_its_service(image: Image) -> None:
    """`bentoml serve` and `containerize` would find nothing to run."""
    facts = yaml.safe_load((image.bento / "bento.yaml").read_text(encoding="utf-8"))
    assert (facts["name"], facts["service"]) == ("decisions", "mlops_assets.serving.service:service")


@pytest.fixture
def port(image: Image, tmp_path: Path) -> Iterator[int]:
    """The server, started from the bento as its container would: by CMD in WORKDIR."""
    command = json.loads(image.instruction("CMD"))
    assert command[0] == "python"
    assert image.instruction("WORKDIR") == "/home/bentoml/bento/src"
    assert image.instruction("ENTRYPOINT") == '[ "/home/bentoml/bento/env/docker/entrypoint.sh" ]'
    entrypoint = image.bento / "env/docker/entrypoint.sh"
    chosen = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", entrypoint, *command],
            cwd=image.bento / "src",
            env={
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(tmp_path),
                "MLOPS_HOME": str(tmp_path / "mlops"),
                "MLOPS_SERVING_PORT": str(chosen),
                "BENTOML_HOME": str(tmp_path / "bentoml"),
                **QUIET,
            },
            stdout=log,
            stderr=log,
        )
        yield chosen
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.slow
def test_what_is_packed_starts_and_its_health_check_tells_the_truth(image: Image, port: int) -> None:
    """A file that is missing in the bento shows when the first container starts; a wrong check restarts it for ever."""
    system_program("curl", "curl")
    check = image.instruction("HEALTHCHECK").partition(" CMD ")[2]
    environment = {"PATH": os.environ["PATH"], "MLOPS_SERVING_PORT": str(port)}
    assert subprocess.run(["sh", "-c", check], env=environment, capture_output=True, check=False).returncode == 1
    deadline = time.monotonic() + 120.0
    while True:
        assert time.monotonic() < deadline, "the packed server does not start"
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5.0)
        except httpx.TransportError:
            time.sleep(0.2)
            continue
        if answer.headers["content-type"] == "application/problem+json":
            break
        time.sleep(0.2)
    # Without a champion there is nothing to serve: alive, and not ready.
    assert answer.status_code == 503
    assert httpx.get(f"http://127.0.0.1:{port}/livez").status_code == 200
    assert subprocess.run(["sh", "-c", check], env=environment, capture_output=True, check=False).returncode == 1
    alive = check.replace("/readyz", "/livez")
    assert subprocess.run(["sh", "-c", alive], env=environment, capture_output=True, check=False).returncode == 0
