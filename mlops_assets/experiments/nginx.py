"""An experiment as nginx configuration, for deployments that run each version on servers of its own.

nginx's own `split_clients` hashes otherwise than the project does, so the split is a few lines of njs that compute
`assignment.assignment_fraction`: a user is in the same arm here, in the server's router and in the analysis.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from mlops_assets.experiments.assignment import CONTROL, intervals
from mlops_assets.experiments.experiments import Experiment
from mlops_assets.experiments.segments import EVERYBODY
from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import atomic_write

SCRIPT, CONFIGURATION = "experiment.js", "experiment.conf"
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):(?P<port>\d{1,5})")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_SCRIPT = """// Written by mlops_assets.experiments.nginx; do not edit.
import crypto from 'crypto';

const NAME = {name};
const SALT = {salt};

// The first 53 bits of sha256(salt, NUL, user), as a number of [0, 1).
function fraction(user) {{
    const digest = crypto.createHash('sha256').update(SALT + '\\0' + user).digest('hex');
    const high = parseInt(digest.slice(0, 8), 16), low = parseInt(digest.slice(8, 16), 16);
    return (high * 2097152 + (low >>> 11)) / 9007199254740992;
}}

function arm(request) {{
    const user = request.headersIn['X-User-Id'];
    if (!user) {{
        return '{control}';
    }}
    const place = fraction(user);
{treatments}
    return '{control}';
}}

function name() {{
    return NAME;
}}

export default {{arm, name}};
"""
_CONFIGURATION = """# Written by mlops_assets.experiments.nginx; do not edit. Include it within `http`, with
# `load_module modules/ngx_http_js_module.so;` at the top of nginx.conf.
js_path {folder};
js_import experiment from {script};
js_set $experiment_arm experiment.arm;
js_set $experiment_name experiment.name;

{upstreams}
map $experiment_arm $experiment_version {{
{versions}
}}

log_format experiment escape=json '{{"time":"$time_iso8601","experiment":"$experiment_name","arm":"$experiment_arm",'
    '"version":"$experiment_version","status":$status,"seconds":$request_time}}';

server {{
    listen {listen};
    access_log {folder_log} experiment;
    # nginx answers for a request whose server cannot be reached: an arm that is down is not sent to the other one.
    location / {{
        proxy_pass http://decisions_$experiment_arm;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        add_header X-Model-Version $experiment_version always;
        add_header X-Experiment-Arm $experiment_arm always;
    }}
}}
"""
# Spelled out, since njs is not all of JavaScript: it cannot take a list apart.
_TREATMENT = """    if ({low!r} <= place && place < {high!r}) {{
        return '{name}';
    }}"""
_UPSTREAM = """upstream decisions_{name} {{
    server {address};
    keepalive 64;
}}
"""


@dataclass(frozen=True)
class Arm:
    """Where an arm's servers are, `host:port`, and which version they serve."""

    address: str
    version: str

    def __post_init__(self) -> None:
        """Refuse what nginx would misread.

        Raises:
            InputError: the address or the version is none.
        """
        found = _ADDRESS.fullmatch(self.address)
        if found is None or not 0 < int(found["port"]) < 2**16:
            raise InputError(f"{self.address!r} is no address; write host:port, such as 10.0.0.7:8000")
        if _VERSION.fullmatch(self.version) is None:
            raise InputError(f"{self.version!r} is no semantic version; write such as 2.1.0")


def parse_arm(text: str) -> Arm:
    """Read `host:port=version`, such as 10.0.0.7:8000=2.1.0.

    Raises:
        InputError: it is none.
    """
    return Arm(*text.rpartition("=")[::2])


def write_nginx(experiment: Experiment, control: Arm, *treatments: Arm, listen: str, folder: Path) -> tuple[Path, Path]:
    """Write script and configuration of an experiment's present split; the same split gives the same files.

    `treatments` are in the experiment's order. A paused or stopped experiment sends everybody to the control.

    Raises:
        InputError: the experiment has a segment, which only the server can see, or another number of treatments, or
            `listen` is no address.
        StorageError: the files cannot be written.
    """
    if experiment.segment != EVERYBODY:
        raise InputError(
            f"experiment {experiment.name!r} is for some requests only, by their content, which a proxy does not read; "
            "let the server split it (aliases champion and challenger), or create it without --only"
        )
    names = list(experiment.shares)
    if len(treatments) != len(names):
        raise InputError(
            f"{len(treatments)} addresses for the treatments of experiment {experiment.name!r}, which are "
            f"{' and '.join(names)}; give one for each"
        )
    Arm(listen, "0.0.0")
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    places = intervals(experiment.shares) if experiment.status == "running" else {}
    arms = {CONTROL: control, **dict(zip(names, treatments, strict=True))}
    files = folder / SCRIPT, folder / CONFIGURATION
    script = _SCRIPT.format(
        name=json.dumps(experiment.name),
        salt=json.dumps(experiment.salt),
        treatments="\n".join(_TREATMENT.format(name=name, low=low, high=high) for name, (low, high) in places.items()),
        control=CONTROL,
    )
    configuration = _CONFIGURATION.format(
        folder=_quoted(folder),
        folder_log=_quoted(folder / "ab_test.log"),
        script=SCRIPT,
        listen=listen,
        upstreams="\n".join(_UPSTREAM.format(name=name, address=arm.address) for name, arm in arms.items()),
        versions="\n".join(f"    {name} {arm.version};" for name, arm in arms.items()),
    )
    for file, text in zip(files, (script, configuration), strict=True):
        with atomic_write(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return files


def _quoted(path: Path) -> str:
    text = str(path)
    if any(character in text for character in '"\\$\n'):
        raise InputError(
            f"nginx cannot read the path {text!r}; take a folder without quotes, backslashes and dollar signs"
        )
    return f'"{text}"'
