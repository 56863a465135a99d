"""The entities, for the `feast` command."""

from mlops_assets.features.store import feast_entity
from mlops_assets.features.views import AGENT, TEST

test_id = feast_entity(TEST)
agent_id = feast_entity(AGENT)
