"""Progress of a long command, on stderr: one line rewritten in place on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from typing import TextIO

SILENCE_S = 30.0
"""Time between two lines where stderr is not a terminal."""
REDRAW_S = 0.2


class Progress:
    """Shows the count, the rate and the time left. A context manager: at its end the line stays."""

    def __init__(self, what: str, stream: TextIO | None = None) -> None:
        """`what`: the thing that is counted, e.g. "step"."""
        self.what = what
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self._first: tuple[int, float] | None = None
        self._said = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.live and self._first is not None:
            print(file=self.stream, flush=True)

    def update(self, done: int, total: int, note: str = "") -> None:
        """Report `done` of `total`. What was done before the first call does not count towards the rate."""
        now = time.monotonic()
        if self._first is None:
            self._first = done, now
        elif now - self._said < (REDRAW_S if self.live else SILENCE_S) and done < total:
            return
        self._said = now
        line = f"{self.what} {done} of {total}"
        if note:
            line += f", {note}"
        done_first, started = self._first
        if done > done_first and now > started:
            rate = (done - done_first) / (now - started)
            line += f", {rate:.3g}/s, {duration((total - done) / rate)} left"
        print(f"\r\x1b[2K{line}" if self.live else line, end="" if self.live else "\n", file=self.stream, flush=True)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        print(f"\r\x1b[2K{text}" if self.live else text, file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """A time in words: "2 h 05 min", "12 min", "40 s"."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
