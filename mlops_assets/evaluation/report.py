"""The validation report: all that was measured about one model, as JSON and HTML. Measuring is in `evaluate.py`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from mlops_assets.evaluation.comparison import AbTestPlan, ChampionComparison
from mlops_assets.evaluation.gates import Gate, Verdict, overall
from mlops_assets.evaluation.intervals import Interval
from mlops_assets.evaluation.latency import Latency, RuntimeParity
from mlops_assets.evaluation.off_policy import OffPolicyReport
from mlops_assets.evaluation.plots import confusion_matrix_png
from mlops_assets.evaluation.returns import Returns
from mlops_assets.evaluation.security import SecurityReport
from mlops_assets.evaluation.slices import SliceReport
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import atomic_write, digest

REPORT_JSON = "validation_report.json"
REPORT_HTML = "validation_report.html"
CONFUSION_PNG = "confusion_matrix.png"
# From here on the page shows whole numbers.
_WHOLE = 1000


class ModelIdentity(BaseModel):
    """Which model was evaluated, and on what it was trained.

    `training_hash` identifies what was trained: training set, configuration, seed and code. `served_hash` is of the files
    that serving takes, as they were evaluated; None in a report of an older version of this project.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent: str
    model_name: str
    run_id: str
    data_hash: str
    training_hash: str
    architecture: str
    training_rows: int
    served_hash: str | None = None


class Holdout(BaseModel):
    """The held-out decisions: all later in time than the training ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    labelled: int
    episodes: int
    first_event: datetime
    last_event: datetime


class ValidationReport(BaseModel):
    """Metrics, gates and evidence; what the metrics mean is written in `metrics.py`.

    `metrics` holds every figure by its name, and only those that could be measured; `confusion` counts labelled best
    action (row) against greedy action (column).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    identity: ModelIdentity
    policy_profile: str
    created_at: datetime
    holdout: Holdout
    actions: tuple[str, ...]
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    avg_reward_method: str
    confusion: tuple[tuple[int, ...], ...]
    slices: SliceReport
    latency: tuple[Latency, ...]
    runtime_parity: tuple[RuntimeParity, ...]
    off_policy: OffPolicyReport | None
    returns: Returns | None
    security: SecurityReport
    comparison: ChampionComparison | None
    ab_test: AbTestPlan | None
    prioritisation: dict[str, JsonValue] | None
    gates: tuple[Gate, ...]
    limitations: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Return fail if any gate fails, insufficient_data if any lacks data, else pass."""
        return overall(self.gates)

    @property
    def evidence_hash(self) -> str:
        """Hex sha256 of everything in the report but the time it was written: what a decision is bound to."""
        document = self.model_dump(mode="json", exclude={"created_at"})
        # Older reports keep the hash that decisions were bound to.
        if self.identity.served_hash is None:
            del document["identity"]["served_hash"]
        return digest(document)

    def gate(self, name: str) -> Gate | None:
        """Return the gate of that name, None when the policy has no such gate."""
        return next((gate for gate in self.gates if gate.name == name), None)


@dataclass(frozen=True)
class ReportFiles:
    """Where a report was written; `confusion_png` is None when no decision has a label."""

    json: Path
    html: Path
    confusion_png: Path | None


def write_report(report: ValidationReport, folder: Path) -> ReportFiles:
    """Write the report as JSON and HTML and its confusion matrix as a picture; each file is whole or absent.

    Raises:
        StorageError: the folder cannot be written.
    """
    picture = None
    if report.confusion:
        picture = folder / CONFUSION_PNG
        title = f"{report.identity.model_name}: {report.holdout.labelled:,} held-out decisions"
        confusion_matrix_png(np.array(report.confusion, dtype=np.int64), report.actions, picture, title=title)
    page = folder / REPORT_HTML
    with atomic_write(page) as temporary:
        temporary.write_text(render_html(report, picture), encoding="utf-8")
    # The JSON is what others look for, so it comes last.
    document = folder / REPORT_JSON
    with atomic_write(document) as temporary:
        temporary.write_text(report.model_dump_json(indent=2), encoding="utf-8")
    return ReportFiles(document, page, picture)


def read_report(file: Path) -> ValidationReport:
    """Read a report back.

    Raises:
        InputError: there is no report there, or it is damaged or of another version of this project.
    """
    try:
        return ValidationReport.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no validation report at {file}; materialise model_evaluation first") from None
    except ValidationError as error:
        raise InputError(f"{file} is not a validation report of this version ({error}); evaluate again") from error


def render_html(report: ValidationReport, picture: Path | None = None) -> str:
    """Render the report as one page without any outside resource; the picture is embedded."""
    from base64 import b64encode

    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mlops_assets.evaluation", "templates"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters.update(number=_number, span=_span)
    embedded = b64encode(picture.read_bytes()).decode() if picture is not None else None
    return environment.get_template("validation_report.html.j2").render(report=report, confusion_png=embedded)


def summary_metrics(report: ValidationReport) -> Mapping[str, float]:
    """Return the figures that belong on the MLflow run: every metric, and the bounds of every interval."""
    bounds = {
        f"{name}_{side}": value
        for name, interval in report.intervals.items()
        for side, value in (("low", interval.low), ("high", interval.high))
        if value is not None
    }
    return {**report.metrics, **bounds}


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= _WHOLE else f"{value:.4g}"


def _span(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    if interval.low is None or interval.high is None:
        return f"{_number(interval.estimate)} (no interval)"
    return f"{_number(interval.estimate)} [{_number(interval.low)}, {_number(interval.high)}]"
