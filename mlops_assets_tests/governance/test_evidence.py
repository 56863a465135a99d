"""Evidence as it is found now: files and data are read again, and what cannot be read is never called unchanged."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from mlops_assets.evaluation.report import REPORT_JSON, ValidationReport, read_report
from mlops_assets.experiences.snapshot_files import data_hash_now
from mlops_assets.foundation.files import digest, sha256_file
from mlops_assets.governance import evidence as evidence_module
from mlops_assets.governance.approval_state import ApprovalRefusedError
from mlops_assets.governance.evidence import ApprovalEvidence, Finding
from mlops_assets_tests.governance.conftest import Office
from mlops_assets_tests.mlflow_runs import SPEC

NAME = SPEC.registered_model


@pytest.fixture
def champion(new_office: Callable[[Engine], Office], sqlite_engine: Engine) -> Office:
    """Version 1.0.0, approved by the policy, whose training data lie on this machine."""
    office = new_office(sqlite_engine)
    office.decide(0, "approved")
    loose = office.settings.paths.snapshots(SPEC.name) / "loose"
    (loose / "decisions" / "event_date=2026-01-05").mkdir(parents=True)
    (loose / "decisions" / "event_date=2026-01-05" / "part-1.parquet").write_bytes(b"rows")
    (loose / "requirements.parquet").write_bytes(b"texts")
    for derived in ("manifest.json", "embedder.npz"):
        (loose / derived).write_bytes(b"x")
    data_hash = data_hash_now(loose)
    loose.rename(loose.with_name(data_hash))
    with office.engine.begin() as connection:
        connection.execute(text("UPDATE model_version SET data_hash = :hash"), {"hash": data_hash})
    report = _report(office)
    identity = report.identity.model_copy(update={"data_hash": data_hash})
    _file(office).write_text(report.model_copy(update={"identity": identity}).model_dump_json(), encoding="utf-8")
    office.decide(0, "approved", report=False)
    return office


def _file(office: Office) -> Path:
    return office.settings.paths.reports(SPEC.name) / office.runs.good[0] / REPORT_JSON


def _report(office: Office) -> ValidationReport:
    return read_report(_file(office))


def _folder(office: Office) -> Path:
    (folder,) = office.settings.paths.snapshots(SPEC.name).iterdir()
    return folder


def found(office: Office) -> ApprovalEvidence:
    return office.approvals.evidence(office.registry.version(NAME, "1.0.0"))


def test_the_data_are_hashed_as_the_snapshot_names_them(champion: Office) -> None:
    """The check compares other files than those that named the snapshot, and everything differs, or nothing does."""
    files = {
        path: sha256_file(_folder(champion) / path)
        for path in ("decisions/event_date=2026-01-05/part-1.parquet", "requirements.parquet")
    }
    lines = "\n".join(f"{path} {file_hash}" for path, file_hash in sorted(files.items()))

    assert _folder(champion).name == sha256(lines.encode()).hexdigest()
    assert found(champion).snapshot == Finding("same")


@pytest.mark.parametrize("how", ["changed", "removed", "added"])
def test_changed_data_close_the_gate(champion: Office, how: str) -> None:
    """Only the hash that somebody recorded was compared, never the data: whoever changed them went unnoticed."""
    champion.approvals.require_current(NAME, "1.0.0", user="ops")
    part = _folder(champion) / "decisions" / "event_date=2026-01-05" / "part-1.parquet"
    if how == "changed":
        part.write_bytes(b"rowz")
    elif how == "removed":
        part.unlink()
    else:
        part.with_name("part-2.parquet").write_bytes(b"more")
    assert found(champion).snapshot.verdict == "differs"
    with pytest.raises(ApprovalRefusedError, match="training data changed"):
        champion.approvals.require_current(NAME, "1.0.0", user="ops")


def test_data_that_are_gone_are_not_checked_and_void_nothing(champion: Office) -> None:
    """Retention removes last quarter's data, and with them every approval; or they are called checked."""
    before = found(champion)
    _folder(champion).rename(champion.settings.home / "elsewhere")
    after = found(champion)
    assert after.facts()["data_as_recorded"] == "not checked: the snapshot is not on this machine"
    assert after.hash == before.hash
    champion.approvals.require_current(NAME, "1.0.0", user="ops")


def test_the_cost_is_bounded(champion: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vote reads a hundred gigabytes while the approver waits."""
    monkeypatch.setattr(evidence_module, "_MAX_DATA_BYTES", 8)
    assert found(champion).snapshot.words == "the snapshot has 9 bytes, more than 8"


def test_the_model_files_are_those_that_were_evaluated(champion: Office) -> None:
    """The hash was taken when people were asked: a file swapped before that was what they approved."""
    assert found(champion).model.verdict == "not checked"
    report = _report(champion)
    for served_hash, verdict in ((found(champion).weights_hash, "same"), ("f" * 64, "differs")):
        identity = report.identity.model_copy(update={"served_hash": served_hash})
        _file(champion).write_text(report.model_copy(update={"identity": identity}).model_dump_json())
        assert found(champion).model.verdict == verdict


def test_the_hash_of_before_findings(champion: Office) -> None:
    """Requests that wait while the platform is upgraded are void, though nothing changed."""
    evidence = ApprovalEvidence("r", "w", "d", model=Finding("same"), snapshot=Finding("not checked", "gone"))
    assert evidence.hash == digest({"report": "r", "weights": "w", "data": "d"})
    assert "served_hash" not in str(_report(champion).model_dump(exclude_none=True))
