"""What people see of a lifecycle in Dagster's web pages, read by a real browser."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from mlops_assets.definitions import defs
from mlops_assets.foundation.agents import AGENTS

pytestmark = pytest.mark.slow

AGENT = "execution"
GROUPS = ["experiences", "features", "training", "evaluation", "registry", "governance"]
# Wide enough for the whole graph at a scale at which Dagster draws assets with their full names.
WHOLE_GRAPH = {"width": 5600, "height": 1200}
PICTURE_LOADED = "image => image.complete && image.naturalWidth > 300 && image.clientWidth > 300"


@pytest.fixture
def page(browser_page: Page, webserver: str) -> Page:
    """The browser at the server's first page."""
    browser_page.goto(webserver)
    return browser_page


def open_partition(page: Page, webserver: str, asset: str, agent: str = AGENT) -> None:
    """Open the page of an asset's latest materialisation for one agent."""
    page.goto(f"{webserver}/assets/{asset}?view=partitions&partition={agent}")
    expect(value_of(page, "agent")).to_have_text(agent)


def value_of(page: Page, name: str):  # type: ignore[no-untyped-def]
    """The cell beside a metadata name."""
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=name, exact=True))
    return row.first.get_by_role("cell").nth(1)


def test_no_dialog_stands_before_the_first_page(page: Page) -> None:
    """A dialog over the first page asks for an e-mail address, which nobody has to give to see a graph."""
    expect(page.get_by_text("Overview").first).to_be_visible()
    expect(page.get_by_text("Join the Dagster community")).to_have_count(0)
