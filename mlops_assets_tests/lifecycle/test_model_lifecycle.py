"""The main job from executions to approval: what every asset says and leaves behind, and what later runs add to it."""

import base64
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mlops_assets import summary
from mlops_assets.evaluation.report import read_report
from mlops_assets.experiences.data_versions import dvc_file, read_dvc_file
from mlops_assets.experiences.snapshots import open_snapshot
from mlops_assets.features.training_set import open_training_set
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.audit import verify_chain
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.files import digest
from mlops_assets.foundation.provenance import lock_hash
from mlops_assets.foundation.tables import AuditEvent
from mlops_assets.governance.decision_records import decisions_on
from mlops_assets.registry.model_card import ModelCard
from mlops_assets.training.checkpoint import load_checkpoint
from mlops_assets_tests.lifecycle.conftest import FirstLifecycle
from mlops_assets_tests.lifecycle.worlds import COMMITTED, ROOT, TRAINING, Run, World

PARTITIONED = {
    "training_experiences",
    "data_validation_report",
    "agent_context_features",
    "online_features",
    "training_set",
    "dqn_model",
    "model_evaluation",
    "validation_report",
    "registered_model",
    "model_card",
    "approval",
}
PNG = b"\x89PNG\r\n\x1a\n"
EXTRA_DAYS = 3
DAYS = 60


@pytest.fixture(scope="session")
def world(first_lifecycle: FirstLifecycle) -> World:
    """The home of the first run."""
    return first_lifecycle.world


@pytest.fixture(scope="session")
def first(first_lifecycle: FirstLifecycle) -> Run:
    """The first run."""
    return first_lifecycle.run


@pytest.fixture(scope="session")
def second(world: World) -> Run:
    """The same job again, with nothing new in the world."""
    run = world.run("model_lifecycle")
    assert run.success, run.failures
    return run


@pytest.fixture(scope="session")
def third(world: World, second: Run) -> Run:
    """The same job, three days later."""
    assert second.success
    run = world.run("model_lifecycle", settings={"MLOPS_SIMULATOR_EXTRA_DAYS": str(EXTRA_DAYS)})
    assert run.success, run.failures
    return run


def _audit_events(world: World) -> list[tuple[str, str, str]]:
    with world.database() as engine, read_transaction(engine) as session:
        assert verify_chain(session).intact
        events = session.query(AuditEvent).order_by(AuditEvent.sequence)
        return [(event.model_name, event.event_type, event.version) for event in events]


def _mlflow_runs(world: World, experiment: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=world.settings.tracking_uri)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id]))


def _picture(markdown: str) -> bytes:
    return base64.b64decode(markdown.split("data:image/png;base64,", 1)[1].rstrip(")"), validate=True)


def test_every_asset_is_made_for_every_agent_and_every_check_holds(first: Run) -> None:
    """One agent fell out of the run's partition range, and its model was months old when somebody asked."""
    expected = {("test_executions", ""), ("test_execution_features", "")}
    expected |= set(itertools.product(PARTITIONED, AGENTS))
    assert set(first.made) == expected
    assert first.checks == {
        "expectations_met": True,
        "offline_equals_online": True,
        "no_value_from_the_future": True,
        "gates_passed": True,
    }
    for asset in PARTITIONED:
        versions = {agent: first.facts(asset, agent)["version"] for agent in AGENTS}
        assert {first.made[asset, agent].data_version for agent in AGENTS} == {digest(versions)}, asset


def test_executions_are_counted(first: Run) -> None:
    """A source that gives nothing looked like one that has nothing new."""
    facts = first.facts("test_executions")
    assert (facts["source"], facts["files_read"], facts["files_skipped"], facts["quarantined"]) == (
        "simulator",
        DAYS,
        0,
        0,
    )
    assert facts["new_executions"] > DAYS * 100
    assert facts["first"].startswith("2026-01-05")
    assert first.facts("test_execution_features")["computed"] == "2026-01-05 to 2026-03-05"


