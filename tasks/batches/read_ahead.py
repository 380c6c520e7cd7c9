"""Values of steps to come, made in the background and handed out in order: a slow maker is hidden, and nothing else changes.

`make(step)` must be a function of its step alone, as `Batches.batch` is; then what a step gets depends neither on the threads nor on how
far they are ahead. Nothing is known here of batches or devices.

The threads are daemons. Those of concurrent.futures are not: Python joins them when it exits, so a maker that hangs in a dead file system would
keep a run from ending.

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
"""How long closing waits for values that are being made; a maker that hangs for longer (a dead file system) is left behind, as a daemon."""


class ReadAhead(Generic[Value]):
    """make(step) for each of `steps`, in threads, from entering the `with` block until leaving it.

    make: called with each step once, from `workers` threads, so it must be safe to call from several if there are several. steps: may be
    endless, and is read only as far as values are made. ahead: values that are being made or lie ready, at most: the bound of the memory.
    Raises ConfigurationError for numbers below 1.
    """

    def __init__(self, make: Callable[[int], Value], steps: Iterable[int], ahead: int = 2, workers: int = 1):
        for name, value in (("ahead", ahead), ("workers", workers)):
            check_integer(f"ReadAhead: {name}", value, at_least=1)
        self._make, self._steps, self._ahead = make, iter(steps), ahead
        self._changed = threading.Condition()
        self._slots: deque[_Slot] = (
            deque()
        )  # of steps begun and not yet taken, in order; all below is guarded by _changed
        self._ended = False  # no step will be begun any more
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
        """Begins no further step, drops what lies ready, and waits for the threads, but not for ever."""
        with self._changed:
            self._closed = True
            self._slots.clear()
            self._changed.notify_all()
        deadline = time.monotonic() + _PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def take(self, step: int) -> Value:
        """The value of `step`, waiting for it if it is not ready; steps are taken in their order.

        Whatever `make` raised for the step is raised here, each time it is asked for; no step after it is begun then. Raises ValueError for
        a step that is not the next one, and RuntimeError outside the `with` block.
        """
        slot = self._wait()
        if slot is None:
            raise ValueError(f"step {step} is asked for after the last one")
        if slot.step not in (step, None):  # None: the steps themselves failed
            raise ValueError(f"step {step} is asked for where {slot.step} is next")
        return self._hand_out(slot)

    def __iter__(self) -> Iterator[tuple[int, Value]]:
        """(step, value) of all steps that were not taken yet."""
        while (slot := self._wait()) is not None:
            yield slot.step, self._hand_out(slot)

    def _wait(self) -> "_Slot | None":
        """The next slot, done; None after the last step."""
        with self._changed:
            while True:
                if self._closed or self._threads[0].ident is None:
                    raise RuntimeError("a ReadAhead hands out values only inside its with block")
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
            except BaseException as raised:  # handed over to whoever takes the step
                slot.error = raised
            with self._changed:
                slot.done = True
                self._ended = self._ended or slot.error is not None
                self._changed.notify_all()

    def _begin(self) -> "_Slot | None":
        """A slot for the next step once there is room for it; None when there is nothing more to do."""
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
    """A step that was begun: its value or its error once it is done."""

    def __init__(self):
        self.step: Any = None  # an int; None: the steps themselves failed
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = False
