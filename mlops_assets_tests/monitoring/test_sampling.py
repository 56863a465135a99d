"""Which rows are drawn: exactly so many, every stratum its share, the same ones everywhere."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.monitoring.sampling import key_hashes, stratified_rows


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.integers(1, 200))
def test_every_stratum_has_its_share(strata: list[int], size: int) -> None:
    """A rare stratum vanishes or fills the sample, or more rows come out than asked for."""
    numbers = np.array(strata, dtype=np.int64)
    hashes = key_hashes(np.arange(len(numbers), dtype=np.int64))
    rows = stratified_rows(numbers, hashes, size)
    assert len(rows) == min(size, len(numbers))
    assert (np.diff(rows) > 0).all()
    for stratum in set(strata):
        exact = strata.count(stratum) * min(1.0, size / len(strata))
        assert abs(int((numbers[rows] == stratum).sum()) - exact) < 1.0


def test_a_row_stays_drawn_when_others_come() -> None:
    """A report is drawn from other rows each time, and its figures jump without any change."""
    hashes = key_hashes([f"p{i}" for i in range(1000)])
    first = stratified_rows(np.zeros(500, dtype=np.int64), hashes[:500], 100)
    later = stratified_rows(np.zeros(1000, dtype=np.int64), hashes, 200)
    # Of the 200 with the smallest hashes of all, those below 500 are among the smallest of the first 500.
    kept = set(later[later < 500].tolist())
    smallest = set(np.argsort(hashes[:500])[: len(kept)].tolist())
    assert kept == smallest
    assert set(first.tolist()) == set(np.argsort(hashes[:500])[:100].tolist())


def test_hashes_are_the_same_in_every_process() -> None:
    """Python's own hash is salted: two workers would draw two samples."""
    assert key_hashes(["a", "b"]).tolist() == key_hashes(["a", "b"]).tolist()
    assert key_hashes(["019cc071"]).tolist() == [HASH]


HASH = 757208156409106880
