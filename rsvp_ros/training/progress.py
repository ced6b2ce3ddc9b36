"""How far a training is, on stderr: one line that is rewritten on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from typing import TextIO

SILENCE_S = 30.0
"""Between two lines where they go to a file."""
REDRAW_S = 0.2
SMOOTHING = 0.05
"""Weight of a step's loss in the one that is shown."""


class Progress:
    """Step, steps a second, loss, time left."""

    def __init__(self, step: int, steps: int, stream: TextIO | None = None) -> None:
        """`step`: where the training starts or goes on; `steps`: where it ends."""
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.first, self.steps = step, steps
        self.started = time.monotonic()
        self.said = self.started - (SILENCE_S if self.live else 0.0)
        self.loss: float | None = None

    def update(self, step: int, loss: float) -> None:
        """After a step; `step`: how many there have been."""
        self.loss = loss if self.loss is None else self.loss + SMOOTHING * (loss - self.loss)
        now = time.monotonic()
        if now - self.said < (REDRAW_S if self.live else SILENCE_S) and step < self.steps:
            return
        self.said = now
        rate = (step - self.first) / max(now - self.started, 1e-6)
        left = duration((self.steps - step) / rate)
        line = f"step {step}/{self.steps}, {rate:.3g} steps/s, loss {self.loss:.3f}, {left} left"
        print(f"\r\x1b[2K{line}" if self.live else line, end="" if self.live else "\n", file=self.stream, flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        print(f"\r\x1b[2K{text}" if self.live else text, file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the line."""
        if self.live and self.loss is not None:
            print(file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """In words: "2 h 05 min", "12 min", "40 s"."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
