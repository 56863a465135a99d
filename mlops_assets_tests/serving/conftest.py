"""Homes with models in service, and the real server over them."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops_assets_tests.lifecycle.conftest import FirstLifecycle, first_lifecycle
from mlops_assets_tests.serving.live import LiveServer

__all__ = ["first_lifecycle"]


@pytest.fixture
def served_home(first_lifecycle: FirstLifecycle, tmp_path: Path) -> Path:
    """A copy of a home in which `model_lifecycle` ran: the test may change it; model files are read where they lie."""
    home = tmp_path / "home"
    shutil.copytree(first_lifecycle.pristine, home)
    return home


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., LiveServer]]:
    """Start real servers; all are ended after the test."""
    made: list[LiveServer] = []

    def start(home: Path, *, wait: bool = True, **variables: str) -> LiveServer:
        server = LiveServer(home, tmp_path / f"server-{len(made)}.log", variables)
        made.append(server)
        server.start(wait=wait)
        return server

    yield start
    for server in made:
        server.end()
