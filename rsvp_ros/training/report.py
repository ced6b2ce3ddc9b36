"""What a training reports: log.jsonl, curve.png, and its progress on stderr."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from rsvp_ros.files import disk_errors
from rsvp_ros.progress import Progress
from rsvp_ros.training.curve import TrainingLog, draw_curve

LOG_EVERY = 50
"""Steps."""
SMOOTHING = 0.05
"""Weight of the latest step's loss in the running mean that is shown."""


class Report:
    """A context manager; all of its methods raise ConfigurationError if the folder cannot be written to."""

    def __init__(self, folder: Path, step: int, steps: int) -> None:
        """`step`: where the training starts or resumes; `steps`: where it ends."""
        self.folder, self.steps = folder, steps
        with disk_errors(folder):
            self.log = TrainingLog(folder / "log.jsonl", step)
        self.progress = Progress("step")
        self.loss: float | None = None
        self.recent: dict[str, list[float]] = defaultdict(list)

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.progress.__exit__(kind, error, traceback)

    def add(self, step: int, seconds: float, losses: Mapping[str, float]) -> None:
        """Record a step: the number of steps so far, the time they took, and this step's losses, including "total"."""
        for name, value in losses.items():
            self.recent[name].append(value)
        loss = losses["total"]
        self.loss = loss if self.loss is None else self.loss + SMOOTHING * (loss - self.loss)
        self.progress.update(step, self.steps, f"loss {self.loss:.3f}")
        if step % LOG_EVERY == 0 or step == self.steps:
            means = {name: round(float(np.mean(values)), 5) for name, values in self.recent.items()}
            self.recent.clear()
            with disk_errors(self.folder):
                self.log.add({"step": step, "seconds": round(seconds, 1), **means})

    def validated(self, step: int, figures: Mapping[str, float]) -> None:
        """Record held-out figures after a step."""
        rounded = {name: round(value, 4) for name, value in figures.items()}
        with disk_errors(self.folder):
            self.log.add({"step": step, "validation": rounded})
            draw_curve(self.log.path, self.folder / "curve.png")
        self.progress.say(f"step {step}, held-out: " + ", ".join(f"{name} {value}" for name, value in rounded.items()))
