"""The command line of experiments, as an operator calls it."""

import re
import shlex
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


def test_several_treatments_by_their_aliases(
    environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The share of one treatment is given to the other, or servers of one to the other's users."""
    shares = ["--treatment", "challenger=0.1", "--treatment", "shadow=0.2", "--user", "ann"]
    assert main(["create", "both", "--agent", "execution", *shares], environ) == DONE
    assert main(["share", "both", "--treatment", "shadow=0.3", "--user", "ann"], environ) == DONE
    line = "both: running, 10.0% of execution's users to challenger, 30.0% of execution's users to shadow"
    assert capsys.readouterr().out.splitlines()[-1] == line
    servers = ["--control", "a:1=1.0.0", "--treatment", "shadow=c:3=1.2.0", "--folder", str(tmp_path)]
    assert main(["nginx", "both", *servers], environ) == REFUSED
    assert "the treatments challenger and shadow; give --treatment challenger=" in capsys.readouterr().err
    assert main(["nginx", "both", *servers, "--treatment", "challenger=b:2=1.1.0"], environ) == DONE
    written = (tmp_path / "experiment.conf").read_text()
    assert [written.index(address) for address in ("a:1", "b:2", "c:3")] == sorted(
        written.index(address) for address in ("a:1", "b:2", "c:3")
    )
    assert "upstream decisions_shadow {\n    server c:3;" in written
    assert main(["report", "both"], environ) == DONE
    assert "**continue**: challenger: 0 and 0 users" in capsys.readouterr().out
    for words, message in (
        (["share", "both", "--share", "0.2"], "say whose share 0.2 is"),
        (["share", "both", "--treatment", "shadow"], "the treatment 'shadow' is none; write ALIAS=SHARE"),
        (["create", "x", "--agent", "generation", "--alias", "shadow", *shares[:2]], "write --treatment shadow=SHARE"),
    ):
        assert main([*words, "--user", "ann"], environ) == REFUSED
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["create", "x", "--agent", "generation", "--user", "ann"], environ)


def test_refusals_have_a_reason_and_an_exit_code(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A script goes on although nothing was changed."""
    assert main(["share", "absent", "--share", "0.2", "--user", "ann"], environ) == REFUSED
    assert "no experiment 'absent'" in capsys.readouterr().err
    assert main(["create", "x", "--agent", "execution", "--share", "5", "--user", "ann"], environ) == REFUSED
    assert "the treatment's share is 5.0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["create", "x", "--agent", "checkout", "--share", "0.1", "--user", "ann"], environ)


def test_a_plan_is_told_in_users_and_days(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A test is started that would take a year."""
    assert main(["plan", "--baseline", "0.1", "--users-per-day", "5000"], environ) == 0
    lines = capsys.readouterr().out.splitlines()
    control, treatment = (int(word.replace(",", "")) for word in lines[0].split()[0:7:6])
    assert control == pytest.approx(9 * treatment, rel=0.01)
    assert treatment >= 1000
    assert lines[1].endswith("days at 5,000 users a day; the design ends after 14")
    assert main(["plan", "--baseline", "0"], environ) == 2
    assert "the baseline is 0.0" in capsys.readouterr().err


def test_a_report_of_nothing_yet_and_of_nobody(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Asked in the first minute, the report divides by zero."""
    arguments = ["create", "new", "--agent", "execution", "--share", "0.1", "--user", "qa@example.com"]
    assert main([*arguments, "--only", "browser=chromium", "--only", "last_failed=0.5.."], environ) == 0
    assert main(["report", "new"], environ) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("**continue**: 0 and 0 users")
    assert main(["report", "absent"], environ) == 2
    assert "there is no experiment 'absent'" in capsys.readouterr().err


def test_the_documented_commands_work_in_their_order(environ: dict[str, str]) -> None:
    """docs/experiments.md names an option that was renamed."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert [line[3] for line in lines] == ["plan", "create", "share", "report", "stop", "create", "share", "nginx"]
    for line in lines:
        assert line[:3] == ["python", "-m", "mlops_assets.experiments.commands"]
        assert main(line[3:], environ) == 0, line
