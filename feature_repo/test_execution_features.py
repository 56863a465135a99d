"""The view of the tests, for the `feast` command."""

from pathlib import Path

from mlops_assets.features.store import feast_view
from mlops_assets.features.views import TEST_EXECUTION_FEATURES
from mlops_assets.foundation.paths import ArtifactPaths

test_execution_features = feast_view(
    TEST_EXECUTION_FEATURES, ArtifactPaths(Path(__file__).resolve().parents[1] / ".mlops")
)
