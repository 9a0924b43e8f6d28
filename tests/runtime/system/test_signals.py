"""Ending on a signal: also when it comes while the main thread holds the lock that ending needs."""

from __future__ import annotations

import os
import signal
import threading

from lineside_runtime.system.signals import stop_on_signals
from tests.peers.waiting import wait_for


def test_a_signal_inside_a_wait_that_holds_the_lock_ends_it() -> None:
    """What a handler that set the event itself never came back from."""
    stop = threading.Event()
    with stop_on_signals(stop.set):
        with stop._cond:  # type: ignore[attr-defined]  # where Event.wait is at that moment
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):  # steps between which the handler runs
                pass
        assert stop.wait(60.0)


def test_both_signals_count_and_others_do_not() -> None:
    stops: list[str] = []
    before = signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, lambda *_: stops.append("usr1"))
    try:
        with stop_on_signals(lambda: stops.append("stop")):
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for(lambda: stops.count("stop") == 2)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert stops.count("usr1") == 1


def test_everything_is_as_it_was_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    threads = set(threading.enumerate())
    with stop_on_signals(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert set(threading.enumerate()) <= threads
    wakeup = signal.set_wakeup_fd(-1)
    assert wakeup == -1
