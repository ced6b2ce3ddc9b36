"""How large things are and how near to the table's edge they lie, in classes that depend on the image alone.

A large thing far away and a small one nearby look alike, and so do their distances to the edge. Everything is therefore
measured in the steps of places.py (a magnified thing spans more of them): lengths in classes that grow by a constant
factor, as "clearly larger" means a factor, and the distance to the edge in classes of one step. Only edges that the
image shows count; a thing called nearest to the edge is near one of these.
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
"""Length of the first class, in steps, and the factor from one class to the next. People tell lengths apart from a
factor of 1.14 on: the factor on a side to which `queries.LARGER` corresponds."""
_OVER_THE_EDGE = 8
"""Most steps by which something may extend over the edge; beyond that, the class stays the same."""


class Measure(enum.IntEnum):
    """What things are compared by."""

    VOLUME = 0
    """Side of the cube with the same volume as the box around the thing."""
    LENGTH = 1
    HEIGHT = 2
    EDGE = 3
    """Distance from its outline to the nearest point of the table's edge in the image; negative beyond the edge."""


EXTENT = len(Measure) - 1 + 2 * 4
"""Number of values that `millimetres` returns."""


def millimetres(layout: Layout, thing: ObjectView) -> tuple[int, ...]:
    """What a thing's measures are computed from: its lengths, then x and y of the points of its outline that are
    farthest towards -x, -y, x and y, world."""
    hull = layout.hulls[thing.id]
    points = hull[[*hull.argmin(0), *hull.argmax(0)]]
    lengths = thing.volume ** (1 / 3), thing.length, np.ptp(layout.corners[thing.id][:, 2])
    return tuple(round(1000 * value) for value in (*lengths, *points.ravel()))


def measure_classes(values: Sequence[int], ground: Ground) -> tuple[int, ...]:
    """A thing's classes in an image of that ground, in the order of Measure; values: its `millimetres`."""
    lengths, points = np.split(np.array(values) / 1000, [int(Measure.EDGE)])
    edge = ground.to_rim(points.reshape(-1, 2)).min()
    return (*(length_class(length / ground.step) for length in lengths), edge_class(edge / ground.step))


def length_class(steps: float) -> int:
    """0 to CLASSES - 1."""
    return min(CLASSES - 1, math.floor(math.log(max(steps, _SHORTEST) / _SHORTEST) / math.log(_RATIO)))


def edge_class(steps: float) -> int:
    """0 to CLASSES - 1; steps: distance to the edge, negative beside the table."""
    return round(min(max(steps + _OVER_THE_EDGE, 0), CLASSES - 1))
