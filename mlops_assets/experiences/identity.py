r"""Test identities: one test is one name, whatever random data, dates or counters its title carries. No parsing.

The built-in rules run in this order; each replaces what it finds by its placeholder:

| rule | finds | becomes |
|---|---|---|
| timestamp | 2022-08-22T10:15:00Z, 2022-08-22 10:15, 20220822T101500 | `<time>` |
| date | 2022-08-22, 22.08.2022, 8/22/2022, June 13, 2022, 13 Jun 2022 | `<date>` |
| clock | 10:15, 10:15:30, 3:07 pm | `<clock>` |
| uuid | 123e4567-e89b-12d3-a456-426614174000 | `<uuid>` |
| email | user91@example.org (with a digit before the @) | `<email>` |
| port | localhost:54321, 127.0.0.1:8080 | `localhost:<port>` |
| build_number | 101.0.4951.64 (four or more parts) | `<build>` |
| temporary_path | /tmp/x1/y, C:\Temp\x | `<path>` |
| hex | 0x7f3a, 9fceb02, e3b0c44298fc (7 or more, digits and letters) | `<hex>` |
| attempt | attempt 2, retry #1, repetition 3 of 10, worker 4 | `attempt <n>` |
| number | 1666342931, 20221013 (6 or more digits, not behind `ABC-`) | `<number>` |
| random | x7k2p, 8oo4m, ab1cd2: 5 or more lower-case letters and digits that change places twice | `<random>` |
| generated_name | projectauy09, test1cb, 801hiproject: a noun glued to random letters and digits | `<random>` |

Case numbers (`C27`, `TC-104`, `ABC-123456`), small numbers (`404`, `page 2`) and known abbreviations (`i18n`, `oauth2`,
`log4j`) stay. Random words without a digit cannot be told from words: an override file names them.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mlops_assets.foundation.errors import InputError

SEPARATOR = " › "
_MONTHS = (
    "Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|"
    "Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?"
)
# Honest words of the trade that look random; letters may follow (`oauth2login`), more digits may not (`3dn59`).
_ABBREVIATIONS = re.compile(
    r"(?:b2[bc]|c2c|p2p|e2e|i18n|l10n|a11y|k8s|[hx]\d{2,3}|mp[34]|oauth\d|utf\d{1,2}|base\d{2}|md5|sha\d{1,3}|s3|ec2|web\d|"
    r"log4j|neo4j|[23]fa|[23]d|3ds|[48]k|ipv[46]|http[23]|es\d{1,4}|v\d{1,2}|junit\d|html5|css3|python\d{1,3})[a-z]*"
)
_NOUNS = (
    "project|test|user|name|item|order|account|customer|client|product|company|group|team|file|folder|email|slot|record|"
    "random|temp|tmp|demo|sample|dummy"
)
# What follows a noun in an honest numbered name: testcase12, userrole2, orderitem3.
_HONEST_SUFFIX = re.compile(
    rf"(?:{_NOUNS}|case|suite|page|step|data|plan|run|set|list|form|view|role|type|flow|key|code|id|no|nr|level|host|api|app|"
    r"web|admin|guest|login)s?\d+"
)
_GENERATED = re.compile(
    rf"(?:{_NOUNS})(?P<tail>[a-z]{{1,6}}\d{{1,4}}|\d{{1,4}}[a-z]{{2,6}})|\d{{1,4}}[a-z]{{1,6}}(?:{_NOUNS})|"
    rf"[a-z]{{2,6}}\d{{1,4}}(?:{_NOUNS})"
)
_LOWER_TOKEN = re.compile(r"(?<![A-Za-z0-9<])[a-z0-9]{5,}(?![A-Za-z0-9>])")
_RANDOM = re.compile(r"[a-z]*\d+[a-z]+\d+[a-z0-9]*|[a-z]+\d+[a-z]+")
_BROWSER_VERSION = re.compile(r"^(?P<name>.*?[A-Za-z].*?)[\s/_-]*v?\d+(?:\.\d+)+.*$")
_BROWSER_MAJOR = re.compile(
    r"^(?P<name>chrome|chromium|headlesschrome|firefox|edge|safari|webkit|opera)[\s/_-]*\d+$", re.IGNORECASE
)
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\s]+")
# A key in Feast, the databases and the UI; the hash keeps two long titles with one beginning apart.
_MAX_LENGTH, _HASH_LENGTH = 400, 8
_CUT = "… "
MAX_TEST_ID = _MAX_LENGTH + len(_CUT) + _HASH_LENGTH
"""Characters of the longest `test_id` that the rules make of a title."""
# Titles with a whole page in them exist; patterns and stores get the beginning.
_MAX_TEXT = 4_000
_CACHED_TITLES = 65_536


@dataclass(frozen=True)
class Rule:
    """One replacement; `pattern` is applied to the whole title."""

    name: str
    pattern: re.Pattern[str]
    replacement: str | Callable[[re.Match[str]], str]


@dataclass(frozen=True)
class TestIdentity:
    """A test's normalised identity; `test_id` joins the three parts."""

    __test__ = False  # not a test class, whatever pytest reads into the name

    test_id: str
    suite: str
    name: str
    project: str


