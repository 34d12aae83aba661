"""Prefetch: what comes is in order and not too far ahead, errors arrive, and no thread stays."""

import threading
import time

import pytest

from raserec_jax.batching.prefetch import Prefetch


def feed_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


@pytest.mark.parametrize("ahead", [1, 3])
def test_results_come_in_order_and_not_too_early(ahead):
    made = []

    def make(call):
        made.append(call)
        return call * call

    with Prefetch(make, range(9), ahead) as results:
        for i, found in enumerate(results):
            assert found == i * i
            time.sleep(0.002)
            assert len(made) <= i + 1 + ahead
    assert made == list(range(9))
    assert not feed_threads()


def test_the_next_is_made_while_the_present_is_used():
    begun = threading.Event()

    def make(call):
        if call == 1:
            begun.set()
        return call

    with Prefetch(make, range(3)) as results:
        assert next(iter(results)) == 0
        assert begun.wait(30)


def test_nothing_to_make():
    with Prefetch(str, []) as results:
        assert list(results) == []


def test_an_error_comes_in_its_place():
    def make(call):
        if call == 2:
            raise OSError("the file is gone")
        return call

    found = []
    with pytest.raises(OSError, match="the file is gone"), Prefetch(make, range(5)) as results:
        found.extend(results)
    assert found == [0, 1]
    assert not feed_threads()


def test_the_thread_ends_with_whoever_uses_it():
    with pytest.raises(KeyboardInterrupt), Prefetch(lambda call: call, range(50)) as results:
        for found in results:
            assert feed_threads()
            if found == 3:
                raise KeyboardInterrupt
    assert not feed_threads()
