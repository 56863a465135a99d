"""What a version was like in its first hours of service, frozen once: when it is right, and how it is when it is well.

Its own decisions, and not the held-out ones of another policy that drift is compared with: those show other states, and
make an estimate's interval too narrow (benchmarks/label_free.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import Engine, select, update

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.database import insert_missing, read_transaction, transaction
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.foundation.files import atomic_write
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.profiles import PolicyProfile
from mlops_assets.foundation.tables import LearnerReferenceRecord, PredictionRecord
from mlops_assets.monitoring.calibration import CalibrationReference
from mlops_assets.monitoring.coverage import CoverageWatch
from mlops_assets.monitoring.health_reference import HealthReference
from mlops_assets.monitoring.version_decisions import VersionDecisions
from mlops_assets.monitoring.window import read_window
from mlops_assets.monitoring.window_decisions import version_decisions

Kind = Literal["calibration", "health"]
Reference = TypeVar("Reference", CalibrationReference, HealthReference)
# Of what is drawn at random when a reference is frozen: the same decisions give the same reference.
_SEED = 1


@dataclass(frozen=True)
class Service:
    """The decisions of one version that a reference may be frozen from: those before `settled` have the labels they get."""

    engine: Engine
    spec: AgentSpec
    version: str
    profile: PolicyProfile
    paths: ArtifactPaths
    settled: datetime
    as_of: datetime | None
    now: datetime


@dataclass(frozen=True)
class Frozen(Generic[Reference]):
    """A frozen reference, or None and in words what it waits for; `record` is its row."""

    reference: Reference | None
    words: str
    record: LearnerReferenceRecord | None


def health_reference(service: Service) -> Frozen[HealthReference]:
    """Return the version's health in its first hours; the first call that finds them over freezes it.

    Raises:
        NotReadyError: the file of a frozen one is gone.
        InputError: it is damaged.
        StorageError: it cannot be written, or the database does not answer.
    """
    policy = service.profile.health

    def made(decisions: VersionDecisions) -> tuple[bytes, int]:
        frozen = HealthReference.of(decisions, policy, discount=service.spec.discount, seed=_SEED)
        return frozen.to_bytes(), len(decisions)

    return _frozen(service, "health", HealthReference.from_bytes, made, len, policy.min_reference_rows)


def calibration_reference(service: Service, *, labelled: int) -> Frozen[CalibrationReference]:
    """Return when the version was right in its first hours; as `health_reference`, of labelled decisions.

    `labelled`: how many settled decisions have labels, counted at most up to the `concept_window`. With too few nothing is
    read: where nobody gives labels, that would be all of the history, every hour.
    """
    policy = service.profile.estimate

    def made(decisions: VersionDecisions) -> tuple[bytes, int]:
        frozen = CalibrationReference.of(decisions, min_rows=policy.min_reference_rows, seed=_SEED)
        return frozen.to_bytes(), frozen.rows

    few = labelled < min(policy.min_reference_rows, service.profile.monitoring.concept_window)
    return _frozen(
        service,
        "calibration",
        CalibrationReference.from_bytes,
        made,
        lambda some: int(some.labelled.sum()),
        policy.min_reference_rows,
        coverage=CoverageWatch.start(policy).document(),
        not_yet=f"{labelled} labelled decisions; {policy.min_reference_rows} of its first are needed" if few else None,
    )


def keep_coverage(engine: Engine, record: LearnerReferenceRecord, watch: CoverageWatch, until: datetime) -> bool:
    """Store the watch after the window that ends at `until`; False where another check has stored one meanwhile.

    Raises:
        StorageError: the database cannot be written.
    """
    row = LearnerReferenceRecord
    change = (
        update(row)
        .where(
            row.model_name == record.model_name,
            row.model_version == record.model_version,
            row.kind == record.kind,
            row.covered_until == record.covered_until,
        )
        .values(coverage=watch.document(), covered_until=until)
    )
    with transaction(engine) as session:
        return session.connection().execute(change).rowcount == 1


def _frozen(
    service: Service,
    kind: Kind,
    read: Callable[[bytes], Reference],
    make: Callable[[VersionDecisions], tuple[bytes, int]],
    enough: Callable[[VersionDecisions], int],
    wanted: int,
    coverage: Mapping[str, Any] | None = None,
    not_yet: str | None = None,
) -> Frozen[Reference]:
    key = (service.spec.registered_model, service.version, kind)
    with read_transaction(service.engine) as session:
        record = session.get(LearnerReferenceRecord, key)
    if record is not None:
        return Frozen(read(_content(record, service.paths)), "", record)
    period = not_yet or _first_hours(service, enough, wanted)
    if isinstance(period, str):
        return Frozen(None, period, None)
    first, until, decisions = period
    try:
        content, rows = make(decisions)
    except InputError as error:
        # Of too few users, say: more of them may come.
        return Frozen(None, str(error), None)
    content_hash = sha256(content).hexdigest()
    # The file first: a row without one would stop every check of the version.
    with atomic_write(_file(service.paths, service.spec.name, content_hash)) as temporary:
        temporary.write_bytes(content)
    row = {
        "model_name": key[0],
        "model_version": key[1],
        "kind": kind,
        "agent": service.spec.name,
        "content_hash": content_hash,
        "rows": rows,
        "first_at": first,
        "until": until,
        "created_at": service.now,
        "coverage": None if coverage is None else dict(coverage),
        "covered_until": None if coverage is None else until,
    }
    with transaction(service.engine) as session:
        insert_missing(session, LearnerReferenceRecord, [row])
        kept = session.get_one(LearnerReferenceRecord, key)
    return Frozen(read(_content(kept, service.paths)), "", kept)


def _first_hours(
    service: Service, enough: Callable[[VersionDecisions], int], wanted: int
) -> tuple[datetime, datetime, VersionDecisions] | str:
    """Begin, end and decisions of the version's first hours, longer until there are enough; or what is missing."""
    first = _first_decision(service)
    hours, estimate = service.profile.estimate.reference_hours, service.profile.estimate
    if first is None:
        return f"{service.version} has not decided anything yet"
    while first + timedelta(hours=hours) <= service.settled:
        until = first + timedelta(hours=hours)
        window = read_window(service.engine, service.spec, first, until, version=service.version, as_of=service.as_of)
        decisions = version_decisions(window, max_rows=estimate.max_rows)
        if enough(decisions) >= wanted:
            return first, until, decisions
        hours *= 2
    over = first + timedelta(hours=hours)
    return (
        f"its first {hours:g} h of service are compared with later, and are over, with all labels, at "
        f"{over + timedelta(hours=service.profile.monitoring.label_delay_hours):%Y-%m-%d %H:%M} UTC"
    )


def _first_decision(service: Service) -> datetime | None:
    record = PredictionRecord
    query = (
        select(record.event_time)
        .where(record.agent == service.spec.name, record.model_version == service.version)
        .order_by(record.event_time)
        .limit(1)
    )
    with read_transaction(service.engine) as session:
        return session.scalars(query).one_or_none()


def _content(record: LearnerReferenceRecord, paths: ArtifactPaths) -> bytes:
    file = _file(paths, record.agent, record.content_hash)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise NotReadyError(
            f"the frozen {record.kind} of {record.model_name} {record.model_version} is gone: {file}; restore it from a "
            "backup, or delete its row of learner_reference to have it frozen again"
        ) from None
    found = sha256(content).hexdigest()
    if found != record.content_hash:
        raise InputError(f"{file} is damaged: its content is {found}; restore it from a backup")
    return content


def _file(paths: ArtifactPaths, agent: str, content_hash: str) -> Path:
    return paths.monitoring(agent) / "references" / f"{content_hash}.bin"
