"""The versions in service as this process has them: loaded from the mirror's files as soon as an alias moves.

A change is taken up as a whole and once it is ready: a promoted version is loaded and warm before it answers. What cannot
be loaded is left out and said, and its alias keeps the version that it had.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.serving.model_mirror import read_aliases, version_folder
from mlops_assets.serving.models import ServedModel, ServedModels, UnfitVersionError, read_served_model
from mlops_assets.serving.poll import Poll

# Versions that left service: one that comes back with a rollback is there at once.
_KEPT_VERSIONS = 4
# A look at a file; the registry itself is looked at by the mirror, at its own pace.
_POLL_MS = 100.0
_STALE_SECONDS = 10.0
_RESTART_SECONDS = 2.0
# Of a version whose loading failed, perhaps for want of memory or of file handles.
_RETRY_SECONDS = 5.0
_log = logging.getLogger(__name__)
_Key = tuple[str, str, int]


@dataclass(frozen=True)
class _Refusal:
    """Why a version was not loaded at a moment (monotonic seconds), and whether that is for ever."""

    reason: str
    at: float
    for_ever: bool


class RegistryWatch:
    """Follows the mirror below `root`; with `mirror` it also runs the mirror process and keeps it alive."""

    def __init__(self, root: Path, *, mirror: bool = True) -> None:
        self._root = root
        self._mirror = MirrorProcess() if mirror else None
        self._warm: dict[_Key, ServedModel] = {}
        self._unloadable: dict[_Key, _Refusal] = {}
        self._written_at = 0.0
        self._registry_problem: str | None = "not asked yet"
        self.refused: Mapping[str, str] = MappingProxyType({})
        self.pending: frozenset[str] = frozenset()
        self.models = ServedModels()
        self.poll = Poll("model mirror", self.refresh, _POLL_MS)

    def start_mirror(self) -> None:
        """Start the mirror already now, while the server still imports; `start` sees to it in any case."""
        if self._mirror is not None:
            self._mirror.keep_alive()

    def start(self) -> None:
        """Start following."""
        self.poll.start()

    def stop(self) -> None:
        """Stop following, and the mirror."""
        self.poll.stop()
        if self._mirror is not None:
            self._mirror.stop()

    @property
    def problem(self) -> str | None:
        """Why what is in service may not be what the registry says now; None when it is."""
        age = time.time() - self._written_at
        if self._registry_problem is None and self._written_at and age > _STALE_SECONDS:
            return f"the mirror of the registry has said nothing for {age:.0f} s"
        return self.poll.problem or self._registry_problem

    def refresh(self) -> None:
        """Look once.

        Raises:
            InputError: the mirror's file is damaged.
            NotReadyError: the mirror has not written yet.
        """
        if self._mirror is not None:
            self._mirror.keep_alive()
        found = read_aliases(self._root)
        if found is None:
            raise NotReadyError(
                f"nothing of the model registry is in {self._root} yet; the mirror writes it in seconds"
            )
        if found.written_at == self._written_at:
            return
        by_alias: dict[tuple[str, str], ServedModel] = {}
        refused = dict(found.refused)
        wanted: set[_Key] = set()
        for spec in AGENTS.values():
            for alias, number in found.aliases.get(spec.name, {}).items():
                key = self._key(spec, number)
                wanted.add(key)
                model = self._version(spec, alias, key, refused)
                if model is not None:
                    by_alias[spec.name, alias] = model
        self._drop_oldest(wanted)
        for name, reason in refused.items():
            if reason != self.refused.get(name):
                _log.error("%s is not taken into service: %s", name, reason)
        if by_alias != self.models.by_alias:
            self.models = ServedModels(MappingProxyType(by_alias))
            _log.info("in service: %s", {" ".join(key): model.semver for key, model in by_alias.items()})
        self.refused = MappingProxyType(refused)
        self._written_at, self._registry_problem = found.written_at, found.problem
        self.pending = frozenset(found.pending)

    def _key(self, spec: AgentSpec, number: str) -> _Key:
        """Identity of a version's folder: also another one under the same number, from another registry."""
        try:
            stamp = version_folder(self._root, spec, number).stat().st_mtime_ns
        except FileNotFoundError:
            stamp = 0
        return spec.name, number, stamp

    def _version(self, spec: AgentSpec, alias: str, key: _Key, refused: dict[str, str]) -> ServedModel | None:
        found = self._warm.pop(key, None) or self._loaded(spec, key)
        if isinstance(found, _Refusal):
            refused[f"{spec.name} {alias}"] = found.reason
            return self.models.get(spec.name, alias)
        self._warm[key] = found
        return found

    def _loaded(self, spec: AgentSpec, key: _Key) -> ServedModel | _Refusal:
        """Load a version, or say why not; what cannot be loaded is not loaded again at every look."""
        known = self._unloadable.get(key)
        if known is not None and (known.for_ever or time.monotonic() - known.at < _RETRY_SECONDS):
            return known
        found = _load(spec, version_folder(self._root, spec, key[1]), known)
        if isinstance(found, _Refusal):
            self._unloadable[key] = found
        return found

    def _drop_oldest(self, wanted: set[_Key]) -> None:
        for spec in AGENTS.values():
            idle = [key for key in self._warm if key[0] == spec.name and key not in wanted]
            for key in idle[: max(0, len(idle) - _KEPT_VERSIONS)]:
                del self._warm[key]
        self._unloadable = {key: refusal for key, refusal in self._unloadable.items() if key in wanted}


def _load(spec: AgentSpec, folder: Path, before: _Refusal | None) -> ServedModel | _Refusal:
    """Load a version, or say why not; `before` is what came of the last try."""
    try:
        return read_served_model(spec, folder)
    except InputError as error:
        return _Refusal(str(error), time.monotonic(), for_ever=isinstance(error, UnfitVersionError))
    except Exception as error:  # noqa: BLE001 - a file may break the runtime in any way, and must not end the watch
        reason = f"{type(error).__name__}: {error}"
        if before is None or before.reason != reason:
            _log.exception("%s cannot be loaded", folder)
        return _Refusal(reason, time.monotonic(), for_ever=False)


class MirrorProcess:
    """The mirror beside this process: started, and started again when it ends."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = -_RESTART_SECONDS

    def keep_alive(self) -> None:
        """Start it unless it runs; not more often than every two seconds."""
        if self._process is not None and self._process.poll() is None:
            return
        if time.monotonic() - self._started_at < _RESTART_SECONDS:
            return
        if self._process is not None:
            # A supervisor that ends this process as well ends its children first: nothing to be alarmed about.
            level = logging.INFO if self._process.returncode == -signal.SIGTERM else logging.ERROR
            _log.log(level, "the mirror of the registry ended with %s", self._process.returncode)
        self._started_at = time.monotonic()
        command = [sys.executable, "-m", "mlops_assets.serving.model_mirror", str(os.getpid())]
        self._process = subprocess.Popen(command, env=dict(os.environ), stdin=subprocess.DEVNULL)  # noqa: S603 - own code

    def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
