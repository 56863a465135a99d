"""The registry as files, and the versions in service that follow from them."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mlops_assets.foundation.agents import AgentSpec
from mlops_assets.foundation.errors import InputError, NotReadyError, StorageError
from mlops_assets.registry.mlflow_store import MlflowStore
from mlops_assets.serving import registry_watch as module
from mlops_assets.serving.model_mirror import ModelMirror, read_aliases, version_folder
from mlops_assets.serving.registry_watch import RegistryWatch
from mlops_assets_tests.mlflow_runs import SPEC, MlflowRuns, mlflow_runs, mlflow_template
from mlops_assets_tests.programs import wait_for

__all__ = ["mlflow_runs", "mlflow_template"]
NAME = SPEC.registered_model


@pytest.fixture
def store(mlflow_runs: MlflowRuns) -> MlflowStore:
    """A registry with three versions; the first is champion. Their policies answer 1, 2 and 3 to everything."""
    store = MlflowStore(mlflow_runs.tracking_uri)
    for i in range(3):
        run_id = mlflow_runs.good[i]
        tags = {"semantic_version": f"1.{i}.0", "data_version": f"data-{i}", "training_hash": f"training-{i}"}
        store.create_version(
            NAME, store.verified_model(run_id, SPEC), run_id=run_id, tags=tags, purpose="tests", description=str(i)
        )
    store.set_alias(NAME, "champion", "1")
    return store


def with_embedder(root: Path) -> None:
    """The stored test policies come without a text embedder, which their agent needs."""
    from mlops_assets.experiences.text_embedding import TextEmbedder

    for folder in (root / NAME).glob("[0-9]*"):
        if not (folder / "text_embedder.npz").exists():
            TextEmbedder.fit(["a text"], SPEC.text_dimensions, 0).save(folder / "text_embedder.npz")


def test_files_follow_the_aliases(store: MlflowStore, tmp_path: Path) -> None:
    """A promotion never reaches the server, or a half-copied version does."""
    mirror = ModelMirror(store, tmp_path)
    mirror.refresh()
    found = read_aliases(tmp_path)
    assert found is not None
    assert found.aliases == {"requirements": {"champion": "1"}, "generation": {}, "execution": {}}
    assert (found.refused, found.problem) == ({}, None)
    facts = json.loads((version_folder(tmp_path, SPEC, "1") / "version.json").read_text())
    assert facts["tags"]["semantic_version"] == "1.0.0"
    store.set_alias(NAME, "challenger", "2")
    store.set_alias(NAME, "unheard-of", "3")
    mirror.refresh()
    found = read_aliases(tmp_path)
    assert found is not None
    assert found.aliases["requirements"] == {"champion": "1", "challenger": "2"}
    assert sorted(path.name for path in (tmp_path / NAME).iterdir()) == ["1", "2"]


def test_what_is_on_its_way_is_said(store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is ready for one agent, and answers 503 for the next, whose champion comes a moment later."""
    fetch, seen = ModelMirror._fetch, []

    def watched(mirror: ModelMirror, spec: AgentSpec, number: str) -> None:
        published = read_aliases(tmp_path)
        assert published is not None
        seen.append((published.aliases[spec.name], list(published.pending)))
        fetch(mirror, spec, number)

    monkeypatch.setattr(ModelMirror, "_fetch", watched)
    ModelMirror(store, tmp_path).refresh()
    assert seen == [({}, ["requirements champion"])]
    after = read_aliases(tmp_path)
    assert after is not None
    assert (after.aliases["requirements"], list(after.pending)) == ({"champion": "1"}, [])


def test_a_registry_that_is_away_leaves_everything(store: MlflowStore, tmp_path: Path) -> None:
    """With the registry the models are gone."""
    ModelMirror(store, tmp_path).refresh()
    before = read_aliases(tmp_path)

    class Away(MlflowStore):
        def aliases(self, model_name: str) -> dict[str, str]:
            raise StorageError(f"{model_name}: no answer")

    ModelMirror(Away(store.tracking_uri), tmp_path).refresh()
    after = read_aliases(tmp_path)
    assert before is not None
    assert after is not None
    assert after.aliases == before.aliases
    assert after.problem == "requirements-agent-dqn: no answer"
    assert after.written_at > before.written_at


def test_the_password_of_the_registry_is_not_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may read a server's folder or log may write to the registry."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    ModelMirror(MlflowStore("http://qa:secret@127.0.0.1:9"), tmp_path).refresh()
    written = (tmp_path / "aliases.json").read_text()
    assert "MLflow at http://qa:***@127.0.0.1:9" in written
    assert "secret" not in written


