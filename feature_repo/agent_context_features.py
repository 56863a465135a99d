"""The view of the agents, for the `feast` command."""

from pathlib import Path

from mlops_assets.features.store import feast_view
from mlops_assets.features.views import AGENT_CONTEXT_FEATURES
from mlops_assets.foundation.paths import ArtifactPaths

agent_context_features = feast_view(
    AGENT_CONTEXT_FEATURES, ArtifactPaths(Path(__file__).resolve().parents[1] / ".mlops")
)
