"""Looking for a target that does not show, all over the image."""

from __future__ import annotations

from collections import deque

import numpy as np

from rsvp_ros.geometry import Box
from rsvp_ros.tracking.appearance import ColorMap

SPEED = 4.0  # sizes a second: how fast a target may move unseen
SAME_IOU = 0.3  # of the boxes of one thing, from one look to the next
LEAST_COLOR = 0.2  # of a place that is worth a look
REFUSED = 4  # places where the target was not, that are not looked at again soon


class Search:
    """Where a hidden target may be, and where it is not, as it shows in one look after the other.

    What answers to the target where that cannot have got to since it was last seen, is something that looks like it.
    Such things are remembered, and where they are is kept up to date whenever one is met again: they are not the
    target later on, either.
    """

    def __init__(self, box: Box, seen_ns: int) -> None:
        """box: where the target was last, in its full size; seen_ns: when."""
        self.candidate: Box | None = None
        """A box that may show it: to be looked at."""
        self.looked_ns = seen_ns
        """When it was last looked for."""
        self._box = box
        self._seen_ns = seen_ns
        self._lookalikes: list[Box] = []
        self._refused: deque[Box] = deque(maxlen=REFUSED)

    def may_be(self, box: Box, stamp_ns: int) -> bool:
        """Whether what was found in this box can be the target; else it is remembered as something else."""
        for i, other in enumerate(self._lookalikes):
            if other.iou(box) >= SAME_IOU:
                self._lookalikes[i] = box
                return False
        (x, y), (x0, y0) = box.center, self._box.center
        size = (self._box.width + self._box.height) / 2
        if np.hypot(x - x0, y - y0) <= size * (1 + SPEED * (stamp_ns - self._seen_ns) * 1e-9):
            return True
        self._lookalikes.append(box)
        return False

    def refuse(self) -> None:
        """The candidate is not the target."""
        if self.candidate is not None:
            self._refused.append(self.candidate)
        self.candidate = None

    def by_color(self, image: np.ndarray, colors: np.ndarray, taken: np.ndarray) -> None:
        """Choose the next candidate by the target's colours. See `ColorMap` for the arguments."""
        places = ColorMap(image, colors, (self._box.width, self._box.height), taken)
        for box in (*self._lookalikes, *self._refused):
            places.leave_out(box)
        self.candidate = places.best(LEAST_COLOR)
        if self.candidate is None:
            self._refused.clear()