def test_a_version_that_does_not_come_holds_up_no_other(
    store: MlflowStore, mlflow_runs: MlflowRuns, tmp_path: Path
) -> None:
    """One lost artifact, or one that takes minutes, and no promotion or rollback of any agent is followed."""
    published: list[dict[str, str]] = []

    class Slow(MlflowStore):
        def fetch_served(self, model_name: str, number: str, folder: Path) -> None:
            found = read_aliases(tmp_path)
            published.append(dict(found.aliases["requirements"]) if found else {})
            if number == "3":
                raise StorageError("no answer")
            super().fetch_served(model_name, number, folder)

    lost = replace(store.verified_model(mlflow_runs.good[3], SPEC), uri=(tmp_path / "lost").as_uri())
    store.create_version(NAME, lost, run_id=mlflow_runs.good[3], tags={}, purpose="tests", description="3")
    mirror = ModelMirror(Slow(store.tracking_uri), tmp_path)
    store.set_alias(NAME, "challenger", "2")
    mirror.refresh()
    assert published == [{}, {"champion": "1"}]
    store.set_alias(NAME, "champion", "3")
    store.set_alias(NAME, "challenger", "1")
    store.set_alias(NAME, "shadow", "4")
    mirror.refresh()
    # What is there is followed before anything is fetched; who waits for files keeps the version before.
    assert published[2:] == [{"champion": "1", "challenger": "1"}] * 2
    found = read_aliases(tmp_path)
    assert found is not None
    assert found.aliases["requirements"] == {"champion": "1", "challenger": "1"}
    assert found.refused.keys() == {"requirements champion", "requirements shadow"}
    assert found.refused["requirements champion"] == "no answer"
    assert "is not there" in found.refused["requirements shadow"]
    assert found.problem is None
    # And a server that starts now has that one.
    with_embedder(tmp_path)
    watch = RegistryWatch(tmp_path, mirror=False)
    watch.refresh()
    served = watch.models.get("requirements", "champion")
    assert served is not None
    assert served.semver == "1.0.0"
    assert watch.refused.keys() == found.refused.keys()
    ModelMirror(store, tmp_path).refresh()
    found = read_aliases(tmp_path)
    assert found is not None
    assert found.aliases["requirements"] == {"champion": "3", "challenger": "1"}
    assert found.refused.keys() == {"requirements shadow"}


