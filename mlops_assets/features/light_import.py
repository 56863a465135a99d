"""Ways to import a heavy vendor without what it does not need here."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder


class _Hidden(MetaPathFinder):
    """Says of one package that it is not installed."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:  # noqa: ARG002
        """Refuse the package, and let all others be found."""
        if fullname == self._package:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """Hide a package from imports of the block; one that is imported already stays."""
    finder = _Hidden(package)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def unchecked_types() -> Iterator[None]:
    """Let classes that are defined in the block go without typeguard's instrumentation."""
    import typeguard

    checked = typeguard.typechecked
    typeguard.typechecked = lambda target=None, **_: (lambda it: it) if target is None else target  # type: ignore[assignment]
    try:
        yield
    finally:
        typeguard.typechecked = checked
