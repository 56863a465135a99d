"""Requirement texts: built-in ones from templates, or a team's own user stories from a JSON, CSV or Markdown file."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from mlops_assets.foundation.errors import InputError

AREAS = ("forms", "navigation", "data")
RISK_LEVELS = 3
_MAX_BYTES = 20 * 1024 * 1024
_TEXT_KEYS = ("text", "intent", "story", "user_story", "description", "requirement", "summary", "title")
_ID_KEYS = ("requirement_id", "id", "key", "task_id")
_LIST_ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+(?:\[[ xX]\]\s+)?(?P<text>\S.*)$")
_AREA_WORDS = {
    "forms": "form field fill enter input submit type upload create post add edit update change set register sign password "
    "write comment reply fork invite",
    "navigation": "navigate search find open go page menu link route show click browse filter sort where directions "
    "distance map view",
    "data": "data table list count number total price order report history status cart balance export database average "
    "most top how when who",
}
_AREA_OF = {word: area for area, words in _AREA_WORDS.items() for word in words.split()}
_WORD = re.compile(r"[a-z]+")

_ACTORS = ("customer", "support agent", "administrator", "guest")
_WISHES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    # Per area, from low to high risk.
    "forms": (
        ("leave a comment below an article", "choose a nickname in my profile", "subscribe to the newsletter"),
        ("register an account with my email address", "upload a document to my request", "edit my delivery address"),
        ("pay with a credit card in the checkout form", "reset a forgotten password", "submit my tax number"),
    ),
    "navigation": (
        ("see which page I am on in the breadcrumb", "switch between light and dark theme", "open the imprint"),
        ("search products by name and category", "filter the results by price", "come back to my last page"),
        ("reach the checkout from every page", "be sent to the login when my session ends", "open a shared deep link"),
    ),
    "data": (
        ("see how many people liked a post", "sort the table of my downloads", "see recently viewed items"),
        ("see the history of my orders", "export the report as a table", "see the stock of a product"),
        ("see the correct balance of my account", "keep my cart between two devices", "delete all my personal data"),
    ),
}
_REASONS = (
    ("so that the site feels like mine", "because it is nice to have"),
    ("so that I find my way without asking support", "so that I do not have to type it again"),
    ("so that no money is lost", "so that the law is kept", "so that nobody else gets in"),
)


@dataclass(frozen=True)
class Requirement:
    """One requirement: unique id, its text, its area (one of `AREAS`) and its risk level, 0 to 2."""

    requirement_id: str
    text: str
    area: str
    risk: int


def requirements_from(path: Path | None) -> tuple[Requirement, ...]:
    """Return the requirements of a file, or the built-in ones.

    JSON: a list of texts or of objects, or an object that holds one such list. CSV: a header and rows. Markdown: every
    list item. The text is the first of the columns text, intent, story, user_story, description, requirement, summary,
    title; the id, where there is one, is requirement_id, id, key or task_id; the area is `area`, else told from the
    text's words. Files tell no risk: the three levels go round.

    Raises:
        InputError: the file is missing, too large, not UTF-8, of another format, or holds no text.
    """
    return _built_in() if path is None else _from_rows(path, list(_READERS[_suffix(path)](path, _read(path))))


def area_of(text: str) -> str:
    """Return the area that most of the text's words speak of; navigation when none does."""
    votes = Counter(_AREA_OF[word] for word in _WORD.findall(text.lower()) if word in _AREA_OF)
    return max(AREAS, key=lambda area: (votes[area], area == "navigation"))


def _built_in() -> tuple[Requirement, ...]:
    found = []
    for area in AREAS:
        for risk in range(RISK_LEVELS):
            combinations = product(_ACTORS, _WISHES[area][risk], _REASONS[risk])
            for index, (actor, wish, reason) in enumerate(combinations):
                text = f"As a {actor}, I want to {wish}, {reason}."
                found.append(Requirement(f"{area}-{risk}-{index:03d}", text, area, risk))
    return tuple(found)


def _suffix(path: Path) -> str:
    if path.suffix.lower() not in _READERS:
        raise InputError(f"user stories {str(path)!r}: a file {', '.join(sorted(_READERS))} is expected")
    return path.suffix.lower()


def _read(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"user stories {str(path)!r}: no such file; correct MLOPS_USER_STORIES or unset it")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"user stories {str(path)!r}: larger than {_MAX_BYTES >> 20} MiB; split the file")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"user stories {str(path)!r}: not UTF-8 at byte {error.start}; convert the file") from error


def _json_rows(path: Path, content: str) -> Iterable[object]:
    try:
        loaded = json.loads(content)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"user stories {str(path)!r}: no valid JSON ({error}); a list is expected") from error
    if isinstance(loaded, dict):
        loaded = next((value for value in loaded.values() if isinstance(value, list)), None)
    if not isinstance(loaded, list):
        raise InputError(f"user stories {str(path)!r}: a list of texts or of objects is expected")
    return loaded


def _csv_rows(_path: Path, content: str) -> Iterable[object]:
    return csv.DictReader(io.StringIO(content))


def _markdown_rows(_path: Path, content: str) -> Iterable[object]:
    return [match["text"] for line in content.splitlines() if (match := _LIST_ITEM.match(line))]


_READERS = {".json": _json_rows, ".csv": _csv_rows, ".md": _markdown_rows, ".markdown": _markdown_rows}


def _from_rows(path: Path, rows: list[object]) -> tuple[Requirement, ...]:
    found: dict[str, Requirement] = {}
    for number, row in enumerate(rows):
        values = {"text": row} if isinstance(row, str) else row
        if not isinstance(values, dict):
            raise InputError(f"user stories {str(path)!r}: entry {number + 1} is neither a text nor an object: {row!r}")
        text = _first(values, _TEXT_KEYS)
        if not text:
            continue
        key = _first(values, _ID_KEYS) or f"{number + 1:05d}"
        identity = f"story-{key}" if f"story-{key}" not in found else f"story-{key}-{number + 1}"
        area = _first(values, ("area",)).lower()
        area = area if area in AREAS else area_of(text)
        found[identity] = Requirement(identity, text, area, len(found) % RISK_LEVELS)
    if not found:
        raise InputError(
            f"user stories {str(path)!r}: no text found; name the column or key one of {', '.join(_TEXT_KEYS)}, or, in "
            "Markdown, write a list"
        )
    return tuple(found.values())


def _first(values: Mapping[object, object], keys: Iterable[str]) -> str:
    present = (values.get(key) for key in keys)
    return next((" ".join(str(value).split()) for value in present if value not in {None, ""}), "")
