"""Reads ahead: computes the values of future steps in background threads and returns them in order.

`make(step)` must depend only on its step, as `Batches.batch` does. Then the value of a step depends neither on the
threads nor on how far they are ahead. This file knows nothing of batches or devices.

The threads are daemons. Python joins the threads of concurrent.futures at exit, so a maker that hangs in an unreachable
file system would keep the process from ending.

    batches = tasks.Batches(mixture, batch_size=8, lengths={"targets": 512})
    with ReadAhead(batches.batch, range(start, stop)) as ahead:
        for step, batch in ahead:
            ...
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from castor.tasks.checks import check_integer

Value = TypeVar("Value")

_PATIENCE_S = 10.0
"""Seconds that closing waits for values in progress. A maker that hangs longer is abandoned as a daemon thread."""


class ReadAhead(Generic[Value]):
    """make(step) for each of `steps`, in threads, from entering the `with` block until leaving it.

    make: called once per step, from `workers` threads at the same time.

    steps: steps in order; may be endless, and is consumed only as values are made.

    ahead: largest number of values in progress or ready; bounds the memory.

    workers: number of threads; at most `ahead` are started.

    Raises ConfigurationError for numbers below 1.
    """

    def __init__(self, make: Callable[[int], Value], steps: Iterable[int], ahead: int = 2, workers: int = 1):
        for name, value in (("ahead", ahead), ("workers", workers)):
            check_integer(f"ReadAhead: {name}", value, at_least=1)
        self._make, self._steps, self._ahead = make, iter(steps), ahead
        self._changed = threading.Condition()
        # Steps begun and not yet taken, in order. `_changed` guards this field and the two below.
        self._slots: deque[_Slot] = deque()
        self._ended = False  # no further step will begin
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"castor-readahead-{i}", daemon=True)
            for i in range(min(workers, ahead))
        ]

    def __enter__(self) -> "ReadAhead[Value]":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        """Begins no further step, drops ready values, and waits up to _PATIENCE_S for the threads."""
        with self._changed:
            self._closed = True
            self._slots.clear()
            self._changed.notify_all()
        deadline = time.monotonic() + _PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def take(self, step: int) -> Value:
        """The value of `step`, once it is ready. Steps must be taken in order.

        An error that `make` raised for the step is raised here, on every call for the step; no later step is then
        begun. Raises ValueError if `step` is not the next step, and RuntimeError outside the `with` block.
        """
        slot = self._wait()
        if slot is None:
            raise ValueError(f"step {step} was requested after the last step")
        if slot.step not in (step, None):  # None: the iterator of steps failed
            raise ValueError(f"step {step} was requested, but step {slot.step} is next")
        return self._hand_out(slot)

    def __iter__(self) -> Iterator[tuple[int, Value]]:
        """Yields (step, value) for all steps that were not taken yet."""
        while (slot := self._wait()) is not None:
            yield slot.step, self._hand_out(slot)

    def _wait(self) -> "_Slot | None":
        """The next slot once it is done; None after the last step."""
        with self._changed:
            while True:
                if self._closed or self._threads[0].ident is None:
                    raise RuntimeError("ReadAhead returns values only inside its with block")
                if self._slots and self._slots[0].done:
                    return self._slots[0]
                if self._ended and not self._slots:
                    return None
                self._changed.wait()

    def _hand_out(self, slot: "_Slot") -> Value:
        if slot.error is not None:
            raise slot.error
        with self._changed:
            self._slots.popleft()
            self._changed.notify_all()
        value, slot.value = slot.value, None
        return value

    def _work(self) -> None:
        while (slot := self._begin()) is not None:
            try:
                slot.value = self._make(slot.step)
            except BaseException as raised:  # raised again where the step is taken
                slot.error = raised
            with self._changed:
                slot.done = True
                self._ended = self._ended or slot.error is not None
                self._changed.notify_all()

    def _begin(self) -> "_Slot | None":
        """A slot for the next step once there is room; None if no step is left."""
        with self._changed:
            while not (self._closed or self._ended) and len(self._slots) >= self._ahead:
                self._changed.wait()
            if self._closed or self._ended:
                return None
            slot = _Slot()
            try:
                slot.step = next(self._steps)
            except StopIteration:
                self._ended = True
                self._changed.notify_all()
                return None
            except BaseException as raised:
                slot.error, slot.done, self._ended = raised, True, True
            self._slots.append(slot)
            self._changed.notify_all()
            return None if slot.done else slot


class _Slot:
    """A step that was begun, with its value or its error once done."""

    def __init__(self):
        self.step: Any = None  # an int; None if the iterator of steps failed
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = False
