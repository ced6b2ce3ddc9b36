"""A request to the streaming system, and its outcome."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from rsvp_ros.errors import CancelledError, InvalidInstructionError, RsvpError
from rsvp_ros.geometry import Box
from rsvp_ros.types import Frame, Reasoning, ReasoningStep, TargetsInFrame

REFUSED_CHARS = 200
"""How much of a refused instruction is reported."""


class RequestState(enum.IntEnum):
    """The same numbers as the feedback's constants in action/FindTarget.action."""

    WAITING_FOR_IMAGE = 1
    REASONING = 2
    CATCHING_UP = 3


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of a request. No targets: what was asked for is not in the image."""

    result: TargetsInFrame
    """The newest frame that the result was carried to, and the new targets in it."""
    reasoning: Reasoning
    """Without steps if a box was given."""


class Request:
    """An instruction, or a box to follow, that is under way. Made by `Perception.find`."""

    def __init__(self, instruction: str, box: Box | None, keep_targets: bool, automatic: bool = False) -> None:
        self.instruction = instruction
        self.box = box
        self.keep_targets = keep_targets
        self.automatic = automatic
        """Whether it was asked again by the system itself, since all that an instruction found was lost."""
        self.state = RequestState.WAITING_FOR_IMAGE
        self.frame: Frame | None = None
        """The frame that is reasoned about, once there is one."""
        self.steps: tuple[ReasoningStep, ...] = ()
        """The steps so far, the last one possibly unfinished."""
        self.text = ""
        """All that the MLLM has written so far."""
        self.reasoning: Reasoning | None = None
        """The whole reasoning, once it is complete."""
        self.started = time.monotonic()
        self.stopping = threading.Event()
        """Set when nobody waits for the result any more, so that work on it stops."""
        self._future: Future[Outcome] = Future()
        self._lock = threading.Lock()
        self._finished = False

    @property
    def done(self) -> bool:
        return self._future.done()

    @property
    def error(self) -> RsvpError | None:
        """Why the request failed; None while it runs or if it did not fail."""
        return self._future.exception() if self._future.done() else None

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    @property
    def reasoning_so_far(self) -> Reasoning:
        """The whole reasoning, or what there is of it if it is not complete or never will be."""
        refused = isinstance(self.error, InvalidInstructionError)  # it may have a million characters
        asked = self.instruction[:REFUSED_CHARS] if refused else self.instruction
        return self.reasoning or Reasoning(asked, steps=self.steps, raw_text=self.text, duration_s=self.elapsed_s)

    def result(self, timeout_s: float | None = None) -> Outcome:
        """Wait for the outcome. Raises the RsvpError that the request ended with, or TimeoutError."""
        return self._future.result(timeout_s)

    def cancel(self, error: RsvpError | None = None) -> None:
        """End the request now, with CancelledError or the error given; no effect if it is done."""
        self.finish(error or CancelledError("the request was cancelled"))

    def add_done_callback(self, callback: Callable[[Request], None]) -> None:
        """Call `callback` when the request is done, in whichever thread ended it; at once if it is done already."""
        self._future.add_done_callback(lambda _: callback(self))

    def finish(self, outcome: Outcome | RsvpError) -> bool:
        """End the request on behalf of the streaming system. False if it had ended before."""
        with self._lock:  # if a result and a cancel race, one wins
            if self._finished:
                return False
            self._finished = True
        self.stopping.set()
        if isinstance(outcome, Outcome):
            self._future.set_result(outcome)
        else:
            self._future.set_exception(outcome)
        return True
