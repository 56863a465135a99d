"""Assets of this room: the stages of a rollout. None is made by a click: each is materialised by the evidence that passed it."""

import dagster as dg

from mlops_assets.experiences.assets import OWNERS
from mlops_assets.foundation.partitions import AGENT_PARTITIONS
from mlops_assets.rollout.state import STAGES

_WORDS = {
    "shadow": "The candidate was asked what the champion answered: agreement, legal actions, latency, accuracy of both.",
    "5_percent": "5 % of the users had the candidate, and it kept every limit of the stage.",
    "20_percent": "20 % of the users had the candidate, and it kept every limit of the stage.",
    "50_percent": "50 % of the users had the candidate, and it kept every limit of the stage.",
    "100_percent": "All users had the candidate, against what the champion had been before; it became champion.",
}
_HOW = (
    "Materialised by rollout_sensor and the job advance_rollout when the stage is passed; every other step of a rollout "
    "(started, paused, rolled back, ...) is an observation in the tab Events."
)
STAGE_KEYS = {stage: dg.AssetKey(f"rollout_{stage}") for stage in STAGES}


def _specs() -> list[dg.AssetSpec]:
    before = dg.AssetKey("approval")
    found = []
    for stage, key in STAGE_KEYS.items():
        found.append(
            dg.AssetSpec(
                key,
                deps=[before],
                group_name="rollout",
                owners=OWNERS,
                kinds={"sqlalchemy"},
                partitions_def=AGENT_PARTITIONS,
                description=f"{_WORDS[stage]} {_HOW}",
            )
        )
        before = key
    return found


ROLLOUT_ASSETS = _specs()
