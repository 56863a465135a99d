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
from pathlib import Path
from types import MappingProxyType

from mlops_assets.foundation.agents import AGENTS, AgentSpec
from mlops_assets.foundation.errors import InputError, NotReadyError
from mlops_assets.serving.model_mirror import read_aliases, version_folder
from mlops_assets.serving.models import ServedModel, ServedModels, read_served_model
from mlops_assets.serving.poll import Poll

# The version before the present one comes back with a rollback: kept warm, it is there at once.
_KEPT_VERSIONS = 4
# A look at a file; the registry itself is looked at by the mirror, at its own pace.
_POLL_MS = 100.0
_STALE_SECONDS = 10.0
_RESTART_SECONDS = 2.0
_log = logging.getLogger(__name__)


class RegistryWatch:
    """Follows the mirror below `root`; with `mirror` it also runs the mirror process and keeps it alive."""

    def __init__(self, root: Path, *, mirror: bool = True) -> None:
        self._root = root
        self._mirror = MirrorProcess() if mirror else None
        self._warm: dict[tuple[str, str], ServedModel] = {}
        self._written_at = 0.0
        self._registry_problem: str | None = "not asked yet"
        self.refused: Mapping[str, str] = MappingProxyType({})
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
        for spec in AGENTS.values():
            for alias, number in found.aliases.get(spec.name, {}).items():
                model = self._version(spec, alias, number, refused)
                if model is not None:
                    by_alias[spec.name, alias] = model
        for name in refused.keys() - self.refused.keys():
            _log.error("%s is not taken into service: %s", name, refused[name])
        if by_alias != self.models.by_alias:
            self.models = ServedModels(MappingProxyType(by_alias))
            _log.info("in service: %s", {" ".join(key): model.semver for key, model in by_alias.items()})
        self.refused = MappingProxyType(refused)
        self._written_at, self._registry_problem = found.written_at, found.problem

    def _version(self, spec: AgentSpec, alias: str, number: str, refused: dict[str, str]) -> ServedModel | None:
        model = self._warm.pop((spec.name, number), None)
        if model is None:
            name = f"{spec.name} {alias}"
            if name in refused:
                return self.models.get(spec.name, alias)
            try:
                model = read_served_model(spec, version_folder(self._root, spec, number))
            except InputError as error:
                refused[name] = str(error)
                return self.models.get(spec.name, alias)
        self._warm[spec.name, number] = model
        own = [key for key in self._warm if key[0] == spec.name]
        for key in own[: max(0, len(own) - _KEPT_VERSIONS)]:
            del self._warm[key]
        return model


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
        command = [sys.executable, "-m", "mlops_assets.serving.model_mirror"]
        self._process = subprocess.Popen(command, env=dict(os.environ), stdin=subprocess.DEVNULL)  # noqa: S603 - own code

    def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
