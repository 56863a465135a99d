"""docs/runbooks.md: each alert has its page, and each command on it exists, takes its words, and does what it is for."""

import importlib
import re
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from mlops_assets.experiments.experiments import create_experiment
from mlops_assets.foundation.profiles import PolicyProfile, load_profile
from mlops_assets.foundation.settings import variable_names
from mlops_assets.monitoring.prometheus_rules import all_rules
from mlops_assets_tests.monitoring.alerting import finding, routing, see
from mlops_assets_tests.monitoring.prometheus import ROOT
from mlops_assets_tests.rollout.ledgers import begin
from mlops_assets_tests.rollout.rollouts import rollout

DOCUMENT = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
PROFILE = load_profile("aiwebtest")
COMMANDS = sorted(
    {line for block in re.findall(r"```bash\n(.*?)```", DOCUMENT, flags=re.DOTALL) for line in block.splitlines()}
)
PYTHON = [line for line in COMMANDS if line.startswith("python -m ")]
DAGSTER = [line for line in COMMANDS if line.startswith("dagster ")]
# What the state that the test has made answers; all others are done.
ANSWERS: Mapping[str, int] = {"alerts": 1}


def sections() -> dict[str, str]:
    """Text of every `##` section, by heading."""
    parts = re.split(r"^## (.+)$", DOCUMENT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_alert_has_its_page() -> None:
    """Somebody is woken, and the page says nothing of what it means, what users notice, what to look at, or how it ends."""
    found = sections()
    names = {rule.name for group in all_rules(PROFILE).values() for rule in group} | {"LowThroughput"}
    assert names <= set(found)
    for name in names:
        text = found[name]
        assert all(f"**{word}" in text for word in ("Means**", "Users**", "It ends**")), name
        assert re.findall(r"^(\d)\. ", text, flags=re.MULTILINE) == ["1", "2", "3"], name


def test_the_product_s_troubles_have_theirs() -> None:
    """INC-2, INC-3: what went wrong before goes wrong again, and is searched for anew."""
    assert {
        "Out of memory",
        "MLflow's UI does not come up",
        "Artifacts are not saved",
        "Online features are missing",
        "A snapshot cannot be pulled",
        "High PSI, and all is well",
        "Low PSI, and accuracy falls",
    } <= set(sections())


def test_links_and_names() -> None:
    """A link leads nowhere, a setting or a limit has another name."""
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in sections()}
    assert set(re.findall(r"\]\(#([^)]+)\)", DOCUMENT)) <= anchors
    for file, anchor in re.findall(r"\]\((\w[\w-]*\.md)(?:#([^)]+))?\)", DOCUMENT):
        headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
        known = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        assert not anchor or anchor in known, (file, anchor)
    assert set(re.findall(r"MLOPS_\w+", DOCUMENT)) <= {*variable_names(), "MLOPS_HOME"}
    for section, field in re.findall(r"`(\w+)\.(\w+(?:\.\w+)*)`", DOCUMENT):
        value = getattr(PROFILE, section) if section in PolicyProfile.model_fields else None
        assert value is not None, section
        value = value.standard if section == "data" else value
        for part in field.split("."):
            assert hasattr(value, part), (section, field)
            value = getattr(value, part)


def test_addresses_are_those_of_the_servers() -> None:
    """`curl` of a page answers 404 in the night in which somebody copies it."""
    asked = re.findall(r"http://127\.0\.0\.1:(8000|8400)(/\w+)", DOCUMENT)
    assert {port for port, _ in asked} == {"8000", "8400"}
    documents = {"8000": "serving.md", "8400": "monitoring.md"}
    for port, path in asked:
        assert f"{path}`" in (ROOT / "docs" / documents[port]).read_text(encoding="utf-8"), (port, path)


@pytest.mark.parametrize("line", PYTHON)
def test_each_command_is_taken(line: str, sqlite_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A command fails in the night in which somebody copies it."""
    home = tmp_path_factory.mktemp("home")
    now = datetime.now(UTC)
    see(sqlite_engine, finding("CRITICAL"), routing("log"), now)
    create_experiment(sqlite_engine, "half", "generation", treatment_share=0.5, user="tests", now=now)
    begin(sqlite_engine, rollout(), now)
    module, *words = shlex.split(line.removeprefix("python -m "))
    environ = {"MLOPS_HOME": str(home), "MLOPS_DATABASE_URL": str(sqlite_engine.url), "MLOPS_SERVING_CLOCK": "system"}
    assert importlib.import_module(module).main(words, environ) == ANSWERS.get((words or [""])[0], 0)


def test_jobs_and_assets_exist() -> None:
    """The job that a page starts was renamed."""
    from mlops_assets.definitions import defs

    jobs = {job.name for job in defs.resolve_all_job_defs()}
    assets = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    told = " ".join([*DAGSTER, *re.findall(r"`(dagster [^`]+)`", DOCUMENT)])
    assert DAGSTER
    assert set(re.findall(r"-j (\w+)", told)) <= jobs
    assert set(re.findall(r"--select (\w+)", told)) <= assets
