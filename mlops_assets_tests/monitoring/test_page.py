"""A report's page is whole in itself, says the same everywhere, and is not half written."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlops_assets.foundation.errors import InputError
from mlops_assets.monitoring.page import Page, Part, as_html, as_markdown, as_text, publish, read_document

PART = Part(
    "Figures",
    ["Of <all> decisions."],
    ("figure", "value", "standing"),
    [["accuracy | macro", "91.00%", "met"], ["<b>", "–", "insufficient_data"]],
    {"trend": b"\x89PNG"},
    {"by Evidently": "drift_report.html"},
)
PAGE = Page("A report", "missed", "yesterday", [PART])


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    """A model's name with a tag in it runs in the reader's browser, or a picture is missing in a mail."""
    page = as_html(PAGE)
    assert "<b>" not in page
    assert "Of &lt;all&gt; decisions." in page
    assert '<span class="missed">missed</span>' in page
    assert '<td class="insufficient_data">insufficient data</td>' in page
    assert re.findall(r'(?:src|href)="([^"]{0,22})', page) == ["data:image/png;base64,", "drift_report.html"]


def test_the_same_as_markdown_and_text() -> None:
    """A bar in a cell breaks the table that people see in the UI."""
    assert as_markdown(PART).splitlines() == [
        "| figure | value | standing |",
        "|---|---|---|",
        "| accuracy / macro | 91.00% | met |",
        "| <b> | – | insufficient_data |",
    ]
    assert as_markdown(Part("Findings", ["One.", "Two."])) == "- One.\n- Two."
    assert as_text(PAGE).splitlines() == [
        "A report",
        "missed; yesterday",
        "",
        "Figures",
        "Of <all> decisions.",
        "  accuracy | macro: value 91.00%, standing met",
        "  <b>: value –, standing insufficient_data",
    ]


def test_what_is_no_json_publishes_nothing(tmp_path: Path) -> None:
    """The page of today stands beside the JSON of yesterday."""
    at = datetime(2026, 3, 9, tzinfo=UTC)
    published = publish(PAGE, {"at": at, "value": 1.0}, tmp_path / "day", "report")
    assert read_document(published.json) == {"at": "2026-03-09T00:00:00.000000+00:00", "value": 1.0}
    before = published.html.read_bytes()
    with pytest.raises(InputError, match="report report cannot be written as JSON"):
        publish(Page("Another", "met", "", []), {"value": float("nan")}, tmp_path / "day", "report")
    assert published.html.read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "day").iterdir()) == ["report.html", "report.json"]
    assert json.loads(published.json.read_text())["value"] == 1.0


def test_a_report_that_is_not_there_is_said(tmp_path: Path) -> None:
    """A missing or damaged report is a stack trace of the JSON module."""
    with pytest.raises(InputError, match="run the job daily_report first"):
        read_document(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(InputError, match="is damaged"):
        read_document(tmp_path / "half.json")
