"""The example of docs/drift.md does what it says, and its table has the profile's numbers."""

import contextlib
import io
import re
from pathlib import Path

from mlops_assets.foundation.profiles import load_profile

_TEXT = (Path(__file__).resolve().parents[2] / "docs" / "drift.md").read_text(encoding="utf-8")


def test_the_example_prints_what_it_says() -> None:
    """An example of a function that was renamed is the first thing that somebody tries."""
    (code,) = re.findall(r"```python\n(.*?)```", _TEXT, re.DOTALL)
    (printed,) = re.findall(r"```text\n(.*?)```", _TEXT, re.DOTALL)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "docs/drift.md", "exec"), {})  # noqa: S102
    assert output.getvalue() == printed


def test_the_table_has_the_limits_of_the_default_profile() -> None:
    """A limit that moved in the profile and not in the text sends people after the wrong number."""
    policy = load_profile("aiwebtest").drift
    for band in ("monitor", "warning", "critical"):
        (row,) = re.findall(rf"^\| {band} \| (.*) \|$", _TEXT, re.MULTILINE)
        cells = [float(cell.strip().strip("> %")) for cell in row.split("|")[:-1]]
        assert cells == [
            getattr(policy, f"psi_{band}"),
            getattr(policy, f"ks_{band}"),
            getattr(policy, f"wasserstein_{band}_sigmas"),
            getattr(policy, f"cramers_v_{band}"),
            getattr(policy, f"combined_{band}"),
            100 * getattr(policy, f"accuracy_drop_{band}_rel"),
        ]
