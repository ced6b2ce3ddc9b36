"""How large things are and how near to the table's edge they lie, in classes that follow from the image alone.

A large thing far away and a small one near by look alike, and so do their distances to the edge. All is told in the
steps of places.py, which an image that is magnified has more of: lengths in classes of which each is a little longer
than the one before, as "clearly larger" is a factor, and the way to the edge in classes of a step.
"""

from __future__ import annotations

import enum
import math

import numpy as np

from rsvp_ros.tabletop.layout import Layout
from rsvp_ros.tabletop.view import ObjectView

CLASSES = 48
_SHORTEST, _RATIO = 0.7, 1.08
"""Steps; of the first class of lengths, and from one class to the next. People tell things apart from 1.14 on, which is
what `queries.LARGER` makes of a side."""
_OVER_THE_EDGE = 8
"""Steps that something may stand over the edge before it is told as the farthest over."""


class Measure(enum.IntEnum):
    """By what things are compared."""

    VOLUME = 0
    """The side of a cube as large as the box around it."""
    LENGTH = 1
    HEIGHT = 2
    EDGE = 3
    """From its outline to the table's nearest edge; negative where it stands over."""


def millimetres(layout: Layout, thing: ObjectView) -> tuple[int, ...]:
    """All measures of a thing, in the order of Measure."""
    metres = (
        thing.volume ** (1 / 3), thing.length, np.ptp(layout.corners[thing.id][:, 2]), layout.edge_distance(thing),
    )  # fmt: skip
    return tuple(round(1000 * value) for value in metres)


def measure_class(measure: Measure, value: int, step: float) -> int:
    """0 to CLASSES - 1; value: millimetres; step: of the image's places, metres."""
    steps = value / 1000 / step
    if measure == Measure.EDGE:
        found = round(steps) + _OVER_THE_EDGE
    else:
        found = math.floor(math.log(max(steps, _SHORTEST) / _SHORTEST) / math.log(_RATIO))
    return max(0, min(CLASSES - 1, found))
