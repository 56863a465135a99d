"""Model cards, generated from a report."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from mlops_assets.evaluation.gates import gate
from mlops_assets.evaluation.intervals import Interval
from mlops_assets.evaluation.latency import Latency
from mlops_assets.evaluation.report import Holdout, ModelIdentity, ValidationReport
from mlops_assets.evaluation.security import SecurityReport
from mlops_assets.evaluation.slices import Slice, SliceReport
from mlops_assets.foundation.errors import InputError
from mlops_assets.registry.model_card import (
    ModelCard,
    ProductStatements,
    TrainingFacts,
    build_model_card,
    load_model_card,
    save_model_card,
    to_yaml,
)
from mlops_assets.registry.registration import RegisteredVersion
from mlops_assets_tests.mlflow_runs import NOW, SPEC

FACTS = TrainingFacts(
    framework="PyTorch 2.13.0",
    data_source="simulator",
    first_event=datetime(2026, 1, 5, tzinfo=UTC),
    last_event=datetime(2026, 2, 20, 23, tzinfo=UTC),
    reason="drift: PSI 0.41 > 0.3 (drift_score 0.41)",
)


def a_version(**changes: str) -> RegisteredVersion:
    values = {"model_name": SPEC.registered_model, "semver": "2.1.0", "mlflow_version": "3", "run_id": "run"}
    values |= {"training_hash": "training", "data_hash": "data"} | changes
    return RegisteredVersion(**values, stage="None", registered_at=NOW, created=True)


def a_report(*, gap: float | None = 3.25) -> ValidationReport:
    interval = Interval(0.93, 0.92, 0.94, 0.95)
    slices = tuple(
        Slice("ui_framework", name, 500, Interval(0.93 - points / 100, 0.8, 0.95, 0.95), points)
        for name, points in (("svelte", gap), ("react", None if gap is None else -1.0))
        if points is not None
    )
    return ValidationReport(
        identity=ModelIdentity(
            agent=SPEC.name,
            model_name=SPEC.registered_model,
            run_id="run",
            data_hash="data",
            training_hash="training",
            architecture="dueling-dqn 31-256x256-4",
            training_rows=96_000,
        ),
        policy_profile="aiwebtest",
        created_at=NOW,
        holdout=Holdout(rows=24_000, labelled=19_000, episodes=4_000, first_event=NOW, last_event=NOW),
        actions=SPEC.actions,
        metrics={"accuracy": 0.93, "f1": 0.9, "avg_reward": 85.3, "latency_p95_ms": 0.4, "throughput_qps": 500.0},
        intervals={"accuracy": interval},
        avg_reward_method="off-policy, doubly robust",
        confusion=(),
        slices=SliceReport(slices, gap),
        latency=(Latency("onnxruntime", 500, 0.3, 0.3, 0.4, 0.5, 256, 500.0),),
        runtime_parity=(),
        off_policy=None,
        returns=None,
        security=SecurityReport(("policy.pt",), ()),
        comparison=None,
        ab_test=None,
        prioritisation=None,
        gates=(gate("max_slice_gap_points", "slices", gap, "<=", 5.0),),
        limitations=("weakest slice: ui_framework svelte, 3.2 points below the average",),
    )


def a_card(**changes: object) -> ModelCard:
    return build_model_card(SPEC, a_version(), a_report(), FACTS).model_copy(update=changes)


def test_every_field_comes_from_the_run() -> None:
    """A card copied from the last version describes the last version."""
    card = a_card()
    assert (card.model_name, card.version, card.date) == ("requirements-agent-dqn", "2.1.0", NOW.date())
    assert card.model_type == "dueling-dqn 31-256x256-4"
    assert card.framework == "PyTorch 2.13.0"
    assert card.training_data_source == "simulator, data version data"
    assert card.training_data_size == 96_000
    assert card.data_date_range == "2026-01-05..2026-02-20"
    assert card.training_reason == "drift: PSI 0.41 > 0.3 (drift_score 0.41)"
    assert card.feature_list == SPEC.state_fields
    assert card.metrics == {"accuracy": 0.93, "f1": 0.9, "avg_reward": 85.3}
    assert card.test_data_performance == {
        "accuracy": 0.93,
        "accuracy_low": 0.92,
        "accuracy_high": 0.94,
        "latency_p95_ms": 0.4,
        "throughput_qps": 500.0,
    }
    assert card.limitations == a_report().limitations
    assert SPEC.purpose in card.intended_use
    assert card.retraining_policy == "weekly or when drift PSI > 0.3"
    assert card.primary_users == ("QA Engineers", "Test Automation Engineers")
    assert "security testing" in card.out_of_scope


def test_bias_text_says_what_was_measured() -> None:
    """A gap of 6 points was called "no significant bias" by a text that nobody generated."""
    within = a_card().bias_analysis
    assert "svelte with 0.898 on 500 decisions, 3.2 points below the average" in within
    assert "within the limit of 5" in within
    beyond = build_model_card(SPEC, a_version(), a_report(gap=6.0), FACTS).bias_analysis
    assert "beyond the limit of 5" in beyond
    unknown = build_model_card(SPEC, a_version(), a_report(gap=None), FACTS).bias_analysis
    assert unknown.startswith("Not judged")


def test_yaml_round_trip(tmp_path: Path) -> None:
    """What is read back has to be what was written, in the order in which people read it."""
    card = a_card(limitations=("ümlaut: yes", 'quote "q"', "- dash"))
    path = save_model_card(card, tmp_path / "cards")
    assert path.name == "requirements-agent-dqn-v2.1.0-card.yaml"
    assert load_model_card(path) == card
    assert list(yaml.safe_load(to_yaml(card))) == list(ModelCard.model_fields)
    assert "!!python" not in path.read_text(encoding="utf-8")


def test_statements_of_another_product() -> None:
    """What no measurement gives can be said differently, and lands in the card."""
    statements = ProductStatements(deployment_platform="Kubernetes on AWS EKS", retraining_policy="monthly")
    card = build_model_card(SPEC, a_version(), a_report(), FACTS, statements=statements)
    assert (card.deployment_platform, card.retraining_policy) == ("Kubernetes on AWS EKS", "monthly")


def test_a_report_of_another_training_is_refused() -> None:
    """A card with the figures of another model is worse than none."""
    with pytest.raises(InputError, match="evaluate that version"):
        build_model_card(SPEC, a_version(training_hash="other"), a_report(), FACTS)


def test_unreadable_cards_are_named(tmp_path: Path) -> None:
    """A card edited by hand into nonsense has to say which field is wrong."""
    with pytest.raises(InputError, match="no model card at"):
        load_model_card(tmp_path / "none.yaml")
    broken = tmp_path / "card.yaml"
    broken.write_text(to_yaml(a_card()).replace("version: 2.1.0", "versoin: 2.1.0"), encoding="utf-8")
    with pytest.raises(InputError, match="versoin"):
        load_model_card(broken)
    broken.write_text("a: [", encoding="utf-8")
    with pytest.raises(InputError, match="is not a model card"):
        load_model_card(broken)
