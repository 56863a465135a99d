"""Facts that people tell: the newest counts, each has a source and somebody who answers for it."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from mlops_assets.foundation.errors import InputError
from mlops_assets.monitoring.declared import DECLARABLE, declare, declared, main

NOW = datetime(2026, 3, 9, tzinfo=UTC)
WHO = "mlops@company.com"


def test_the_newest_fact_counts(engine: Engine) -> None:
    """Last year's success rate of CI stands in this year's report."""
    assert declared(engine) == {}
    declare(engine, "ci_cd_success", 0.90, source="CI, February", user=WHO, now=NOW - timedelta(days=30))
    declare(engine, "ci_cd_success", 0.97, source="CI, March", user=WHO, now=NOW)
    (fact,) = declared(engine).values()
    assert (fact.value, fact.words) == (0.97, f"CI, March (told by {WHO}, 2026-03-09)")


@pytest.mark.parametrize(
    ("name", "value", "source", "user", "words"),
    [
        ("uptime", 1.0, "CI", WHO, "'uptime' cannot be told; facts that can: ci_cd_success"),
        ("ci_cd_success", 98.0, "CI", WHO, "expected a share"),
        ("feature_read_ms", -1.0, "CI", WHO, "expected 0 or more"),
        ("ci_cd_success", 0.9, "  ", WHO, "has no source"),
        ("ci_cd_success", 0.9, "CI", "me", "is not an e-mail address"),
    ],
)
def test_what_is_no_fact_is_refused(
    sqlite_engine: Engine, name: str, value: float, source: str, user: str, words: str
) -> None:
    """98 for 98 % makes a service level of 9,800 %."""
    with pytest.raises(InputError, match=words):
        declare(sqlite_engine, name, value, source=source, user=user, now=NOW)
    assert declared(sqlite_engine) == {}


def test_the_command(sqlite_engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints a success and stores nothing, or refuses with exit code 0."""
    environ = {"MLOPS_DATABASE_URL": str(sqlite_engine.url)}
    told = ["--source", "CI", "--user", WHO]
    assert main(["feature_read_ms", "4.5", *told], environ) == 0
    assert capsys.readouterr().out.startswith("feature_read_ms is 4.5: CI (told by")
    assert declared(sqlite_engine)["feature_read_ms"].value == 4.5
    assert main(["uptime", "1", *told], environ) == 2
    assert "cannot be told" in capsys.readouterr().err
    assert set(declared(sqlite_engine)) == {"feature_read_ms"} <= set(DECLARABLE)
