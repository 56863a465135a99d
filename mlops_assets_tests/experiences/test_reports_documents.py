"""Reading strangers' XML and JSON: attacks and accidents become one reason each."""

import json

import pytest

from mlops_assets.experiences.execution_source import Quarantine
from mlops_assets.experiences.reports.documents import LINE, DocumentError, objects, parse_json, parse_xml, sniff

BILLION_LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>
<testsuite name="x"><testcase name="&b;"/></testsuite>"""
EXTERNAL = b"""<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><testsuite name="&a;"/>"""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (BILLION_LAUGHS, "xml_entities"),
        (EXTERNAL, "xml_entities"),
        (b"<testsuite><testcase name='a'/>", "truncated"),
        (b"<testsuite><testcase na", "truncated"),
        (b"<testsuite><testcase></testsuite>", "malformed"),
        (b"<testsuite name='\xff\xfe'/>", "bad_encoding"),
        (b"<?xml version='1.0' encoding='klingon'?><testsuite/>", "bad_encoding"),
        (b"<a>" * 300, "too_deep"),
    ],
)
def test_bad_xml_has_a_reason(content: bytes, reason: str) -> None:
    """An entity bomb, a cut file or a wrong encoding must not end the ingest of the other files."""
    with pytest.raises(DocumentError) as caught:
        parse_xml(content)
    assert caught.value.quarantine.reason == reason


def test_declared_encodings_and_lines_are_read() -> None:
    """Latin-1 that says so is fine, and problems must name their line."""
    root = parse_xml("<?xml version='1.0' encoding='iso-8859-1'?>\n<a>\n<b name='é'/></a>".encode("latin-1"))
    assert root[0].get("name") == "é"
    assert root[0].get(LINE) == "3"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": [1, 2', "truncated"),
        (b'{"a": "unfini', "truncated"),
        (b'{"a": nonsense, "b": 1, "c": "long enough not to be the end"}', "malformed"),
        (b'{"a": "\xff"}', "bad_encoding"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "too_deep"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "malformed"),
        (b"[1, 2]", "unknown_format"),
    ],
)
def test_bad_json_has_a_reason(content: bytes, reason: str) -> None:
    """A cut or bottomless JSON must not end the ingest of the other files."""
    with pytest.raises(DocumentError) as caught:
        parse_json(content)
    assert caught.value.quarantine.reason == reason


def test_the_line_of_a_json_error_is_named() -> None:
    """In a report of a hundred thousand lines the line is the message."""
    with pytest.raises(DocumentError) as caught:
        parse_json(b'{"a": 1,\n"b": oops,\n"c": "something after it"}')
    assert caught.value.quarantine.line == 2


def test_utf16_and_byte_order_marks_are_read() -> None:
    """Windows runners write both."""
    assert parse_json(json.dumps({"a": 1}).encode("utf-16")) == {"a": 1}
    assert parse_json(b"\xef\xbb\xbf{}") == {}


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"PK\x03\x04....", "archive"),
        (b"\x1f\x8b\x08", "archive"),
        (b"\xef\xbb\xbf <?xml", "xml"),
        (b"\xff\xfe<\x00t\x00", "xml"),
        (b"  {", "json"),
        (b"<!DOCTYPE html><html>", "other"),
        (b"\x89PNG\r\n", "other"),
        (b"[INFO] started", "other"),
    ],
)
def test_kinds_are_told_by_content(head: bytes, kind: str) -> None:
    """A report may have any name, and a picture or a page is none."""
    assert sniff(head) == kind


def test_wrong_types_inside_a_list_are_put_aside() -> None:
    """One string among the objects must not hide the objects."""
    problems: list[Quarantine] = []
    assert list(objects([{"a": 1}, "text", None, {"b": 2}], "tests", problems)) == [{"a": 1}, {"b": 2}]
    assert [problem.reason for problem in problems] == ["wrong_type", "wrong_type"]
    assert list(objects({"not": "a list"}, "tests", problems)) == []
    assert len(problems) == 3
    assert list(objects(None, "tests", problems)) == []
    assert len(problems) == 3
