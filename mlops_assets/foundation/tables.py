"""Tables of the operational database as typed ORM classes; migrations create them, queries live with their rooms."""

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime with microseconds on both engines; a naive one is refused, since SQLite would shift it."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """PostgreSQL stores an instant; SQLite stores the UTC wall time."""
        return dialect.type_descriptor(DateTime(timezone=dialect.name == "postgresql"))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Normalise to UTC, without zone for SQLite."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}: the operational database takes aware datetimes only; add UTC")
        utc = value.astimezone(UTC)
        return utc if dialect.name == "postgresql" else utc.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class LineNumber(TypeDecorator[int]):
    """A line of a file, None for the file as a whole; stored as -1, because NULLs never collide in a unique key."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int:  # noqa: ARG002
        """None becomes -1."""
        return -1 if value is None else value

    def process_result_value(self, value: int | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """A negative number becomes None."""
        return None if value is None or value < 0 else value


# SQLite numbers rows by itself only for a primary key that is exactly INTEGER.
ROW_ID = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    """Common base: constraint names are fixed so that migrations can name them on both engines."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: String(255),
        datetime: UtcDateTime(),
        # JSON and not JSONB: the text comes back as it was hashed (JSONB rewrites 1e22 and -0.0).
        dict[str, Any]: JSON(),
        list[str]: JSON(),
        list[float]: JSON(),
        bytes: LargeBinary(),
    }


class IngestedSource(Base):
    """One source file (or table extract) whose executions are stored; the key is its content's sha256."""

    __tablename__ = "ingested_source"

    source_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    source_file: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(String(32))
    rows: Mapped[int]
    quarantined: Mapped[int]
    first_event: Mapped[datetime | None]
    last_event: Mapped[datetime | None]
    ingested_at: Mapped[datetime]


class QuarantinedRow(Base):
    """One row that was kept out, with where it stands and why."""

    __tablename__ = "quarantined_row"
    __table_args__ = (UniqueConstraint("source_hash", "line", "reason"),)

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    source_file: Mapped[str] = mapped_column(Text)
    source_hash: Mapped[str] = mapped_column(String(64))
    line: Mapped[int | None] = mapped_column(LineNumber, nullable=False, default=None)
    reason: Mapped[str]
    excerpt: Mapped[str] = mapped_column(Text)
    quarantined_at: Mapped[datetime]


class ExperienceCursor(Base):
    """How far an agent's experiences have been read from one source; `position` is the source's own JSON."""

    __tablename__ = "experience_cursor"

    agent: Mapped[str] = mapped_column(String(64), primary_key=True)
    source: Mapped[str] = mapped_column(String(255), primary_key=True)
    position: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[datetime]


class SnapshotRecord(Base):
    """One published experience snapshot; `status` is created, validated or rejected."""

    __tablename__ = "snapshot"
    __table_args__ = (UniqueConstraint("agent", "data_hash"), Index(None, "agent", "created_at"))

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    agent: Mapped[str] = mapped_column(String(64))
    data_hash: Mapped[str] = mapped_column(String(64))
    source: Mapped[str]
    rows: Mapped[int]
    new_rows: Mapped[int]
    first_event: Mapped[datetime | None]
    last_event: Mapped[datetime | None]
    label_cutoff: Mapped[datetime]
    dvc_md5: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16), default="created")
    created_at: Mapped[datetime]


class ValidationRecord(Base):
    """Verdict of one validation suite on one snapshot."""

    __tablename__ = "validation"
    __table_args__ = (UniqueConstraint("agent", "data_hash", "suite"),)

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    agent: Mapped[str] = mapped_column(String(64))
    data_hash: Mapped[str] = mapped_column(String(64))
    suite: Mapped[str] = mapped_column(String(128))
    passed: Mapped[bool]
    failed_expectations: Mapped[list[str]]
    report_path: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]


class FeatureViewRecord(Base):
    """What one feature view holds and how fresh its online copy is."""

    __tablename__ = "feature_view"

    view: Mapped[str] = mapped_column(String(128), primary_key=True)
    source_rows: Mapped[int]
    last_event_time: Mapped[datetime | None]
    last_materialized_at: Mapped[datetime | None]


