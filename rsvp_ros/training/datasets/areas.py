"""Areas of an image as data sets store them, made into masks on request. Uses numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rsvp_ros.tabletop import rle


class Area(Protocol):
    """Some pixels of an image."""

    def mask(self, width: int, height: int) -> np.ndarray:
        """Bool H x W, for an image of this size; what lies outside is cut off.

        Raises ValueError if the area is damaged or belongs to an image of another size.
        """


@dataclass(frozen=True, eq=False)
class Polygons:
    """The inside of one or more polygons: N x 2 (x, y), pixels; (0, 0) is the top left corner of the first pixel."""

    outlines: tuple[np.ndarray, ...]

    def mask(self, width: int, height: int) -> np.ndarray:
        mask = np.zeros((height, width), bool)
        for outline in self.outlines:
            _add_polygon(mask, np.asarray(outline, np.float64))
        return mask


@dataclass(frozen=True, eq=False)
class RunLengths:
    """COCO's run lengths: see `rle.decode`."""

    size: tuple[int, int]
    """Height and width."""
    counts: str | np.ndarray
    """Compressed, or the lengths themselves, int32."""

    def mask(self, width: int, height: int) -> np.ndarray:
        if self.size != (height, width):
            raise ValueError(f"its run lengths are of {self.size[1]} x {self.size[0]} pixels, not {width} x {height}")
        counts = self.counts if isinstance(self.counts, str) else self.counts.tolist()
        return rle.decode({"size": self.size, "counts": counts})


def _add_polygon(mask: np.ndarray, points: np.ndarray) -> None:
    """Set the pixels whose middles lie in a polygon by the even-odd rule, like COCO's own reader.

    (cv2.fillPoly would add every pixel that the outline touches: half a pixel on all sides.)
    """
    height, width = mask.shape
    x0, y0 = np.clip(np.floor(points.min(0)), 0, (width, height)).astype(int)
    x1, y1 = np.clip(np.ceil(points.max(0)), 0, (width, height)).astype(int)
    # From here on, column 0 and row 0 are the bounding rectangle's, and whole numbers are the middles of pixels.
    start = points - (x0 + 0.5, y0 + 0.5)
    step = np.roll(start, -1, 0) - start
    ends = np.stack((start[:, 0], start[:, 0] + step[:, 0]))
    first, last = np.clip(np.ceil((ends.min(0), ends.max(0))), 0, x1 - x0).astype(int)
    # Each edge crosses the middles of the columns first … last - 1; below the crossing, inside and outside swap.
    count = last - first
    edge = np.repeat(np.arange(len(points)), count)
    column = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)
    crossing = start[edge, 1] + (column - start[edge, 0]) / step[edge, 0] * step[edge, 1]
    row = np.clip(np.ceil(crossing), 0, y1 - y0).astype(int)
    swaps = np.zeros((y1 - y0 + 1, x1 - x0), np.uint8)
    np.add.at(swaps, (row, column), 1)
    mask[y0:y1, x0:x1] |= (np.add.accumulate(swaps[:-1], 0, np.uint8) & 1).view(bool)
