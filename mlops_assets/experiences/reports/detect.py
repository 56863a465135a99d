"""Which report a document is, by its content and never by its name, and the parser that belongs to it."""

import json
from typing import Any, Literal

from mlops_assets.experiences.reports.allure import is_allure_result, parse_allure_tree
from mlops_assets.experiences.reports.ctrf import parse_ctrf
from mlops_assets.experiences.reports.documents import DocumentError, parse_json, parse_xml, text
from mlops_assets.experiences.reports.junit import parse_junit
from mlops_assets.experiences.reports.model import Report
from mlops_assets.experiences.reports.playwright import parse_playwright

ReportFormat = Literal["playwright", "ctrf", "allure_tree", "allure_result"]
_KNOWN = "JUnit XML, Playwright JSON, Allure results, an Allure report's data/suites.json and CTRF are"


def parse_report(content: bytes, kind: Literal["xml", "json"]) -> Report:
    """Parse one report file; Allure's result files are joined by folder, not here.

    Raises:
        DocumentError: the document is broken, or no report that is known.
    """
    if kind == "xml":
        root = parse_xml(content)
        tag = str(root.tag).rpartition("}")[2]
        if tag not in {"testsuites", "testsuite"}:
            raise DocumentError("unknown_format", f"root element <{tag}> is no test report known here; {_KNOWN}")
        return parse_junit(root)
    document = parse_json(content)
    found = json_format(document)

    def locate(title: str) -> int | None:
        position = content.find(json.dumps(title, ensure_ascii=False).encode("utf-8", "replace"))
        return content.count(b"\n", 0, position) + 1 if position >= 0 else None

    if found == "playwright":
        return parse_playwright(document, locate)
    if found == "ctrf":
        return parse_ctrf(document, locate)
    if found == "allure_tree":
        return parse_allure_tree(document, locate)
    keys = ", ".join(sorted(document)[:6]) or "no keys"
    raise DocumentError("unknown_format", f"a JSON object with {keys} is no test report known here; {_KNOWN}")


def json_format(document: dict[str, Any]) -> ReportFormat | None:
    """Tell the format of a JSON report by its keys; None when it is none that is known."""
    results = document.get("results")
    if isinstance(results, dict) and "tests" in results:
        return "ctrf"
    if "suites" in document and ("stats" in document or "config" in document):
        return "playwright"
    # behaviors.json and packages.json are the same tests again, under another name.
    if "children" in document and "uid" in document and text(document.get("name")) in {"", "suites"}:
        return "allure_tree"
    return "allure_result" if is_allure_result(document) else None


def may_be_allure(content: bytes) -> bool:
    """Cheap test, before parsing: could this be one of Allure's result or container files?"""
    return b'"uuid"' in content and b'"start"' in content
