"""Fixtures of this room."""

from pathlib import Path

import pytest

from mlops_assets.foundation.paths import ArtifactPaths


@pytest.fixture
def paths(tmp_path: Path) -> ArtifactPaths:
    """An empty home."""
    return ArtifactPaths(tmp_path / "home")
