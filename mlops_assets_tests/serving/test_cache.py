"""The answer cache: bounded, ageing, and never another version's answer."""

from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.serving.cache import AnswerCache


def test_the_least_recently_used_answer_goes() -> None:
    """An unbounded cache grows until the server dies (B-65)."""
    cache: AnswerCache[int] = AnswerCache(entries=2, ttl_seconds=10.0)
    cache.put("a", 1, 0.0)
    cache.put("b", 2, 0.0)
    assert cache.get("a", 1.0) == 1
    cache.put("c", 3, 1.0)
    assert (cache.get("b", 1.0), cache.get("a", 1.0), cache.get("c", 1.0)) == (None, 1, 3)
    assert (len(cache), cache.hits, cache.misses) == (2, 3, 1)


def test_an_old_answer_is_none() -> None:
    """Answers that never age outlive the features that they were made from."""
    cache: AnswerCache[int] = AnswerCache(entries=2, ttl_seconds=10.0)
    cache.put("a", 1, 0.0)
    assert cache.get("a", 10.0) == 1
    assert cache.get("a", 10.1) is None


def test_a_cache_without_entries_holds_nothing() -> None:
    """Switched off, it still answers."""
    cache: AnswerCache[int] = AnswerCache(entries=0, ttl_seconds=10.0)
    cache.put("a", 1, 0.0)
    assert cache.get("a", 0.0) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), max_size=80), st.integers(1, 6))
def test_it_gives_what_was_put_last_and_stays_bounded(puts: list[tuple[int, int]], entries: int) -> None:
    """Some order of puts gives an older answer, or one too many."""
    cache: AnswerCache[int] = AnswerCache(entries=entries, ttl_seconds=1e9)
    last: dict[int, int] = {}
    for key, value in puts:
        cache.put(key, value, 0.0)
        last[key] = value
        assert cache.get(key, 0.0) == value
        assert len(cache) <= entries
    for key, value in last.items():
        assert cache.get(key, 0.0) in {value, None}
