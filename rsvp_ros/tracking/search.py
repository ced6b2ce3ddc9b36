"""Looking for an unseen target all over the image."""

from __future__ import annotations

from collections import deque

import numpy as np

from rsvp_ros.geometry import Box
from rsvp_ros.tracking.appearance import ColorMap

SPEED = 4.0  # sizes per second: how fast a target may move unseen
SAME_IOU = 0.3  # of one thing's boxes in two successive looks
LEAST_COLOR = 0.2  # `ColorMap` value of a place that is worth a look
REFUSED = 4  # how many places without the target are remembered, not to be looked at again soon


class Search:
    """Where a hidden target may be, and where it is not, learnt from one look after another.

    What matches the target in a place that the target cannot have reached since it was last seen is a lookalike.
    Lookalikes are remembered, and their places updated whenever one is met again: they are not the target later on,
    either.
    """

    def __init__(self, box: Box, seen_ns: int) -> None:
        """box: the target's last place, in its full size; seen_ns: when it was last seen."""
        self.candidate: Box | None = None
        """A box that may show the target, to be looked at."""
        self.looked_ns = seen_ns
        """When the target was last looked for."""
        self._box = box
        self._seen_ns = seen_ns
        self._lookalikes: list[Box] = []
        self._refused: deque[Box] = deque(maxlen=REFUSED)

    def may_be(self, box: Box, stamp_ns: int) -> bool:
        """Whether what was found in this box can be the target; if not, it is remembered as a lookalike."""
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
