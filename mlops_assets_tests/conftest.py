"""Fixtures of all rooms: a real PostgreSQL server, the operational database on both engines, the shared data folder."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy import Engine, create_engine, make_url, text

from mlops_assets.foundation.database import create_operational_engine, upgrade
from mlops_assets_tests.postgres import postgres_server

NewPostgresDatabase = Callable[[], str]

_TELEMETRY_OFF = {
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
}


def pytest_configure() -> None:
    """No telemetry, and no setting of the developer's shell; before collection, since vendors read both at import.

    Property tests have no deadline: an example that takes 0.3 s on a busy machine is no failure.
    """
    settings.register_profile("any-machine", deadline=None)
    settings.load_profile("any-machine")
    os.environ.update(_TELEMETRY_OFF)
    for name in list(os.environ):
        if name.startswith(("MLOPS_", "DAGSTER_PG_")) or name in {"MLFLOW_TRACKING_URI", "DAGSTER_HOME"}:
            del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: one that a worker begins at the end has the other worker wait for minutes.

    Slow tests are not traced: most of their work is done by processes that the tracer does not see, and it makes the rest
    1.6 times as long. The quick ones alone have to cover what is asked for.
    """
    slow = [item for item in items if item.get_closest_marker("slow")]
    for item in slow:
        item.add_marker("no_cover")
    files = {item.path for item in slow}
    items.sort(key=lambda item: item.path not in files)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real histories and reports: `TEST_SHARED_DATA`, else `../shared/data` beside the checkout."""
    checkout = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("TEST_SHARED_DATA", checkout.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set TEST_SHARED_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of the maintenance database of a real PostgreSQL on loopback, one server per test process, superuser."""
    with postgres_server() as server:
        yield server.url


class _PostgresDatabases:
    """Makes and drops databases on one server; every one gets a name of its own."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._admin = create_engine(url, isolation_level="AUTOCOMMIT")
        self._made = 0

    def create(self, template: str = "template1") -> str:
        """Copy `template` into a new database and return its URL."""
        self._made += 1
        name = f"test_{self._made}"
        with self._admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        return self._url.set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        """Drop a database, whoever is still connected."""
        with self._admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)"))

    def close(self) -> None:
        """Close the connections."""
        self._admin.dispose()


@pytest.fixture(scope="session")
def _postgres_databases(postgres_url: str) -> Iterator[_PostgresDatabases]:
    databases = _PostgresDatabases(postgres_url)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def _postgres_template(_postgres_databases: _PostgresDatabases) -> str:
    url = _postgres_databases.create()
    engine = create_operational_engine(url)
    upgrade(engine)
    engine.dispose()
    return str(make_url(url).database)


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    engine = create_operational_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()  # the last connection's close folds the write-ahead log into the file
    return path


@pytest.fixture
def new_postgres_database(_postgres_databases: _PostgresDatabases) -> Iterator[NewPostgresDatabase]:
    """Make empty PostgreSQL databases: each call returns the URL of a new one; all are dropped after the test."""
    urls: list[str] = []

    def create() -> str:
        urls.append(_postgres_databases.create())
        return urls[-1]

    yield create
    for url in urls:
        _postgres_databases.drop(url)


@pytest.fixture
def sqlite_engine(_sqlite_template: Path, tmp_path: Path) -> Iterator[Engine]:
    """A fresh, migrated operational database in a SQLite file of the test's own folder."""
    path = tmp_path / "operations.db"
    shutil.copyfile(_sqlite_template, path)
    engine = create_operational_engine(f"sqlite:///{path}")
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_engine(_postgres_databases: _PostgresDatabases, _postgres_template: str) -> Iterator[Engine]:
    """A fresh, migrated operational database on PostgreSQL."""
    url = _postgres_databases.create(_postgres_template)
    engine = create_operational_engine(url)
    yield engine
    engine.dispose()
    _postgres_databases.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """A fresh, migrated operational database: the test runs once on SQLite and once on PostgreSQL."""
    name = "sqlite_engine" if request.param == "sqlite" else "postgres_engine"
    found: Engine = request.getfixturevalue(name)
    return found
