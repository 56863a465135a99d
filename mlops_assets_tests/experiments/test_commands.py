"""The command line of experiments, as an operator calls it."""

from pathlib import Path

import pytest

from mlops_assets.experiments.commands import DONE, REFUSED, main


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A home of its own."""
    return {"MLOPS_HOME": str(tmp_path / "home")}


def test_a_whole_life(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A documented command does something else, or nothing."""
    for words, line in (
        (["create", "half", "--agent", "execution", "--share", "0.05"], "running, 5.0% of execution's users"),
        (["share", "half", "--share", "0.2"], "running, 20.0%"),
        (["pause", "half"], "paused, 20.0%"),
        (["resume", "half"], "running, 20.0%"),
        (["stop", "half"], "stopped, 20.0%"),
    ):
        assert main([*words, "--user", "ann"], environ) == DONE
        assert line in capsys.readouterr().out
    assert main(["list"], environ) == DONE
    assert capsys.readouterr().out == "half: stopped, 20.0% of execution's users to challenger\n"


def test_refusals_have_a_reason_and_an_exit_code(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A script goes on although nothing was changed."""
    assert main(["share", "absent", "--share", "0.2", "--user", "ann"], environ) == REFUSED
    assert "no experiment 'absent'" in capsys.readouterr().err
    assert main(["create", "x", "--agent", "execution", "--share", "5", "--user", "ann"], environ) == REFUSED
    assert "the treatment's share is 5.0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["create", "x", "--agent", "checkout", "--share", "0.1", "--user", "ann"], environ)
