"""How large things are and how near to the table's edge they lie, in classes that follow from the image alone.

A large thing far away and a small one near by look alike, and so do their distances to the edge. All is told in the
steps of places.py, which an image that is magnified has more of: lengths in classes of which each is a little longer
than the one before, as "clearly larger" is a factor, and the way to the edge in classes of a step. Only edges that the
image shows count; what is said to lie nearest to the edge is near to one that does.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import numpy as np

from rsvp_ros.tabletop.layout import Layout
from rsvp_ros.tabletop.view import ObjectView
from rsvp_ros.training.places import Ground

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
    """From its outline to the nearest place of the table's edge that is in the image; negative where it stands over."""


EXTENT = len(Measure) - 1 + 2 * 4
"""Numbers in what `millimetres` returns."""


def millimetres(layout: Layout, thing: ObjectView) -> tuple[int, ...]:
    """What a thing's measures follow from: its lengths, then x and y of the points of its outline that are farthest
    towards -x, -y, x and y, world."""
    hull = layout.hulls[thing.id]
    points = hull[[*hull.argmin(0), *hull.argmax(0)]]
    lengths = thing.volume ** (1 / 3), thing.length, np.ptp(layout.corners[thing.id][:, 2])
    return tuple(round(1000 * value) for value in (*lengths, *points.ravel()))


def measure_classes(values: Sequence[int], ground: Ground) -> tuple[int, ...]:
    """Of a thing in an image of that ground, in the order of Measure; values: its `millimetres`."""
    lengths, points = np.split(np.array(values) / 1000, [int(Measure.EDGE)])
    edge = ground.to_rim(points.reshape(-1, 2)).min()
    return (*(length_class(length / ground.step) for length in lengths), edge_class(edge / ground.step))


def length_class(steps: float) -> int:
    """0 to CLASSES - 1."""
    return min(CLASSES - 1, math.floor(math.log(max(steps, _SHORTEST) / _SHORTEST) / math.log(_RATIO)))


def edge_class(steps: float) -> int:
    """0 to CLASSES - 1; steps: to the edge, negative beside the table."""
    return round(min(max(steps + _OVER_THE_EDGE, 0), CLASSES - 1))
