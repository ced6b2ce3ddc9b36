"""Ctrl-C in a long measurement: it ends between two questions, so that all that was answered is written."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interrupt_checked() -> Iterator[Callable[[], None]]:
    """In the block Ctrl-C is raised, as KeyboardInterrupt, by the function that is yielded; a second one at once.

    Raised wherever the program happens to be, it can be lost: in a weak reference's callback Python prints it and goes
    on; and in `threading.Condition.__enter__` it leaves a lock taken for which another thread waits forever. For the
    main thread; where Ctrl-C is ignored or somebody else's (a shell's background job), it stays so.
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
