"""The files of one snapshot folder: what is in it, the hash that names it, how it is written, how it is read back.

decisions/event_date=YYYY-MM-DD/part-<hash>.parquet    links to stored parts, or what the window takes of one
labels/event_date=YYYY-MM-DD/part-<hash>.parquet       the same, by the day the label became known
requirements.parquet, embedder.npz, manifest.json
"""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlops_assets.experiences.parts import part_bytes, part_path
from mlops_assets.experiences.text_embedding import TextEmbedder
from mlops_assets.experiences.window import Taken, Window
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import atomic_folder, canonical_json

DECISIONS = Path("decisions")
LABELS = Path("labels")
REQUIREMENTS = Path("requirements.parquet")
EMBEDDER = Path("embedder.npz")
MANIFEST = Path("manifest.json")
_FORMAT = 1
# The SVD is randomised; its seed is part of the snapshot's definition, not a setting.
_EMBEDDER_SEED = 0
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(frozen=True)
class SnapshotFile:
    """One data file: its place in the folder, its hash, and where its bytes come from.

    `origin` is the name of the stored part it was taken from: a part that is cut keeps it, so that rows which were
    there before can be told from new ones.
    """

    path: Path
    sha256: str
    rows: int
    origin: str
    content: Path | pa.Buffer


@dataclass(frozen=True)
class SnapshotContent:
    """All data files of a snapshot, and its requirement texts."""

    files: tuple[SnapshotFile, ...]
    requirement_texts: pa.Table

    @property
    def data_hash(self) -> str:
        """Hex sha256 over the sorted paths and hashes of the data files; wall time has no part in it."""
        lines = sorted(f"{file.path.as_posix()} {file.sha256}" for file in self.files)
        return sha256("\n".join(lines).encode()).hexdigest()


def content_of(window: Window) -> SnapshotContent:
    """Name every file of the snapshot.

    Raises:
        InputError: a stored part is damaged.
    """
    texts = part_bytes(window.requirement_texts)
    requirements = SnapshotFile(
        path=REQUIREMENTS,
        sha256=sha256(texts).hexdigest(),
        rows=window.requirement_texts.num_rows,
        origin=REQUIREMENTS.stem,
        content=texts,
    )
    return SnapshotContent(
        files=(
            *(_file(DECISIONS, taken) for taken in window.decisions),
            *(_file(LABELS, taken) for taken in window.labels),
            requirements,
        ),
        requirement_texts=window.requirement_texts,
    )


def _file(folder: Path, taken: Taken) -> SnapshotFile:
    content: Path | pa.Buffer = taken.part.path
    if taken.rows is None:
        digest = taken.part.verified_sha256()
    else:
        content = part_bytes(taken.rows)
        digest = sha256(content).hexdigest()
    path = part_path(folder, taken.part.day, digest)
    return SnapshotFile(path=path, sha256=digest, rows=taken.count, origin=taken.part.prefix, content=content)


def write_snapshot(folder: Path, content: SnapshotContent, *, text_dimensions: int, facts: Mapping[str, Any]) -> None:
    """Write the folder in full, or not at all; `facts` go into the manifest beside the list of files.

    Raises:
        StorageError: the disk is full or read-only.
    """
    embedder = TextEmbedder.fit(
        content.requirement_texts["text"].to_pylist(), dimensions=text_dimensions, seed=_EMBEDDER_SEED
    )
    manifest = {
        "format": _FORMAT,
        **facts,
        "data_hash": content.data_hash,
        "files": [
            {"path": file.path.as_posix(), "sha256": file.sha256, "rows": file.rows, "origin": file.origin}
            for file in content.files
        ],
        "embedder": {
            "path": EMBEDDER.as_posix(),
            "sha256": sha256(embedder.to_bytes()).hexdigest(),
            "dimensions": embedder.dimensions,
        },
    }
    with atomic_folder(folder) as temporary:
        for file in content.files:
            target = temporary / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(file.content, Path):
                link_or_copy(file.content, target)
            else:
                target.write_bytes(file.content)
        embedder.save(temporary / EMBEDDER)
        (temporary / MANIFEST).write_text(canonical_json(manifest), encoding="utf-8")


def link_or_copy(source: Path, target: Path) -> None:
    """Give an immutable file a second name; copy it where the file system has no hard links."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a snapshot's manifest and make sure that every file it lists is there.

    Raises:
        InputError: the folder, its manifest or a listed file is missing or unreadable.
    """
    advice = "restore the folder with `dvc pull`, or collect the snapshot again"
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT:
            raise InputError(f"{folder} has the format {manifest['format']}, this version reads {_FORMAT}; {advice}")
        listed = [*(file["path"] for file in manifest["files"]), manifest["embedder"]["path"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is not a snapshot ({error!r}); {advice}") from error
    missing = [path for path in listed if not (folder / path).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {len(missing)} of its {len(listed)} files, first {missing[0]}; {advice}")
    return manifest


def is_whole(folder: Path) -> bool:
    """Tell whether a published snapshot lies in `folder`, with all its files."""
    try:
        read_manifest(folder)
    except InputError:
        return False
    return True


def remove_leftovers(*folders: Path) -> None:
    """Remove the temporary files and folders of a writer that was killed; only under the lock of those folders."""
    for folder in folders:
        for leftover in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                os.unlink(leftover)  # noqa: PTH108
