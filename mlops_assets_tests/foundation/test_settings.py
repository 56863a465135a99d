"""Settings from the environment: defaults, refusals, and that secrets stay secret."""

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.settings import Settings, load_settings, variable_names

_CLOCK = "2026-01-05T08:00:00+00:00@2026-01-01T00:00:00+00:00"
_PRODUCTION = {
    "MLOPS_ENVIRONMENT": "production",
    "MLOPS_DATABASE_URL": "postgresql://user:secret@db:5432/mlops",
    "MLFLOW_TRACKING_URI": "http://mlflow:5000",
}


def test_defaults_need_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop with nothing set must run everything on files below the project's home."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings({})
    home = tmp_path / ".mlops"
    assert settings.environment == "embedded"
    assert settings.home == settings.paths.home == home
    assert settings.database == f"sqlite:///{home}/operations.db"
    assert settings.tracking_uri == f"sqlite:///{home}/mlflow/mlflow.db"
    assert settings.artifact_root == (home / "mlflow" / "artifacts").as_uri()
    assert (settings.experience_source, settings.policy_profile) == ("simulator", "aiwebtest")
    assert (settings.simulator_rows, settings.simulator_seed, settings.training_seed) == (120_000, 20251027, 7)
    assert list(tmp_path.iterdir()) == []


def test_production_takes_servers() -> None:
    """The same code, other stores."""
    settings = load_settings(_PRODUCTION)
    assert settings.database == "postgresql://user:secret@db:5432/mlops"
    assert settings.tracking_uri == "http://mlflow:5000"
    assert settings.artifact_root is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MLOPS_DATABASE_URL": ""}, "MLOPS_DATABASE_URL: .*production refuses the embedded SQLite.*postgresql://"),
        ({"MLOPS_DATABASE_URL": "sqlite:////data/a.db"}, "MLOPS_DATABASE_URL: .*production refuses"),
        ({"MLFLOW_TRACKING_URI": ""}, "MLFLOW_TRACKING_URI: .*production refuses the embedded SQLite tracking store"),
        ({"MLFLOW_TRACKING_URI": "sqlite:///m.db"}, "MLFLOW_TRACKING_URI: .*production refuses"),
        ({"MLOPS_CLOCK": f"{_CLOCK}*60"}, "MLOPS_CLOCK: .*production goes by the machine's clock"),
    ],
)
def test_production_refuses_embedded_stores_by_name(change: dict[str, str], message: str) -> None:
    """A forgotten variable would put production's audit trail on the disk of one pod."""
    with pytest.raises(SettingsError, match=message):
        load_settings({**_PRODUCTION, **change})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MLOPS_CLOCK": f"{_CLOCK}*-1"}, r"MLOPS_CLOCK='2026.*': .*the speed has to be a positive number"),
        ({"MLOPS_ENVIRONMENT": "prod"}, "MLOPS_ENVIRONMENT='prod': .*'embedded' or 'production'"),
        ({"MLOPS_DEVICE": "gpu"}, "MLOPS_DEVICE='gpu': .*'auto', 'cpu' or 'cuda'"),
        ({"MLOPS_POLICY_PROFILE": "x"}, "MLOPS_POLICY_PROFILE='x': unknown policy profile; known profiles: agent27"),
        ({"MLOPS_SIMULATOR_ROWS": "many"}, "MLOPS_SIMULATOR_ROWS='many': .*valid integer"),
        ({"MLOPS_SIMULATOR_ROWS": "0"}, "MLOPS_SIMULATOR_ROWS='0': .*greater than or equal to 1"),
        ({"MLOPS_EXPERIENCE_SOURCE": "reports"}, "MLOPS_SOURCE_PATH: needed with MLOPS_EXPERIENCE_SOURCE=reports"),
        (
            {"MLOPS_EXPERIENCE_SOURCE": "table", "MLOPS_SOURCE_URL": "sqlite:///x"},
            "MLOPS_SOURCE_QUERY: needed with MLOPS_EXPERIENCE_SOURCE=table",
        ),
        ({"MLOPS_DATABSE_URL": "x"}, "unknown environment variable MLOPS_DATABSE_URL; did you mean MLOPS_DATABASE_URL"),
        ({"MLOPS_ZZZ": "x"}, "unknown environment variable MLOPS_ZZZ; known: MLOPS_ENVIRONMENT, "),
    ],
)
def test_unknown_and_invalid_variables_are_refused(variables: dict[str, str], message: str) -> None:
    """A misspelt variable would leave its default in force, and nobody would know."""
    with pytest.raises(SettingsError, match=message):
        load_settings(variables)


