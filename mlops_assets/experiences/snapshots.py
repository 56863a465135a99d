"""Experience snapshots: collected, published whole or not at all, named by their content, opened by that name.

How rows enter the store is in `collection.py`, which of them a snapshot takes in `window.py`, what its folder holds and
how it is read in `snapshot_files.py`. Whether a snapshot may be trained on is decided in `validation.py` and asked for here.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select, update

from mlops_assets.experiences.collection import Collected, collect_batches, store_folders
from mlops_assets.experiences.data_versions import DataVersions, dvc_file
from mlops_assets.experiences.environment import ExperienceSource
from mlops_assets.experiences.schema import experience_schema
from mlops_assets.experiences.snapshot_files import (
    DECISIONS,
    Snapshot,
    SnapshotContent,
    SnapshotDifference,
    compare_snapshots,
    content_of,
    is_whole,
    read_manifest,
    remove_leftovers,
    write_snapshot,
)
from mlops_assets.experiences.window import Window, select_window
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import DataRejectedError, InputError, NotReadyError
from mlops_assets.foundation.file_lock import file_lock
from mlops_assets.foundation.files import storage_errors
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.policies import DataPolicy
from mlops_assets.foundation.tables import SnapshotRecord, ValidationRecord

__all__ = [
    "CREATED",
    "REJECTED",
    "VALIDATED",
    "Snapshot",
    "SnapshotDifference",
    "collect_snapshot",
    "compare_snapshots",
    "latest_snapshot",
    "open_snapshot",
    "require_validated",
    "snapshot_before",
]

CREATED = "created"
VALIDATED = "validated"
REJECTED = "rejected"


def collect_snapshot(
    source: ExperienceSource,
    spec: AgentSpec,
    *,
    paths: ArtifactPaths,
    engine: Engine,
    policy: DataPolicy,
    now: datetime,
    versions: DataVersions | None,
) -> Snapshot:
    """Read what is new in `source`, and publish the newest `policy.window_rows` decisions as a snapshot.

    Nothing new gives the snapshot that is there, with `new_rows` 0. Killed at any point, the next call ends in the same
    snapshot. A second process that collects for the same agent waits for the first.

    Raises:
        InputError: the source cannot be read, its schema changed, or it gave no decision at all.
        StorageError: the disk is full or read-only.
        TransientError: another process is collecting for too long, or DVC's remote does not answer.
    """
    as_of = source.as_of(now)
    stores = store_folders(paths, spec.name, source.name)
    with file_lock(paths.snapshots(spec.name) / ".lock"):
        remove_leftovers(paths.snapshots(spec.name), stores.decisions, stores.labels, stores.requirement_texts)
        collected = collect_batches(source, spec, paths=paths, engine=engine, as_of=as_of, now=now)
        window = select_window(stores, max_rows=policy.window_rows, max_days=policy.window_days, as_of=as_of)
        if window is None:
            raise InputError(_nothing(source.name, spec.name, collected, policy))
        content = content_of(window)
        folder = paths.snapshots(spec.name) / content.data_hash
        _ensure_folder(folder, content, spec, _facts(source.name, spec, window, collected, as_of))
        known = _find_record(engine, spec.name, content.data_hash)
        previous = latest_snapshot(spec.name, paths=paths, engine=engine, source=source.name)
        record = known or SnapshotRecord(
            agent=spec.name,
            data_hash=content.data_hash,
            source=source.name,
            rows=window.rows,
            new_rows=_new_rows(content, previous),
            first_event=window.first_event,
            last_event=window.last_event,
            label_cutoff=as_of,
            dvc_md5=None,
            status=CREATED,
            created_at=now,
        )
        _ensure_tracked(versions, folder, record, engine)
        _ensure_record(engine, record)
        snapshot = _snapshot(record, paths)
        return snapshot if known is None else replace(snapshot, new_rows=0)


def _nothing(source: str, agent: str, collected: Collected, policy: DataPolicy) -> str:
    days = "" if policy.window_days is None else f" within {policy.window_days} days"
    return (
        f"the source {source!r} gave no usable decision of agent {agent!r}{days}: {collected.rows} new rows, "
        f"{collected.quarantined} quarantined rows; check that the source has data for this agent, read the quarantine "
        "list, or choose a data profile with a longer window"
    )


def _facts(source: str, spec: AgentSpec, window: Window, collected: Collected, as_of: datetime) -> dict[str, Any]:
    return {
        "agent": spec.name,
        "source": source,
        "cursor": collected.cursor,
        "rows": window.rows,
        "first_event": window.first_event,
        "last_event": window.last_event,
        "label_cutoff": as_of,
        "schema": {field.name: str(field.type) for field in experience_schema(spec)},
    }


def _ensure_folder(folder: Path, content: SnapshotContent, spec: AgentSpec, facts: Mapping[str, Any]) -> None:
    if is_whole(folder):
        return
    with storage_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)
    write_snapshot(folder, content, text_dimensions=spec.text_dimensions, facts=facts)


def _ensure_tracked(versions: DataVersions | None, folder: Path, record: SnapshotRecord, engine: Engine) -> None:
    """Give the snapshot its data version: `data-v1.0`, `data-v2.0`, ... in the order of publication."""
    if versions is None or (record.dvc_md5 is not None and dvc_file(folder).is_file()):
        return
    earlier = select(func.count()).where(SnapshotRecord.agent == record.agent)
    if record.id is not None:
        earlier = earlier.where(SnapshotRecord.id < record.id)
    with read_transaction(engine) as session:
        number = session.execute(earlier).scalar_one() + 1
    what = "Initial training dataset" if number == 1 else f"Training dataset with {record.new_rows} new decisions"
    record.dvc_md5 = versions.track(
        folder, labels=[f"data-v{number}.0"], description=f"{what} of agent {record.agent}: {record.rows} decisions"
    )


def _ensure_record(engine: Engine, record: SnapshotRecord) -> None:
    with transaction(engine) as session:
        if record.id is None:
            session.add(record)
        else:
            # Only this column: a validation that runs meanwhile owns the status.
            session.execute(update(SnapshotRecord).where(SnapshotRecord.id == record.id).values(dvc_md5=record.dvc_md5))


def _new_rows(content: SnapshotContent, previous: Snapshot | None) -> int:
    """Count the decisions from stored parts that the previous snapshot did not take from."""
    known: set[str] = set()
    if previous is not None and is_whole(previous.folder):
        known = {file["origin"] for file in read_manifest(previous.folder)["files"]}
    new = (file for file in content.files if DECISIONS in file.path.parents and file.origin not in known)
    return sum(file.rows for file in new)


def open_snapshot(agent: str, data_hash: str, *, paths: ArtifactPaths, engine: Engine) -> Snapshot:
    """Open a published snapshot.

    Raises:
        NotReadyError: no such snapshot was published.
        InputError: its folder is not there as it was published.
    """
    record = _find_record(engine, agent, data_hash)
    if record is None:
        raise NotReadyError(
            f"agent {agent!r} has no snapshot {data_hash}: materialise training_experiences for it first"
        )
    snapshot = _snapshot(record, paths)
    read_manifest(snapshot.folder)
    return snapshot


def latest_snapshot(
    agent: str,
    *,
    paths: ArtifactPaths,
    engine: Engine,
    source: str | None = None,
    status: str | None = None,
    before: str | None = None,
) -> Snapshot | None:
    """Return the snapshot published last; if given: of one source, with one status, before the data hash `before`."""
    query = select(SnapshotRecord).where(SnapshotRecord.agent == agent).order_by(SnapshotRecord.id.desc()).limit(1)
    if source is not None:
        query = query.where(SnapshotRecord.source == source)
    if status is not None:
        query = query.where(SnapshotRecord.status == status)
    if before is not None:
        own = select(SnapshotRecord.id).where(SnapshotRecord.agent == agent, SnapshotRecord.data_hash == before)
        query = query.where(SnapshotRecord.id < own.scalar_subquery())
    with read_transaction(engine) as session:
        record = session.scalars(query).one_or_none()
    return None if record is None else _snapshot(record, paths)


def snapshot_before(snapshot: Snapshot, *, paths: ArtifactPaths, engine: Engine) -> Snapshot | None:
    """Return the last validated snapshot before this one, from the same agent and source: what it is compared with."""
    return latest_snapshot(
        snapshot.agent,
        paths=paths,
        engine=engine,
        source=snapshot.source,
        status=VALIDATED,
        before=snapshot.data_hash,
    )


def require_validated(engine: Engine, agent: str, data_hash: str) -> None:
    """Let a reader go on only when this snapshot passed its validation.

    Raises:
        NotReadyError: it was never published, or never validated.
        DataRejectedError: it was validated and did not pass; the message names what failed and the report.
    """
    record = _find_record(engine, agent, data_hash)
    if record is None or record.status == CREATED:
        what = "no snapshot" if record is None else "no validated snapshot"
        step = "training_experiences" if record is None else "data_validation_report"
        raise NotReadyError(f"agent {agent!r} has {what} {data_hash}: materialise {step} for it first")
    if record.status == REJECTED:
        query = select(ValidationRecord).where(
            ValidationRecord.agent == agent,
            ValidationRecord.data_hash == data_hash,
            ValidationRecord.passed.is_(False),
        )
        with read_transaction(engine) as session:
            reports = session.scalars(query).all()
        failed = ", ".join(name for report in reports for name in report.failed_expectations)
        where = ", ".join(report.report_path for report in reports)
        raise DataRejectedError(
            f"snapshot {data_hash} of agent {agent!r} did not pass its validation: {failed}; read {where}, correct the "
            "source, and collect again"
        )


def _find_record(engine: Engine, agent: str, data_hash: str) -> SnapshotRecord | None:
    query = select(SnapshotRecord).where(SnapshotRecord.agent == agent, SnapshotRecord.data_hash == data_hash)
    with read_transaction(engine) as session:
        return session.scalars(query).one_or_none()


def _snapshot(record: SnapshotRecord, paths: ArtifactPaths) -> Snapshot:
    if record.first_event is None or record.last_event is None:
        raise InputError(
            f"snapshot {record.data_hash} of agent {record.agent!r} is recorded without events; collect again"
        )
    return Snapshot(
        agent=record.agent,
        data_hash=record.data_hash,
        folder=paths.snapshots(record.agent) / record.data_hash,
        source=record.source,
        rows=record.rows,
        new_rows=record.new_rows,
        first_event=record.first_event,
        last_event=record.last_event,
        label_cutoff=record.label_cutoff,
        published_at=record.created_at,
        dvc_md5=record.dvc_md5,
    )