class ModelVersionRecord(Base):
    """One semantic version of a registered model; a row without `mlflow_version` is a reservation in flight."""

    __tablename__ = "model_version"
    __table_args__ = (
        UniqueConstraint("model_name", "semver"),
        UniqueConstraint("model_name", "run_id"),
        Index(None, "model_name", "major", "minor", "patch"),
    )

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    model_name: Mapped[str] = mapped_column(String(128))
    semver: Mapped[str] = mapped_column(String(32))
    major: Mapped[int]
    minor: Mapped[int]
    patch: Mapped[int]
    mlflow_version: Mapped[str | None] = mapped_column(String(32))
    run_id: Mapped[str] = mapped_column(String(64))
    training_hash: Mapped[str] = mapped_column(String(64))
    data_hash: Mapped[str] = mapped_column(String(64))
    stage: Mapped[str] = mapped_column(String(16), default="None")
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class DecisionRecord(Base):
    """One approval decision on one version, bound to the evidence it was taken on; the newest one counts.

    `evidence` holds the parts behind `evidence_hash`, None where nobody recorded them. `request_id`: the request that
    people answered, None for a decision of the policy. `pending` is an approval that is void.
    """

    __tablename__ = "decision"
    # No unique key: the same evidence is decided on again when another decision came between. Writers queue by model.
    __table_args__ = (Index(None, "model_name", "semver", "id"),)

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    model_name: Mapped[str] = mapped_column(String(128))
    semver: Mapped[str] = mapped_column(String(32))
    run_id: Mapped[str] = mapped_column(String(64))
    risk: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    reasons: Mapped[list[str]]
    evidence_hash: Mapped[str] = mapped_column(String(64))
    evidence: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    request_id: Mapped[int | None] = mapped_column(ROW_ID, ForeignKey("approval_request.id"))
    decided_at: Mapped[datetime]
    decided_by: Mapped[str]


class ApprovalRequestRecord(Base):
    """One question to people about one version, bound to the evidence that they are asked on.

    `evidence_hash` is the digest of the three hashes before it and of the waivers; `evidence` holds all parts, None in
    rows of an older version. `status` is open, approved, rejected, expired or superseded; an approved request without
    `applied_at` has yet to move its version. `notified_by`: ways that took the message to the approvers.
    """

    __tablename__ = "approval_request"
    # One open request of a version, also for two lifecycles that ask at once.
    __table_args__ = (
        Index(
            "uq_approval_request_open_version",
            "model_name",
            "semver",
            unique=True,
            sqlite_where=text("status = 'open'"),
            postgresql_where=text("status = 'open'"),
        ),
        Index(None, "model_name", "semver", "id"),
        Index(None, "status"),
    )

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    model_name: Mapped[str] = mapped_column(String(128))
    semver: Mapped[str] = mapped_column(String(32))
    run_id: Mapped[str] = mapped_column(String(64))
    risk: Mapped[str] = mapped_column(String(16))
    reasons: Mapped[list[str]]
    author: Mapped[str]
    required_approvers: Mapped[list[str]]
    min_approvals: Mapped[int]
    report_hash: Mapped[str] = mapped_column(String(64))
    weights_hash: Mapped[str] = mapped_column(String(64))
    data_hash: Mapped[str] = mapped_column(String(64))
    evidence_hash: Mapped[str] = mapped_column(String(64))
    evidence: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    status: Mapped[str] = mapped_column(String(16), default="open")
    requested_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    applied_at: Mapped[datetime | None]
    notified_by: Mapped[list[str]]


class ApprovalVoteRecord(Base):
    """What one approver said to one request, once."""

    __tablename__ = "approval_vote"
    __table_args__ = (UniqueConstraint("request_id", "approver"),)

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    request_id: Mapped[int] = mapped_column(ROW_ID, ForeignKey("approval_request.id"))
    approver: Mapped[str]
    decision: Mapped[str] = mapped_column(String(16))
    comment: Mapped[str] = mapped_column(Text)
    voted_at: Mapped[datetime]


class WaiverRecord(Base):
    """One check that a model may miss until a date, and who decided so; `revoked_at` ends it before."""

    __tablename__ = "waiver"
    __table_args__ = (Index(None, "model_name", "ends_at"),)

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    model_name: Mapped[str] = mapped_column(String(128))
    check_name: Mapped[str] = mapped_column(String(128))
    reason: Mapped[str] = mapped_column(Text)
    granted_by: Mapped[str]
    granted_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class AuditEvent(Base):
    """One link of the append-only, hash-chained audit trail; the database refuses UPDATE and DELETE on it."""

    __tablename__ = "audit_event"
    # One successor for each link: two writers that both read the same head cannot both append.
    __table_args__ = (
        UniqueConstraint("hash"),
        UniqueConstraint("previous_hash"),
        Index(None, "model_name", "occurred_at"),
    )

    sequence: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=False)
    event_type: Mapped[str] = mapped_column(String(64))
    model_name: Mapped[str] = mapped_column(String(128))
    version: Mapped[str] = mapped_column(String(64))
    user: Mapped[str] = mapped_column("user_name", String(255))
    occurred_at: Mapped[datetime]
    details: Mapped[dict[str, Any]]
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class Lease(Base):
    """Who holds a resource until when; `token` grows with every new holder, so that a late one can be told apart."""

    __tablename__ = "lease"

    resource: Mapped[str] = mapped_column(String(255), primary_key=True)
    holder: Mapped[str]
    token: Mapped[int] = mapped_column(BigInteger)
    acquired_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class AssetRecord(Base):
    """What one asset handed downstream for one partition in one run: a small typed record, never data itself."""

    __tablename__ = "asset_record"
    __table_args__ = (
        UniqueConstraint("asset", "partition", "run_id"),
        Index(None, "asset", "partition", "recorded_at"),
    )

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    asset: Mapped[str] = mapped_column(String(128))
    partition: Mapped[str] = mapped_column(String(64))
    run_id: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]]
    recorded_at: Mapped[datetime]


