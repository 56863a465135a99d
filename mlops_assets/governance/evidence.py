"""What a decision is bound to: the validation report, the model's files, the training data, as they are now."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlops_assets.evaluation.report import REPORT_JSON, read_report
from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import digest
from mlops_assets.foundation.settings import Settings
from mlops_assets.registry.model_registry import ModelRegistry
from mlops_assets.registry.registration import RegisteredVersion

_PARTS = {"report": "validation report", "weights": "model files", "data": "training data", "waivers": "waivers"}


@dataclass(frozen=True)
class ApprovalEvidence:
    """Three hashes, 64 hex digits each, and the waivers that hold: who approved counted on them."""

    report_hash: str
    weights_hash: str
    data_hash: str
    waivers: tuple[int, ...] = ()

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
        """Return the version's evidence as it is now: report of its run, registered files, recorded data hash, waivers.

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
        return ApprovalEvidence(
            report_hash=report.evidence_hash,
            weights_hash=self._registry.files_hash(version.model_name, version.semver),
            data_hash=digest({"report": report.identity.data_hash, "registry": version.data_hash}),
            waivers=self._waivers(version.model_name),
        )


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