def test_all_problems_are_told_at_once() -> None:
    """One error a start means one deployment a typo."""
    with pytest.raises(SettingsError, match=r"MLOPS_SIMULATOR_SEED='-1'.*; MLOPS_DEVICE='gpu'") as caught:
        load_settings({"MLOPS_SIMULATOR_SEED": "-1", "MLOPS_DEVICE": "gpu"})
    assert "http" not in str(caught.value)


def test_passwords_do_not_show() -> None:
    """Settings are printed into logs and run metadata."""
    settings = load_settings({**_PRODUCTION, "MLOPS_REDIS_URL": "redis://:secret@redis:6379"})
    assert "secret" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "redis://:secret@redis:6379"


def test_addresses_of_alerts() -> None:
    """A recipient with a typo gets no alert, and a routing key that is cut is one of nobody; neither key shows."""
    settings = load_settings({"MLOPS_ALERT_RECIPIENTS": "a@b.com,c@d.com", "MLOPS_PAGERDUTY_ROUTING_KEY": "k" * 32})
    assert settings.alert_recipients == "a@b.com, c@d.com"
    assert "kkk" not in repr(settings)
    with pytest.raises(SettingsError, match=r"MLOPS_ALERT_RECIPIENTS='a@b.com,x': 'x' is not an e-mail address"):
        load_settings({"MLOPS_ALERT_RECIPIENTS": "a@b.com,x"})
    with pytest.raises(SettingsError, match=r"MLOPS_PAGERDUTY_ROUTING_KEY=<hidden>: .*at least 32"):
        load_settings({"MLOPS_PAGERDUTY_ROUTING_KEY": "short"})


def test_the_project_variable_wins_over_mlflows_own() -> None:
    """A shell's general MLFLOW_TRACKING_URI must not redirect a project that was told otherwise."""
    both = {"MLFLOW_TRACKING_URI": "http://general", "MLOPS_MLFLOW_TRACKING_URI": "http://project"}
    assert load_settings(both).tracking_uri == "http://project"
    assert load_settings({"MLFLOW_TRACKING_URI": "http://general"}).tracking_uri == "http://general"


def test_postgresql_tracking_store_names_its_driver() -> None:
    """MLflow with `postgresql://` asks for a driver that is not installed."""
    settings = Settings.model_validate({"MLFLOW_TRACKING_URI": "postgresql://u@h/d"})
    assert settings.tracking_uri == "postgresql+psycopg2://u@h/d"


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means another folder in a step that runs elsewhere."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings({"MLOPS_HOME": "state", "MLOPS_SOURCE_PATH": "../reports"})
    assert settings.home == tmp_path / "state"
    assert settings.source_path == tmp_path.parent / "reports"


def test_construction_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test or a notebook that builds settings would otherwise write into the developer's real stores."""
    monkeypatch.setenv("MLOPS_TRAINING_SEED", "99")
    assert Settings().training_seed == 7
    assert load_settings().training_seed == 99
    assert load_settings({}).training_seed == 7


def test_settings_are_frozen_and_closed() -> None:
    """A field set on the fly is read by nobody."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().training_seed = 8  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Settings.model_validate({"trainig_seed": 8})


def test_every_field_has_its_variable() -> None:
    """The README's table and the refusal of unknown names both rest on this list."""
    names = variable_names()
    assert {"MLFLOW_TRACKING_URI", "RAY_ADDRESS"} <= set(names)
    assert len(names) == len(set(names)) == len(Settings.model_fields) + 2
    assert load_settings({"MLOPS_DVC_REMOTE": "s3://bucket/data"}).dvc_remote == "s3://bucket/data"


