"""Pictures."""

from pathlib import Path

import numpy as np
import pytest

from mlops_assets.evaluation.plots import confusion_matrix_png
from mlops_assets.foundation.errors import StorageError


def test_confusion_matrix_is_drawn(tmp_path: Path) -> None:
    """A class that never occurs must not divide by zero, and the picture must not be empty."""
    import matplotlib.pyplot as plt
    from matplotlib.image import imread

    target = tmp_path / "pictures" / "confusion.png"
    confusion_matrix_png(np.array([[50, 2, 0], [3, 40, 0], [0, 0, 0]]), ("a", "b", "c"), target, title="t")
    pixels = imread(target)
    assert pixels.shape[0] > 200
    assert pixels.std() > 0.05
    assert plt.get_fignums() == []
    assert [path.name for path in target.parent.iterdir()] == ["confusion.png"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A full or read-only disk has to be told apart from a bug."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises((StorageError, NotADirectoryError, FileExistsError)):
        confusion_matrix_png(np.eye(2, dtype=np.int64), ("a", "b"), blocker / "x.png", title="t")
    assert blocker.read_text() == ""
