"""Ctrl-C and SIGTERM, held back until training has come to a place where it can go on later."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn, Self


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM came, and what was trained so far is saved.

    Attributes:
        signum: the signal; a program that ends by it exits with 128 + signum.
        speaks: whether this process is the one to tell of it.
    """

    def __init__(self, signum: int, message: str, speaks: bool = True) -> None:
        super().__init__(message)
        self.signum, self.speaks = signum, speaks


class Signals:
    """Ctrl-C and SIGTERM, held back until training has come to the end of a step; a second one is not.

    Args:
        alone: whether no other process waits for this one; else all signals are held back, for all processes stop together.
    """

    def __init__(self, alone: bool = True) -> None:
        self.alone = alone
        self.received: int | None = None
        self.held_back = True
        self.former: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self.former = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Where nothing changes that is saved: a signal need not wait."""
        self.held_back = not self.alone
        try:
            if self.received and self.alone:
                self._raise(self.received)
            yield
        finally:
            self.held_back = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        second, self.received = self.alone and self.received is not None, number
        if second or not self.held_back:
            self._raise(number)

    def _raise(self, number: int) -> NoReturn:
        raise Interrupted(number, f"stopped by {signal.Signals(number).name}: run the same command to go on")
