"""Identities of tests: what changes from run to run goes, what tells tests apart stays."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.experiences.identity import BUILT_IN, IdentityRules, browser_name, clean, load_rules
from mlops_assets.foundation.errors import InputError

RULES = IdentityRules()


@pytest.mark.parametrize(
    ("title", "normalised"),
    [
        ("report of 2022-08-22T10:15:00Z", "report of <time>"),
        ("backup 20220822T101500 restored", "backup <time> restored"),
        ("reserve for 2022-08-22 works", "reserve for <date> works"),
        ("week of June 13, 2022", "week of <date>"),
        ("due 13 Jun 2022", "due <date>"),
        ("due 22.08.2022 or 8/22/2022", "due <date> or <date>"),
        ("meeting at 10:15 am", "meeting at <clock>"),
        ("order 123e4567-e89b-12d3-a456-426614174000 ships", "order <uuid> ships"),
        ("mail to user91@example.org", "mail to <email>"),
        ("opens http://localhost:54321/x", "opens http://localhost:<port>/x"),
        ("chrome 101.0.4951.64 starts", "chrome <build> starts"),
        ("writes /tmp/pytest-of-me/x.txt at last", "writes <path> at last"),
        ("commit 9fceb02 and 0x7fff", "commit <hex> and <hex>"),
        ("login (attempt 2)", "login (attempt <n>)"),
        ("repetition 3 of 10", "repetition <n>"),
        ("id 1666342931 is new", "id <number> is new"),
        ("delete project x7k2p", "delete project <random>"),
        ("delete project7xc2p now", "delete <random> now"),
        ("edit projectauy09", "edit <random>"),
        ("edit 801hiproject.", "edit <random>"),
    ],
)
def test_random_parts_of_titles_are_replaced(title: str, normalised: str) -> None:
    """A title with a random part would be a new test in every run, without history."""
    assert RULES.normalise(title) == normalised


@pytest.mark.parametrize(
    "title",
    [
        "C27: Creating a project",
        "TC-104 page 2 of 3",
        "ABC-1234567 stays fixed",
        "returns 404",
        "i18n keys with oauth2login and log4j",
        "testcase12",
        "userrole2",
        "scenario12",
        "ratio 16:9",
        "login.spec.ts:42:10",
        "deadbeef",
        "handles v1.2.3",
    ],
)
def test_what_tells_tests_apart_stays(title: str) -> None:
    """Numbers and abbreviations that name a test must not merge it with its neighbours."""
    assert RULES.normalise(title) == title


def test_two_tests_that_differ_in_a_small_number_stay_two() -> None:
    """Page 2 and page 3 are two tests."""
    assert RULES.normalise("opens page 2") != RULES.normalise("opens page 3")


def test_identity_joins_suite_name_and_project_without_its_version() -> None:
    """A browser update must not make every test a new one."""
    before = RULES.identity("login.spec.ts", "Login › works", "chrome-101.0.4951.64")
    after = RULES.identity("login.spec.ts", "Login › works.", "chrome-102.0.5005.61|102.0.5005.61")
    assert before.test_id == after.test_id == "login.spec.ts › Login › works [chrome]"
    assert RULES.identity("", "works", "").test_id == "works"
    assert browser_name("Chrome 101") == "Chrome"
    assert browser_name("chromium-coverage") == "chromium-coverage"


def test_long_titles_stay_apart_and_short() -> None:
    """A title of pages is a key in the databases; two with one beginning must not become one."""
    one, other = (RULES.identity("s", "word " * 300 + end, "").test_id for end in ("a", "b"))
    assert one != other
    assert len(one) < 450


@given(st.text())
def test_normalising_gives_storable_text_and_is_stable(title: str) -> None:
    """Control characters and lone surrogates break PostgreSQL and parquet; a second pass must change nothing."""
    once = RULES.normalise(title)
    once.encode("utf-8")
    assert not any(ord(character) < 32 or ord(character) == 127 for character in once)
    assert RULES.normalise(once) == once


def test_lone_surrogates_and_colours_are_cleaned() -> None:
    """JSON may hold half a character, terminals write colours into titles."""
    assert clean("\x1b[31mred\x1b[0m \ud800\x00 end") == "red ? end"


def test_override_file_adds_keeps_disables_and_renames(tmp_path: Path) -> None:
    """Random words without a digit can only be named by the project itself."""
    path = tmp_path / "rules.yaml"
    path.write_text(
        "replace: [{pattern: '\\b[a-z]{5}project\\b', with: '<project>'}]\n"
        "keep: ['x7k2p']\n"
        "disable: [number]\n"
        "aliases: {'old name': 'new name'}\n"
    )
    rules = load_rules(path)
    assert rules.normalise("edit ssfzkproject") == "edit <project>"
    assert rules.normalise("x7k2p and a9k2p") == "x7k2p and <random>"
    assert rules.normalise("id 1666342931") == "id 1666342931"
    assert rules.identity("", "old name", "").test_id == "new name"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("replaces: []", "replaces"),
        ("disable: [nonsense]", "unknown rule 'nonsense'.*random"),
        ("keep: ['(']", "no regular expression"),
        ("- a list", "allowed keys"),
        ("{", "YAML"),
    ],
)
def test_bad_override_file_says_what_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    """A misspelt rule must not silently do nothing."""
    path = tmp_path / "rules.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=f"(?s){message}"):
        load_rules(path)


def test_missing_override_file_is_an_error_and_none_is_not(tmp_path: Path) -> None:
    """A mistyped path must not mean the built-in rules."""
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        load_rules(tmp_path / "nowhere.yaml")
    assert load_rules(None).normalise("2022-08-22") == "<date>"


def test_every_rule_is_documented() -> None:
    """The docstring is the rule set's documentation: users disable rules by these names."""
    from mlops_assets.experiences import identity

    assert identity.__doc__ is not None
    for rule in BUILT_IN:
        assert f"| {rule.name} |" in identity.__doc__
