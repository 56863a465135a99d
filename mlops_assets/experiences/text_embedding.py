"""Requirement texts as vectors, without any download: hashed word n-grams, then a truncated SVD of the texts.

The fitted part is one matrix, stored as npz in the snapshot it was fitted on. What is embedded is up to the callers.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlops_assets.foundation.errors import InputError
from mlops_assets.foundation.files import atomic_write

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# 4096 buckets hold the word pairs of some thousand user stories with few collisions; 16 components take 256 KiB.
_BUCKETS = 4096
# Directions below it are arbitrary rounding noise, which would go into the state.
_SMALLEST_SINGULAR_VALUE = 1e-6


@dataclass(frozen=True)
class TextEmbedder:
    """Latent semantic analysis: `transform(texts) = hashed(texts) @ components.T`.

    `components` has the shape (dimensions, 4096), float32; rows beyond the rank of the texts it was fitted on are zero,
    so that few texts, or none, still give vectors of the declared length.
    """

    components: NDArray[np.float32]

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self.components.shape[0])

    @classmethod
    def fit(cls, texts: Sequence[str], dimensions: int, seed: int) -> "TextEmbedder":
        """Fit on the distinct texts, whatever their order; equal texts and seed give equal components.

        Source: Deerwester et al. 1990, Indexing by Latent Semantic Analysis; randomised SVD of Halko et al. 2011.
        """
        components = np.zeros((dimensions, _BUCKETS), dtype=np.float32)
        distinct = sorted({text for text in texts if text.strip()})
        rank = min(dimensions, len(distinct))
        if rank:
            components[:rank] = _leading_directions(_hashed(distinct), rank, seed)
        return cls(components)

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (N, dimensions) float32, entries within -1..1; an empty text gives zeros."""
        if not self.dimensions or not len(texts):
            return np.zeros((len(texts), self.dimensions), dtype=np.float32)
        return np.asarray(_hashed(texts) @ self.components.T, dtype=np.float32)

    def to_bytes(self) -> bytes:
        """Encode as npz; equal components give equal bytes."""
        stream = io.BytesIO()
        np.savez_compressed(stream, components=self.components)
        return stream.getvalue()

    def save(self, path: Path) -> None:
        """Write the npz file atomically.

        Raises:
            StorageError: the disk is full or read-only.
        """
        with atomic_write(path) as temporary:
            temporary.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> "TextEmbedder":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, no npz file, or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                components = stored["components"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} is not a stored text embedder ({error}); restore the snapshot from the data versions"
            ) from error
        if components.shape[1:] != (_BUCKETS,) or components.dtype != np.float32:
            raise InputError(
                f"{path} holds {components.dtype} of shape {components.shape}, expected float32 (dimensions, "
                f"{_BUCKETS}); it was written by another version: collect the snapshot again"
            )
        return cls(components)


def _hashed(texts: Sequence[str]) -> "csr_matrix":
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(n_features=_BUCKETS, ngram_range=(1, 2), norm="l2", dtype=np.float32)
    return vectorizer.transform(texts)


def _leading_directions(hashed: "csr_matrix", rank: int, seed: int) -> NDArray[np.float32]:
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    # Its signs are fixed, so equal texts give equal directions; to the last bit only with one order of summation, and
    # that depends on the number of BLAS threads, which differs between a shell, a container and a test.
    with threadpool_limits(limits=1):
        _, singular_values, directions = randomized_svd(hashed, n_components=rank, random_state=seed)
    return np.where((singular_values > _SMALLEST_SINGULAR_VALUE)[:, None], directions, 0.0).astype(np.float32)
