"""A vendor without what it does not need: only inside the block, and only what was named."""

import importlib
import subprocess
import sys

import pytest

from mlops_assets.features.light_import import hidden, unchecked_types


def test_a_hidden_package_is_not_there_and_then_it_is() -> None:
    """A package stays hidden for the rest of the process, or others go with it."""
    sys.modules.pop("this", None)
    with hidden("this"):
        with pytest.raises(ModuleNotFoundError, match="No module named 'this'"):
            importlib.import_module("this")
        importlib.import_module("colorsys")
    assert importlib.import_module("this")


def test_types_are_checked_again_after_the_block() -> None:
    """Typeguard stays off for everybody who is imported later."""
    import typeguard

    checked = typeguard.typechecked
    with unchecked_types():
        assert typeguard.typechecked(int) is int
        assert typeguard.typechecked(forward_refs_policy=None)(int) is int
    assert typeguard.typechecked is checked


def test_feast_comes_without_torch() -> None:
    """The server's start takes seconds more, and half a gigabyte."""
    code = (
        "import sys; from mlops_assets.features.store import FeatureStoreAdapter as A; A.import_feast(); "
        "print('torch' in sys.modules, 'feast' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip().splitlines()[-1] == "False True"
