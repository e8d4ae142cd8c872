from guerdon.metrics.cache import ReferenceCache


def _prepare(key):
    return " ".join(key), len(key)


def test_prepares_once_and_forgets_what_was_used_longest_ago():
    asked = []

    def prepare(key):
        asked.append(key)
        return _prepare(key)

    cache = ReferenceCache(capacity=3)
    assert cache.get(["a"], prepare) == "a"
    assert cache.get(["b", "c"], prepare) == "b c"
    assert cache.get(("a",), prepare) == "a"  # a list and a tuple of the same texts are the same references
    assert asked == [("a",), ("b", "c")]
    cache.get(["d"], prepare)  # weighs 1, so that (b, c) has to go: a was used after it
    assert cache.held == 2
    cache.get(["a"], prepare)
    assert asked == [("a",), ("b", "c"), ("d",)]
    cache.get(["b", "c"], prepare)
    assert asked[-1] == ("b", "c")


def test_keeps_the_last_even_when_it_is_too_heavy():
    cache = ReferenceCache(capacity=1)
    assert cache.get(["x"] * 5, _prepare) == "x x x x x"
    assert cache.held == 5
    cache.get(["y"], _prepare)
    assert cache.held == 1
