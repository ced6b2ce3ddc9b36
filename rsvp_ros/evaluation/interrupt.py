"""Ctrl-C in a long measurement: the run ends between two questions, so that all answers so far are written."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupt_checked() -> Iterator[Callable[[], None]]:
    """Within the block, Ctrl-C is raised as KeyboardInterrupt only by the yielded function; a second Ctrl-C at once.

    If it were raised wherever the program happens to be, it could be lost: in a weak reference's callback, Python only
    prints it; and in `threading.Condition.__enter__`, it leaves a lock locked, so that another thread waits forever.
    For the main thread. If Ctrl-C is ignored (as in a shell's background job) or has another handler, that is kept.
    """
    pressed = False

    def note(number: int, frame: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
