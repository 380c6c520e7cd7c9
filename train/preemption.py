"""Signals that ask a run to stop, and the step after which all of its processes stop.

Schedulers announce a preemption with SIGTERM; Ctrl-C sends SIGINT. With several processes, JAX's own preemption service
receives SIGTERM and agrees on one step.
"""

import signal
import threading


class SignalRecorder:
    """Records SIGTERM and SIGINT that arrive inside the `with` block, in order, instead of ending the process.

    Python delivers signals to the main thread only: in any other thread nothing is recorded.
    """

    def __init__(self):
        self.received: list[signal.Signals] = []
        self._previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._previous = {
                number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number, frame) -> None:
        self.received.append(signal.Signals(number))


class StopSignals(SignalRecorder):
    """Requests a stop after the current step on SIGTERM or the first SIGINT; a second SIGINT raises KeyboardInterrupt.

    With several processes no handler is installed, and `should_stop` returns the same answer in each of them.
    """

    def __enter__(self):
        import jax  # here, because the launcher of a pod records signals without JAX

        return super().__enter__() if jax.process_count() == 1 else self

    def should_stop(self, step: int) -> bool:
        """Whether the run stops after this step. Every process must call this at every step."""
        import jax

        if jax.process_count() == 1:
            return bool(self.received)
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)

    def _on_signal(self, number, frame) -> None:
        if number == signal.SIGINT and signal.SIGINT in self.received:
            raise KeyboardInterrupt
        super()._on_signal(number, frame)