@pytest.mark.parametrize("agent", AGENTS)
def test_the_data_hash_runs_through_from_the_snapshot_to_the_version(first: Run, world: World, agent: str) -> None:
    """Nobody could say any more on which data a version was trained."""
    facts = first.facts("training_experiences", agent)
    data_hash = facts["data_hash"]
    with world.database() as engine, world.registry() as registry:
        snapshot = open_snapshot(agent, data_hash, paths=world.settings.paths, engine=engine)
        version = registry.version(AGENTS[agent].registered_model, "1.0.0")
        assert snapshot.experiences(["experience_id"]).num_rows == snapshot.rows == facts["rows"] == facts["new_rows"]
    assert facts["rows"] >= 3000
    assert Path(facts["folder"]) == snapshot.folder
    dvc = world.settings.find_dvc()
    assert facts["dvc_md5"] == (read_dvc_file(dvc_file(snapshot.folder))["outs"][0]["md5"] if dvc else "")
    hashes = {first.facts(asset, agent)["data_hash"] for asset in ("data_validation_report", "dqn_model")}
    assert hashes == {data_hash, world.record("training_set", agent)["data_hash"], version.data_hash}


@pytest.mark.parametrize("agent", AGENTS)
def test_the_validation_report_of_the_data_can_be_opened(first: Run, agent: str) -> None:
    """The link in the UI led nowhere."""
    facts = first.facts("data_validation_report", agent)
    page = Path(facts["data_docs"].removeprefix("file://"))
    assert "<html" in page.read_text(encoding="utf-8").lower()
    assert facts["passed"] is True
    assert "| pass |" in facts["expectations"]
    assert "| fail |" not in facts["expectations"]


@pytest.mark.parametrize("agent", AGENTS)
def test_held_out_decisions_are_later_than_all_training_ones(first: Run, world: World, agent: str) -> None:
    """An accuracy measured on days that the agent had learned from."""
    facts = first.facts("training_set", agent)
    training_set = open_training_set(agent, facts["version"], paths=world.settings.paths)
    train, holdout = training_set.train(), training_set.holdout()
    assert train.event_time.max() < holdout.event_time.min()
    assert (facts["training_rows"], facts["holdout_rows"]) == (len(train), len(holdout))
    assert facts["dagster/row_count"] == len(train) + len(holdout)
    assert facts["state_fields"] == train.state.shape[1] == len(AGENTS[agent].state_fields)
    evaluated = first.facts("model_evaluation", agent)
    assert evaluated["holdout_rows"] == len(holdout)
    assert evaluated["holdout_first_event"] > facts["split_time"][:10]


@pytest.mark.parametrize("agent", AGENTS)
def test_the_model_is_shown_with_its_curves_and_lies_where_it_says(first: Run, agent: str) -> None:
    """A picture that the UI shows as text, or weights that are not those of the hash."""
    facts = first.facts("dqn_model", agent)
    assert facts["trained"] is True
    assert _picture(facts["training_curves"]).startswith(PNG)
    assert _picture(first.facts("validation_report", agent)["confusion_matrix"]).startswith(PNG)
    (checkpoint,) = Path(facts["folder"]).glob("*.pt")
    assert load_checkpoint(checkpoint).weights_hash == facts["weights_hash"] == facts["version"]
    assert facts["total_transitions"] == first.facts("training_set", agent)["training_rows"]
    assert (facts["git_sha"], facts["seed"], facts["lock_hash"]) == (COMMITTED, "7", lock_hash(ROOT))


@pytest.mark.parametrize("agent", AGENTS)
def test_the_mlflow_run_carries_lineage_reason_and_parent(first: Run, world: World, agent: str) -> None:
    """A run in MLflow that nobody can trace back to its data, its code or the Dagster run that made it."""
    facts = first.facts("dqn_model", agent)
    spec = AGENTS[agent]
    runs = {run.info.run_id: run for run in _mlflow_runs(world, spec.experiment)}
    run = runs[facts["run_id"]]
    assert run.info.status == "FINISHED"
    lineage = ("git_sha", "data_hash", "training_hash", "config_hash", "seed", "lock_hash", "fingerprint")
    assert {name: run.data.tags[name] for name in lineage} == {name: facts[name] for name in lineage}
    assert run.data.tags["weights_hash"] == facts["weights_hash"]
    assert run.data.tags["lifecycle_run_id"] == first.run_id
    assert run.data.params["trigger_type"] == "manual"
    assert run.data.params["updates"] == str(TRAINING["updates"])
    assert run.data.metrics["accuracy"] == pytest.approx(first.facts("model_evaluation", agent)["accuracy"])
    parents = {parent.info.run_id: parent for parent in _mlflow_runs(world, "model-lifecycle")}
    parent = parents[run.data.tags["mlflow.parentRunId"]]
    assert (parent.info.status, parent.data.tags["dagster_run_id"]) == ("FINISHED", first.run_id)
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.digest == facts["training_hash"][:36]


