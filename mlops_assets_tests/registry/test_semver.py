"""Semantic versions: parsing, order, bumps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.foundation.errors import InputError
from mlops_assets.registry.semver import SemVer, next_version

numbers = st.integers(min_value=0, max_value=10_000)
versions = st.builds(SemVer, numbers, numbers, numbers)


@given(versions)
def test_text_round_trip_with_and_without_v(version: SemVer) -> None:
    """A rollout asked for v2.1.0 and told of 2.1.0 would take them for two versions."""
    assert SemVer.parse(str(version)) == version
    assert SemVer.parse(f"v{version}") == version
    assert not str(version).startswith("v")


@pytest.mark.parametrize(
    "text", ["3", "1.2", "1.2.3.4", "01.2.3", "1.2.x", "", "V1.2.3", "1.2.3-rc1", "-1.2.3", "٣.١.٤"]
)
def test_anything_else_is_refused(text: str) -> None:
    """The registry's running number 3 is no version; parsing it by splitting at dots ended in a ValueError."""
    with pytest.raises(InputError, match=r"MAJOR\.MINOR\.PATCH"):
        SemVer.parse(text)


def test_order_is_by_number() -> None:
    """As texts, 1.10.0 would lie before 1.9.0, and the next version would be taken already."""
    assert max([SemVer.parse("1.9.0"), SemVer.parse("1.10.0"), SemVer.parse("1.2.30")]) == SemVer(1, 10, 0)


def test_first_version_is_one_whatever_the_bump() -> None:
    """The first version of a model has nothing to bump."""
    assert [str(next_version([], bump)) for bump in ("major", "minor", "patch")] == ["1.0.0"] * 3


def test_bumps() -> None:
    """Lower numbers start again at 0; the base is the highest version, not the one in production."""
    taken = [SemVer(1, 0, 0), SemVer(1, 4, 2), SemVer(1, 3, 9)]
    assert str(next_version(taken, "major")) == "2.0.0"
    assert str(next_version(taken, "minor")) == "1.5.0"
    assert str(next_version(taken, "patch")) == "1.4.3"


@given(st.lists(versions, max_size=8), st.sampled_from(["major", "minor", "patch"]))
def test_next_version_is_never_taken(taken: list[SemVer], bump: str) -> None:
    """Two candidates with one version would overwrite each other's meaning."""
    following = next_version(taken, bump)  # type: ignore[arg-type]
    assert following not in taken
    assert all(following > version for version in taken)


def test_unknown_bump_is_refused() -> None:
    """A misspelt bump must not silently become a minor one."""
    with pytest.raises(InputError, match="major, minor or patch"):
        SemVer(1, 0, 0).bumped("mayor")  # type: ignore[arg-type]
