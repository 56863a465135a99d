"""The feature catalogue: every name that describes a decision, its type, where it comes from, what uses it. Only data.

The names of requirements, drift monitor and model cards meet here; `docs/feature-catalogue.md` is this table.
"""

from dataclasses import dataclass
from typing import Literal

from mlops_assets.features.vector import column_name
from mlops_assets.features.views import view_spec
from mlops_assets.foundation.agents import AGENTS, FeatureField

Use = Literal["train", "serve", "drift"]

USES: tuple[Use, ...] = ("train", "serve", "drift")
_EVERY_AGENT = tuple(AGENTS)
_LOGGED = "decision log"
_CONTEXT = "decision context"
_SERVED = "served decision"


@dataclass(frozen=True)
class CatalogueEntry:
    """One name; `column` is its column in the project's tables where that is spelt differently.

    `uses`: `train`, part of the training set; `serve`, known when a decision is asked for; `drift`, watched for drift.
    """

    name: str
    dtype: str
    source: str
    agents: tuple[str, ...]
    uses: tuple[Use, ...]
    column: str = ""


_EXPERIENCE = (
    CatalogueEntry("state", "float32[]", _LOGGED, _EVERY_AGENT, ("train", "serve")),
    CatalogueEntry("action", "int32", _LOGGED, _EVERY_AGENT, ("train",)),
    CatalogueEntry("reward", "float32", _LOGGED, _EVERY_AGENT, ("train",)),
    CatalogueEntry("timestamp", "timestamp[us, UTC]", _LOGGED, _EVERY_AGENT, ("train", "serve"), "event_time"),
    CatalogueEntry("propensity", "float32", _LOGGED, _EVERY_AGENT, ("train",)),
)
_DRIFT = (
    CatalogueEntry("target", "int32", "late label", _EVERY_AGENT, ("train", "drift"), "best_action"),
    CatalogueEntry("prediction", "int32", _SERVED, _EVERY_AGENT, ("serve", "drift"), "action"),
    CatalogueEntry("complexity_score", "float32", _CONTEXT, _EVERY_AGENT, USES, "ui_complexity_score"),
    CatalogueEntry("confidence_score", "float32", _SERVED, _EVERY_AGENT, ("serve", "drift")),
    CatalogueEntry("test_type", "string", _LOGGED, _EVERY_AGENT, USES),
    CatalogueEntry("framework", "string", _LOGGED, _EVERY_AGENT, USES, "ui_framework"),
    CatalogueEntry("browser", "string", _LOGGED, _EVERY_AGENT, USES),
)


def feature_catalogue() -> tuple[CatalogueEntry, ...]:
    """All entries: the experience's own columns, the state vector's parts in order, the drift monitor's columns."""
    context = dict.fromkeys(f.name for spec in AGENTS.values() for f in spec.context)
    texts = [name for name, spec in AGENTS.items() if spec.text_dimensions]
    features = dict.fromkeys(f for spec in AGENTS.values() for f in spec.features)
    return (
        *_EXPERIENCE,
        *(CatalogueEntry(name, "float32", _CONTEXT, _agents_with(name), USES) for name in context),
        CatalogueEntry("requirement_text_embedding", "float32[]", "requirement text", tuple(texts), USES),
        *map(_feast_entry, features),
        *_DRIFT,
    )


def catalogue_markdown() -> str:
    """The catalogue as a Markdown page."""
    lines = [
        "# Feature catalogue",
        "",
        "Every name that describes a decision; made from `mlops_assets/features/catalogue.py`, and a test keeps it so.",
        "",
        "| name | type | source | agents | train | serve | drift | column |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in feature_catalogue():
        marks = ["yes" if use in entry.uses else "no" for use in USES]
        agents = ", ".join(entry.agents)
        cells = [entry.name, entry.dtype, entry.source, agents, *marks, entry.column or entry.name]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _feast_entry(field: FeatureField) -> CatalogueEntry:
    dtype = next(feature.dtype for feature in view_spec(field.view).features if feature.name == field.name)
    name = column_name(field)
    return CatalogueEntry(field.name, dtype, f"Feast view {field.view}", _agents_with(name), USES, name)


def _agents_with(state_field: str) -> tuple[str, ...]:
    return tuple(name for name, spec in AGENTS.items() if state_field in spec.state_fields)
