"""One page of a report: sections of words, a table and pictures, as HTML and Markdown; and how it is published."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import atomic_write, canonical_json

# Cells that are a verdict, and are coloured as one.
MARKS: Final = frozenset(
    {
        "met", "missed", "unknown", "there", "absent", "healthy", "warning", "critical", "insufficient_data", "ok",
        "monitor",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A section; `pictures`: name to PNG; `links`: words to a file beside the page."""

    title: str
    words: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    verdict: str
    subtitle: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Published:
    """Where a report lies."""

    html: Path
    json: Path


def publish(page: Page, document: Mapping[str, Any], folder: Path, name: str) -> Published:
    """Write `<name>.html`, whole in itself, and `<name>.json`, each whole or absent; the JSON, which others look for, last.

    Raises:
        InputError: the document holds what JSON does not have.
        StorageError: the folder cannot be written.
    """
    try:
        text = canonical_json(document)
    except (TypeError, ValueError) as error:
        raise InputError(f"report {name} cannot be written as JSON: {error}; convert it first") from error
    html, json_file = folder / f"{name}.html", folder / f"{name}.json"
    rendered = as_html(page)
    with atomic_write(html) as temporary:
        temporary.write_text(rendered, encoding="utf-8")
    with atomic_write(json_file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Published(html, json_file)


def read_document(file: Path) -> dict[str, Any]:
    """Read a published report's JSON.

    Raises:
        InputError: it is not there, or damaged.
    """
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no report at {file}; run the job daily_report first") from None
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}); run the job daily_report again") from error
    return found


def as_html(page: Page) -> str:
    """Render the page without any outside resource; pictures are embedded."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mlops_assets.monitoring", "templates"), autoescape=True, undefined=StrictUndefined
    )
    sections = [
        {
            "title": part.title,
            "words": part.words,
            "head": part.head,
            "rows": part.rows,
            "pictures": {name: data_uri(picture) for name, picture in part.pictures.items()},
            "links": part.links,
        }
        for part in page.parts
    ]
    shown = {"title": page.title, "verdict": page.verdict, "subtitle": page.subtitle, "sections": sections}
    return environment.get_template("report.html.j2").render(page=shown, marks=MARKS)


def as_markdown(part: Part) -> str:
    """Return a section's table as Markdown; of one without a table, its words as a list."""
    if not part.head:
        return "\n".join(f"- {words}" for words in part.words)
    lines = [_row(part.head), "|" + "---|" * len(part.head), *(_row(row) for row in part.rows)]
    return "\n".join(lines)


def as_text(page: Page) -> str:
    """Return the page as plain text, for a mail: tables as lines, without pictures."""
    lines = [page.title, f"{page.verdict.replace('_', ' ')}; {page.subtitle}"]
    for part in page.parts:
        lines += ["", part.title, *part.words]
        lines += [_line(part.head, row) for row in part.rows]
    return "\n".join(lines) + "\n"


def data_uri(picture: bytes) -> str:
    """Return a PNG as the address of an embedded picture."""
    return "data:image/png;base64," + b64encode(picture).decode()


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _line(head: Sequence[str], row: Sequence[str]) -> str:
    first, *others = row
    return f"  {first}: " + ", ".join(f"{name} {cell}" for name, cell in zip(head[1:], others, strict=True))