@pytest.mark.parametrize("agent", AGENTS)
def test_what_was_decided_on_is_what_was_evaluated(first: Run, world: World, agent: str) -> None:
    """Every version looks swapped, or the look finds nothing to compare and says that all is well."""
    assert first.success
    with world.database() as engine:
        (decision,) = decisions_on(engine, AGENTS[agent].registered_model, "1.0.0")
    assert decision.evidence is not None
    assert decision.evidence["model_as_evaluated"] == decision.evidence["data_as_recorded"] == "same"


@pytest.mark.parametrize("agent", AGENTS)
def test_the_report_is_there_for_machines_and_for_people(first: Run, world: World, agent: str) -> None:
    """The decision's evidence could not be read any more, or was another one than what people had looked at."""
    facts = first.facts("validation_report", agent)
    report = read_report(Path(facts["report_json"]))
    assert facts["evidence_hash"] == report.evidence_hash == first.facts("approval", agent)["report_hash"]
    assert facts["verdict"] == report.verdict == "pass"
    assert report.comparison is None
    assert report.identity.run_id == first.facts("dqn_model", agent)["run_id"]
    page = Path(facts["report"].removeprefix("file://")).read_text(encoding="utf-8")
    assert AGENTS[agent].registered_model in page
    assert "data:image/png;base64," in page
    assert facts["gates"].count("| pass |") == len(report.gates)
    low, estimate, high = (
        world.record("validation_report", agent, first.run_id)["accuracy"][key] for key in ("low", "estimate", "high")
    )
    assert low < estimate == report.metrics["accuracy"] < high


@pytest.mark.parametrize("agent", AGENTS)
def test_the_first_version_is_registered_once_and_becomes_champion(
    first: Run, first_lifecycle: FirstLifecycle, world: World, agent: str
) -> None:
    """A version twice under two numbers, or a first approved version that nobody serves."""
    spec = AGENTS[agent]
    facts = first.facts("registered_model", agent)
    assert (facts["semver"], facts["created"]) == ("1.0.0", True)
    assert facts["run_id"] == first.facts("dqn_model", agent)["run_id"]
    assert first_lifecycle.identity["versions"][agent] == ["1.0.0"]
    approval = first.facts("approval", agent)
    assert (approval["status"], approval["risk"], approval["outcome"]) == ("approved", "low", "champion")
    assert "there is no champion" in approval["reasons"]
    with world.registry() as registry:
        champion = registry.champion(spec.registered_model)
        assert champion is not None
        assert (champion.semver, champion.run_id, champion.stage) == ("1.0.0", facts["run_id"], "Production")
        holdout = open_training_set(
            agent, first.facts("training_set", agent)["version"], paths=world.settings.paths
        ).holdout()
        values = registry.load_production_model(spec.registered_model).q_values(holdout.state[:7])
    assert values.shape == (7, len(spec.actions))
    assert np.isfinite(values).all()


@pytest.mark.parametrize("agent", AGENTS)
def test_the_model_card_is_written_from_the_run(first: Run, agent: str) -> None:
    """A card about another version, or with numbers that somebody typed."""
    facts = first.facts("model_card", agent)
    text = Path(facts["file"]).read_text(encoding="utf-8")
    card = ModelCard.model_validate(yaml.safe_load(text))
    assert text in facts["card"]
    assert (card.model_name, card.version) == (AGENTS[agent].registered_model, "1.0.0")
    assert card.metrics["accuracy"] == first.facts("model_evaluation", agent)["accuracy"]
    assert card.training_data_size == first.facts("training_set", agent)["training_rows"]
    assert first.facts("training_experiences", agent)["data_hash"] in card.training_data_source


