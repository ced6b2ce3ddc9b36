"""Looking for an unseen target, in its place and all over the image."""

from __future__ import annotations

from collections import deque

import numpy as np

from rsvp_ros.geometry import Box
from rsvp_ros.tracking.appearance import (
    SURE_MARGIN,
    SURE_SIMILARITY,
    ColorMap,
    color_distribution,
    similarity,
    surrounding_colors,
)

SPEED = 4.0  # sizes per second: how fast a target may move unseen
SAME_IOU = 0.3  # of one thing's boxes in two successive looks
LEAST_COLOR = 0.2  # `ColorMap` value of a place that is worth a look
REFUSED = 4  # how many places without the target are remembered, not to be looked at again soon
# For so long and so many looks a lookalike that is not met again is remembered: it may be gone, or elsewhere
REMEMBERED_S = 2.0
REMEMBERED_LOOKS = 8
BESIDE = 0.5  # share of a mask outside the target's last place, and of that place outside the mask's box


class LastLook:
    """The last image in which a target was seen: what stood beside the target then, and still does, is another thing.

    The image is as old as the target is unseen, and the camera may have moved since. No limit is set to that: once it
    has moved by about a third of a thing's size in the image, that thing no longer stands where it stood, and this
    image tells nothing about it.
    """

    def __init__(self, image: np.ndarray, place: Box) -> None:
        """image: uint8 H x W x 3 RGB, kept, not copied; place: where the target is in it, in its full size."""
        self._image = image
        self._place = place

    def shows(self, image: np.ndarray, mask: np.ndarray, box: Box) -> bool:
        """Whether what the mask shows in a later image of the same size (RGB) stood there already, beside the target.

        mask: bool H x W, not empty; box: around the mask. If the mask reaches over the target's place, it shows more of
        the target than the last one did. What does not stand out from its surroundings is no thing that stands there,
        but a background of the target's own colours, in front of which the target may come to lie.
        """
        place = self._place
        if box.intersection(place) >= BESIDE * place.area:
            return False
        beside = mask.copy()
        beside[place.to_slices(mask.shape[1], mask.shape[0])] = False
        if np.count_nonzero(beside) < BESIDE * np.count_nonzero(mask):
            return False
        colors = color_distribution(image, beside, box)
        alike = similarity(colors, color_distribution(self._image, beside, box))
        if alike < SURE_SIMILARITY:
            return False
        return alike >= similarity(colors, surrounding_colors(self._image, beside, box)) + SURE_MARGIN


class Search:
    """Where a hidden target may be, and where it is not, learnt from one look after another.

    What matches the target but stood beside it when it was last seen is a lookalike. Lookalikes are remembered for a
    while, and their places updated whenever one is met again: they are not the target later on, either. What is merely
    farther away than the target can have got by itself is not the target now, but may be the target later on: the
    camera may have turned.
    """

    def __init__(self, box: Box, seen_ns: int) -> None:
        """box: the target's last place, in its full size; seen_ns: when it was last seen."""
        self.candidate: Box | None = None
        """A box that may show the target, to be looked at."""
        self.looked_ns = seen_ns
        """When the target was last looked for."""
        self._box = box
        self._seen_ns = seen_ns
        self._lookalikes: list[tuple[Box, int, int]] = []  # where, when and in which look they were last met
        self._looks = 0
        self._refused: deque[Box] = deque(maxlen=REFUSED)

    def look(self, stamp_ns: int) -> None:
        """Note that it is looked for now."""
        self.looked_ns = stamp_ns
        self._looks += 1

    def may_be(self, box: Box, stamp_ns: int, stood_there: bool) -> bool:
        """Whether what was found in this box can be the target.

        stood_there: whether it stood there when the target was last seen; then it is remembered as a lookalike.
        """
        self._forget(stamp_ns)
        for i, (other, *_) in enumerate(self._lookalikes):
            if other.iou(box) >= SAME_IOU:
                self._lookalikes[i] = box, stamp_ns, self._looks
                return False
        if stood_there:
            self._lookalikes.append((box, stamp_ns, self._looks))
            return False
        (x, y), (x0, y0) = box.center, self._box.center
        size = (self._box.width + self._box.height) / 2
        if np.hypot(x - x0, y - y0) <= size * (1 + SPEED * (stamp_ns - self._seen_ns) * 1e-9):
            return True
        self._refused.append(box)
        return False

    def refuse(self) -> None:
        """The candidate is not the target."""
        if self.candidate is not None:
            self._refused.append(self.candidate)
        self.candidate = None

    def by_color(self, image: np.ndarray, colors: np.ndarray, taken: np.ndarray) -> None:
        """Choose the next candidate by the target's colours. See `ColorMap` for the arguments."""
        places = ColorMap(image, colors, (self._box.width, self._box.height), taken)
        self._forget(self.looked_ns)
        for box in (*(box for box, *_ in self._lookalikes), *self._refused):
            places.leave_out(box)
        self.candidate = places.best(LEAST_COLOR)
        if self.candidate is None:
            self._refused.clear()

    def _forget(self, stamp_ns: int) -> None:
        """Forget the lookalikes that were not met for a while."""
        self._lookalikes = [
            (box, met_ns, look)
            for box, met_ns, look in self._lookalikes
            if (stamp_ns - met_ns) * 1e-9 <= REMEMBERED_S or self._looks - look < REMEMBERED_LOOKS
        ]