def test_dvc_is_found_beside_the_virtualenv_then_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC in Dagster's own virtualenv breaks every asset selection, so it has to be found elsewhere."""
    on_path = tmp_path / "bin" / "dvc"
    beside = tmp_path / ".venv-dvc" / "bin" / "dvc"
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert Settings().find_dvc() is None
    for program in (on_path, beside):
        program.parent.mkdir(parents=True)
        program.touch(mode=0o755)
        assert Settings().find_dvc() == program
    assert Settings(dvc_executable=on_path).find_dvc() == on_path
    with pytest.raises(SettingsError, match=r"MLOPS_DVC_EXECUTABLE=.*absent: no such file"):
        Settings(dvc_executable=tmp_path / "absent").find_dvc()


@pytest.mark.parametrize(
    ("variables", "asked"),
    [
        ({}, False),
        ({"MLOPS_SERVING_HOST": "::1"}, False),
        ({"MLOPS_SERVING_HOST": "0.0.0.0"}, True),
        ({"MLOPS_SERVING_AUTHENTICATION": "required"}, True),
        (
            {
                "MLOPS_ENVIRONMENT": "production",
                "MLOPS_DATABASE_URL": "postgresql://u:p@h/d",
                "MLFLOW_TRACKING_URI": "http://mlflow",
            },
            True,
        ),
    ],
)
def test_tokens_are_asked_for_wherever_strangers_come(variables: dict[str, str], asked: bool) -> None:
    """A server that is bound to all interfaces decides for everybody."""
    assert load_settings(variables).authenticated is asked


def test_the_operations_server_asks_by_its_own_address() -> None:
    """The decision server is behind a proxy on the loopback, and the other one open to the network."""
    settings = load_settings({"MLOPS_OPERATIONS_HOST": "0.0.0.0", "MLOPS_OPERATIONS_PORT": "9000"})
    assert (settings.operations_authenticated, settings.authenticated) == (True, False)
    assert settings.operations_port == 9000
    served = load_settings({"MLOPS_SERVING_HOST": "0.0.0.0"})
    assert (served.operations_authenticated, served.authenticated) == (False, True)
    for variables in ({"MLOPS_SERVING_AUTHENTICATION": "required"}, _PRODUCTION):
        assert load_settings(variables).operations_authenticated


def test_a_shared_production_server_needs_the_key_of_its_pseudonyms() -> None:
    """Each server gives a user a pseudonym of its own."""
    variables = {
        "MLOPS_ENVIRONMENT": "production",
        "MLOPS_DATABASE_URL": "postgresql://u:p@h/d",
        "MLFLOW_TRACKING_URI": "http://mlflow",
        "MLOPS_SERVING_HOST": "0.0.0.0",
    }
    with pytest.raises(SettingsError, match=r"MLOPS_PSEUDONYM_KEY: needed to serve on 0\.0\.0\.0"):
        load_settings(variables)
    settings = load_settings({**variables, "MLOPS_PSEUDONYM_KEY": "k" * 16})
    assert settings.pseudonym_key is not None
    with pytest.raises(SettingsError, match="MLOPS_PSEUDONYM_KEY=<hidden>"):
        load_settings({"MLOPS_PSEUDONYM_KEY": "short"})


@pytest.mark.parametrize(
    ("variables", "data"),
    [
        ({}, True),
        ({"MLOPS_SERVING_CLOCK": "system"}, False),
        ({"MLOPS_EXPERIENCE_SOURCE": "prediction_log"}, False),
        ({"MLOPS_EXPERIENCE_SOURCE": "prediction_log", "MLOPS_SERVING_CLOCK": "data"}, True),
        ({"MLOPS_EXPERIENCE_SOURCE": "ci_history", "MLOPS_SOURCE_PATH": "h.csv"}, True),
        ({"MLOPS_EXPERIENCE_SOURCE": "reports", "MLOPS_SOURCE_PATH": "r"}, False),
    ],
)
def test_a_closed_history_goes_on_from_its_end(variables: dict[str, str], data: bool) -> None:
    """Every feature of the simulated world has expired on the day on which somebody asks."""
    assert load_settings(variables).data_clock is data
