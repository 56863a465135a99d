"""Why a run runs: the reason survives the way through run tags, and nonsense in tags is refused by name."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.trigger import AUTHOR_TAG, REASON_TAG, TRIGGER_TAG, TriggerReason, TriggerType, author_in

_REASONS = st.text(min_size=1, max_size=500).filter(lambda text: text != "started by hand")


@given(st.sampled_from(get_args(TriggerType)), _REASONS)
def test_tags_carry_the_reason(kind: TriggerType, text: str) -> None:
    """The model card would name another cause than the one that started the run."""
    reason = TriggerReason(trigger_type=kind, reason=text)
    assert TriggerReason.from_tags({**reason.tags(), "dagster/partition": "generation"}) == reason


def test_without_tags_the_run_was_started_by_hand() -> None:
    """A run from the command line has no tags, and a reason of None broke the parameters' log."""
    assert TriggerReason.from_tags({}) == TriggerReason() == TriggerReason(trigger_type="manual")
    assert TriggerReason().tags() == {"mlops/trigger_type": "manual", "mlops/reason": "started by hand"}
    assert TriggerReason.from_tags({REASON_TAG: "new reports"}).reason == "new reports"


@pytest.mark.parametrize("tags", [{}, {REASON_TAG: ""}, {REASON_TAG: "started by hand"}])
def test_an_automatic_run_never_claims_to_be_started_by_hand(tags: dict[str, str]) -> None:
    """Somebody sets only the type over the job's own tags: cause and type would contradict each other."""
    reason = TriggerReason.from_tags({**tags, TRIGGER_TAG: "drift"})
    assert (reason.trigger_type, reason.reason) == ("drift", "started by drift, no reason given")
    with pytest.raises(ValidationError, match="a run started by drift needs a reason of its own"):
        TriggerReason(trigger_type="drift")


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    """A typed-in `Drift` would be logged as a cause of its own and be missing from every count by cause."""
    with pytest.raises(InputError, match=r"mlops/trigger_type='Drift' is unknown; use one of: manual, schedule, drift"):
        TriggerReason.from_tags({TRIGGER_TAG: "Drift"})


def test_an_endless_reason_is_refused_by_length() -> None:
    """A whole log pasted into a tag goes on into MLflow and the model card, whose limits are met hours later."""
    assert len(TriggerReason.from_tags({REASON_TAG: "x" * 500}).reason) == 500
    with pytest.raises(InputError, match="mlops/reason has 501 characters; use at most 500"):
        TriggerReason.from_tags({REASON_TAG: "x" * 501})


def test_a_misspelt_field_is_refused() -> None:
    """A sensor that passes `cause=` would start runs without a reason."""
    with pytest.raises(ValidationError, match="cause"):
        TriggerReason(trigger_type="drift", cause="PSI 0.4")  # type: ignore[call-arg]


def test_the_author_is_an_address() -> None:
    """A name that no approver has excludes nobody from approving their own model."""
    assert author_in({}) is None
    assert author_in({AUTHOR_TAG: " Ana@company.com "}) == "Ana@company.com"
    for tag in ("", "ana", "ana@company", "ana@company.com, bob@company.com", "@company.com", f"{'a' * 255}@b.com"):
        with pytest.raises(InputError, match=r"run tag mlops/author=.* such as ana@company.com, or leave the tag away"):
            author_in({AUTHOR_TAG: tag})


def test_evidence_travels_with_the_reason() -> None:
    """Run tags, MLflow parameters and the card say `drift`, and nobody knows how much."""
    reason = TriggerReason(
        trigger_type="drift", reason="PSI", evidence={"drift_score": 0.1 + 0.2, "accuracy_drop": 1e-9}, request="k-1"
    )
    assert TriggerReason.from_tags(reason.tags()) == reason
    assert reason.facts() == {
        "trigger_type": "drift",
        "reason": "PSI",
        "drift_score": "0.30000000000000004",
        "accuracy_drop": "1e-09",
        "retraining_request": "k-1",
    }
    assert TriggerReason().facts() == {"trigger_type": "manual", "reason": "started by hand"}
    assert str(reason) == "drift: PSI"


@pytest.mark.parametrize("text", ["much", "nan", "inf", ""])
def test_a_number_that_is_none_is_refused(text: str) -> None:
    """It would fail hours later, when MLflow or the card reads it."""
    with pytest.raises(InputError, match=f"mlops/evidence_drift_score='{text}' is no number"):
        TriggerReason.from_tags({TRIGGER_TAG: "drift", "mlops/evidence_drift_score": text})
