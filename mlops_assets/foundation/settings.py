"""Typed settings from `MLOPS_*` environment variables; the only module that knows their names.

Thresholds are not settings: they live in policy profiles (`profiles.py`).
"""

import difflib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from mlops_assets.foundation.clock import parse_clock
from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.paths import ArtifactPaths
from mlops_assets.foundation.policies import real_address
from mlops_assets.foundation.profiles import profile_names

_PREFIX = "MLOPS_"
_MLFLOW_STANDARD = "MLFLOW_TRACKING_URI"
_RAY_STANDARD = "RAY_ADDRESS"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - resolve() would follow the links of a virtualenv


def _known_profile(name: str) -> str:
    if name not in profile_names():
        raise ValueError(f"unknown policy profile; known profiles: {', '.join(profile_names())}")
    return name


def _readable_clock(text: str) -> str:
    try:
        return str(parse_clock(text))
    except SettingsError as error:
        raise ValueError(str(error)) from None


def _addresses(text: str) -> str:
    return ", ".join(real_address(one.strip()) for one in text.split(","))


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class Settings(BaseSettings):
    """What a deployment may choose. `Settings()` is the embedded default: only `load_settings` reads the environment.

    `home`: folder of everything that is written. `simulator_rows`: decisions for each agent, at
    least; `simulator_extra_days`: how far the simulated world has moved on since. `device`: where
    training runs, `auto` takes CUDA when there is one. `serving_clock`: what time it is for served decisions, the
    machine's or that of the data (`auto`: the data's where the experience source is a closed history). `clock`: another clock
    than the machine's for all processes (`parse_clock`), for drills; production refuses it. `operations_host`,
    `operations_port`: where the operations server listens. `exploration_epsilon`: share of the served decisions that are
    drawn uniformly. `pseudonym_key`: key of the user pseudonyms. `roles_file`: YAML table of who has which role.
    `smtp_url`, `slack_webhook`: where approvers are told of requests, off by default;
    `approvals_url`: where the link in such a message leads. `slack_alerts_webhook`, `pagerduty_routing_key`, `sentry_dsn`:
    where people are told of alerts, beside the two above; `pagerduty_url`: PagerDuty's events, such as those of the EU;
    `alert_recipients`: who gets alerts by e-mail, beside who has the role;
    `dagster_url`: base of links to runs. URLs are secrets, since they may carry passwords.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        validate_default=True,
    )

    environment: Literal["embedded", "production"] = "embedded"
    home: AbsolutePath = Path(".mlops")
    database_url: SecretStr | None = None
    mlflow_tracking_uri: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices(f"{_PREFIX}{_MLFLOW_STANDARD}", _MLFLOW_STANDARD)
    )
    mlflow_artifact_root: str | None = None
    policy_profile: Annotated[str, AfterValidator(_known_profile)] = "aiwebtest"
    roles_file: AbsolutePath | None = None
    data_profile: Literal["standard", "bootstrap"] = "standard"
    experience_source: Literal["simulator", "reports", "ci_history", "table", "prediction_log"] = "simulator"
    source_path: AbsolutePath | None = None
    source_url: SecretStr | None = None
    source_query: str | None = None
    identity_rules: AbsolutePath | None = None
    user_stories: AbsolutePath | None = None
    simulator_rows: int = Field(default=120_000, ge=1)
    simulator_seed: int = Field(default=20251027, ge=0)
    simulator_extra_days: int = Field(default=0, ge=0)
    training_seed: int = Field(default=7, ge=0)
    redis_url: SecretStr | None = None
    dvc_remote: str | None = None
    dvc_executable: AbsolutePath | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    serving_host: str = "127.0.0.1"
    serving_port: int = Field(default=8000, ge=1, le=65535)
    serving_workers: int = Field(default=1, ge=1)
    serving_clock: Literal["auto", "system", "data"] = "auto"
    clock: Annotated[str, AfterValidator(_readable_clock)] | None = None
    serving_authentication: Literal["auto", "required"] = "auto"
    operations_host: str = "127.0.0.1"
    operations_port: int = Field(default=8400, ge=1, le=65535)
    exploration_epsilon: float = Field(default=0.0, ge=0.0, le=1.0)
    pseudonym_key: SecretStr | None = Field(default=None, min_length=16)
    smtp_url: SecretStr | None = None
    slack_webhook: SecretStr | None = None
    slack_alerts_webhook: SecretStr | None = None
    pagerduty_routing_key: SecretStr | None = Field(default=None, min_length=32, max_length=32)
    pagerduty_url: str = "https://events.pagerduty.com/v2/enqueue"
    sentry_dsn: SecretStr | None = None
    alert_recipients: Annotated[str, AfterValidator(_addresses)] | None = None
    dagster_url: str = "http://127.0.0.1:3000"
    approvals_url: str | None = None
    batch_input: AbsolutePath | None = None
    stream_url: SecretStr | None = None
    ray_address: str | None = Field(
        default=None, validation_alias=AliasChoices(f"{_PREFIX}{_RAY_STANDARD}", _RAY_STANDARD)
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments only: the environment comes in through `load_settings`, as an explicit mapping."""
        return (init_settings,)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for problem in (*self._production_problems(), *self._source_problems()):
            raise ValueError(problem)
        return self

    def _production_problems(self) -> Iterator[str]:
        if self.environment != "production":
            return
        if self.database_url is None or _is_sqlite(self.database_url):
            yield (
                f"{_PREFIX}DATABASE_URL: {_PREFIX}ENVIRONMENT=production refuses the embedded SQLite operational "
                "database; set it to postgresql://<user>:<password>@<host>:<port>/<database>"
            )
        if self.mlflow_tracking_uri is None or _is_sqlite(self.mlflow_tracking_uri):
            yield (
                f"{_MLFLOW_STANDARD}: {_PREFIX}ENVIRONMENT=production refuses the embedded SQLite tracking store; "
                f"set it (or {_PREFIX}{_MLFLOW_STANDARD}) to http(s)://<server> or a postgresql:// URL"
            )
        if self.clock is not None:
            yield f"{_PREFIX}CLOCK: {_PREFIX}ENVIRONMENT=production goes by the machine's clock; unset it"
        if self.pseudonym_key is None and self.serving_host not in _LOOPBACK:
            yield (
                f"{_PREFIX}PSEUDONYM_KEY: needed to serve on {self.serving_host} with {_PREFIX}ENVIRONMENT=production, so "
                "that all servers give a user the same pseudonym; set it to a random secret of 16 characters or more"
            )

    def _source_problems(self) -> Iterator[str]:
        needed = {
            "simulator": (),
            "reports": ("source_path",),
            "ci_history": ("source_path",),
            "table": ("source_url", "source_query"),
            "prediction_log": (),
        }[self.experience_source]
        for name in needed:
            if getattr(self, name) is None:
                yield f"{_variable(name)}: needed with {_PREFIX}EXPERIENCE_SOURCE={self.experience_source}; set it"

    @property
    def paths(self) -> ArtifactPaths:
        """Where every artifact lies."""
        return ArtifactPaths(self.home)

    @property
    def database(self) -> str:
        """URL of the operational database."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.paths.operations_db}"

    @property
    def tracking_uri(self) -> str:
        """URI of the MLflow tracking store; a PostgreSQL one names psycopg 2, the driver that is installed."""
        if self.mlflow_tracking_uri is None:
            return f"sqlite:///{self.paths.mlflow_db}"
        scheme, separator, rest = self.mlflow_tracking_uri.get_secret_value().partition("://")
        return f"{'postgresql+psycopg2' if scheme in {'postgres', 'postgresql'} else scheme}{separator}{rest}"

    @property
    def artifact_root(self) -> str | None:
        """Root URI of MLflow's artifacts; None leaves it to the tracking server."""
        if self.mlflow_artifact_root is not None:
            return self.mlflow_artifact_root
        if self.tracking_uri.startswith(("http://", "https://")):
            return None
        return self.paths.mlflow_artifacts.as_uri()

    @property
    def authenticated(self) -> bool:
        """Whether the serving API asks for tokens: always, but on the loopback of an embedded environment."""
        return self._asks_for_tokens(self.serving_host)

    @property
    def operations_authenticated(self) -> bool:
        """Whether the operations server asks for tokens, by the same rule, also for what only reads."""
        return self._asks_for_tokens(self.operations_host)

    def _asks_for_tokens(self, host: str) -> bool:
        if self.serving_authentication == "required" or self.environment == "production":
            return True
        return host not in _LOOPBACK

    @property
    def data_clock(self) -> bool:
        """Whether served decisions take place in the time of the data: a closed history has no present."""
        if self.clock is not None:
            return False
        if self.serving_clock == "auto":
            return self.experience_source in {"simulator", "ci_history"}
        return self.serving_clock == "data"

    def find_dvc(self) -> Path | None:
        """DVC's executable: as set, else of `.venv-dvc` beside this virtualenv, else of PATH, else None.

        DVC and Dagster cannot share a virtualenv (antlr4 4.9 against 4.13), so it is never looked for in this one.

        Raises:
            SettingsError: MLOPS_DVC_EXECUTABLE is set to something that is not there.
        """
        if self.dvc_executable is not None:
            if not self.dvc_executable.is_file():
                raise SettingsError(
                    f"{_variable('dvc_executable')}={self.dvc_executable}: no such file; "
                    "set it to DVC's executable, or unset it to have it looked for"
                )
            return self.dvc_executable
        beside = Path(sys.prefix).parent / ".venv-dvc" / "bin" / "dvc"
        found = str(beside) if beside.is_file() else shutil.which("dvc")
        return Path(found) if found else None


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from `environ` (None: the process's environment); an empty value counts as unset.

    Raises:
        SettingsError: an unknown or invalid variable; the message names it, its value and what is allowed.
    """
    variables = dict(os.environ if environ is None else environ)
    _refuse_unknown(variables)
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): value for name, value in variables.items() if value}
    try:
        return Settings(**source())
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(problem) for problem in error.errors(include_url=False))) from None


def variable_names() -> tuple[str, ...]:
    """Names of all environment variables that are read."""
    return (*(_variable(name) for name in Settings.model_fields), _MLFLOW_STANDARD, _RAY_STANDARD)


def _refuse_unknown(variables: Mapping[str, str]) -> None:
    known = variable_names()
    for name in sorted(variables):
        if name.upper().startswith(_PREFIX) and name.upper() not in known:
            # Without the common prefix, which alone makes any two names look alike.
            fields = [variable.removeprefix(_PREFIX) for variable in known]
            near = difflib.get_close_matches(name.upper().removeprefix(_PREFIX), fields, n=1)
            advice = f"did you mean {_PREFIX}{near[0]}?" if near else f"known: {', '.join(known)}"
            raise SettingsError(f"unknown environment variable {name}; {advice}")


def _describe(problem: ErrorDetails) -> str:
    if not problem["loc"]:  # a rule over several settings: its message names the variable
        return problem["msg"].removeprefix("Value error, ")
    name = str(problem["loc"][0])
    field = name.lower().removeprefix(_PREFIX.lower())
    annotation: Any = Settings.model_fields[field].annotation if field in Settings.model_fields else None
    value = "<hidden>" if "SecretStr" in str(annotation) else repr(problem["input"])
    variable = name if name.isupper() else _variable(name)
    return f"{variable}={value}: {problem['msg'].removeprefix('Value error, ')}"


def _variable(field: str) -> str:
    return f"{_PREFIX}{field.upper()}"


def _is_sqlite(url: SecretStr) -> bool:
    return url.get_secret_value().startswith("sqlite")