class ExperimentRecord(Base):
    """One A/B test of an agent and its present traffic split; `status` is running, paused or stopped."""

    __tablename__ = "experiment"
    # One unfinished experiment of an agent, also for two that are created at once.
    __table_args__ = (
        Index(
            "uq_experiment_unfinished_agent",
            "agent",
            unique=True,
            sqlite_where=text("status <> 'stopped'"),
            postgresql_where=text("status <> 'stopped'"),
        ),
    )

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    agent: Mapped[str] = mapped_column(String(64))
    salt: Mapped[str] = mapped_column(String(64))
    treatment_alias: Mapped[str] = mapped_column(String(64))
    treatment_share: Mapped[float]
    # `treatments` beside the first, alias and share of each; NULL: none.
    more_treatments: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    # NULL: everybody.
    segment: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    status: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class RolloutEvent(Base):
    """One step of a model's rollouts, in the order of `number`; the database refuses UPDATE and DELETE on it.

    `state` is what the step led to, whole. `active`: the rollout goes on after this step. `idempotency_key` makes a second
    try of the same step harmless.
    """

    __tablename__ = "rollout_event"
    # One successor for each step: of two that both saw the same state, one writes.
    __table_args__ = (UniqueConstraint("model_name", "number"), UniqueConstraint("idempotency_key"))

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    model_name: Mapped[str] = mapped_column(String(128))
    number: Mapped[int]
    rollout: Mapped[str] = mapped_column(String(100))
    agent: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    active: Mapped[bool]
    state: Mapped[dict[str, Any]]
    reasons: Mapped[list[str]]
    evidence: Mapped[dict[str, Any]]
    user: Mapped[str] = mapped_column("user_name", String(255))
    occurred_at: Mapped[datetime]
    idempotency_key: Mapped[str] = mapped_column(String(200))


class RolloutEffect(Base):
    """The outbox: what a step of a rollout has yet to do outside of this database, or has done at `done_at`.

    `problem` says why the last of `attempts` tries failed, or why there was nothing to do.
    """

    __tablename__ = "rollout_effect"
    __table_args__ = (UniqueConstraint("event_id", "kind"), Index(None, "done_at"))

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    event_id: Mapped[int] = mapped_column(ROW_ID, ForeignKey("rollout_event.id"))
    kind: Mapped[str] = mapped_column(String(32))
    done_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    problem: Mapped[str | None] = mapped_column(Text)


class RolloutWatch(Base):
    """How far the servers' guard has read a rollout's answers, up to `read_to`, and the evidence of harm in them.

    Of two servers that read the same, one writes: `version` counts the writes.
    """

    __tablename__ = "rollout_watch"

    rollout: Mapped[str] = mapped_column(String(100), primary_key=True)
    version: Mapped[int]
    read_to: Mapped[datetime]
    evidence: Mapped[dict[str, Any]]