def test_every_decision_is_in_the_audit_trail(first: Run, world: World) -> None:
    """An approval that leaves no trace, or a trail that does not follow from itself."""
    assert first.success
    events = _audit_events(world)
    for spec in AGENTS.values():
        of_first = [event for name, event, version in events if (name, version) == (spec.registered_model, "1.0.0")]
        assert of_first == ["model_registered", "model_approved", "model_promoted_to_production"]


def test_a_second_run_reads_and_registers_nothing(first: Run, second: Run) -> None:
    """Every night a new version of the same model, and all of the data read again."""
    facts = second.facts("test_executions")
    assert (facts["new_executions"], facts["files_read"], facts["files_skipped"]) == (0, 0, DAYS)
    assert second.facts("test_execution_features") == {"rows_computed": 0, "computed": "nothing was due"}
    for agent in AGENTS:
        assert second.facts("training_experiences", agent)["new_rows"] == 0
        assert second.facts("agent_context_features", agent)["computed"] == "nothing was due"
        model = second.facts("dqn_model", agent)
        assert (model["trained"], model["run_id"]) == (False, first.facts("dqn_model", agent)["run_id"])
        assert second.facts("model_evaluation", agent)["measured_now"] is False
        registered = second.facts("registered_model", agent)
        assert (registered["semver"], registered["created"]) == ("1.0.0", False)
        approval = second.facts("approval", agent)
        assert (approval["status"], approval["outcome"], approval["recorded_now"]) == ("approved", "unchanged", False)
        for asset in PARTITIONED:
            assert second.facts(asset, agent)["version"] == first.facts(asset, agent)["version"], asset


def test_a_run_leaves_the_process_as_it_was(second: Run) -> None:
    """MLflow's tracking URI stayed in the environment: the next run in the process wrote into the home of this one."""
    import mlflow

    assert second.success
    assert {"MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"} & set(os.environ) == set()
    assert mlflow.active_run() is None


def test_later_days_are_added_and_become_a_version_of_their_own(first: Run, third: Run, world: World) -> None:
    """New data that is not learned from, or a whole world read again for three days."""
    facts = third.facts("test_executions")
    assert (facts["files_read"], facts["files_skipped"]) == (EXTRA_DAYS, DAYS)
    assert third.facts("test_execution_features")["computed"] == "2026-03-06 to 2026-03-08"
    for agent, versions in world.versions().items():
        snapshot, before = (run.facts("training_experiences", agent) for run in (third, first))
        assert snapshot["new_rows"] == before["rows"] // DAYS * EXTRA_DAYS
        assert snapshot["rows"] == before["rows"] + snapshot["new_rows"]
        assert snapshot["data_hash"] != before["data_hash"]
        registered = third.facts("registered_model", agent)
        assert (registered["semver"], registered["created"]) == ("1.1.0", True)
        assert versions == ["1.1.0", "1.0.0"]


def test_a_later_version_is_measured_against_the_champion(first: Run, third: Run, world: World) -> None:
    """Whatever was trained last went to the users."""
    with world.registry() as registry:
        for agent, spec in AGENTS.items():
            report = read_report(Path(third.facts("validation_report", agent)["report_json"]))
            assert report.comparison is not None
            assert report.comparison.champion_version == "1.0.0"
            assert report.comparison.champion_run_id == first.facts("dqn_model", agent)["run_id"]
            better = report.gate("accuracy_gain_over_champion_low")
            assert better is not None
            approval = third.facts("approval", agent)
            if not better.passed:
                assert approval["status"] != "approved"
            assert approval["outcome"] != "champion"
            champion = registry.champion(spec.registered_model)
            assert champion is not None
            assert champion.semver == "1.0.0"
    assert {version for _, _, version in _audit_events(world)} == {"1.0.0", "1.1.0"}


def test_the_summary_is_the_last_runs(
    third: Run, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table after `make run` was that of the run before."""
    monkeypatch.setenv("MLOPS_HOME", world.variables["MLOPS_HOME"])
    assert summary.main() == 0
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["version"].split()[1:] == ["1.1.0"] * 3
    assert lines["champion before"].split()[2:] == ["1.0.0"] * 3
    for agent in AGENTS:
        assert third.facts("training_experiences", agent)["data_hash"][:12] in lines["data version"]
        assert f"{third.facts('training_experiences', agent)['rows']:,}" in lines["rows"]
