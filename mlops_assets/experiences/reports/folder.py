"""A folder of test reports as a source of executions: recursive, incremental, and no bad file stops the others."""

import os
from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from mlops_assets.experiences.execution_rows import executions_table, padded
from mlops_assets.experiences.execution_source import Quarantine, SourceBatch
from mlops_assets.experiences.identity import IdentityRules
from mlops_assets.experiences.reports.allure import is_allure_result, parse_allure_results
from mlops_assets.experiences.reports.detect import may_be_allure, parse_report
from mlops_assets.experiences.reports.documents import HEAD_BYTES, DocumentError, parse_json, sniff, text
from mlops_assets.experiences.reports.model import Report, report_table
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import digest, sha256_file

# A parsed report takes about ten times its size in memory; 64 MiB are some 100,000 tests.
MAX_REPORT_BYTES = 64 * 1024 * 1024
_ALLURE_HELPERS = {"executor.json", "categories.json", "environment.xml", "environment.json"}
_TREE_FOLDERS = {"data", "widgets", "history", "export", "plugin", "plugins"}
_ARCHIVE = Quarantine(None, "archive", "archives are not opened: unpack the reports into the folder")
_EMPTY = Quarantine(None, "empty", "the file is empty; the test runner ended before it wrote the report")


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    content: bytes
    modified: datetime

    @property
    def hash(self) -> str:
        return sha256(self.content).hexdigest()


