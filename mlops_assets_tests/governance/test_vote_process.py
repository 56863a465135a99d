"""What the vote's process answers: what a second try would meet again is told apart from a store that is away."""

from datetime import UTC, datetime

import pytest

from mlops_assets.foundation.errors import (
    AccessDeniedError,
    DataRejectedError,
    InputError,
    MlopsError,
    NotReadyError,
    PermanentError,
    SettingsError,
    StorageError,
    TransientError,
)
from mlops_assets.governance.approval_state import ApprovalRefusedError
from mlops_assets.governance.approvals import Approvals
from mlops_assets.governance.vote_process import count
from mlops_assets_tests.governance.conftest import ML, Office
from mlops_assets_tests.mlflow_runs import SPEC

VOTE = {
    "model_name": SPEC.registered_model,
    "version": "1.0.0",
    "approver": ML,
    "decision": "approve",
    "comment": "read it",
}


@pytest.fixture(autouse=True)
def environment(small_office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(small_office.settings.home))
    monkeypatch.setenv("MLOPS_DATABASE_URL", small_office.engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", small_office.runs.tracking_uri)
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "5")


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (ApprovalRefusedError("expired", "m"), {"refused": "expired", "message": "m"}),
        (AccessDeniedError("m"), {"failed": "denied", "message": "m"}),
        (InputError("m"), {"failed": "input", "message": "m"}),
        (SettingsError("m"), {"failed": "settings", "message": "m"}),
        (NotReadyError("m"), {"failed": "conflict", "message": "m"}),
        (DataRejectedError("m"), {"failed": "conflict", "message": "m"}),
        (PermanentError("m"), {"failed": "conflict", "message": "m"}),
        (TransientError("m"), {"failed": "transient", "message": "m"}),
        (StorageError("m"), {"failed": "transient", "message": "m"}),
    ],
)
def test_every_error_has_its_kind(monkeypatch: pytest.MonkeyPatch, error: MlopsError, answer: dict[str, str]) -> None:
    """A client tries for ever what can never pass, because it is told that a store is away."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Approvals, "vote", fail)
    assert count(VOTE) == answer


def test_a_vote(small_office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what counts, counts."""
    small_office.clock.instant = datetime.now(UTC)
    small_office.decide()
    assert count(VOTE) == {"status": "open"}
    monkeypatch.setenv("MLOPS_POLICY_PROFILE", "nothing")
    assert count(VOTE)["failed"] == "settings"
