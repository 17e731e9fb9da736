"""Signals are held back until the end of a step, taken at once where nothing changes, and left as they were."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from foveal.training.signals import Interrupted, Signals


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_a_signal_waits_and_a_second_does_not() -> None:
    with Signals() as signals:
        send()
        assert signals.received == signal.SIGTERM
        with pytest.raises(Interrupted, match="stopped by SIGINT: run the same command to go on") as caught:
            send(signal.SIGINT)
        assert caught.value.signum == signal.SIGINT


@pytest.mark.parametrize("before", [True, False])
def test_where_nothing_changes_it_is_taken_at_once(before: bool) -> None:
    reached = []

    def work() -> None:
        with signals.at_once():
            reached.append("begun")
            send()
            reached.append("went on")

    with Signals() as signals:
        if before:
            send()
        with pytest.raises(Interrupted):
            work()
        assert signals.held_back
    assert reached == ([] if before else ["begun"])


def test_handlers_are_put_back() -> None:
    former = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Signals():
        assert signal.getsignal(signal.SIGTERM) != former[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == former


def test_other_threads_have_no_handlers() -> None:
    found = []

    def work() -> None:
        with Signals() as signals:
            found.append(signals.former)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [{}]
