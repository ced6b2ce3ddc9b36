"""Where the VLSM draws a mask: the part of an image around a box, and its pixels on the mask decoder's grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from rsvp_ros.geometry import Box
from rsvp_ros.segmentation.refinement import refine

PADDING = 0.25
"""A mask may extend beyond its box on every side by this share of the box's size …"""
MARGIN = 4.0
"""… plus this many pixels of the network's input."""
RATIO = 4.0
"""The longer side of a region is at most this many times the shorter one, where the image allows."""

CROP_SIDE = 160
"""Side of a crop around a small target as the network sees it, pixels."""
CROP_REACH = 2.2
"""A crop's side as a multiple of the target's longer side."""


@dataclass(frozen=True)
class Region:
    """Whole pixels of an image: columns x0 to x1, rows y0 to y1, half-open."""

    x0: int
    y0: int
    x1: int
    y1: int

    def around(self, box: Box, scale: float) -> Region:
        """The region in which the mask of a box is drawn: inside this part of an image, and at least one pixel large.

        `scale`: pixels of the network's input per pixel of the image.
        """
        across, down = (side * (1 + 2 * PADDING) + 2 * MARGIN / scale for side in (box.width, box.height))
        across, down = max(across, down / RATIO), max(down, across / RATIO)
        (x0, x1), (y0, y1) = (
            _span(box.center[0], across, self.x0, self.x1),
            _span(box.center[1], down, self.y0, self.y1),
        )
        return Region(x0, y0, x1, y1)

    def pixels(self, image: np.ndarray, grid: int) -> np.ndarray:
        """What an image, H x W or H x W x C, shows in this region, resized to `grid` x `grid` cells."""
        part = image[self.y0 : self.y1, self.x0 : self.x1]
        height, width = part.shape[:2]
        if height > grid or width > grid:  # first: what INTER_AREA shrinks one way and enlarges the other, it shifts
            part = cv2.resize(part, (min(width, grid), min(height, grid)), interpolation=cv2.INTER_AREA)
        if height < grid or width < grid:
            part = cv2.resize(part, (grid, grid), interpolation=cv2.INTER_LINEAR)
        return part

    def draw(self, logits: np.ndarray, image: np.ndarray, mask: np.ndarray) -> None:
        """Draw into a bool mask of the image's size where the region's logits (grid x grid) are above 0."""
        part = slice(self.y0, self.y1), slice(self.x0, self.x1)
        np.greater(refine(logits, image[part]), 0, out=mask[part])

    def from_grid(self, box: Box | None, grid: int) -> Box | None:
        """Convert a box on the region's grid to one in the image."""
        if box is None:
            return None
        return box.scale((self.x1 - self.x0) / grid, (self.y1 - self.y0) / grid).translate(self.x0, self.y0)

    @classmethod
    def crop(cls, box: Box, width: int, height: int) -> Region:
        """The square crop in which a small target is looked at, moved and cut to lie inside the image."""
        side = max(CROP_REACH * max(box.width, box.height), 16.0)
        (x0, x1), (y0, y1) = (
            _span(min(max(middle, side / 2), max(size - side / 2, size / 2)), side, 0, size)
            for middle, size in zip(box.center, (width, height), strict=True)
        )
        return cls(x0, y0, x1, y1)

    def box(self) -> Box:
        return Box(self.x0, self.y0, self.x1, self.y1)


def _span(middle: float, length: float, first: int, last: int) -> tuple[int, int]:
    """Whole pixels that cover `length` around `middle`, from `first` to before `last`, and at least one."""
    tiny = 1e-6  # allows for rounding errors
    low = min(max(math.floor(middle - length / 2 + tiny), first), last - 1)
    return low, max(min(math.ceil(middle + length / 2 - tiny), last), low + 1)
