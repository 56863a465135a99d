"""What a decision is bound to: the validation report, the model's files, the training data, as they are now."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlops_assets.evaluation.report import REPORT_JSON, read_report
from mlops_assets.experiences.snapshot_files import data_files, data_hash_now
from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import digest
from mlops_assets.foundation.settings import Settings
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.registry.registration import RegisteredVersion

# Hashing takes about a second for each 0.5 GB, and every vote and promotion waits for it.
_MAX_DATA_BYTES = 2_000_000_000
Verdict = Literal["same", "differs", "not checked"]
_PARTS = {"report": "validation report", "weights": "model files", "data": "training data", "waivers": "waivers"}


@dataclass(frozen=True)
class Finding:
    """Whether something is what it was when the model was trained and evaluated; `words` says what differs, or why not."""

    verdict: Verdict
    words: str = ""

    def __str__(self) -> str:
        """Say both."""
        return f"{self.verdict}: {self.words}" if self.words else self.verdict


@dataclass(frozen=True)
class ApprovalEvidence:
    """Three hashes, 64 hex digits each, and the waivers that hold: who approved counted on them.

    `model`: the registered files against those that were evaluated. `snapshot`: the training data on disk against the
    hash that was recorded of them. Neither is part of `hash`: that the data are gone by retention voids no approval,
    and that they differ is in `data_hash`.
    """

    report_hash: str
    weights_hash: str
    data_hash: str
    waivers: tuple[int, ...] = ()
    model: Finding = Finding("not checked", "nobody looked")
    snapshot: Finding = Finding("not checked", "nobody looked")

    @property
    def hash(self) -> str:
        """Hex sha256 over all of it."""
        hashes = {"report": self.report_hash, "weights": self.weights_hash, "data": self.data_hash}
        return digest({**hashes, "waivers": list(self.waivers)} if self.waivers else hashes)

    def facts(self) -> dict[str, Any]:
        """Return the parts, as they are stored with a decision."""
        return {
            "report": self.report_hash,
            "weights": self.weights_hash,
            "data": self.data_hash,
            "waivers": list(self.waivers),
            "model_as_evaluated": str(self.model),
            "data_as_recorded": str(self.snapshot),
        }

    def changes(self, known_hash: str, known: Mapping[str, Any] | None) -> tuple[str, ...]:
        """Name what is not as it was in the evidence with `known_hash` and parts `known`; empty when all of it is.

        Where the parts are not on record, the evidence as a whole is named.
        """
        if self.hash == known_hash:
            return ()
        now = self.facts()
        parts = [words for part, words in _PARTS.items() if known is not None and known.get(part) != now[part]]
        return tuple(parts) or ("evidence",)


class EvidenceReader:
    """Reads the evidence where it lies, every time: what was true when the request was opened proves nothing."""

    def __init__(
        self, settings: Settings, registry: ModelRegistry, waivers: Callable[[str], tuple[int, ...]] = lambda _name: ()
    ) -> None:
        """Remember where to look; `waivers` gives the ids of a model's waivers that hold now."""
        self._settings = settings
        self._registry = registry
        self._waivers = waivers

    def __call__(self, version: RegisteredVersion) -> ApprovalEvidence:
        """Return the version's evidence as it is now: report of its run, registered files, training data, waivers.

        The snapshot's files are read in full, up to 2 GB (4 s); a larger one, and one that is not on this machine (gone
        by retention, or the lifecycle runs elsewhere), is `not checked`, and only its recorded hashes count.

        Raises:
            InputError: the report or the model is gone or damaged.
            TransientError: MLflow does not answer.
        """
        from mlops_assets.training.tracking import TrainingTracker

        spec = spec_of(version.model_name)
        file = self._settings.paths.reports(spec.name) / version.run_id / REPORT_JSON
        if not file.is_file():
            tracker = TrainingTracker(self._settings.tracking_uri, self._settings.artifact_root)
            tracker.download_artifact(version.run_id, file.name, file.parent)
        report = read_report(file)
        files_hash = self._registry.files_hash(version.model_name, version.semver)
        recorded = {"report": report.identity.data_hash, "registry": version.data_hash}
        snapshot, data_hash = self._snapshot(spec, version.data_hash)
        if report.identity.data_hash != version.data_hash:
            snapshot = Finding("differs", "the report is of other training data than the version")
        return ApprovalEvidence(
            report_hash=report.evidence_hash,
            weights_hash=files_hash,
            data_hash=digest(recorded if data_hash is None else {**recorded, "snapshot": data_hash}),
            waivers=self._waivers(version.model_name),
            model=_model(report.identity.served_hash, files_hash),
            snapshot=snapshot,
        )

    def _snapshot(self, spec: AgentSpec, recorded: str) -> tuple[Finding, str | None]:
        """Compare the snapshot on disk with its recorded hash; its own hash too if it is another."""
        folder = self._settings.paths.snapshots(spec.name) / recorded
        if not folder.is_dir():
            return Finding("not checked", "the snapshot is not on this machine"), None
        try:
            size = sum(file.stat().st_size for file in data_files(folder))
            if size > _MAX_DATA_BYTES:
                return Finding("not checked", f"the snapshot has {size} bytes, more than {_MAX_DATA_BYTES}"), None
            found = data_hash_now(folder)
        except OSError as error:  # retention may remove it meanwhile
            return Finding("not checked", f"the snapshot cannot be read: {error.strerror}"), None
        if found == recorded:
            return Finding("same"), None
        return Finding("differs", f"the training data in {folder} are not those of their hash"), found


def _model(evaluated: str | None, found: str) -> Finding:
    if evaluated is None:
        return Finding("not checked", "the report does not say which model files were evaluated; evaluate again")
    if evaluated == found:
        return Finding("same")
    return Finding("differs", "the registered model files are not those that were evaluated; train again")


def spec_of(model_name: str) -> AgentSpec:
    """Return the agent of a registered model.

    Raises:
        InputError: no agent has such a model; the known ones are named.
    """
    for spec in AGENTS.values():
        if spec.registered_model == model_name:
            return spec
    known = ", ".join(spec.registered_model for spec in AGENTS.values())
    raise InputError(f"unknown model {model_name!r}; registered models: {known}")
