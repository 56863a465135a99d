"""Why a lifecycle runs: the reason travels as run tags from the trigger to the MLflow run and the model card."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.policies import real_address

TriggerType = Literal[
    "manual", "schedule", "drift", "accuracy_drop", "error_rate", "volume", "file_arrival", "staleness"
]
# What was measured, beside the sentence that says it.
EvidenceName = Literal[
    "drift_score",
    "combined_drift",
    "ks_statistic",
    "accuracy_drop",
    "loss_per_day_low",
    "error_rate",
    "new_samples",
    "days_without",
    "psi_only",
]

TRIGGER_TAG = "mlops/trigger_type"
REASON_TAG = "mlops/reason"
# Whose work the version is, where a person's: they cannot approve it.
AUTHOR_TAG = "mlops/author"
# Value: the agent. dagster.yaml lets one run of each value run at a time.
RETRAINING_TAG = "mlops/retraining"
# Key of the decision behind the run: one through decision, run, MLflow run and version.
REQUEST_TAG = "mlops/retraining_request"
_EVIDENCE_TAG = "mlops/evidence_"

_BY_HAND = "started by hand"
_MAX_LENGTH = 500


def author_in(tags: Mapping[str, str]) -> str | None:
    """Return the person whose work the run is, None when its tags name nobody.

    Raises:
        InputError: the tag is no e-mail address, so it would exclude nobody from approving.
    """
    tag = tags.get(AUTHOR_TAG)
    if tag is None:
        return None
    try:
        return real_address(tag.strip())
    except ValueError:
        raise InputError(
            f"run tag {AUTHOR_TAG}={tag!r} is no e-mail address; name the author as approvers are named, such as "
            "ana@company.com, or leave the tag away"
        ) from None


class TriggerReason(BaseModel):
    """One cause of one run; there is always one, a run started by hand says so.

    `evidence`: what was measured. `request`: key of the retraining decision behind it, None where there was none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trigger_type: TriggerType = "manual"
    reason: str = Field(default=_BY_HAND, min_length=1, max_length=_MAX_LENGTH)
    evidence: dict[EvidenceName, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    request: str | None = None

    @model_validator(mode="after")
    def _only_people_need_no_reason(self) -> Self:
        if self.trigger_type != "manual" and self.reason == _BY_HAND:
            raise ValueError(f"a run started by {self.trigger_type} needs a reason of its own")
        return self

    def tags(self) -> dict[str, str]:
        """Run tags that carry the reason."""
        numbers = {f"{_EVIDENCE_TAG}{name}": repr(value) for name, value in self.evidence.items()}
        request = {} if self.request is None else {REQUEST_TAG: self.request}
        return {TRIGGER_TAG: self.trigger_type, REASON_TAG: self.reason, **request, **numbers}

    def facts(self) -> dict[str, str]:
        """Return it as parameters of a training run and tags of a version."""
        numbers = {str(name): repr(value) for name, value in self.evidence.items()}
        request = {} if self.request is None else {"retraining_request": self.request}
        return {"trigger_type": self.trigger_type, "reason": self.reason, **request, **numbers}

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.trigger_type}: {self.reason}"

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> "TriggerReason":
        """Read the reason back from run tags; without any, the run was started by hand.

        Raises:
            InputError: the trigger type is not a known one, the reason is longer than 500 characters, or a number is none.
        """
        kind = tags.get(TRIGGER_TAG, "manual")
        if kind not in get_args(TriggerType):
            known = ", ".join(get_args(TriggerType))
            raise InputError(f"run tag {TRIGGER_TAG}={kind!r} is unknown; use one of: {known}")
        reason = tags.get(REASON_TAG) or _BY_HAND
        if kind != "manual" and reason == _BY_HAND:  # a job's own tags, with only the type set over them
            reason = f"started by {kind}, no reason given"
        if len(reason) > _MAX_LENGTH:
            raise InputError(f"run tag {REASON_TAG} has {len(reason)} characters; use at most {_MAX_LENGTH}")
        return cls(trigger_type=kind, reason=reason, evidence=_evidence(tags), request=tags.get(REQUEST_TAG))


def _evidence(tags: Mapping[str, str]) -> dict[EvidenceName, float]:
    found: dict[EvidenceName, float] = {}
    for name in get_args(EvidenceName):
        text = tags.get(f"{_EVIDENCE_TAG}{name}")
        if text is None:
            continue
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise InputError(f"run tag {_EVIDENCE_TAG}{name}={text!r} is no number; give one such as 0.41")
    return found
