"""Files that are whole or absent, and the hashes that name them. Where files lie is `paths.py`'s business."""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops_assets.foundation.errors import StorageError

_READ_BLOCK = 1024 * 1024

_REMEDIES = {
    errno.ENOSPC: "the disk is full: free space there or point MLOPS_HOME to a larger disk",
    errno.EDQUOT: "the disk quota is used up: free space there or point MLOPS_HOME elsewhere",
    errno.EROFS: "the file system is read-only: mount it writable or point MLOPS_HOME elsewhere",
    errno.EACCES: "permission denied: give this user write access or point MLOPS_HOME elsewhere",
    errno.ENOTDIR: "a part of this path is a file, not a folder: remove that file or point MLOPS_HOME elsewhere",
    errno.EPERM: "permission denied: give this user write access or point MLOPS_HOME elsewhere",
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into a `StorageError` that names `path` and the remedy.

    Any other OSError passes through unchanged.
    """
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0)
        if remedy is None:
            raise
        raise StorageError(f"cannot write {path}: {remedy} ({error.strerror})") from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on a clean exit it is synced and renamed over `path`, else removed.

    Readers see the old file or the whole new one, also after `kill -9` or a power cut. Parent folders are made.

    Raises:
        StorageError: disk full, read-only or not permitted; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder beside `path`; on a clean exit it is synced and renamed to `path`, else removed.

    Content-addressed: when `path` exists already (an earlier or a concurrent writer), the new folder is thrown away.

    Raises:
        StorageError: disk full, read-only or not permitted; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with storage_errors(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            for file in sorted(temporary.rglob("*")):
                _sync(file)
            _sync(temporary)
            _publish_folder(temporary, path)
            _sync(path.parent)
        finally:
            if temporary.exists():
                shutil.rmtree(temporary)


def _publish_folder(temporary: Path, path: Path) -> None:
    try:
        temporary.rename(path)
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in blocks of 1 MiB."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def canonical_json(obj: Any) -> str:
    """One text for one value: sorted keys, no spaces, UTF-8 characters as they are, NaN and infinity refused.

    Datetimes (aware) become ISO 8601 in UTC with microseconds, paths become POSIX strings, sets become sorted lists.

    Raises:
        ValueError: NaN, infinity or a naive datetime.
        TypeError: a type without a canonical form.
    """
    return json.dumps(
        obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_canonical
    )


def _canonical(value: object) -> Any:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r} has no canonical form; add UTC")
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no canonical JSON form; convert it first")


def digest(obj: Any) -> str:
    """Hex sha256 of `canonical_json(obj)`."""
    return hashlib.sha256(canonical_json(obj).encode()).hexdigest()
