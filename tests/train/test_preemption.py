"""train/preemption.py: signals request a stop, the second Ctrl-C interrupts, and handlers are restored."""

import os
import signal
import threading

import pytest

from castor.train.preemption import SignalRecorder, StopSignals


def test_signals_are_recorded_in_order_and_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with SignalRecorder() as signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
    assert signals.received == [signal.SIGINT, signal.SIGTERM, signal.SIGINT]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_run_stops_after_the_first_signal_and_at_once_at_the_second_interrupt():
    with StopSignals() as signals:
        assert not signals.should_stop(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.should_stop(2)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.should_stop(3)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_nothing_is_caught():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter():
        with StopSignals() as signals:
            seen.append((signal.getsignal(signal.SIGTERM), signals.should_stop(1)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
