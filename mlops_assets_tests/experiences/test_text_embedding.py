"""Text embedding: a vector that depends on order, run or machine, or has the wrong length, would corrupt all states."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.experiences.text_embedding import TextEmbedder
from mlops_assets.foundation.errors import InputError

STORIES = [
    "As a shopper I can add an item to the cart",
    "As a shopper I can remove an item from the cart",
    "As a shopper I can empty the cart",
    "As an editor I can publish an article",
    "As an editor I can schedule an article for later",
    "As an admin I can lock the account of a user",
    "As an admin I can reset the password of a user",
]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_equal_texts_in_any_order_give_equal_bytes() -> None:
    """Prevents: two collections of one backlog that embed it differently, so that models cannot be reproduced."""
    first = TextEmbedder.fit(STORIES, dimensions=4, seed=0)
    second = TextEmbedder.fit([*STORIES[::-1], STORIES[0], "  "], dimensions=4, seed=0)
    assert first.to_bytes() == second.to_bytes()
    assert first.transform(STORIES).dtype == np.float32
    np.testing.assert_array_equal(first.transform(STORIES), second.transform(STORIES))


def test_the_projection_is_the_leading_singular_space() -> None:
    """Prevents: components that are not the SVD's, checked against numpy on the dense matrix."""
    from sklearn.feature_extraction.text import HashingVectorizer

    dense = HashingVectorizer(n_features=4096, ngram_range=(1, 2), norm="l2").transform(sorted(STORIES)).toarray()
    leading = np.linalg.svd(dense, full_matrices=False)[2][:3]
    components = TextEmbedder.fit(STORIES, dimensions=3, seed=0).components.astype(np.float64)
    np.testing.assert_allclose(components.T @ components, leading.T @ leading, atol=1e-5)


def test_texts_about_the_same_thing_lie_closer() -> None:
    """Prevents: vectors that carry nothing of the text."""
    vectors = TextEmbedder.fit(STORIES, dimensions=4, seed=0).transform(
        ["I can put an item in the cart", "add to the cart", "reset the password of an account"]
    )
    assert _cosine(vectors[0], vectors[1]) > 0.5
    assert _cosine(vectors[0], vectors[1]) > _cosine(vectors[0], vectors[2]) + 0.3


@pytest.mark.parametrize("texts", [[], [""], ["one story"], STORIES[:3]])
def test_fewer_texts_than_dimensions_leave_zeros(texts: list[str]) -> None:
    """Prevents: a cold start with a handful of stories, or none, failing, or filled up with noise."""
    embedder = TextEmbedder.fit(texts, dimensions=6, seed=0)
    assert embedder.dimensions == 6
    vectors = embedder.transform(["one story", "add an item to the cart"])
    assert vectors.shape == (2, 6)
    assert np.isfinite(vectors).all()
    rank = len([text for text in texts if text])
    assert (vectors[:, rank:] == 0).all()
    assert (embedder.components[rank:] == 0).all()


def test_no_dimensions_and_no_texts_have_shapes() -> None:
    """Prevents: the execution agent, which has no text, needing a special case everywhere."""
    assert TextEmbedder.fit(STORIES, dimensions=0, seed=0).transform(STORIES).shape == (7, 0)
    assert TextEmbedder.fit(STORIES, dimensions=3, seed=0).transform([]).shape == (0, 3)
    assert (TextEmbedder.fit(STORIES, dimensions=3, seed=0).transform([""]) == 0).all()


def test_it_is_stored_and_loaded_without_pickle(tmp_path: Path) -> None:
    """Prevents: a snapshot that executes code when it is opened, or that opens as another embedder."""
    embedder = TextEmbedder.fit(STORIES, dimensions=4, seed=0)
    embedder.save(tmp_path / "embedder.npz")
    loaded = TextEmbedder.load(tmp_path / "embedder.npz")
    np.testing.assert_array_equal(loaded.components, embedder.components)
    np.savez(tmp_path / "pickled.npz", components=np.array([{"a": 1}], dtype=object))
    np.savez(tmp_path / "shape.npz", components=np.zeros((4, 7), np.float32))
    (tmp_path / "noise.npz").write_bytes(b"noise")
    for name in ("pickled", "shape", "noise", "absent"):
        with pytest.raises(InputError, match=f"{name}.npz"):
            TextEmbedder.load(tmp_path / f"{name}.npz")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=8), st.integers(0, 5))
def test_any_text_gives_bounded_vectors(texts: list[str], dimensions: int) -> None:
    """Prevents: an emoji, a control character or a text of signs only breaking the collection."""
    vectors = TextEmbedder.fit(texts, dimensions=dimensions, seed=0).transform(texts)
    assert vectors.shape == (len(texts), dimensions)
    assert (np.abs(vectors) <= 1 + 1e-5).all()


def test_the_number_of_threads_changes_no_bit() -> None:
    """A rerun in another shell or container had other weights from the same data: one last bit of an embedding."""
    code = (
        "from hashlib import sha256\n"
        "from mlops_assets.experiences.text_embedding import TextEmbedder\n"
        "texts = [f'As user {i} I filter {i % 7} by {i % 13} so that {i * i % 31}' for i in range(300)]\n"
        "print(sha256(TextEmbedder.fit(texts, 16, 1).to_bytes()).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for threads in ("1", "4")
    }
    assert len(hashes) == 1
