"""The whole evaluation and its report, on a small decision problem."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from mlops_assets.evaluation.comparison import ChampionModel
from mlops_assets.evaluation.evaluate import ModelUnderTest, evaluate
from mlops_assets.evaluation.metrics import QFunction
from mlops_assets.evaluation.report import (
    ModelIdentity,
    ValidationReport,
    read_report,
    render_html,
    summary_metrics,
    write_report,
)
from mlops_assets.features.decision_table import DecisionTable
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.profiles import PolicyProfile, load_profile
from mlops_assets_tests.evaluation.tables import ACTIONS, SPEC, Always, FieldEnvironment, FirstFields, decision_table

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TABLE = decision_table(600, 4, labelled=0.8, label_noise=0.04)


def quick(profile: PolicyProfile) -> PolicyProfile:
    """A profile with few resamples."""
    evaluation = profile.evaluation.model_copy(update={"bootstrap_samples": 200, "min_effective_sample_size": 2.0})
    return profile.model_copy(update={"evaluation": evaluation})


PROFILE = quick(load_profile("aiwebtest"))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, ...]:
    checkpoint = tmp_path / "policy.pt"
    torch.save({"weight": torch.zeros(250, 1000)}, checkpoint)
    return (checkpoint,)


def run(
    files: tuple[Path, ...],
    table: DecisionTable = TABLE,
    policy: QFunction | None = None,
    *,
    champion: QFunction | None = None,
    environment: bool = True,
    profile: PolicyProfile = PROFILE,
    others: dict[str, QFunction] | None = None,
    now: datetime = NOW,
) -> ValidationReport:
    identity = ModelIdentity(
        agent=SPEC.name,
        model_name=SPEC.registered_model,
        run_id="run-2",
        data_hash="data",
        training_hash="training",
        architecture="dueling 64x64",
        training_rows=9600,
    )
    model = ModelUnderTest(identity, policy or FirstFields(), "onnxruntime", files[0], files, others or {})
    opponent = (
        None if champion is None else ChampionModel("1.0.0", "run-1", champion, SPEC.state_fields, "dueling 64x64")
    )
    return evaluate(
        model,
        table,
        SPEC,
        profile,
        champion=opponent,
        make_environment=(lambda names: FieldEnvironment(table, names)) if environment else None,
        seed=3,
        now=now,
    )


def test_a_good_first_model(files: tuple[Path, ...]) -> None:
    """Every figure that governance and the card read has to be there, under its name."""
    report = run(files)
    assert report.verdict == "pass"
    assert report.metrics["accuracy"] == pytest.approx(0.96, abs=0.02)
    assert report.intervals["accuracy"].low is not None
    assert report.metrics["return_share"] == pytest.approx(1.0)
    assert report.metrics["holdout_labelled"] == (TABLE.best_action >= 0).sum()
    assert report.metrics["model_size_mb"] == pytest.approx(1.0, rel=0.01)
    assert {"precision", "recall", "f1", "roc_auc", "regret", "avg_reward", "latency_p95_ms", "throughput_qps"} <= set(
        report.metrics
    )
    assert (report.comparison, report.ab_test) == (None, None)
    assert np.sum(report.confusion) == report.holdout.labelled
    assert report.holdout.first_event == datetime(2026, 2, 1, tzinfo=UTC)
    assert report.holdout.last_event - report.holdout.first_event == timedelta(minutes=len(TABLE.action) - 1)
    accuracy = report.gate("accuracy")
    assert accuracy is not None
    assert accuracy.passed is True
    assert report.gate("nope") is None


def test_avg_reward_says_where_it_comes_from(files: tuple[Path, ...]) -> None:
    """An estimate from logs and a measured return are two numbers with one name; the report has to tell which."""
    logged = run(files)
    assert logged.avg_reward_method == "off-policy, doubly robust"
    strict = PROFILE.evaluation.model_copy(update={"min_effective_sample_size": 1e9})
    measured = run(files, profile=PROFILE.model_copy(update={"evaluation": strict}))
    assert measured.avg_reward_method == "measured in the source's environment"
    assert measured.returns is not None
    assert measured.metrics["avg_reward"] == measured.returns.policy.estimate
    assert any("off-policy estimate for 0 of 4 steps" in limitation for limitation in measured.limitations)
    nothing = run(files, environment=False, profile=PROFILE.model_copy(update={"evaluation": strict}))
    assert "avg_reward" not in nothing.metrics
    assert nothing.avg_reward_method.startswith("insufficient data")
    assert "return_share" not in nothing.metrics


def test_off_policy_and_measured_return_agree(files: tuple[Path, ...]) -> None:
    """Two ways to one number: where both can be had they have to meet."""
    report = run(files, decision_table(6000, 3, seed=2))
    assert report.returns is not None
    low, high = report.intervals["avg_reward"].low, report.intervals["avg_reward"].high
    assert low is not None
    assert high is not None
    assert low - 0.05 < report.returns.policy.estimate < high + 0.05


def test_against_a_champion(files: tuple[Path, ...]) -> None:
    """A candidate is measured on the very decisions of the champion, and gets a plan for the test between them."""
    report = run(files, champion=Always(1))
    assert report.comparison is not None
    assert report.comparison.champion_version == "1.0.0"
    assert report.metrics["improvement_percent"] > 100
    gain = report.gate("accuracy_gain_over_champion_low")
    assert gain is not None
    assert gain.verdict == "pass"
    assert report.ab_test is not None
    assert report.ab_test.decisions_per_day == pytest.approx(1440, rel=0.01)
    worse = run(files, policy=Always(1), champion=FirstFields())
    assert worse.verdict == "fail"
    assert worse.comparison is not None
    assert worse.comparison.accuracy_drop == pytest.approx(0.7, abs=0.1)


def test_few_labels_are_insufficient_data(files: tuple[Path, ...]) -> None:
    """A tiny history ends with a verdict, not with a crash and not with a pass."""
    report = run(files, decision_table(4, 1))
    assert report.verdict == "insufficient_data"
    assert any("4 labelled held-out decisions, 1000 needed" in limitation for limitation in report.limitations)
    unlabelled = run(files, decision_table(10, 2, labelled=0.0), champion=Always(0))
    assert unlabelled.verdict == "insufficient_data"
    assert "accuracy" not in unlabelled.metrics
    assert unlabelled.confusion == ()
    assert unlabelled.slices.slices == ()


def test_nothing_held_out_is_refused(files: tuple[Path, ...]) -> None:
    """Zero decisions cannot be evaluated, and the message has to say what to do."""
    with pytest.raises(InputError, match="held-out set is empty; collect more episodes"):
        run(files, TABLE.take(slice(0, 0)))


def test_bias_shows_as_a_failed_gate_and_a_limitation(files: tuple[Path, ...]) -> None:
    """A model that fails on one framework must not hide behind its average."""
    table = decision_table(1000, 4, frameworks=("react", "vue", "svelte"))
    wrong = (table.ui_framework == "svelte") & (table.step == 0)
    biased = dataclasses.replace(
        table, best_action=np.where(wrong, (table.best_action + 1) % ACTIONS, table.best_action)
    )
    report = run(files, biased)
    gap = report.gate("max_slice_gap_points")
    assert gap is not None
    assert gap.verdict == "fail"
    assert gap.value == pytest.approx(100 / 4 * 2 / 3, abs=0.1)
    assert any("weakest slice: ui_framework svelte" in limitation for limitation in report.limitations)


def test_an_unsafe_file_fails_the_evaluation(files: tuple[Path, ...], tmp_path: Path) -> None:
    """The model under test may be excellent and its file an attack."""
    pickled = tmp_path / "scaler.pkl"
    pickled.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    report = run((*files, pickled))
    assert report.verdict == "fail"
    gate = report.gate("security_findings")
    assert gate is not None
    assert gate.value == 1.0


def test_other_runtimes_are_timed_and_compared(files: tuple[Path, ...]) -> None:
    """The runtime that serves is the one whose latency counts; the others stand beside it."""
    report = run(files, others={"torch": FirstFields(1.5)})
    assert [latency.runtime for latency in report.latency] == ["onnxruntime", "torch"]
    assert report.metrics["latency_p95_ms"] == report.latency[0].p95_ms
    assert report.metrics["latency_p95_ms_torch"] == report.latency[1].p95_ms
    (parity,) = report.runtime_parity
    assert parity.same_greedy_action == 1.0
    assert parity.max_absolute_difference == pytest.approx(0.5, abs=0.01)


def test_evidence_hash_is_of_the_evidence(files: tuple[Path, ...]) -> None:
    """A decision is bound to what was measured: the hour of the report is not part of it, any figure is."""
    report = run(files)
    later = report.model_copy(update={"created_at": NOW + timedelta(hours=1)})
    assert later.evidence_hash == report.evidence_hash
    other = report.model_copy(update={"metrics": {**report.metrics, "accuracy": 0.5}})
    assert other.evidence_hash != report.evidence_hash


def test_everything_but_time_is_reproducible(files: tuple[Path, ...]) -> None:
    """The same model on the same data with the same seed has the same figures, but for how long it took."""
    first, second = run(files, champion=Always(0)), run(files, champion=Always(0))
    for part in ("intervals", "confusion", "slices", "off_policy", "returns", "comparison", "ab_test", "security"):
        assert getattr(first, part) == getattr(second, part), part


def test_report_round_trip(files: tuple[Path, ...], tmp_path: Path) -> None:
    """The decision is made from the file; what it says has to be what was measured."""
    report = run(files, champion=Always(1))
    written = write_report(report, tmp_path / "reports" / "run-2")
    assert read_report(written.json) == report
    assert read_report(written.json).evidence_hash == report.evidence_hash
    assert written.confusion_png is not None
    assert written.confusion_png.read_bytes().startswith(b"\x89PNG")
    assert json.loads(written.json.read_text())["identity"]["run_id"] == "run-2"
    assert sorted(path.name for path in written.json.parent.iterdir()) == [
        "confusion_matrix.png",
        "validation_report.html",
        "validation_report.json",
    ]


def test_html_shows_what_people_need(files: tuple[Path, ...], tmp_path: Path) -> None:
    """A report that nobody can read is no report, and one that loads from elsewhere leaks where it is opened."""
    report = run(files, champion=Always(1), others={"torch": FirstFields()})
    page = write_report(report, tmp_path).html.read_text(encoding="utf-8")
    for text in ("requirements-agent-dqn", "Against champion 1.0.0", "A/B test plan", "share of optimal", "webkit"):
        assert text in page, text
    assert 'class="pass"' in page
    assert "data:image/png;base64," in page
    assert "http://" not in page
    assert "https://" not in page
    assert "{{" not in page


def test_html_of_a_poor_report(files: tuple[Path, ...]) -> None:
    """The page has to stand when hardly anything could be measured."""
    page = render_html(run(files, decision_table(4, 1, labelled=0.0), environment=False))
    assert "insufficient data" in page
    assert "There is no champion yet" in page


def test_html_shows_prioritisation(files: tuple[Path, ...]) -> None:
    """For a replayed history the ranking beside the trivial rules is the result that people look for."""
    means = {"agent": 0.61, "random": 0.41, "oracle": 0.9}
    summary = {
        "cycles": 12,
        "mean_napfd": means,
        "agent_above": {"random": {"estimate": 0.2, "low": 0.1, "high": None, "confidence": 0.95}},
        "verdict_above_random": "pass",
    }
    cycle = {
        "cycle_id": "cycle-7",
        "started_at": "2026-01-01T00:00:00Z",
        "tests": 9,
        "failures": 2,
        "held_out": True,
        "napfd": means,
    }
    ranking = {
        "metric": "NAPFD",
        "held_out": summary,
        "whole_stream": summary,
        "skipped_cycles": 0,
        "cycles": [cycle],
    }
    page = render_html(run(files).model_copy(update={"prioritisation": ranking}))
    assert "cycle-7" in page
    assert "0.2 [0.1, –]" in page


def test_html_escapes_names(files: tuple[Path, ...]) -> None:
    """Slice names come from users' reports; one with a tag in it must not run in the reader's browser."""
    page = render_html(run(files, decision_table(20, 2, frameworks=("<script>alert(1)</script>", "vue"))))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_summary_metrics_are_finite_numbers(files: tuple[Path, ...]) -> None:
    """MLflow stores what it is given; accuracy and latency_p95_ms have to be among it for governance."""
    found = summary_metrics(run(files, champion=Always(1)))
    assert {"accuracy", "accuracy_low", "accuracy_high", "latency_p95_ms", "accuracy_difference_low"} <= set(found)
    assert all(np.isfinite(value) for value in found.values())


def test_unreadable_reports_are_named(tmp_path: Path) -> None:
    """A damaged report must not end in a traceback of the parser."""
    with pytest.raises(InputError, match="no validation report"):
        read_report(tmp_path / "none.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"identity": 1}')
    with pytest.raises(InputError, match="is not a validation report"):
        read_report(broken)
