"""Model cards (Mitchell et al. 2019, arXiv:1810.03993): one for every version, generated from its run's data."""

from datetime import date, datetime
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from mlops_assets.evaluation.intervals import Interval
from mlops_assets.evaluation.report import ValidationReport
from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import atomic_write
from mlops_assets.registry.registration import RegisteredVersion

_PERFORMANCE = ("latency_", "throughput_", "model_size_", "holdout_")


class ModelCard(BaseModel):
    """Everything that a user of one model version should know before relying on it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model_name: str
    version: str
    date: date
    model_type: str
    framework: str
    intended_use: str
    primary_users: tuple[str, ...]
    out_of_scope: tuple[str, ...]
    training_data_source: str
    training_data_size: int
    data_date_range: str
    training_reason: str = "not recorded"
    feature_list: tuple[str, ...]
    metrics: dict[str, float]
    test_data_performance: dict[str, float]
    bias_analysis: str
    limitations: tuple[str, ...]
    deployment_platform: str
    monitoring_metrics: tuple[str, ...]
    retraining_policy: str


class TrainingFacts(BaseModel):
    """What the card says about the training: `framework` with its version, the span of the snapshot's events, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    framework: str
    data_source: str
    first_event: datetime
    last_event: datetime
    reason: str = "not recorded"


class ProductStatements(BaseModel):
    """What the product says about every model; it follows from no measurement."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    primary_users: tuple[str, ...] = ("QA Engineers", "Test Automation Engineers")
    out_of_scope: tuple[str, ...] = ("mobile testing", "performance testing", "security testing")
    deployment_platform: str = "one machine, or Kubernetes with PostgreSQL, Redis and S3"
    monitoring_metrics: tuple[str, ...] = ("accuracy_rolling_7d", "latency_p95", "drift_psi", "error_rate")
    retraining_policy: str = "weekly or when drift PSI > 0.3"


def build_model_card(
    spec: AgentSpec,
    version: RegisteredVersion,
    report: ValidationReport,
    facts: TrainingFacts,
    *,
    statements: ProductStatements | None = None,
) -> ModelCard:
    """Write the card of a version from its validation report.

    Raises:
        InputError: the report is about another training than the version.
    """
    if report.identity.training_hash != version.training_hash:
        raise InputError(
            f"the report is about training {report.identity.training_hash}, {version.model_name} {version.semver} "
            f"about {version.training_hash}; evaluate that version"
        )
    product = statements or ProductStatements()
    return ModelCard(
        model_name=version.model_name,
        version=version.semver,
        date=version.registered_at.date(),
        model_type=report.identity.architecture,
        framework=facts.framework,
        intended_use=f"{spec.purpose} {spec.episode}",
        primary_users=product.primary_users,
        out_of_scope=product.out_of_scope,
        training_data_source=f"{facts.data_source}, data version {version.data_hash}",
        training_data_size=report.identity.training_rows,
        data_date_range=f"{facts.first_event.date()}..{facts.last_event.date()}",
        training_reason=facts.reason,
        feature_list=spec.state_fields,
        metrics={name: value for name, value in report.metrics.items() if not name.startswith(_PERFORMANCE)},
        test_data_performance=_performance(report),
        bias_analysis=_bias(report),
        limitations=report.limitations,
        deployment_platform=product.deployment_platform,
        monitoring_metrics=product.monitoring_metrics,
        retraining_policy=product.retraining_policy,
    )


def save_model_card(card: ModelCard, folder: Path) -> Path:
    """Write the card as `<model_name>-v<version>-card.yaml` and return the file.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = folder / f"{card.model_name}-v{card.version}-card.yaml"
    with atomic_write(path) as temporary:
        temporary.write_text(to_yaml(card), encoding="utf-8")
    return path


def to_yaml(card: ModelCard) -> str:
    """Return the card as YAML, fields in the order of the class."""
    return yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def load_model_card(path: Path) -> ModelCard:
    """Read a card back.

    Raises:
        InputError: there is no such file, or it is no model card.
    """
    try:
        return ModelCard.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"no model card at {path}; materialise model_card first") from None
    except (yaml.YAMLError, ValidationError) as error:
        raise InputError(f"{path} is not a model card: {error}") from error


def _performance(report: ValidationReport) -> dict[str, float]:
    figures = {name: value for name, value in report.metrics.items() if name.startswith(_PERFORMANCE)}
    accuracy: Interval | None = report.intervals.get("accuracy")
    if accuracy is not None:
        bounds = {"accuracy": accuracy.estimate, "accuracy_low": accuracy.low, "accuracy_high": accuracy.high}
        figures = {**{name: value for name, value in bounds.items() if value is not None}, **figures}
    return figures


def _bias(report: ValidationReport) -> str:
    judged = report.gate("max_slice_gap_points")
    worst = report.slices.worst
    if judged is None or judged.passed is None or worst is None or worst.gap_points is None:
        return "Not judged: the held-out data have no two slices of one dimension that are large enough to compare."
    verdict = "within" if judged.passed else "beyond"
    return (
        f"Accuracy by UI framework and browser: the weakest slice is {worst.dimension} {worst.value} with "
        f"{worst.accuracy.estimate:.3f} on {worst.labelled} decisions, {worst.gap_points:.1f} points below the "
        f"average; that is {verdict} the limit of {judged.threshold:g}."
    )
