"""What people see of a lifecycle in Dagster's web pages and in the reports they lead to, read by a real browser."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from mlops_assets.definitions import defs
from mlops_assets.evaluation.report import read_report
from mlops_assets_tests.ui.conftest import AGENT

pytestmark = pytest.mark.slow

# Wide enough for the whole graph at a scale at which Dagster draws assets with their full names.
WHOLE_GRAPH = {"width": 5600, "height": 1200}


def value_of(page: Page, name: str) -> Locator:
    """The cell beside a name in the table of metadata."""
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=name, exact=True))
    return row.first.get_by_role("cell").nth(1)


def open_partition(page: Page, webserver: str, asset: str) -> None:
    """Open the newest materialisation of an asset for one agent."""
    page.goto(f"{webserver}/assets/{asset}?view=partitions&partition={AGENT}")
    expect(value_of(page, "agent")).to_have_text(AGENT)


def file_in(page: Page, name: str) -> Path:
    """The path that a cell of the metadata shows, to copy."""
    file = Path(value_of(page, name).inner_text().strip())
    assert file.is_file(), file
    return file


def expect_picture(picture: Locator) -> None:
    """The picture is decoded and large enough to be read."""
    expect(picture).to_be_visible()
    picture.evaluate("image => image.decode()")
    assert picture.evaluate("image => Math.min(image.naturalWidth, image.clientWidth)") > 300


def test_no_dialog_stands_before_the_first_page(browser_page: Page, webserver: str) -> None:
    """Before anybody saw the graph, a dialog over it asked for an e-mail address."""
    answer = browser_page.request.post(f"{webserver}/graphql", data={"query": "{ shouldShowNux }"})
    assert answer.json() == {"data": {"shouldShowNux": False}}


def test_the_graph_shows_every_asset_in_its_group(browser_page: Page, webserver: str) -> None:
    """An asset that is not in the definitions is not missed by any test of its own."""
    nodes = defs.get_repository_def().asset_graph.asset_nodes
    groups = {node.key.to_user_string(): node.group_name for node in nodes}
    opened = ",".join(f"global@global:{group}" for group in set(groups.values()))
    usual = browser_page.viewport_size or WHOLE_GRAPH
    browser_page.set_viewport_size(WHOLE_GRAPH)
    browser_page.goto(f"{webserver}/asset-groups?expanded={opened}")
    graph = browser_page.locator("foreignObject")
    for name in [*groups, *set(groups.values())]:
        expect(graph.get_by_text(name, exact=True).first).to_be_visible()
    browser_page.set_viewport_size(usual)


def test_the_model_page_shows_lineage_and_curves(browser_page: Page, webserver: str) -> None:
    """The picture is in the event log, but the page shows a broken image, or only its base64 text."""
    open_partition(browser_page, webserver, "dqn_model")
    expect(value_of(browser_page, "run_id")).to_have_text(re.compile(r"^[0-9a-f]{32}$"))
    for name in ("data_hash", "training_hash", "weights_hash", "lock_hash"):
        expect(value_of(browser_page, name)).to_have_text(re.compile(r"^[0-9a-f]{64}$"))
    expect(value_of(browser_page, "seed")).to_have_text("7")
    run_id = value_of(browser_page, "run_id").inner_text()
    assert Path(value_of(browser_page, "folder").inner_text().strip()).name == run_id
    value_of(browser_page, "training_curves").get_by_text("[Show Markdown]").click()
    expect_picture(browser_page.get_by_role("img", name="training curves"))


def test_the_report_page_shows_the_gates_and_leads_to_the_report(browser_page: Page, webserver: str) -> None:
    """People approve by what this page says; a link to a file that the browser refuses to follow says nothing."""
    open_partition(browser_page, webserver, "validation_report")
    report = read_report(file_in(browser_page, "report_json"))
    gates = value_of(browser_page, "gates").get_by_role("table")
    expect(gates.get_by_role("row")).to_have_count(len(report.gates) + 1)
    rows = [row.get_by_role("cell").all_inner_texts() for row in gates.get_by_role("row").all()[1:]]
    assert [row[:2] for row in rows] == [[gate.name, gate.verdict] for gate in report.gates]
    assert all(why for _, _, why in rows)
    expect(value_of(browser_page, "verdict")).to_have_text(report.verdict)
    value_of(browser_page, "confusion_matrix").get_by_text("[Show Markdown]").click()
    expect_picture(browser_page.get_by_role("img", name="confusion matrix"))
    browser_page.goto(file_in(browser_page, "report").as_uri())
    expect(browser_page.get_by_role("heading", name="Gates")).to_be_visible()
    for gate in report.gates:
        expect(browser_page.get_by_role("cell", name=gate.name, exact=True).first).to_be_visible()
    expect_picture(browser_page.locator("img").first)


def test_the_data_page_shows_the_rules_and_leads_to_the_data_docs(browser_page: Page, webserver: str) -> None:
    """Great Expectations' own index is empty where its scripts cannot be loaded from public servers."""
    open_partition(browser_page, webserver, "data_validation_report")
    expect(value_of(browser_page, "rules")).to_have_text(re.compile(r"^\d+ of \d+ hold"))
    docs = file_in(browser_page, "data_docs")
    value_of(browser_page, "expectations").get_by_text("[Show Markdown]").click()
    expect(browser_page.get_by_role("dialog").get_by_role("cell", name="row_count", exact=True)).to_be_visible()
    browser_page.goto(docs.as_uri())
    browser_page.get_by_role("link", name=re.compile("training_experiences-")).click()
    expect(browser_page.get_by_text("Expectation Suite: training_experiences")).to_be_visible()
    expect(browser_page.get_by_text("Status: Succeeded")).to_be_visible()
    expect(browser_page.get_by_text("columns (in any order)")).to_be_visible()


def test_the_schedule_is_listed_with_its_job(browser_page: Page, webserver: str) -> None:
    """A schedule that nobody can find is never turned on."""
    browser_page.goto(f"{webserver}/automation")
    expect(browser_page.get_by_text("At 02:00 AM UTC, only on Sunday")).to_be_visible()
    browser_page.locator("a[href$='/schedules/weekly_retraining']").click()
    expect(browser_page.get_by_text("(0 2 * * 0)")).to_be_visible()
    expect(browser_page.locator("a[href$='/jobs/retrain']")).to_be_visible()
