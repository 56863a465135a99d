"""The view of the agents, for the `feast` command."""

from pathlib import Path

from mlops_assets.features.offline import create_view_folder
from mlops_assets.features.store import feast_view
from mlops_assets.features.views import AGENT_CONTEXT_FEATURES
from mlops_assets.foundation.paths import ArtifactPaths

home = ArtifactPaths(Path(__file__).resolve().parents[1] / ".mlops")
# The registry lies beside it, and Feast makes no folder for either.
create_view_folder(home, AGENT_CONTEXT_FEATURES)

agent_context_features = feast_view(AGENT_CONTEXT_FEATURES, home)