def _random_token(match: re.Match[str]) -> str:
    token = match.group()
    return "<random>" if _RANDOM.fullmatch(token) and not _ABBREVIATIONS.fullmatch(token) else token


def _generated_name(match: re.Match[str]) -> str:
    token = match.group()
    found = _GENERATED.fullmatch(token)
    if found is None or (found["tail"] and _HONEST_SUFFIX.fullmatch(found["tail"])):
        return token
    return "<random>"


BUILT_IN = (
    Rule(
        "timestamp",
        re.compile(
            r"\b(?:19|20)\d\d-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z\b|[+-]\d\d:?\d\d\b)?|\b20\d{6}T\d{6}Z?\b"
        ),
        "<time>",
    ),
    Rule(
        "date",
        re.compile(
            r"\b(?:19|20)\d\d[-/]\d\d?[-/]\d\d?\b|\b\d\d?[./-]\d\d?[./-](?:19|20)\d\d\b|"
            rf"\b(?:{_MONTHS})\.? \d\d?(?:st|nd|rd|th)?,? (?:19|20)\d\d\b|\b\d\d?\.? (?:{_MONTHS})\.?,? (?:19|20)\d\d\b"
        ),
        "<date>",
    ),
    Rule("clock", re.compile(r"(?i)(?<![\w.:])\d\d?:[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(?: ?[ap]m)?\b(?!:)"), "<clock>"),
    Rule("uuid", re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE), "<uuid>"),
    Rule("email", re.compile(r"(?<![\w.+-])(?=[\w.+-]*\d)[\w.+-]+@\w[\w-]*(?:\.\w[\w-]*)+"), "<email>"),
    Rule("port", re.compile(r"\b(localhost|\d{1,3}(?:\.\d{1,3}){3}):\d{2,5}\b"), r"\1:<port>"),
    Rule("build_number", re.compile(r"(?<![\w.])\d+(?:\.\d+){3,}\b(?!:)"), "<build>"),
    Rule(
        "temporary_path",
        re.compile(r"(?<!\w)/(?:var/)?tmp/[^\s\"']+|\b[A-Z]:\\(?:[^\s\\\"']+\\)*Te?mp\\[^\s\"']+"),
        "<path>",
    ),
    Rule("hex", re.compile(r"\b0x[0-9a-f]+\b|\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,64}\b"), "<hex>"),
    Rule(
        "attempt",
        re.compile(
            r"(?i)\b(attempt|retry|iteration|repetition|repeat|worker|shard)[ #:-]{1,3}\d+(?: ?(?:of|/) ?\d+)?\b"
        ),
        r"\1 <n>",
    ),
    Rule("number", re.compile(r"(?<![A-Za-z]-)(?<![\w.])\d{6,}\b"), "<number>"),
    Rule("random", _LOWER_TOKEN, _random_token),
    Rule("generated_name", _LOWER_TOKEN, _generated_name),
)


