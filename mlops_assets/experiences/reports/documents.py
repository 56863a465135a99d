"""Strangers' XML and JSON, read without trust: no entities, no bottomless nesting, every failure has a reason."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers.expat import errors as expat_errors

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from mlops_assets.experiences.execution_rows import excerpt
from mlops_assets.experiences.execution_source import Quarantine

DocumentKind = Literal["xml", "json", "archive", "empty", "other"]
# Attribute of every parsed element: the line its tag stands on. No XML name can hold braces, so nothing is hidden.
LINE = "{line}"
# The deepest honest report nests a dozen suites; a parser that recurses dies at a thousand.
MAX_DEPTH = 200
HEAD_BYTES = 4_096
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd")
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_CUT = {
    expat_errors.codes[message]
    for message in (
        expat_errors.XML_ERROR_NO_ELEMENTS,
        expat_errors.XML_ERROR_UNCLOSED_TOKEN,
        expat_errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
        expat_errors.XML_ERROR_PARTIAL_CHAR,
    )
}
_CUT_TAIL = 8

Locate = Callable[[str], int | None]


class DocumentError(Exception):
    """A file that is no readable document; becomes one `Quarantine` for the whole file."""

    def __init__(self, reason: str, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.quarantine = Quarantine(line, reason, excerpt(message))


def sniff(head: bytes) -> DocumentKind:
    """Tell a file's kind from its first bytes; `other` is anything that cannot be a report (pictures, pages, logs)."""
    if head.startswith(_ARCHIVES):
        return "archive"
    for mark in _BYTE_ORDER_MARKS:
        head = head.removeprefix(mark)
    start = head.lstrip(b" \t\r\n\x00").replace(b"\x00", b"")[:16].lower()
    if not start:
        return "empty"
    if start.startswith(b"<"):
        return "other" if start.startswith((b"<!doctype html", b"<html", b"<svg")) else "xml"
    return "json" if start.startswith(b"{") else "other"


def parse_xml(content: bytes) -> Element:
    """Parse XML; every element carries its line in the attribute `LINE`.

    Raises:
        DocumentError: cut, malformed, not in its encoding, nested too deeply, or with entities or external references.
    """
    builder = _LineBuilder()
    parser = DefusedXMLParser(target=builder)
    builder.expat = parser.parser
    try:
        parser.feed(content)
        root: Element = parser.close()
    except DefusedXmlException as error:
        raise DocumentError(
            "xml_entities", f"{error}: entities and external references are not opened; write the report without them"
        ) from error
    except ParseError as error:
        raise _xml_error(error, content) from error
    except (LookupError, ValueError) as error:
        raise DocumentError("bad_encoding", f"{error}; write the report in UTF-8") from error
    return root


class _LineBuilder(TreeBuilder):
    """Builds the tree and notes the line of each element."""

    expat: Any = None
    depth = 0

    def start(self, tag: Any, attrs: Any) -> Element:
        """Open an element."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise DocumentError("too_deep", f"elements nest deeper than {MAX_DEPTH}; no test report does")
        return super().start(tag, {**attrs, LINE: str(self.expat.CurrentLineNumber)})

    def end(self, tag: Any) -> Element:
        """Close an element."""
        self.depth -= 1
        return super().end(tag)


def _xml_error(error: ParseError, content: bytes) -> DocumentError:
    line = error.position[0]
    if error.code in _CUT:
        return DocumentError("truncated", f"the file ends in the middle ({error}); write or copy it again", line)
    if b"encoding=" not in content[:200] and not _is_utf8(content):
        return DocumentError("bad_encoding", f"the file is not UTF-8 ({error}); write it in UTF-8", line)
    return DocumentError("malformed", f"not well-formed XML: {error}", line)


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def parse_json(content: bytes) -> dict[str, Any]:
    """Parse a JSON object (UTF-8, UTF-16 or UTF-32).

    Raises:
        DocumentError: cut, malformed, not in its encoding, nested too deeply, or no object.
    """
    try:
        document = json.loads(content)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DocumentError("bad_encoding", f"the file is not UTF-8 ({error}); write it in UTF-8", line) from error
    except json.JSONDecodeError as error:
        cut = error.msg.startswith("Unterminated") or error.pos >= len(error.doc.rstrip()) - _CUT_TAIL
        reason, advice = ("truncated", "the file ends in the middle") if cut else ("malformed", "not JSON")
        raise DocumentError(reason, f"{advice} ({error}); write or copy it again", error.lineno) from error
    except RecursionError as error:
        raise DocumentError("too_deep", "objects nest too deeply; no test report does") from error
    except ValueError as error:
        raise DocumentError("malformed", f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise DocumentError("unknown_format", f"a JSON {type(document).__name__} is no test report that is known here")
    return document


def objects(value: object, where: str, problems: list[Quarantine]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON list; anything else in it, or no list at all, is a problem and not an error."""
    if value is None:
        return
    if not isinstance(value, list):
        problems.append(Quarantine(None, "wrong_type", excerpt(f"{where} is no list but {value!r}")))
        return
    for item in value:
        if isinstance(item, dict):
            yield item
        else:
            problems.append(Quarantine(None, "wrong_type", excerpt(f"{where} holds {item!r}, which is no object")))


def text(value: object) -> str:
    """Text of a JSON value that should be one: strings and numbers as they are, anything else is not reported."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def counts_problem(announced: object, found: int, what: str) -> list[Quarantine]:
    """Report that a summary does not agree with what it sums up; nothing when it does, or when it says nothing."""
    if not isinstance(announced, int) or announced == found:
        return []
    message = f"the summary counts {announced} {what}, the report holds {found}: it may be cut, or merged from several"
    return [Quarantine(None, "counts_disagree", message)]
