"""Why a lifecycle runs: the reason travels as run tags from the trigger to the MLflow run and the model card."""

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from mlops_assets.foundation.errors import InputError

TriggerType = Literal["manual", "schedule", "drift", "accuracy_drop", "volume", "staleness"]

TRIGGER_TAG = "mlops/trigger_type"
REASON_TAG = "mlops/reason"
# Value: the agent. dagster.yaml lets one run of each value run at a time.
RETRAINING_TAG = "mlops/retraining"


class TriggerReason(BaseModel):
    """One cause of one run; there is always one, a run started by hand says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trigger_type: TriggerType = "manual"
    reason: str = Field(default="started by hand", max_length=500)

    def tags(self) -> dict[str, str]:
        """Run tags that carry the reason."""
        return {TRIGGER_TAG: self.trigger_type, REASON_TAG: self.reason}

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> "TriggerReason":
        """Read the reason back from run tags; without any, the run was started by hand.

        Raises:
            InputError: the trigger type is not a known one.
        """
        kind = tags.get(TRIGGER_TAG, "manual")
        if kind not in get_args(TriggerType):
            known = ", ".join(get_args(TriggerType))
            raise InputError(f"run tag {TRIGGER_TAG}={kind!r} is unknown; use one of: {known}")
        reason = tags.get(REASON_TAG)
        return cls(trigger_type=kind, reason=reason) if reason else cls(trigger_type=kind)
