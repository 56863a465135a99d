"""Whether a version may start a rollout now: every reason against it is an error that says what to do. No writing here."""

import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine

from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.foundation.policies import STAGE_SHARES, RolloutPolicy
from mlops_assets.governance.approvals import Approvals
from mlops_assets.governance.evidence import spec_of
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.registry.registration import RegisteredVersion
from mlops_assets.registry.version_records import require_approved, require_stage, version_record
from mlops_assets.rollout.ban import banned
from mlops_assets.rollout.calendar import closed
from mlops_assets.rollout.ledger import current, steps
from mlops_assets.rollout.platform import PlatformWatch
from mlops_assets.rollout.state import STAGES, RolloutState


@dataclass(frozen=True)
class Starter:
    """What has to be asked before a rollout starts."""

    engine: Engine
    registry: ModelRegistry
    approvals: Approvals
    platform: PlatformWatch
    policy: RolloutPolicy

    def first_state(
        self, model_name: str, version: str | None, now: datetime, *, user: str, accept_accuracy: bool
    ) -> RolloutState:
        """Return the state with which the rollout of a version begins.

        Args:
            model_name: registered model.
            version: semantic version, by default the challenger.
            now: time.
            user: who asks.
            accept_accuracy: also a version whose accuracy before the rollout is below what its last stage asks for.

        Raises:
            InputError: no such model or version, or its accuracy can never pass.
            NotReadyError: there is no champion, the version is not approved and staged, is banned, the calendar is closed,
                another rollout is under way, or the A/A test alarms.
            ApprovalRefusedError: what its approval rests on has changed.
            TransientError: a store does not answer.
        """
        spec = spec_of(model_name)
        champion = self.registry.champion(model_name)
        if champion is None:
            raise NotReadyError(
                f"{model_name} has no champion to compare with; the first approved version takes its place directly: "
                "run the lifecycle, or `python -m mlops_assets.governance.commands promote`"
            )
        candidate = self._candidate(model_name, version)
        before = current(self.engine, model_name)
        if before is not None and before.active:
            raise NotReadyError(
                f"{model_name} has the rollout {before.name} under way ({before.status.replace('_', ' ')}, {before.stage}); "
                f"{candidate.semver} can start when it is over, or abort it first"
            )
        self._require_fit(candidate, accept_accuracy=accept_accuracy)
        self.approvals.require_current(model_name, candidate.semver, user=user)
        for reason in (
            banned(self.engine, candidate.training_hash, model_name, now, self.policy.cool_down_hours),
            closed(self.policy.calendar, now),
            self.platform.alarm(spec.name, champion.semver),
        ):
            if reason is not None:
                raise NotReadyError(f"{model_name} {candidate.semver} does not start: {reason}")
        number = 1 if before is None else before.number + 1
        return RolloutState(
            name=f"rollout-{spec.name}-{candidate.semver}-{number}",
            model_name=model_name,
            agent=spec.name,
            candidate=candidate.semver,
            champion=champion.semver,
            training_hash=candidate.training_hash,
            salt=secrets.token_hex(16),
            number=number,
            status="running",
            stage=STAGES[0],
            share=STAGE_SHARES[STAGES[0]],
            started_at=now,
            since=now,
        )

    def waiting(self, model_name: str) -> str | None:
        """Return the challenger that has never had a rollout, None when there is none or no champion.

        One that was aborted or taken back is started again by people only.
        """
        challenger = self.registry.challenger(model_name)
        if challenger is None or challenger.stage != "Staging" or self.registry.champion(model_name) is None:
            return None
        tried = {step.state.candidate for step in steps(self.engine, model_name=model_name)}
        return None if challenger.semver in tried else challenger.semver

    def platform_alarm(self, model_name: str) -> str | None:
        """Return why no rollout of the model could be trusted now; looked at also while nothing waits, so that it is known."""
        champion = self.registry.champion(model_name)
        return None if champion is None else self.platform.alarm(spec_of(model_name).name, champion.semver)

    def _candidate(self, model_name: str, version: str | None) -> RegisteredVersion:
        if version is not None:
            return self.registry.version(model_name, version)
        challenger = self.registry.challenger(model_name)
        if challenger is None:
            raise NotReadyError(f"{model_name} has no challenger; run the lifecycle, or name a version")
        return challenger

    def _require_fit(self, candidate: RegisteredVersion, *, accept_accuracy: bool) -> None:
        with read_transaction(self.engine) as session:
            record = version_record(session, candidate.model_name, candidate.semver)
            require_stage(record, "Staging")
            require_approved(session, record)
        accuracy = self.registry.metrics(candidate.model_name, candidate.semver).get("accuracy")
        floor = self.policy.highest_floor
        if accuracy is not None and accuracy < floor and not accept_accuracy:
            raise InputError(
                f"{candidate.model_name} {candidate.semver} has an accuracy of {accuracy:.1%} on held-out data, and the last "
                f"stage asks users for {floor:.1%}: it would only be held there; train a better one, change the policy "
                "profile, or start it knowingly with --accept-accuracy"
            )
