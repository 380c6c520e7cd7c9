"""tasks/batches/read_ahead.py: the values of a plain loop for any threads, errors in their place, and no hang."""

import itertools
import threading
import weakref

import numpy as np
import pytest
import small_caches as caches
from hypothesis import given, settings
from hypothesis import strategies as st

from castor import tasks
from castor.tasks.batches import read_ahead
from castor.tasks.batches.read_ahead import ReadAhead
from castor.tasks.errors import ConfigurationError


def alive():
    return [thread for thread in threading.enumerate() if thread.name.startswith("castor-readahead")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not alive()


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.integers(-(10**9), 10**9), max_size=30), st.integers(1, 5), st.integers(1, 5), st.data())
def test_values_come_in_order_and_are_those_of_a_plain_loop(steps, ahead, workers, data):
    cut = data.draw(st.integers(0, len(steps)))
    with ReadAhead(lambda step: (step, step**2), steps, ahead, workers) as values:
        taken = [values.take(step) for step in steps[:cut]]
        rest = list(values) if data.draw(st.booleans()) else []
    assert taken == [(step, step**2) for step in steps[:cut]]
    assert rest in ([], [(step, (step, step**2)) for step in steps[cut:]])
    assert not alive()


def test_the_order_holds_where_later_steps_are_made_first():
    gates = [threading.Event() for _ in range(8)]

    def make(step):
        gates[step].wait(30)
        if step:
            gates[step - 1].set()
        return step

    gates[3].set()
    with ReadAhead(make, range(4), ahead=4, workers=4) as values:
        assert [step for step, _ in values] == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_batches_of_a_mixture_are_the_same(tmp_path, workers):
    for name, count in (("web", 40), ("code", 15)):
        caches.make_cache(tmp_path / name, caches.make_records(count, seed=count), name=name)
    mixture = tasks.Mixture("two", {"web": 0.7, "code": 0.3}, (str(tmp_path),))

    def make():
        return tasks.Batches(mixture, batch_size={0: 4, 7: 8}, lengths={"targets": 48})

    with ReadAhead(make().batch, range(5, 40), ahead=4, workers=workers) as ahead:
        for step, batch in ahead:
            expected = make().batch(step)
            assert batch.keys() == expected.keys()
            for name, array in batch.items():
                assert array.dtype == expected[name].dtype
                np.testing.assert_array_equal(array, expected[name])
    assert step == 39


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_no_more_is_made_than_allowed(workers):
    lock, made, taken, most = threading.Lock(), 0, 0, 0

    def make(step):
        nonlocal made, most
        with lock:
            made += 1
            most = max(most, made - taken)
        return step

    with ReadAhead(make, itertools.count(), ahead=3, workers=workers) as values:
        for step in range(200):
            values.take(step)
            with lock:
                taken += 1
    # One more than `ahead`: what was taken last counts here until the line after it.
    assert 1 <= most <= 4 and made <= 203


def test_values_that_were_taken_are_let_go():
    class Value:
        pass

    seen = []
    with ReadAhead(lambda step: Value(), range(20), ahead=2) as values:
        for _, value in values:
            seen.append(weakref.ref(value))
            del value
            assert sum(reference() is not None for reference in seen) == 0
    assert len(seen) == 20


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_comes_up_at_its_step_and_again(workers):
    begun = []

    def make(step):
        begun.append(step)
        if step == 5:
            raise OSError("the disk is gone")
        return step

    with ReadAhead(make, itertools.count(), ahead=3, workers=workers) as values:
        assert [values.take(step) for step in range(5)] == [0, 1, 2, 3, 4]
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                values.take(5)
    assert max(begun) <= 7


def test_an_error_of_the_steps_themselves_comes_up_too():
    def steps():
        yield 0
        raise KeyError("no more")

    with ReadAhead(str, steps()) as values:
        assert values.take(0) == "0"
        with pytest.raises(KeyError, match="no more"):
            values.take(1)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError])
def test_errors_that_are_no_exceptions_are_not_lost(error):
    def make(step):
        raise error

    with ReadAhead(make, range(3)) as values, pytest.raises(error):
        values.take(0)


def test_steps_out_of_order_are_refused_and_nothing_is_lost():
    with ReadAhead(str, range(3, 6)) as values:
        with pytest.raises(ValueError, match="step 4 was requested, but step 3 is next"):
            values.take(4)
        assert [values.take(step) for step in (3, 4, 5)] == ["3", "4", "5"]
        with pytest.raises(ValueError, match="after the last"):
            values.take(6)


def test_values_come_only_inside_the_block():
    values = ReadAhead(str, range(3))
    with pytest.raises(RuntimeError, match="inside its with block"):
        values.take(0)
    with values:
        assert values.take(0) == "0"
    with pytest.raises(RuntimeError, match="inside its with block"):
        values.take(1)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("taken", [0, 1, 7])
def test_closing_early_ends_the_threads(taken, workers):
    with pytest.raises(ZeroDivisionError):
        with ReadAhead(str, itertools.count(), ahead=4, workers=workers) as values:
            for step in range(taken):
                values.take(step)
            raise ZeroDivisionError
    assert not alive()


def test_closing_does_not_wait_for_ever_for_a_maker_that_hangs(monkeypatch):
    monkeypatch.setattr(read_ahead, "_PATIENCE_S", 0.05)
    stuck, release = threading.Event(), threading.Event()

    def make(step):
        stuck.set()
        release.wait(30)

    with ReadAhead(make, range(3)):
        assert stuck.wait(30)
    (thread,) = alive()
    assert thread.daemon
    release.set()
    thread.join(30)


@pytest.mark.parametrize("numbers", [{"ahead": 0}, {"workers": 0}, {"ahead": 1.5}, {"workers": True}])
def test_bad_numbers(numbers):
    with pytest.raises(ConfigurationError, match=next(iter(numbers))):
        ReadAhead(str, range(3), **numbers)
