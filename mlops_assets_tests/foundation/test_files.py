"""Atomic files and folders, and the hashes that name them."""

import errno
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.foundation.errors import StorageError, TransientError
from mlops_assets.foundation.files import atomic_folder, atomic_write, canonical_json, digest, sha256_file

Writer = Callable[[Path], AbstractContextManager[Path]]

_KILLED_MIDWAY = """
import os, signal, sys
from pathlib import Path
from mlops_assets.foundation.files import atomic_write
with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _put(writer: Writer, path: Path, text: str) -> None:
    with writer(path) as temporary:
        (temporary if writer is atomic_write else temporary / "part").write_text(text)


def _content(path: Path) -> str:
    return (path if path.is_file() else path / "part").read_text()


@pytest.mark.parametrize("writer", [atomic_write, atomic_folder])
def test_publishes_whole_and_leaves_nothing_else(writer: Writer, tmp_path: Path) -> None:
    """A leftover temporary would be read as one more part of the folder."""
    path = tmp_path / "a" / "b"
    _put(writer, path, "whole")
    assert _content(path) == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("writer", [atomic_write, atomic_folder])
def test_an_exception_leaves_the_old_content(writer: Writer, tmp_path: Path) -> None:
    """A failed rewrite must not cost the readers the file that was good."""
    path = tmp_path / "b"
    _put(writer, path, "old")

    def fail() -> None:
        with writer(path) as temporary:
            (temporary if writer is atomic_write else temporary / "part").write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert _content(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_and_a_folder_is_kept(tmp_path: Path) -> None:
    """Published folders are content-addressed: a second writer must not pull one away under its readers."""
    for writer, expected in ((atomic_write, "new"), (atomic_folder, "old")):
        path = tmp_path / writer.__name__
        _put(writer, path, "old")
        _put(writer, path, "new")
        assert _content(path) == expected
    assert len(list(tmp_path.iterdir())) == 2


def test_kill_between_write_and_publish_leaves_the_old_file(tmp_path: Path) -> None:
    """`kill -9` halfway must leave the old content, readable, and a rerun must work."""
    path = tmp_path / "file"
    path.write_text("old")
    killed = subprocess.run([sys.executable, "-c", _KILLED_MIDWAY, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    _put(atomic_write, path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied")],
)
@pytest.mark.parametrize("writer", [atomic_write, atomic_folder])
def test_refused_writes_name_the_path_and_the_remedy(writer: Writer, number: int, advice: str, tmp_path: Path) -> None:
    """A bare `OSError: [Errno 28]` names neither the file nor what to do."""
    path = tmp_path / "file"

    def refuse() -> None:
        with writer(path):
            raise OSError(number, "refused")

    with pytest.raises(StorageError, match=f"{path}: .*{advice}.*MLOPS_HOME") as caught:
        refuse()
    assert isinstance(caught.value, TransientError)
    assert list(tmp_path.iterdir()) == []


def test_a_really_full_disk(tmp_path: Path) -> None:
    """The simulated error must be the one that the system raises: /dev/full refuses every byte with ENOSPC."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")

    def fill() -> None:
        with atomic_write(tmp_path / "file"), full.open("w") as file:
            file.write("x")

    with pytest.raises(StorageError, match="disk is full"):
        fill()


def test_other_errors_pass_through(tmp_path: Path) -> None:
    """Calling every OSError a storage problem would send people to free disk space for a missing input."""
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "file"):
        (tmp_path / "absent").read_text()


def test_sha256_of_a_file_larger_than_a_block(tmp_path: Path) -> None:
    """A block lost at the seam would give two files one name."""
    content = b"0123456789" * 250_000
    path = tmp_path / "file"
    path.write_bytes(content)
    assert sha256_file(path) == hashlib.sha256(content).hexdigest()


def test_canonical_json_is_one_text_for_one_value() -> None:
    """Key order or a time zone in the text would give one configuration two hashes."""
    berlin = datetime(2026, 1, 5, 13, tzinfo=timezone(timedelta(hours=1)))
    value = {"b": {2, 1}, "a": berlin, "ü": Path("x") / "y", "n": None}
    assert canonical_json(value) == '{"a":"2026-01-05T12:00:00.000000+00:00","b":[1,2],"n":null,"ü":"x/y"}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    # sha256 of {"a":1}, computed outside Python
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), datetime(2026, 1, 1)])  # noqa: DTZ001
def test_values_without_canonical_form_are_refused(value: object) -> None:
    """NaN is no JSON, and a naive time means another instant on every machine."""
    with pytest.raises(ValueError, match=r"JSON|naive"):
        canonical_json({"value": value})


def test_unknown_types_are_refused() -> None:
    """A default of `str` would hash memory addresses."""
    with pytest.raises(TypeError, match="object has no canonical JSON form"):
        canonical_json(object())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(_JSON)
def test_digest_survives_a_round_trip(value: object) -> None:
    """A hash that changes when its content is stored and read back proves nothing."""
    assert digest(json.loads(canonical_json(value))) == digest(value)


def test_utc_is_explicit_in_the_text() -> None:
    """Two spellings of UTC would break every chain of hashes."""
    assert canonical_json(datetime(2026, 1, 1, tzinfo=UTC)) == '"2026-01-01T00:00:00.000000+00:00"'
