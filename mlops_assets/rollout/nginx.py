"""Rollouts for deployments that run each version on servers of its own: nginx follows the ledger instead of the router.

The configuration is that of `experiments.nginx`; here it is checked by nginx before it counts, and taken back if it fails.
Requests without the header `X-User-Id` go to the champion.
"""

import logging
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from mlops_assets.experiments.experiments import Experiment
from mlops_assets.experiments.nginx import CONFIGURATION, SCRIPT, Arm, write_nginx
from mlops_assets.foundation.database import read_transaction
from mlops_assets.foundation.errors import InputError, MlopsError, NotReadyError, TransientError
from mlops_assets.foundation.files import atomic_write
from mlops_assets.governance.evidence import spec_of
from mlops_assets.registry.catalogue import CANDIDATE
from mlops_assets.registry.version_records import record_in_production
from mlops_assets.rollout.ledger import current, splits
from mlops_assets.rollout.state import RolloutState

_SECONDS = 30.0
# Together with nginx's reload, well below the second in which traffic follows the ledger.
_POLL_SECONDS = 0.3
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NginxAdapter:
    """Brings splits to one running nginx.

    `program`: the command line that runs nginx on its main configuration, such as `("nginx",)` or
    `("nginx", "-p", "/srv", "-c", "/srv/nginx.conf")`; that configuration includes `experiment.conf` of `folder`. `listen` is
    an address host:port; `champion` and `candidate` are servers, and the versions that they serve.
    """

    program: Sequence[str]
    folder: Path
    listen: str
    champion: Arm
    candidate: Arm

    def apply(self, experiment: Experiment) -> bool:
        """Write the split, let nginx check it, and reload; False when it is what nginx has already.

        A reload keeps the old workers until their requests are answered, so none is dropped.

        Raises:
            InputError: nginx does not take the configuration; the one before is in its place again.
            TransientError: nginx could not be asked, or does not run.
        """
        files = [self.folder / name for name in (SCRIPT, CONFIGURATION)]
        before = [file.read_bytes() if file.is_file() else None for file in files]
        write_nginx(
            experiment,
            self.champion,
            self.candidate,
            listen=self.listen,
            folder=self.folder,
        )
        if [file.read_bytes() for file in files] == before:
            return False
        checked = self._run("-t")
        if checked.returncode != 0:
            for file, content in zip(files, before, strict=True):
                _restore(file, content)
            raise InputError(f"nginx refuses the new configuration, the old one stays: {checked.stderr.strip()}")
        reloaded = self._run("-s", "reload")
        if reloaded.returncode != 0:
            # Not in force: the next try has to see a difference.
            for file, content in zip(files, before, strict=True):
                _restore(file, content)
            raise TransientError(f"nginx cannot be reloaded, is it running? {reloaded.stderr.strip()}")
        return True

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [*self.program, *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TransientError(f"{' '.join(command)} cannot be run: {error}") from error


def follow_once(engine: Engine, model_name: str, adapter: NginxAdapter) -> bool:
    """Bring the model's split as the ledger has it now; True when nginx was reloaded.

    A rollout that was taken back or aborted sends everybody to the champion; one that is completed, to the candidate, as long
    as that is in production.

    Raises:
        NotReadyError: the model never had a rollout.
        InputError: the rollout is of other versions than these servers have: what nginx has stays; or see
            `NginxAdapter.apply`, as for TransientError.
    """
    agent = spec_of(model_name).name
    state = current(engine, model_name)
    if state is None:
        raise NotReadyError(f"{model_name} never had a rollout; start one, then its split can be followed")
    served = adapter.champion.version, adapter.candidate.version
    if served != (state.champion, state.candidate):
        raise InputError(
            f"{state.name} is of {state.candidate} against {state.champion}, and the servers are said to have {served[1]} and "
            f"{served[0]}; nginx keeps what it has: name servers of these versions"
        )
    return adapter.apply(_split(engine, agent, state))


def _split(engine: Engine, agent: str, state: RolloutState) -> Experiment:
    split = splits(engine).get(agent)
    if split is not None and split.completed:
        with read_transaction(engine) as session:
            champion = record_in_production(session, state.model_name)
        # Production was given back by hand after the rollout.
        split = None if champion is None or champion.semver != state.candidate else split
    if split is not None and split.name == state.name:
        return split
    return Experiment(state.name, agent, state.salt, CANDIDATE, 0.0, "paused", state.started_at)


def follow(engine: Engine, model_name: str, adapter: NginxAdapter, stopping: threading.Event) -> None:
    """Follow the ledger until `stopping`; what cannot be done is said once and tried again."""
    said = ""
    while not stopping.is_set():
        try:
            if follow_once(engine, model_name, adapter):
                _log.info("nginx has the split of %s", model_name)
            said = ""
        except MlopsError as error:
            if str(error) != said:
                said = str(error)
                _log.error("%s", said)
        stopping.wait(_POLL_SECONDS)


def _restore(file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink()
        return
    with atomic_write(file) as temporary:
        temporary.write_bytes(content)
