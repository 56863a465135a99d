"""The registry's versions in service as files of this machine: `python -m mlops_assets.serving.model_mirror`.

A process beside the server. It alone speaks MLflow, whose import takes seconds and whose queries would take turns with
decisions for the interpreter; the server reads files. With the registry away, or after a restart without it, the versions
that were in service last stay in service. It ends with the process that started it.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.errors import InputError, MlopsError, TransientError
from mlops_assets.foundation.file_lock import file_lock
from mlops_assets.foundation.files import atomic_folder, atomic_write, canonical_json
from mlops_assets.foundation.profiles import load_profile
from mlops_assets.foundation.settings import load_settings
from mlops_assets.registry.mlflow_store import MlflowStore, be_impatient
from mlops_assets.serving.models import SERVED_ALIASES, fetch_served_model, mirrored_run

ALIASES_FILE = "aliases.json"
# Of one model: the versions behind aliases, and some to come back to without asking the registry.
_KEPT_VERSIONS = 8
_PARENT_SECONDS = 0.5
_WAIT_SECONDS = 10 * 365 * 24 * 3600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MirroredAliases:
    """What the registry said last: MLflow's version number by agent and alias.

    An alias whose version is not here yet, or could not be fetched, keeps the one before. `refused` has the reasons of
    those that could not; `problem` is why the registry did not answer since. `pending` names those on their way.
    `written_at` is the time of writing, in seconds since 1970: the file is written at every look.
    """

    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None
    written_at: float = 0.0
    pending: Sequence[str] = ()


def version_folder(root: Path, spec: AgentSpec, number: str) -> Path:
    """Folder of one version's files."""
    return root / spec.registered_model / number


def read_aliases(root: Path) -> MirroredAliases | None:
    """Return what the mirror wrote last; None before the first time.

    Raises:
        InputError: the file is something else.
    """
    path = root / ALIASES_FILE
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return MirroredAliases(**document)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not what the mirror of the registry writes ({error}); delete it") from error


class ModelMirror:
    """Copies versions behind aliases below `root`; a folder is whole or absent, and never changes."""

    def __init__(self, store: MlflowStore, root: Path) -> None:
        self._store = store
        self._root = root
        self._last = read_aliases(root) or MirroredAliases()
        self._checked: set[tuple[str, str]] = set()

    def refresh(self) -> None:
        """Look once, and write down what was found; a registry that does not answer is written down too.

        Raises:
            StorageError: the disk is full or read-only.
        """
        try:
            registered = {spec.name: self._registered(spec) for spec in AGENTS.values()}
        except TransientError as error:
            self._publish(self._last.aliases, self._last.refused, str(error))
            return
        self._follow(registered)
        for spec in AGENTS.values():
            self._prune(spec, {*registered[spec.name].values(), *self._last.aliases[spec.name].values()})

    def _registered(self, spec: AgentSpec) -> dict[str, str]:
        behind = self._store.aliases(spec.registered_model)
        return {alias: behind[alias] for alias in SERVED_ALIASES if alias in behind}

    def _follow(self, registered: Mapping[str, Mapping[str, str]]) -> None:
        """Publish what is here already, then fetch the rest one by one: none that is slow or lost holds up another."""
        missing = [
            (spec, alias, number)
            for spec in AGENTS.values()
            for alias, number in registered[spec.name].items()
            if not self._is_here(spec, number)
        ]
        names = {f"{spec.name} {alias}" for spec, alias, _ in missing}
        refused = {name: reason for name, reason in self._last.refused.items() if name in names}
        aliases = {agent: dict(numbers) for agent, numbers in registered.items()}
        for spec, alias, _ in missing:
            del aliases[spec.name][alias]
            earlier = self._last.aliases.get(spec.name, {})
            if alias in earlier:
                aliases[spec.name][alias] = earlier[alias]
        pending = sorted(names)
        self._publish(aliases, refused, None, pending)
        for spec, alias, number in missing:
            name, reason = f"{spec.name} {alias}", self._fetch_or_say(spec, number)
            if reason is None:
                aliases[spec.name][alias] = number
                refused.pop(name, None)
            else:
                refused[name] = reason
            pending.remove(name)
            self._publish(aliases, refused, None, pending)

    def _publish(
        self,
        aliases: Mapping[str, Mapping[str, str]],
        refused: Mapping[str, str],
        problem: str | None,
        pending: Sequence[str] = (),
    ) -> None:
        if problem != self._last.problem:
            _log.warning("model registry: %s", problem or "answers")
        self._last = MirroredAliases(aliases, refused, problem, time.time(), list(pending))
        with atomic_write(self._root / ALIASES_FILE) as temporary:
            temporary.write_text(canonical_json(vars(self._last)), encoding="utf-8")

    def _is_here(self, spec: AgentSpec, number: str) -> bool:
        return (spec.name, number) in self._checked and version_folder(self._root, spec, number).is_dir()

    def _fetch_or_say(self, spec: AgentSpec, number: str) -> str | None:
        """Fetch a version, or return why it could not be."""
        try:
            self._fetch(spec, number)
        except MlopsError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - an artifact store's client has errors of its own
            return f"{type(error).__name__}: {error}"
        return None

    def _fetch(self, spec: AgentSpec, number: str) -> None:
        folder, name, key = version_folder(self._root, spec, number), spec.registered_model, (spec.name, number)
        # Once for each: a number may be of a registry that this home had before.
        unchecked = folder.is_dir() and key not in self._checked
        if unchecked and mirrored_run(folder) != self._store.stored_version(name, number).run_id:
            _remove(folder)
        if not folder.is_dir():
            with atomic_folder(folder) as temporary:
                fetch_served_model(self._store, spec, number, temporary)
        self._checked.add(key)

    def _prune(self, spec: AgentSpec, served: set[str]) -> None:
        folder = self._root / spec.registered_model
        numbers = sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())
        for number in numbers[: max(0, len(numbers) - _KEPT_VERSIONS)]:
            if str(number) not in served:
                _remove(folder / str(number))
        for left in folder.glob(".*/"):  # by a mirror that was killed
            shutil.rmtree(left)


def _remove(folder: Path) -> None:
    """Take a version away: out of sight at once, since deleting its files one by one may be cut short."""
    hidden = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.gone")
    folder.rename(hidden)
    shutil.rmtree(hidden)


def main(argv: Sequence[str] | None = None) -> int:
    """Mirror until the parent process is gone; of several on one home, one works and the others stand by."""
    parser = argparse.ArgumentParser(prog="python -m mlops_assets.serving.model_mirror", description=main.__doc__)
    # Given and not asked for here: a parent that ended during the imports above would be taken for process 1.
    parser.add_argument("parent", type=int, help="its process id")
    parent = parser.parse_args(argv).parent
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    be_impatient()
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    try:
        settings = load_settings()
        root = settings.paths.served_models
        seconds = load_profile(settings.policy_profile).serving.registry_poll_ms / 1000.0
        with file_lock(root / ".lock", wait_seconds=_WAIT_SECONDS):
            mirror = ModelMirror(MlflowStore(settings.tracking_uri), root)
            while True:
                mirror.refresh()
                time.sleep(seconds)
    except MlopsError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _end_with_parent(parent: int) -> None:
    """Also while a call to the registry stands still, which no signal from Python would end."""
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
