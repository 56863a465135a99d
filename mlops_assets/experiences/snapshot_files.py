"""The files of one snapshot folder: what is in it, the hash that names it, how it is written, how it is read back.

decisions/event_date=YYYY-MM-DD/part-<hash>.parquet    links to stored parts, or what the window takes of one
labels/event_date=YYYY-MM-DD/part-<hash>.parquet       the same, by the day the label became known
requirements.parquet, embedder.npz, manifest.json
"""

import errno
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_assets.experiences.collection import DECISION_ORDER
from mlops_assets.experiences.parts import Part, list_parts, part_bytes, part_path, read_part, sorted_rows
from mlops_assets.experiences.schema import experience_schema, label_schema
from mlops_assets.experiences.text_embedding import TextEmbedder
from mlops_assets.experiences.window import Taken, Window
from mlops_assets.foundation.agents import agent_spec
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import atomic_folder, canonical_json, sha256_file

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
        return _data_hash((file.path, file.sha256) for file in self.files)


@dataclass(frozen=True)
class SnapshotDifference:
    """From one data version to another: paths of files below the snapshot folder, and the growth in rows."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class Snapshot:
    """One published snapshot. `new_rows`: decisions that the snapshot before it did not have; 0 if nothing was new.

    `label_cutoff` is the time up to which the source knew the world, and so the time up to which labels are included;
    `dvc_md5` is None where DVC was not at hand.
    """

    agent: str
    data_hash: str
    folder: Path
    source: str
    rows: int
    new_rows: int
    first_event: datetime
    last_event: datetime
    label_cutoff: datetime
    published_at: datetime
    dvc_md5: str | None

    @property
    def live(self) -> bool:
        """True when the source knew the world up to the moment of collection; false for a history that has ended."""
        return self.label_cutoff >= self.published_at

    def experiences(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the decisions, or only some columns of them, by event_time, episode_id and step."""
        schema = experience_schema(agent_spec(self.agent))
        names = schema.names if columns is None else list(columns)
        parts = list_parts(self.folder / DECISIONS)
        days = [_read_day(list(same_day), names) for _, same_day in groupby(parts, key=attrgetter("day"))]
        return pa.concat_tables(days) if days else schema.empty_table().select(names)

    def labels(self) -> pa.Table:
        """Read one label a decision of this snapshot: the last that was known at `label_cutoff`, by label time."""
        schema = label_schema(agent_spec(self.agent))
        parts = [read_part(part) for part in list_parts(self.folder / LABELS)]
        if not parts:
            return schema.empty_table()
        known = sorted_rows(pa.concat_tables(parts), ("label_time", "experience_id"))
        ids = self.experiences(("experience_id",))["experience_id"]
        known = known.filter(pc.is_in(known["experience_id"], value_set=ids.combine_chunks()))
        numbered = pa.table({"id": known["experience_id"], "row": np.arange(known.num_rows)})
        last = numbered.group_by("id").aggregate([("row", "max")])["row_max"]
        return known if len(last) == known.num_rows else known.take(last.take(pc.sort_indices(last)))

    def requirement_texts(self) -> pa.Table:
        """Read the texts of the requirements that the decisions refer to, by requirement id."""
        return read_part(self.folder / REQUIREMENTS)

    def embedder(self) -> TextEmbedder:
        """Load the text embedder that was fitted on `requirement_texts`."""
        return TextEmbedder.load(self.folder / EMBEDDER)


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


def data_files(folder: Path) -> list[Path]:
    """Return every data file that lies in a snapshot's folder now, whether its manifest lists it or not."""
    derived = {folder / EMBEDDER, folder / MANIFEST}
    return sorted(file for file in folder.rglob("*") if file.is_file() and file not in derived)


def data_hash_now(folder: Path) -> str:
    """Hash the data files as they lie there now, each read in full; the folder's own name while nothing was changed."""
    return _data_hash((file.relative_to(folder), sha256_file(file)) for file in data_files(folder))


def _data_hash(files: Iterable[tuple[Path, str]]) -> str:
    lines = sorted(f"{path.as_posix()} {file_hash}" for path, file_hash in files)
    return sha256("\n".join(lines).encode()).hexdigest()


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


def _read_day(parts: Sequence[Part], columns: Sequence[str]) -> pa.Table:
    """Read the parts of one day in order; each part is sorted, so a day of one part needs no more."""
    if len(parts) == 1:
        return read_part(parts[0], columns)
    needed = [*columns, *(name for name in DECISION_ORDER if name not in columns)]
    day = pa.concat_tables(read_part(part, needed) for part in parts)
    return sorted_rows(day, DECISION_ORDER).select(columns)


def compare_snapshots(earlier: Snapshot, later: Snapshot) -> SnapshotDifference:
    """Say what changed from one data version to another, by their files.

    Raises:
        InputError: a folder is not there as it was published.
    """
    before, after = (
        {file["path"]: int(file["rows"]) for file in read_manifest(snapshot.folder)["files"]}
        for snapshot in (earlier, later)
    )
    return SnapshotDifference(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        rows=later.rows - earlier.rows,
    )
