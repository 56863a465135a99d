"""The feature catalogue: complete, and equal to its page."""

from pathlib import Path

from mlops_assets.experiences.schema import experience_schema, label_schema
from mlops_assets.features.catalogue import catalogue_markdown, feature_catalogue
from mlops_assets.features.decision_table import decision_schema
from mlops_assets.features.views import VIEWS
from mlops_assets.foundation.agents import AGENTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "feature-catalogue.md"
# Names that a model card, the drift monitor and the experience tables of the requirements use.
CARD = {"requirement_text_embedding", "ui_complexity_score", "historical_test_coverage", "previous_agent_confidence"}
DRIFT = {"target", "prediction", "execution_time_ms", "complexity_score", "confidence_score", "test_type", "framework"}
EXPERIENCE = {"state", "action", "reward", "timestamp"}


def test_every_name_of_the_requirements_is_in_the_catalogue() -> None:
    """Drift columns, card features and experience fields drift apart under four spellings."""
    entries = {entry.name: entry for entry in feature_catalogue()}
    assert CARD | DRIFT | EXPERIENCE | {"browser"} <= set(entries)
    assert all("drift" in entries[name].uses for name in DRIFT | {"browser"})
    assert {feature.name for view in VIEWS for feature in view.features} <= set(entries)
    assert len(entries) == len(feature_catalogue())


def test_every_part_of_every_state_vector_is_in_the_catalogue_for_its_agent() -> None:
    """A new context field is trained on and watched by nobody."""
    for name, spec in AGENTS.items():
        served = {
            e.column or e.name for e in feature_catalogue() if name in e.agents and {"train", "serve"} <= set(e.uses)
        }
        parts = {field.split("_embedding_")[0] for field in spec.state_fields}
        assert parts <= {column.removesuffix("_embedding") for column in served}


def test_training_columns_are_columns_of_our_tables() -> None:
    """The catalogue names a column that no table has."""
    spec = AGENTS["generation"]
    known = {
        *experience_schema(spec).names,
        *label_schema(spec).names,
        *decision_schema(1, 1).names,
        *spec.state_fields,
        "requirement_text_embedding",
    }
    used = {e.column or e.name for e in feature_catalogue() if "train" in e.uses and spec.name in e.agents}
    assert used <= known


def test_the_page_is_the_catalogue() -> None:
    """Documentation that was true once."""
    assert PAGE.read_text(encoding="utf-8") == catalogue_markdown(), (
        "write the result of mlops_assets.features.catalogue.catalogue_markdown() to docs/feature-catalogue.md"
    )