class IdentityRules:
    """The built-in rules with a project's own on top; immutable, the same title always gives the same identity."""

    def __init__(
        self,
        *,
        replace: tuple[Rule, ...] = (),
        keep: tuple[re.Pattern[str], ...] = (),
        disable: frozenset[str] = frozenset(),
        aliases: dict[str, str] | None = None,
    ) -> None:
        """Put `replace` before the built-in rules that are not in `disable`; text that matches `keep` stays as it is.

        `aliases` maps one finished `test_id` to another: two names of one test.
        """
        self._own = replace
        self._built_in = tuple(rule for rule in BUILT_IN if rule.name not in disable)
        self._keep = re.compile("|".join(f"(?:{pattern.pattern})" for pattern in keep)) if keep else None
        self._aliases = dict(aliases or {})
        # Bound per instance: titles come back in every cycle, and thirteen patterns a title are dear.
        self._normalised = lru_cache(maxsize=_CACHED_TITLES)(self._normalise)

    def normalise(self, title: str) -> str:
        """Return the title without what changes from run to run; white space collapsed, no full stop at the end."""
        return self._normalised(title)

    def identity(self, suite: str, name: str, project: str) -> TestIdentity:
        """Normalise the three parts; `test_id` is `suite › name [project]` without the parts that are empty."""
        parts = TestIdentity("", self.normalise(suite), self.normalise(name) or "unnamed", browser_name(project))
        title = SEPARATOR.join(part for part in (parts.suite, parts.name) if part)
        test_id = _bounded(f"{title} [{parts.project}]" if parts.project else title)
        return TestIdentity(self._aliases.get(test_id, test_id), parts.suite, parts.name, parts.project)

    def _normalise(self, title: str) -> str:
        text = clean(title)
        for rule in self._own:
            text = rule.pattern.sub(rule.replacement, text)
        text = self._apply_built_in(text) if self._keep is None else "".join(self._around_kept(text, self._keep))
        return text.rstrip(" .")

    def _around_kept(self, text: str, keep: re.Pattern[str]) -> Iterator[str]:
        position = 0
        for match in keep.finditer(text):
            yield self._apply_built_in(text[position : match.start()])
            yield match.group()
            position = match.end()
        yield self._apply_built_in(text[position:])

    def _apply_built_in(self, text: str) -> str:
        for rule in self._built_in:
            text = rule.pattern.sub(rule.replacement, text)
        return text


def clean(text: str) -> str:
    """Text that every store takes: no colour codes, control characters or lone surrogates, at most 4,000 characters.

    White space is collapsed.
    """
    text = text[:_MAX_TEXT].encode("utf-8", "replace").decode()
    return _CONTROL.sub(" ", _ANSI.sub("", text)).strip()


def browser_name(project: str) -> str:
    """Project or browser without its version: `chrome-101.0.4951.64` and `Chrome 101` are `chrome` and `Chrome`."""
    text = clean(project)
    match = _BROWSER_VERSION.match(text) or _BROWSER_MAJOR.match(text)
    return match["name"].strip(" -_/") if match else text


def _bounded(test_id: str) -> str:
    if len(test_id) <= _MAX_LENGTH:
        return test_id
    return f"{test_id[:_MAX_LENGTH]}{_CUT}{sha256(test_id.encode()).hexdigest()[:_HASH_LENGTH]}"


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    return text


def _rule_name(name: str) -> str:
    names = [rule.name for rule in BUILT_IN]
    if name not in names:
        raise ValueError(f"unknown rule {name!r}; the built-in rules are {', '.join(names)}")
    return name


_Pattern = Annotated[str, AfterValidator(_pattern)]


class _Replacement(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    pattern: _Pattern
    replacement: str = Field(alias="with")


class _OverrideFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    replace: list[_Replacement] = []
    keep: list[_Pattern] = []
    disable: list[Annotated[str, AfterValidator(_rule_name)]] = []
    aliases: dict[str, str] = {}


def load_rules(path: Path | None) -> IdentityRules:
    r"""Read a project's own rules from a YAML file; None gives the built-in rules alone.

    ```yaml
    replace: [{pattern: '\b[a-z]{5}project\b', with: '<project>'}]  # before the built-in rules, in order
    keep: ['Flow3x3']           # regular expressions whose matches the built-in rules leave alone
    disable: [generated_name]   # built-in rules by name
    aliases: {'old test id': 'new test id'}
    ```

    Raises:
        InputError: the file is missing or no YAML, a key or rule is unknown, a pattern is no regular expression.
    """
    if path is None:
        return IdentityRules()
    try:
        content = _OverrideFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"identity rules {path}: {error}; give a YAML file with replace, keep, disable, aliases"
        ) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InputError(f"identity rules {path}: {problems}; allowed keys: replace, keep, disable, aliases") from error
    return IdentityRules(
        replace=tuple(Rule("own", re.compile(r.pattern), r.replacement) for r in content.replace),
        keep=tuple(re.compile(pattern) for pattern in content.keep),
        disable=frozenset(content.disable),
        aliases=content.aliases,
    )
