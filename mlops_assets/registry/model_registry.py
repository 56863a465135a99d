"""The life of a model version: None, Staging, Production, Archived, Deleted; and the one champion.

The operational database says which version is in which stage, and every change is one transaction of it with its
audit event. MLflow's aliases and tags are what consumers read: a change points the alias first (one atomic write), so
that there is no moment without a champion, then writes the tags, then commits. A crash in between leaves the database
as it was; the same call, made again, completes the change. Whether a version deserves its stage is the business of
`governance/`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from mlops_assets.foundation.access import AccessControl
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.audit import PROMOTED_TO_PRODUCTION, ROLLED_BACK, append_event
from mlops_assets.foundation.clock import Clock
from mlops_assets.foundation.database import read_transaction, transaction
from mlops_assets.foundation.errors import AccessDeniedError, InputError, NotReadyError, PermanentError
from mlops_assets.foundation.policies import Permission
from mlops_assets.foundation.tables import ModelVersionRecord
from mlops_assets.registry.catalogue import CANDIDATE, CHALLENGER, CHAMPION, PREVIOUS, ModelCatalogue
from mlops_assets.registry.mlflow_store import SEMVER_TAG, STAGE_TAG
from mlops_assets.registry.registration import (
    Candidate,
    RegisteredVersion,
    Stage,
    create_or_adopt,
    find_registered,
    registered_version,
)
from mlops_assets.registry.semver import Bump
from mlops_assets.registry.version_records import (
    champion_line,
    lock_model,
    mlflow_number,
    record_in_production,
    require_approved,
    require_stage,
    version_record,
    version_records,
    was_champion,
)

STAGED, ARCHIVED, DELETED = "model_promoted_to_staging", "model_archived", "model_deleted"
ACCESS_DENIED = "access_denied"


class ModelRegistry(ModelCatalogue):
    """Registered models of one MLflow store and one operational database.

    With `access`, who moves a version by hand needs the permission for it, and a refusal is an audit event; an approved
    version takes its place without one, since its approval is the permission. Without `access`, everybody may.
    """

    def __init__(self, tracking_uri: str, engine: Engine, clock: Clock, access: AccessControl | None = None) -> None:
        super().__init__(tracking_uri, engine)
        self._clock = clock
        self._access = access

    def register(self, candidate: Candidate, spec: AgentSpec, *, bump: Bump = "minor") -> RegisteredVersion:
        """Register the model of a finished run, exactly once for each run and for each training identity.

        A second call for the run, or for another run that trained the same thing (same `training_hash`), returns the
        version that is there, with `created` False. The model is loaded and asked before anything is written. The
        semantic version is one above the highest ever taken, unique under concurrency; after a crash between MLflow
        and the database the next call adopts what MLflow has.

        Args:
            candidate: the run, what it was trained on, and what to write on the version.
            spec: the agent, whose registered model it becomes a version of.
            bump: major for a new architecture, minor for any retraining, patch for a fix; the first version is 1.0.0.

        Raises:
            InputError: no such run, or its model does not load and answer as this agent's.
            NotReadyError: the run has not finished.
        """
        name = spec.registered_model
        with read_transaction(self._engine) as reading:
            known = find_registered(reading, name, candidate)
        if known is not None:
            return registered_version(known, created=False)
        policy = self._store.verified_model(candidate.run_id, spec)
        with self._changing(name) as session:
            known = find_registered(session, name, candidate)
            if known is not None:
                return registered_version(known, created=False)
            record = create_or_adopt(session, self._store, policy, candidate, spec, bump=bump, now=self._clock.now())
            return registered_version(record, created=True)

    def promote_approved(self, model_name: str, version: str, *, user: str) -> RegisteredVersion:
        """Give an approved version its place: champion when there is none yet, else challenger; decided under one lock.

        Raises:
            InputError: no such version.
            NotReadyError: it is not approved, or no longer new.
        """
        with self._changing(model_name) as session:
            record = version_record(session, model_name, version)
            champion = record_in_production(session, model_name)
            if champion is None or champion.id == record.id:
                return self._first_champion(session, record, user)
            return self._stage(session, record, user)

    def promote_to_staging(self, model_name: str, version: str, *, user: str) -> RegisteredVersion:
        """Make an approved version the challenger; other versions in Staging stay there. A second call changes nothing.

        Raises:
            AccessDeniedError: `user` has no role for it.
            InputError: no such version.
            NotReadyError: it is not approved, or no longer new.
        """
        self.require(user, "deploy_staging", model_name, version)
        with self._changing(model_name) as session:
            return self._stage(session, version_record(session, model_name, version), user)

    def promote_first_champion(self, model_name: str, version: str, *, user: str) -> RegisteredVersion:
        """Make an approved version champion directly because there is none to compare with or to roll back to.

        Says so in the tag `first_champion` and in the audit event. A second call changes nothing.

        Raises:
            AccessDeniedError: `user` has no role for it.
            InputError: no such version.
            NotReadyError: it is not approved, or no longer new.
            PermanentError: another version is champion already.
        """
        self.require(user, "deploy_production", model_name, version)
        with self._changing(model_name) as session:
            record = version_record(session, model_name, version)
            champion = record_in_production(session, model_name)
            if champion is not None and champion.id != record.id:
                raise PermanentError(
                    f"{model_name} {champion.semver} is in production; "
                    f"stage {record.semver} and let the rollout promote it"
                )
            return self._first_champion(session, record, user)

    def promote_to_production(self, model_name: str, version: str, *, user: str, reason: str) -> RegisteredVersion:
        """Make a staged, approved version champion; the champion before it is archived and becomes `previous`.

        A second call changes nothing.

        Raises:
            AccessDeniedError: `user` has no role for it.
            InputError: no such version.
            NotReadyError: it is not approved, or not in Staging.
        """
        self.require(user, "deploy_production", model_name, version)
        with self._changing(model_name) as session:
            record = version_record(session, model_name, version)
            champion = record_in_production(session, model_name)
            outgoing = None if champion is None or champion.id == record.id else champion
            if champion is None or outgoing is not None:
                require_stage(record, "Staging")
            self._put_into_production(session, record, outgoing, user=user, details={"reason": reason})
            return registered_version(record, created=False)

    def rollback_model(
        self, model_name: str, to_version: str | None = None, *, user: str, reason: str, override: bool = False
    ) -> RegisteredVersion:
        """Give production back to a version that was champion before; the present champion is archived.

        The alias moves first, so that there is never no champion. Works without a present champion. When the target
        is the champion already, nothing changes.

        Args:
            model_name: registered model.
            to_version: semantic version, by default the one behind `previous`.
            user: who asks for it.
            reason: goes to the audit trail and to the tag `rollback_reason` of the version that leaves.
            override: also accept a version that was never champion.

        Raises:
            AccessDeniedError: `user` has no role for it.
            InputError: no such version, or it was never champion and `override` is not set.
            NotReadyError: no target is given and there is no `previous`.
        """
        self.require(user, "rollback", model_name, to_version or "")
        with self._changing(model_name) as session:
            record = self._rollback_target(session, model_name, to_version)
            champion = record_in_production(session, model_name)
            if champion is not None and champion.id == record.id and self._points(CHAMPION, record):
                return registered_version(record, created=False)
            if not override and not was_champion(session, record):
                raise InputError(
                    f"{model_name} {record.semver} was never in production; "
                    "choose a former champion, or override knowingly"
                )
            outgoing = None if champion is None or champion.id == record.id else champion
            self._store.set_alias(model_name, CHAMPION, mlflow_number(record))
            if outgoing is not None:
                self._move(outgoing, "Archived", rollback_reason=reason)
            details = {"reason": reason, "override": override}
            self._crown(session, record, outgoing, event=ROLLED_BACK, user=user, details=details)
            return registered_version(record, created=False)

    def point_candidate(self, model_name: str, version: str) -> None:
        """Let servers have a staged version for its rollout, whatever becomes challenger meanwhile.

        A second call changes nothing. The rollout's own ledger says who asked for it.

        Raises:
            InputError: no such version.
            NotReadyError: it is not in Staging.
        """
        with self._changing(model_name) as session:
            record = version_record(session, model_name, version)
            require_stage(record, "Staging")
            if not self._points(CANDIDATE, record):
                self._store.set_alias(model_name, CANDIDATE, mlflow_number(record))

    def leave_candidate(self, model_name: str, version: str) -> None:
        """Take a version's rollout from the servers; of a version that is not the candidate, nothing changes.

        Raises:
            InputError: no such version.
        """
        with self._changing(model_name) as session:
            self._leave_alias(CANDIDATE, version_record(session, model_name, version))

    def annotate(self, model_name: str, version: str, tags: Mapping[str, str]) -> None:
        """Write tags on a version for people to read; stage and semantic version are not set this way.

        Raises:
            InputError: no such version, or a tag that this class owns.
        """
        owned = {STAGE_TAG, SEMVER_TAG} & tags.keys()
        if owned:
            raise InputError(
                f"tags {', '.join(sorted(owned))} follow from the version's life; promote or roll back instead"
            )
        # Under the model's lock: of two writers of one new tag, MLflow lets the second one fail.
        with self._changing(model_name) as session:
            self._store.set_tags(model_name, mlflow_number(version_record(session, model_name, version)), tags)

    def archive(
        self, model_name: str, version: str, *, user: str, reason: str, rolled_back: bool = False
    ) -> RegisteredVersion:
        """Retire a version that is not champion. A second call changes nothing.

        Of one that was `rolled_back`, the reason is also its tag `rollback_reason`.

        Raises:
            AccessDeniedError: `user` has no role for it.
            InputError: no such version.
            PermanentError: it is the champion.
        """
        told = reason if rolled_back else None
        return self._retire(model_name, version, "Archived", ARCHIVED, user=user, reason=reason, rollback_reason=told)

    def mark_deleted(self, model_name: str, version: str, *, user: str, reason: str) -> RegisteredVersion:
        """Mark an archived version as deleted; its artifacts are a matter of retention. A second call changes nothing.

        Raises:
            AccessDeniedError: `user` has no role for it.
            InputError: no such version.
            NotReadyError: it is not archived.
            PermanentError: it is the champion or the version to roll back to.
        """
        return self._retire(model_name, version, "Deleted", DELETED, user=user, reason=reason)

    def require(self, user: str, permission: Permission, model_name: str, version: str) -> None:
        """Let who may do this pass; a refusal is an audit event.

        Raises:
            AccessDeniedError: `user` has no role for it.
        """
        if self._access is None:
            return
        try:
            self._access.require(user, permission)
        except AccessDeniedError as error:
            with transaction(self._engine) as session:
                append_event(
                    session,
                    event_type=ACCESS_DENIED,
                    # What somebody made up is cut to what the trail holds.
                    model_name=model_name[:128],
                    version=version[:64],
                    user=user[:255],
                    details={"permission": permission, "message": str(error)[:1000]},
                    now=self._clock.now(),
                )
            raise

    @contextmanager
    def _changing(self, model_name: str) -> Iterator[Session]:
        """One write transaction; changes of one model queue."""
        with transaction(self._engine) as session:
            lock_model(session, model_name)
            yield session

    def _stage(self, session: Session, record: ModelVersionRecord, user: str) -> RegisteredVersion:
        if record.stage == "Staging" and self._points(CHALLENGER, record):
            return registered_version(record, created=False)
        require_stage(record, "None", "Staging")
        require_approved(session, record)
        self._store.set_alias(record.model_name, CHALLENGER, mlflow_number(record))
        self._move(record, "Staging")
        self._audit(session, STAGED, record, user, {})
        return registered_version(record, created=False)

    def _first_champion(self, session: Session, record: ModelVersionRecord, user: str) -> RegisteredVersion:
        require_stage(record, "None", "Staging", "Production")
        details = {"first_champion": True, "reason": "no version was in production before"}
        self._put_into_production(session, record, None, user=user, details=details)
        return registered_version(record, created=False)

    def _put_into_production(
        self,
        session: Session,
        record: ModelVersionRecord,
        outgoing: ModelVersionRecord | None,
        *,
        user: str,
        details: Mapping[str, Any],
    ) -> None:
        if record.stage == "Production" and self._points(CHAMPION, record):
            return
        require_approved(session, record)
        self._store.set_alias(record.model_name, CHAMPION, mlflow_number(record))
        if outgoing is not None:
            self._move(outgoing, "Archived")
        self._crown(session, record, outgoing, event=PROMOTED_TO_PRODUCTION, user=user, details=details)

    def _crown(
        self,
        session: Session,
        record: ModelVersionRecord,
        outgoing: ModelVersionRecord | None,
        *,
        event: str,
        user: str,
        details: Mapping[str, Any],
    ) -> None:
        """Write what follows from a new champion, once its alias points to it."""
        self._leave_alias(CHALLENGER, record)
        extra = {"first_champion": "true"} if details.get("first_champion") else {}
        self._move(record, "Production", production_deployment_date=self._clock.now().isoformat(), **extra)
        left = None if outgoing is None else outgoing.semver
        self._audit(session, event, record, user, {**details, "from_version": left})
        self._align_tags(session, record.model_name)
        former = champion_line(session, record.model_name)[:-1]
        if former:
            before = version_record(session, record.model_name, former[-1])
            self._store.set_alias(record.model_name, PREVIOUS, mlflow_number(before))
        else:
            self._store.drop_alias(record.model_name, PREVIOUS)

    def _align_tags(self, session: Session, model_name: str) -> None:
        """Correct stage tags that an interrupted change left behind on other versions."""
        stages = {record.mlflow_version: record.stage for record in version_records(session, model_name)}
        for version in self._store.versions(model_name):
            stage = stages.get(version.number)
            if stage is not None and version.tags.get(STAGE_TAG) != stage:
                self._store.set_tags(model_name, version.number, {STAGE_TAG: stage})

    def _retire(
        self,
        model_name: str,
        version: str,
        stage: Stage,
        event: str,
        *,
        user: str,
        reason: str,
        rollback_reason: str | None = None,
    ) -> RegisteredVersion:
        self.require(user, "deploy_production", model_name, version)
        with self._changing(model_name) as session:
            record = version_record(session, model_name, version)
            if record.stage == stage:
                return registered_version(record, created=False)
            if record.stage == "Production":
                raise PermanentError(
                    f"{model_name} {record.semver} is the champion; promote or roll back to another first"
                )
            if stage == "Deleted":
                require_stage(record, "Archived")
                if self._points(PREVIOUS, record):
                    raise PermanentError(f"{model_name} {record.semver} is kept: it is the version to roll back to")
            # What is shown beside an archived version is why it left.
            self._move(record, stage, **({"rollback_reason": rollback_reason} if rollback_reason else {}))
            self._audit(session, event, record, user, {"reason": reason})
            return registered_version(record, created=False)

    def _rollback_target(self, session: Session, model_name: str, to_version: str | None) -> ModelVersionRecord:
        if to_version is not None:
            return version_record(session, model_name, to_version)
        # Not from the alias: an interrupted rollback may have moved it already.
        former = champion_line(session, model_name)[:-1]
        if not former:
            raise NotReadyError(f"{model_name} has no previous champion to roll back to; name a version")
        return version_record(session, model_name, former[-1])

    def _move(self, record: ModelVersionRecord, stage: Stage, **tags: str) -> None:
        if stage in {"Archived", "Deleted"}:
            # Also a champion that leaves: with the alias of its rollout, servers would go on with it.
            for alias in (CHALLENGER, CANDIDATE):
                self._leave_alias(alias, record)
        self._store.set_tags(record.model_name, mlflow_number(record), {**tags, STAGE_TAG: stage})
        record.stage = stage
        record.updated_at = self._clock.now()

    def _audit(
        self, session: Session, event: str, record: ModelVersionRecord, user: str, details: Mapping[str, Any]
    ) -> None:
        append_event(
            session,
            event_type=event,
            model_name=record.model_name,
            version=record.semver,
            user=user,
            details={**details, "run_id": record.run_id},
            now=self._clock.now(),
        )

    def _points(self, alias: str, record: ModelVersionRecord) -> bool:
        return self._store.alias_target(record.model_name, alias) == record.mlflow_version

    def _leave_alias(self, alias: str, record: ModelVersionRecord) -> None:
        if self._points(alias, record):
            self._store.drop_alias(record.model_name, alias)
