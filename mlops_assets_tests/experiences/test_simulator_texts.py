import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.experiences.simulator.config import SimulatorConfig
from mlops_assets.experiences.simulator.simulate import Simulator
from mlops_assets.experiences.simulator.texts import AREAS, area_of, requirements_from
from mlops_assets.foundation.agents import AGENTS
from mlops_assets.foundation.errors import InputError

STORIES = [
    {"id": "S-1", "text": "As a buyer I want to fill the address form", "area": "forms"},
    {"id": "S-2", "text": "As a buyer I want to search and filter the catalogue"},
    {"id": "S-3", "text": "As a clerk I want to see the total number of orders"},
]


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_the_built_in_texts_cover_every_area_and_risk() -> None:
    """An area without requirements: decisions of it would get texts of another."""
    found = requirements_from(None)

    assert len({item.requirement_id for item in found}) == len(found) == len({item.text for item in found})
    assert set(Counter((item.area, item.risk) for item in found)) == {(a, r) for a in AREAS for r in range(3)}


def test_json_csv_and_markdown_give_the_same_texts(tmp_path: Path) -> None:
    """A format that loses stories."""
    as_json = write(tmp_path, "a.json", json.dumps(STORIES))
    wrapped = write(tmp_path, "w.json", json.dumps({"project": "shop", "stories": STORIES}))
    rows = "\n".join(f"{story['id']},{story['text']},{story.get('area', '')}" for story in STORIES)
    as_csv = write(tmp_path, "b.csv", "\ufeffid,story,area\n" + rows)
    items = "\n".join(f"{mark} {story['text']}" for mark, story in zip(("-", "2.", "* [ ]"), STORIES, strict=True))
    as_markdown = write(tmp_path, "c.md", f"# Stories\n\nWhat we want:\n\n{items}\n")

    found = requirements_from(as_json)

    assert [item.text for item in found] == [story["text"] for story in STORIES]
    assert [item.area for item in found] == ["forms", "navigation", "data"]
    assert [item.requirement_id for item in found] == ["story-S-1", "story-S-2", "story-S-3"]
    assert requirements_from(wrapped) == found
    assert requirements_from(as_csv) == found
    assert [(item.text, item.area) for item in requirements_from(as_markdown)] == [(i.text, i.area) for i in found]


def test_a_list_of_plain_texts_and_repeated_ids_work(tmp_path: Path) -> None:
    """Two stories under one id: one text would stand for both."""
    plain = requirements_from(write(tmp_path, "a.json", json.dumps(["open the menu", "upload a file"])))
    repeated = [{"id": 7, "text": "open the menu"}, {"id": 7, "text": "upload a file"}, {"id": 8, "text": ""}]
    found = requirements_from(write(tmp_path, "b.json", json.dumps(repeated)))

    assert [item.text for item in plain] == ["open the menu", "upload a file"]
    assert [item.requirement_id for item in found] == ["story-7", "story-7-2"]


def test_one_single_story_serves_the_whole_fleet(tmp_path: Path) -> None:
    """Fewer texts than apps: an app without requirement, or an index out of range."""
    stories = write(tmp_path, "one.md", "- As a reader I want to find an article\n")
    config = SimulatorConfig(rows=200, days=1, user_stories=stories)

    batch = next(Simulator(config).batches(AGENTS["requirements"], None))

    assert set(batch.experiences["requirement_id"].to_pylist()) == {"story-00001"}
    assert batch.requirement_texts["text"].to_pylist() == ["As a reader I want to find an article"]


def test_other_texts_are_another_world(tmp_path: Path) -> None:
    """The same ids for decisions about other requirements: a store that knows the ids drops the new ones."""
    plain = Simulator(SimulatorConfig(rows=200, days=1))
    own = Simulator(SimulatorConfig(rows=200, days=1, user_stories=write(tmp_path, "a.md", "- open the menu\n")))

    ids = [
        set(next(source.batches(AGENTS["requirements"], None)).experiences["experience_id"].to_pylist())
        for source in (plain, own)
    ]

    assert plain.name != own.name
    assert not ids[0] & ids[1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "text", r"\.csv, \.json, \.markdown, \.md"),
        ("a.json", "[{", "no valid JSON"),
        ("a.json", "3", "a list of texts"),
        ("a.json", "[3]", "entry 1 is neither a text nor an object"),
        ("a.json", "[]", "no text found"),
        ("a.csv", "name,points\nlogin,3\n", "no text found"),
        ("a.md", "Only prose.\n", "no text found"),
        ("a.json", "[" * 100_000, "no valid JSON"),
    ],
)
def test_a_file_that_holds_no_stories_is_refused_with_advice(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    """A traceback of the parser, or a silent fall-back to the built-in texts."""
    with pytest.raises(InputError, match=message):
        requirements_from(write(tmp_path, name, content))


def test_a_missing_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    """An OSError or UnicodeDecodeError that names neither setting nor byte."""
    (tmp_path / "latin.csv").write_bytes("text\nGrüße\n".encode("latin-1"))

    with pytest.raises(InputError, match="no such file; correct MLOPS_USER_STORIES"):
        requirements_from(tmp_path / "none.json")
    with pytest.raises(InputError, match="not UTF-8 at byte 7"):
        requirements_from(tmp_path / "latin.csv")


@given(st.text())
def test_every_text_has_an_area(text: str) -> None:
    """A story in no language we know: it still has to land somewhere."""
    assert area_of(text) in AREAS


def test_real_user_tasks_become_requirements(shared_data: Path) -> None:
    """A real file of user tasks, with its own keys, that only invented files would fit."""
    found = requirements_from(shared_data / "web_tasks" / "webarena_test.raw.json")

    assert len(found) == 812
    assert found[0].text == "What is the top-1 best-selling product in 2022"
    assert {item.area for item in found} == set(AREAS)