def test_a_folder_that_is_taken_away_is_gone_at_once(
    store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror that is killed while it deletes leaves half a version, which is served at the next rollback to it."""
    mirror = ModelMirror(store, tmp_path)
    mirror.refresh()
    for number in range(10, 20):
        (tmp_path / NAME / str(number)).mkdir()

    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            mirror.refresh()
    assert not version_folder(tmp_path, SPEC, "10").exists()
    ModelMirror(store, tmp_path).refresh()
    assert [path.name for path in (tmp_path / NAME).glob(".*")] == []


def test_old_versions_go_and_served_ones_stay(store: MlflowStore, tmp_path: Path) -> None:
    """The disk fills up with every version that ever was."""
    for number in range(10, 30):
        (tmp_path / NAME / str(number)).mkdir(parents=True)
    ModelMirror(store, tmp_path).refresh()
    left = {path.name for path in (tmp_path / NAME).iterdir()}
    assert "1" in left
    assert len(left) <= 9


def test_the_watch_loads_swaps_and_keeps(store: MlflowStore, tmp_path: Path) -> None:
    """A server answers with a version that is behind no alias, or with none while one loads."""
    watch = RegistryWatch(tmp_path, mirror=False)
    with pytest.raises(NotReadyError, match="nothing of the model registry"):
        watch.refresh()
    assert watch.problem == "not asked yet"
    mirror = ModelMirror(store, tmp_path)
    mirror.refresh()
    with_embedder(tmp_path)
    watch.refresh()
    first = watch.models.get("requirements", "champion")
    assert first is not None
    assert (first.semver, first.data_hash, first.mlflow_version) == ("1.0.0", "data-0", "1")
    assert watch.problem is None
    for number in ("2", "3", "1"):
        store.set_alias(NAME, "champion", number)
        mirror.refresh()
        with_embedder(tmp_path)
        watch.refresh()
        now = watch.models.get("requirements", "champion")
        assert now is not None
        assert now.mlflow_version == number
    # Back to a version that was in service: the same object, warm.
    assert now is first


def test_a_damaged_version_is_refused_and_the_old_one_answers(store: MlflowStore, tmp_path: Path) -> None:
    """A promotion of a damaged model takes the agent down."""
    watch, mirror = RegistryWatch(tmp_path, mirror=False), ModelMirror(store, tmp_path)
    mirror.refresh()
    with_embedder(tmp_path)
    watch.refresh()
    store.set_alias(NAME, "champion", "2")
    mirror.refresh()
    (version_folder(tmp_path, SPEC, "2") / "policy.onnx").write_bytes(b"damaged")
    watch.refresh()
    assert "not loadable as ONNX" in watch.refused["requirements champion"]
    served = watch.models.get("requirements", "champion")
    assert served is not None
    assert served.semver == "1.0.0"
    shutil.rmtree(version_folder(tmp_path, SPEC, "2"))
    mirror.refresh()
    with_embedder(tmp_path)
    watch.refresh()
    mended = watch.models.get("requirements", "champion")
    assert mended is not None
    assert (mended.semver, dict(watch.refused)) == ("1.1.0", {})


def test_a_model_of_another_state_vector_is_refused(store: MlflowStore, tmp_path: Path) -> None:
    """After a change of the catalogue an old model is fed numbers under other names, or its answers get other names."""
    from mlops_assets.serving import models

    ModelMirror(store, tmp_path).refresh()
    with_embedder(tmp_path)
    turned = replace(SPEC, context=SPEC.context[::-1])
    folder = version_folder(tmp_path, SPEC, "1")
    with pytest.raises(InputError, match="in an order that is not requirements's"):
        models.read_served_model(turned, folder)
    renamed = replace(SPEC, actions=("skip", "glance", *SPEC.actions[2:]))
    with pytest.raises(InputError, match=r"its actions are skip, smoke, .*, those of requirements are skip, glance, "):
        models.read_served_model(renamed, folder)
    assert models.read_served_model(SPEC, folder).semver == "1.0.0"
    (folder / "text_embedder.npz").unlink()
    with pytest.raises(InputError, match="no text embedder"):
        models.read_served_model(SPEC, folder)


def test_a_damaged_aliases_file_is_said(tmp_path: Path) -> None:
    """A half-edited file empties the server."""
    (tmp_path / "aliases.json").write_text('{"aliases": 1, "x": 2}')
    with pytest.raises(InputError, match="not what the mirror of the registry writes"):
        read_aliases(tmp_path)


def test_files_that_break_the_runtime_do_not_end_the_watch(store: MlflowStore, tmp_path: Path) -> None:
    """One promotion of a malformed file, and no promotion or rollback is ever seen again."""
    import onnx

    watch, mirror = RegistryWatch(tmp_path, mirror=False), ModelMirror(store, tmp_path)
    mirror.refresh()
    with_embedder(tmp_path)
    watch.refresh()
    store.set_alias(NAME, "champion", "2")
    mirror.refresh()
    with_embedder(tmp_path)
    path = version_folder(tmp_path, SPEC, "2") / "policy.onnx"
    model = onnx.load(str(path))
    model.metadata_props[0].value = "plain text"
    onnx.save(model, str(path))
    watch.refresh()
    assert "requirements champion" in watch.refused
    served = watch.models.get("requirements", "champion")
    assert served is not None
    assert served.semver == "1.0.0"


def test_a_failure_of_the_moment_is_tried_again(
    store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine short of memory or files for a moment, and the promoted version is refused until the next one."""
    watch, mirror = RegistryWatch(tmp_path, mirror=False), ModelMirror(store, tmp_path)
    mirror.refresh()
    with_embedder(tmp_path)
    path = version_folder(tmp_path, SPEC, "1") / "policy.onnx"
    whole = path.read_bytes()

    def seen_with(content: bytes) -> dict[str, str]:
        path.write_bytes(content)
        mirror.refresh()
        watch.refresh()
        return dict(watch.refused)

    monkeypatch.setattr(module, "_RETRY_SECONDS", 3600.0)
    refused = seen_with(b"damaged")
    assert "not loadable as ONNX" in refused["requirements champion"]
    # Not at every look.
    assert seen_with(whole) == refused
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
    assert seen_with(whole) == {}
    assert watch.models.get("requirements", "champion") is not None


def test_what_will_never_fit_is_not_loaded_again(
    store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of an older catalogue costs the server a load every few seconds for as long as its alias stays."""
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
    watch, mirror = RegistryWatch(tmp_path, mirror=False), ModelMirror(store, tmp_path)
    mirror.refresh()
    for number in ("first", "second"):
        watch.refresh()
        assert "no text embedder" in watch.refused["requirements champion"], number
        (version_folder(tmp_path, SPEC, "1") / "policy.onnx").write_bytes(b"would be refused for this now")
        mirror.refresh()


def test_a_number_of_another_registry_is_fetched_anew(store: MlflowStore, tmp_path: Path) -> None:
    """A home that meets another MLflow server serves the old server's version 1 as the new one's."""
    ModelMirror(store, tmp_path).refresh()
    facts = version_folder(tmp_path, SPEC, "1") / "version.json"
    document = json.loads(facts.read_text())
    facts.write_text(json.dumps({**document, "run_id": "of-another-registry"}))
    ModelMirror(store, tmp_path).refresh()
    assert json.loads(facts.read_text()) == document


def test_the_mirror_of_a_server_that_died_at_once_ends(tmp_path: Path) -> None:
    """A server that fails at its start leaves a process for ever, which holds the lock of the models."""
    code = (
        "from mlops_assets.serving.registry_watch import MirrorProcess; "
        "one = MirrorProcess(); one.keep_alive(); print(one._process.pid)"
    )
    with (tmp_path / "pid").open("w") as output, (tmp_path / "log").open("w") as log:
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "MLOPS_HOME": str(tmp_path / "home")},
            stdout=output,
            stderr=log,
            check=True,
        )
    mirror = int((tmp_path / "pid").read_text())
    wait_for(lambda: not psutil.pid_exists(mirror) or psutil.Process(mirror).status() == psutil.STATUS_ZOMBIE, 60)
