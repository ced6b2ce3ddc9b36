"""Boxes, the region grid and masks. numpy only.

Coordinates are pixels of the image that a box belongs to; x runs right, y down; boxes are half-open
(`x0 <= x < x1`), so a box's width is `x1 - x0` and the whole image is `Box(0, 0, width, height)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned, half-open box, float pixels. Raises ValueError unless finite with `x0 <= x1` and `y0 <= y1`."""

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        corners = (self.x0, self.y0, self.x1, self.y1)
        if not all(math.isfinite(c) for c in corners):
            raise ValueError(f"a box needs four finite numbers, got {corners}")
        if self.x0 > self.x1 or self.y0 > self.y1:
            raise ValueError(f"a box needs x0 <= x1 and y0 <= y1, got {corners}")

    @classmethod
    def ordered(cls, xa: float, ya: float, xb: float, yb: float) -> Box:
        """The box between two opposite corners, given in any order."""
        (x0, x1), (y0, y1) = sorted((xa, xb)), sorted((ya, yb))  # unlike min and max, keeps a NaN
        return cls(x0, y0, x1, y1)

    @classmethod
    def from_xywh(cls, x: float, y: float, width: float, height: float) -> Box:
        """The box with its top left corner at (x, y): COCO's `bbox`."""
        return cls(x, y, x + width, y + height)

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def area(self) -> float:
        return self.width * self.height

    @property
    def center(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def as_tuple(self) -> tuple[float, float, float, float]:
        return self.x0, self.y0, self.x1, self.y1

    def clip(self, width: float, height: float) -> Box:
        """The part inside an image of `width` x `height` pixels; a box of area 0 on its border if wholly outside."""
        return Box(
            min(max(self.x0, 0.0), width),
            min(max(self.y0, 0.0), height),
            min(max(self.x1, 0.0), width),
            min(max(self.y1, 0.0), height),
        )

    def pad(self, fraction: float) -> Box:
        """The box grown on every side by `fraction` of its width and height (RSVP, sec. 3.2: proposal padding)."""
        dx, dy = self.width * fraction, self.height * fraction
        return Box(self.x0 - dx, self.y0 - dy, self.x1 + dx, self.y1 + dy)

    def scale(self, sx: float, sy: float) -> Box:
        """The same box in an image whose sides are `sx` and `sy` times as long."""
        return Box(self.x0 * sx, self.y0 * sy, self.x1 * sx, self.y1 * sy)

    def translate(self, dx: float, dy: float) -> Box:
        return Box(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)

    def intersection(self, other: Box) -> float:
        """Area that both boxes cover, square pixels."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return max(width, 0.0) * max(height, 0.0)

    def iou(self, other: Box) -> float:
        """Intersection over union; 0 where both boxes are empty."""
        intersection = self.intersection(other)
        union = self.area + other.area - intersection
        return intersection / union if union > 0 else 0.0

    def union(self, other: Box) -> Box:
        """The smallest box that holds both."""
        return Box(min(self.x0, other.x0), min(self.y0, other.y0), max(self.x1, other.x1), max(self.y1, other.y1))

    def to_slices(self, width: int, height: int) -> tuple[slice, slice]:
        """Rows and columns of all pixels that the box touches, clipped to the image: `image[box.to_slices(w, h)]`."""
        box = self.clip(width, height)
        return (
            slice(math.floor(box.y0), math.ceil(box.y1)),
            slice(math.floor(box.x0), math.ceil(box.x1)),
        )


@dataclass(frozen=True, slots=True)
class RegionGrid:
    """RSVP's visual prompt: an image cut into `rows` horizontal and `columns` vertical bands, IDs from 1 (sec. 3.1)."""

    rows: int
    columns: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1 or self.width < 1 or self.height < 1:
            raise ValueError(f"a region grid needs at least one band and one pixel, got {self}")

    @property
    def row_edges(self) -> np.ndarray:
        """`rows + 1` y coordinates, from 0 to the image's height, float64."""
        return np.linspace(0.0, self.height, self.rows + 1)

    @property
    def column_edges(self) -> np.ndarray:
        """`columns + 1` x coordinates, from 0 to the image's width, float64."""
        return np.linspace(0.0, self.width, self.columns + 1)

    def box(self, rows: Iterable[int], columns: Iterable[int]) -> Box:
        """Bounding region of the bands with these IDs (1-based).

        Raises ValueError if a list is empty or an ID is not on the grid.
        """
        rows, columns = list(rows), list(columns)
        if not rows or not columns:
            raise ValueError("a region needs at least one row and one column")
        for name, ids, count in (("row", rows, self.rows), ("column", columns, self.columns)):
            outside = [i for i in ids if not 1 <= i <= count]
            if outside:
                raise ValueError(f"{name} {outside[0]} is not on the grid, which has {name}s 1 to {count}")
        x, y = self.column_edges, self.row_edges
        return Box(float(x[min(columns) - 1]), float(y[min(rows) - 1]), float(x[max(columns)]), float(y[max(rows)]))

    def bands(self, box: Box) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """IDs of the rows and of the columns that a box overlaps; empty where it lies outside the image."""
        clipped = box.clip(self.width, self.height)

        def ids(low: float, high: float, size: int, count: int) -> tuple[int, ...]:
            if high <= low:
                return ()
            first = min(int(low * count / size), count - 1)
            last = max(math.ceil(high * count / size) - 1, first)
            return tuple(range(first + 1, last + 2))

        rows = ids(clipped.y0, clipped.y1, self.height, self.rows)
        columns = ids(clipped.x0, clipped.x1, self.width, self.columns)
        return (rows, columns) if rows and columns else ((), ())


def mask_to_box(mask: np.ndarray) -> Box | None:
    """Tightest box around a bool mask H x W; None for an empty one."""
    ys = np.flatnonzero(mask.any(axis=1))
    if ys.size == 0:
        return None
    y0, y1 = int(ys[0]), int(ys[-1]) + 1
    xs = np.flatnonzero(mask[y0:y1].any(axis=0))
    return Box(float(xs[0]), float(y0), float(xs[-1]) + 1.0, float(y1))


def box_to_mask(box: Box, width: int, height: int) -> np.ndarray:
    """Bool mask H x W of all the pixels that a box touches."""
    mask = np.zeros((height, width), bool)
    mask[box.to_slices(width, height)] = True
    return mask


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool masks of the same shape; 1 if both are empty, as ReasonSeg counts it."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0