class PredictionRecord(Base):
    """One served decision, logged once, with everything that made it.

    `state` is the ordered vector that the network saw, float32 little-endian; its first entries are the context. `status`
    is `ok` or `degraded` (answered without online features). `fallback` says why the champion answered a user of the
    treatment: its model `failed` on the request, or was `absent`; else it is NULL. `arms`: where the decision counts in an
    experiment, `versions` (arm to version) and `shares` (treatment to traffic share) at its time.
    `aa_arm`: of the A/A test, of those of the champion's users who are in it; in its treatment, `fallback` is `failed` where
    the champion was late or failed, and was asked again. `channel` is http or stream. `user_hash` is a pseudonym.
    """

    __tablename__ = "prediction"
    __table_args__ = (
        Index(None, "agent", "event_time"),
        Index(None, "agent", "episode_id", "step"),
        Index(None, "experiment", "event_time"),
        Index(None, "user_hash", "event_time"),
        Index(None, "experiment", "user_hash", "event_time"),
        # The A/A test's users: a few in a hundred of an agent's.
        Index(
            "ix_prediction_aa_test",
            "agent",
            "model_version",
            "event_time",
            sqlite_where=text("aa_arm IS NOT NULL"),
            postgresql_where=text("aa_arm IS NOT NULL"),
        ),
    )

    prediction_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    event_time: Mapped[datetime]
    agent: Mapped[str] = mapped_column(String(64))
    agent_id: Mapped[str]
    # As long as test identities may be.
    test_id: Mapped[str] = mapped_column(String(512))
    requirement_id: Mapped[str]
    requirement_text: Mapped[str] = mapped_column(Text)
    episode_id: Mapped[str]
    step: Mapped[int]
    ui_framework: Mapped[str] = mapped_column(String(64))
    browser: Mapped[str] = mapped_column(String(64))
    test_type: Mapped[str] = mapped_column(String(64))
    model_name: Mapped[str] = mapped_column(String(128))
    model_version: Mapped[str] = mapped_column(String(32))
    model_alias: Mapped[str] = mapped_column(String(64))
    experiment: Mapped[str | None] = mapped_column(String(100))
    variant: Mapped[str] = mapped_column(String(64))
    treatment_share: Mapped[float | None]
    arms: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    aa_arm: Mapped[str | None] = mapped_column(String(16))
    user_hash: Mapped[str | None] = mapped_column(String(64))
    state: Mapped[bytes]
    missing_features: Mapped[list[str]]
    q_values: Mapped[list[float]]
    action: Mapped[int]
    propensity: Mapped[float]
    explored: Mapped[bool]
    confidence: Mapped[float]
    latency_ms: Mapped[float]
    cached: Mapped[bool]
    status: Mapped[str] = mapped_column(String(16))
    fallback: Mapped[str | None] = mapped_column(String(16))
    channel: Mapped[str] = mapped_column(String(16))


class ExperimentLook(Base):
    """One look at an experiment; users whose window ended between the cutoff before and this one are its units.

    `versions`: those that are compared, by arm, and how many decisions others took. `evidence` is what this look and those
    before it have found together; NULL until somebody asks for it.
    """

    __tablename__ = "experiment_look"

    experiment: Mapped[str] = mapped_column(String(100), primary_key=True)
    look: Mapped[int] = mapped_column(primary_key=True)
    cutoff: Mapped[datetime]
    looked_at: Mapped[datetime]
    design: Mapped[dict[str, Any]]
    versions: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    evidence: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class ExperimentUnit(Base):
    """One user's first window at one traffic share, as it was known at the look; never changed.

    `share` is the probability with which this user got the treatment, given what was known of him before. `outcomes`:
    metric to a mean in 0..1, only of what was observed. `arms`, where there are several treatments: the user's `variant`,
    the `shares` then, and the `draws`, treatment to its probability against the control; `treatment_share` is then the sum
    of the largest shares up to there. `before`: the same metrics before the experiment, NULL for who was not there.
    """

    __tablename__ = "experiment_unit"
    __table_args__ = (Index(None, "experiment", "look"),)

    experiment: Mapped[str] = mapped_column(String(100), primary_key=True)
    user_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    treatment_share: Mapped[float] = mapped_column(primary_key=True)
    look: Mapped[int]
    treatment: Mapped[bool]
    share: Mapped[float]
    outcomes: Mapped[dict[str, Any]]
    arms: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class ShadowPredictionRecord(Base):
    """What a version that did not answer would have answered to a logged request."""

    __tablename__ = "shadow_prediction"

    prediction_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model_name: Mapped[str] = mapped_column(String(128), primary_key=True)
    model_version: Mapped[str] = mapped_column(String(32), primary_key=True)
    q_values: Mapped[list[float]]
    action: Mapped[int]
    latency_ms: Mapped[float]
    event_time: Mapped[datetime]


class OutcomeRecord(Base):
    """What came of one served decision; one row a prediction, numbered in the order in which they arrived."""

    __tablename__ = "outcome"
    __table_args__ = (UniqueConstraint("prediction_id"),)

    id: Mapped[int] = mapped_column(ROW_ID, primary_key=True, autoincrement=True)
    prediction_id: Mapped[str] = mapped_column(String(64))
    agent: Mapped[str] = mapped_column(String(64))
    reward: Mapped[float]
    done: Mapped[bool]
    best_action: Mapped[int | None]
    # Absent is NULL, not the JSON text null: queries count labels by it.
    action_values: Mapped[list[float] | None] = mapped_column(JSON(none_as_null=True))
    occurred_at: Mapped[datetime]
    received_at: Mapped[datetime]


class ApiTokenRecord(Base):
    """One bearer token of the serving API, kept as the sha256 of its text; who lost it gets a new one."""

    __tablename__ = "api_token"
    __table_args__ = (UniqueConstraint("token_hash"),)

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64))
    rate_per_second: Mapped[float | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
