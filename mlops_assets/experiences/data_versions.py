"""Data versions in DVC: every snapshot is tracked and stored on the remote. The only module that speaks to DVC.

DVC cannot share an environment with Dagster (its antlr4 breaks Dagster's asset selection), so it is the executable of
another environment, called by argv. The repository has no SCM: the user's git is never touched.
"""

import configparser
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from mlops_assets.foundation.errors import InputError, NotReadyError, TransientError
from mlops_assets.foundation.file_lock import file_lock
from mlops_assets.foundation.files import atomic_write

REMOTE_NAME = "myremote"
_MESSAGE_LENGTH = 1_000
_TIMEOUT_SECONDS = 3_600
# Parts are tracked through the snapshots that hold them; without this every command walks the whole store.
_IGNORED = "/*/decisions\n/*/labels\n/*/requirements\n"


@dataclass(frozen=True)
class DataVersions:
    """A DVC repository whose tracked folders are snapshots.

    `executable` is the `dvc` command, `repo` the folder that holds the snapshots, `remote` a folder or URL
    (`s3://...`). Credentials and endpoint of an object store come from its own environment variables (`AWS_*`) and
    never go into a file here.
    """

    executable: Path
    repo: Path
    remote: str

    def track(self, folder: Path, *, labels: Sequence[str] = (), description: str = "") -> str:
        """Store `folder` on the remote, write `<folder>.dvc` beside it, return the folder's hash (md5 of its listing).

        A second call changes nothing. `labels` and `description` stand in the .dvc file, where people look for them.

        Raises:
            InputError: the folder is not inside the repository.
            TransientError: another DVC process holds the repository, or the remote does not answer.
        """
        target = self._relative(folder)
        with file_lock(self.repo / ".dvc-lock"):
            self._initialise()
            # Not `add --to-remote`: it sends every file each time and leaves the copies behind as .tmp files.
            self._run("add", target)
            self._run("push", "--remote", REMOTE_NAME, f"{target}.dvc")
            return self._annotate(folder, labels, description)

    def restore(self, folder: Path) -> None:
        """Bring a tracked folder back from the remote, byte by byte as it was.

        Raises:
            NotReadyError: the folder was never tracked.
            TransientError: another DVC process holds the repository, or the remote does not answer.
        """
        target = self._relative(folder)
        if not dvc_file(folder).is_file():
            raise NotReadyError(f"{folder} is not tracked: there is no {dvc_file(folder)}; collect the snapshot first")
        with file_lock(self.repo / ".dvc-lock"):
            self._initialise()
            self._run("pull", "--force", "--remote", REMOTE_NAME, f"{target}.dvc")

    def _relative(self, folder: Path) -> str:
        try:
            return folder.relative_to(self.repo).as_posix()
        except ValueError:
            raise InputError(f"{folder} is outside the DVC repository {self.repo}: track a folder below it") from None

    def _initialise(self) -> None:
        self.repo.mkdir(parents=True, exist_ok=True)
        config = self.repo / ".dvc" / "config"
        if not config.exists():
            self._run("init", "--no-scm", "--force")
        _write_when_changed(config, _config_text(self.remote))
        _write_when_changed(self.repo / ".dvcignore", _IGNORED)

    def _annotate(self, folder: Path, labels: Sequence[str], description: str) -> str:
        path = dvc_file(folder)
        content = read_dvc_file(path)
        output = content["outs"][0]
        wanted = {
            **output,
            **({"labels": list(labels)} if labels else {}),
            **({"desc": description} if description else {}),
        }
        if wanted != output:
            content["outs"][0] = wanted
            _write_when_changed(path, yaml.safe_dump(content, sort_keys=False))
        return str(output["md5"])

    def _run(self, *arguments: str) -> None:
        # Never with --quiet, which swallows the errors as well.
        command = [str(self.executable), *arguments]
        try:
            done = subprocess.run(  # noqa: S603 - argv only, no shell
                command,
                cwd=self.repo,
                env=_environment(self.repo),
                check=False,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_SECONDS,
            )
        except FileNotFoundError:
            raise NotReadyError(
                f"there is no DVC at {self.executable}: install it there, point MLOPS_DVC_EXECUTABLE to it, "
                "or run without it"
            ) from None
        except subprocess.TimeoutExpired as error:
            raise TransientError(
                f"`dvc {' '.join(arguments)}` did not end within {_TIMEOUT_SECONDS} s: check the remote {self.remote}"
            ) from error
        if done.returncode:
            raise TransientError(
                f"`dvc {' '.join(arguments)}` in {self.repo} failed ({done.returncode}): "
                f"{_advice(done.stderr, self.remote)} ({done.stderr.strip()[-_MESSAGE_LENGTH:]})"
            )


def dvc_file(folder: Path) -> Path:
    """Return where DVC keeps the version of a tracked folder."""
    return folder.with_name(f"{folder.name}.dvc")


def read_dvc_file(path: Path) -> dict[str, Any]:
    """Read a .dvc file with one output.

    Raises:
        InputError: it is not one.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not content["outs"][0]["md5"]:
            raise InputError(f"{path}: the output has no md5; delete the file and collect the snapshot again")
    except (yaml.YAMLError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path} is not a .dvc file ({error!r}); delete it and collect the snapshot again") from error
    return dict(content)


def _config_text(remote: str) -> str:
    # Relative remote URLs in the file would be taken from the .dvc folder: a local remote is written absolute.
    url = remote if "://" in remote else str(Path(remote).absolute())
    parser = configparser.ConfigParser(interpolation=None)
    parser["core"] = {"no_scm": "True", "remote": REMOTE_NAME, "analytics": "false", "check_update": "false"}
    parser[f"'remote \"{REMOTE_NAME}\"'"] = {"url": url}
    text = StringIO()
    parser.write(text)
    return text.getvalue()


def _environment(repo: Path) -> Mapping[str, str]:
    # The caches of DVC stay below the repository: /var/tmp, its default, may be another user's or read-only.
    return {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(repo / ".dvc" / "site")}


def _advice(stderr: str, remote: str) -> str:
    if "lock" in stderr.lower():
        return "another DVC process works here: wait for it to finish and try again"
    return f"check that the remote {remote} exists, answers and may be written to, and try again"


def _write_when_changed(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