class ReportFolder:
    """Every report below `path` (or the one file that it is), told by content.

    JUnit XML, Playwright JSON, CTRF and Allure report trees are one batch a file; the Allure result files of one folder
    are one run and one batch. Files that cannot be a report (pictures, pages, logs) are passed over; archives, empty
    files, files over `max_bytes` and broken ones give a batch without rows that says why.
    """

    kind = "reports"

    def __init__(self, path: Path, rules: IdentityRules, *, max_bytes: int = MAX_REPORT_BYTES) -> None:
        """Only remember where to look; nothing is opened before `batches`."""
        self._path = path
        self._rules = rules
        self._max_bytes = max_bytes

    def as_of(self, now: datetime) -> datetime:
        """Reports are written all the time: now is now."""
        return now

    def batches(self, known: Container[str]) -> Iterator[SourceBatch]:
        """Yield every report that is not known, in the order of the paths.

        Raises:
            InputError: `path` does not exist.
        """
        if not self._path.exists():
            raise InputError(
                f"report folder {self._path} does not exist; point MLOPS_SOURCE_PATH to a folder of reports"
            )
        if self._path.is_file():
            yield from self._folder(self._path.parent, [self._path.name], known)
            return
        refused: list[OSError] = []
        for folder, subfolders, names in os.walk(self._path, onerror=refused.append):
            here = Path(folder)
            tree = (here / "data" / "suites.json").is_file()
            skipped = _TREE_FOLDERS if tree else set()
            if any(name.endswith("-result.json") for name in names):
                skipped = skipped | {"history"}
            subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name not in skipped)
            yield from self._folder(here, sorted(names), known)
            if tree:
                yield from self._folder(here / "data", ["suites.json"], known)
        for error in refused:
            batch = self._unreadable(Path(str(error.filename)), error)
            if batch.source_hash not in known:
                yield batch

    def _folder(self, folder: Path, names: list[str], known: Container[str]) -> Iterator[SourceBatch]:
        allure: list[_File] = []
        others: list[SourceBatch] = []
        for name in names:
            if name.startswith("."):
                continue
            try:
                found = self._file(folder / name, known)
            except OSError as error:
                found = self._unreadable(folder / name, error)
            if isinstance(found, _File):
                allure.append(found)
            elif found is not None and found.source_hash not in known:
                others.append(found)
        if allure:
            helpers = {self._name(folder / name) for name in _ALLURE_HELPERS}
            yield from self._allure(folder, allure, known)
            others = [b for b in others if b.source_file not in helpers and "-attachment." not in b.source_file]
        yield from others

    def _file(self, path: Path, known: Container[str]) -> SourceBatch | _File | None:
        """One file: its batch, itself when it may be one of Allure's, None when there is nothing (new) in it."""
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            kind = sniff(stream.read(HEAD_BYTES))
        if kind == "other" and path.suffix.lower() != ".json":
            return None
        refusal = self._refusal(kind, path.stat().st_size)
        if refusal is not None:
            return self._problem(path, sha256_file(path), refusal)
        file = _File(path, self._name(path), path.read_bytes(), _modified(path))
        if kind == "json" and may_be_allure(file.content):
            return file
        return None if file.hash in known else self._parsed(file, kind)

    def _refusal(self, kind: str, size: int) -> Quarantine | None:
        if kind == "archive":
            return _ARCHIVE
        if kind == "empty":
            return _EMPTY
        if size <= self._max_bytes:
            return None
        limit = self._max_bytes / 1_048_576
        return Quarantine(
            None,
            "too_large",
            f"{size / 1_048_576:.1f} MiB is more than the {limit:.0f} MiB that one report may have: split it by shard, "
            "or let the runner leave attachments out of it",
        )

    def _parsed(self, file: _File, kind: str) -> SourceBatch:
        try:
            report = parse_report(file.content, "xml" if kind == "xml" else "json")
        except DocumentError as error:
            return self._problem(file.path, file.hash, error.quarantine)
        return self._batch(report, file.name, file.hash, file.modified)

    def _batch(self, report: Report, name: str, source_hash: str, modified: datetime) -> SourceBatch:
        table, problems = report_table(
            report, rules=self._rules, source_file=name, source_hash=source_hash, fallback_start=modified
        )
        return SourceBatch(name, source_hash, table, problems)

    def _allure(self, folder: Path, files: list[_File], known: Container[str]) -> Iterator[SourceBatch]:
        source_hash = digest(sorted(file.hash for file in files))
        if source_hash in known:
            return
        documents = []
        for file in files:
            try:
                document = parse_json(file.content)
            except DocumentError as error:
                if file.hash not in known:
                    yield self._problem(file.path, file.hash, error.quarantine)
                continue
            if is_allure_result(document):
                documents.append((file.name, document))
            elif "children" not in document and file.hash not in known:
                yield self._parsed(file, "json")
        if not documents:
            return
        report, problems = parse_allure_results(documents, run_id=_allure_run(folder / "executor.json"))
        by_name = {file.name: file for file in files}
        for name, found in problems.items():
            if by_name[name].hash not in known:
                yield self._problem(by_name[name].path, by_name[name].hash, *found)
        yield self._batch(report, self._name(folder), source_hash, min(file.modified for file in files))

    def _problem(self, path: Path, source_hash: str, *problems: Quarantine) -> SourceBatch:
        name = self._name(path)
        return SourceBatch(name, source_hash, executions_table([], source_file=name, source_hash=source_hash), problems)

    def _unreadable(self, path: Path, error: OSError) -> SourceBatch:
        # Not the content's hash, which nobody can read: once it can be read, the file is new.
        source_hash = digest({"unreadable": self._name(path), "error": error.errno})
        message = f"cannot be read ({error.strerror}): give this user read access or remove it"
        return self._problem(path, source_hash, Quarantine(None, "unreadable", message))

    def _name(self, path: Path) -> str:
        """Path below the folder, so that nothing private of the machine is stored."""
        root = self._path.parent if self._path.is_file() else self._path
        return root.name if path == root else path.relative_to(root).as_posix()


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, tz=UTC)


def _allure_run(executor: Path) -> str | None:
    """Build number and name from Allure's `executor.json`; None without one."""
    try:
        document = parse_json(executor.read_bytes())
    except (OSError, DocumentError):
        # Optional, and only a name: without it the run is named by its start.
        return None
    order = text(document.get("buildOrder"))
    name = text(document.get("buildName"))
    return "-".join(part for part in (padded(order), name) if part) or None
