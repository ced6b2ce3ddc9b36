"""Masks at full resolution: outlines drawn on a grid, moved to where the image's own are."""

from __future__ import annotations

import cv2
import numpy as np

SURE = 2.0
"""Larger logits, of either sign, are clipped to this: what is inside stays inside."""
FINER = 3
"""Most cells of the filter along each side of one of the grid's: it need not be as fine as the image."""
REACH = 2.0
"""Side of the filter's window, in cells of the grid."""
NOISE = 5e-4
"""Variance of the brightness (0 to 1) that does not yet count as an outline."""
SHARE = 0.6
"""The filter's share of the result: alone it would lose what is thinner than a few pixels."""


def refine(logits: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Turn logits on a grid, float32 h x w, into logits H x W, one for each pixel under it (uint8 H x W x 3 RGB).

    A fast guided filter (He and Sun, 2015): in each window, the result is a linear function of the brightness, so that
    a mask ends where the brightness changes.
    """
    (height, width), (rows, columns) = pixels.shape[:2], logits.shape
    size = w, h = min(width, FINER * columns), min(height, FINER * rows)
    rough = np.clip(cv2.resize(logits, size, interpolation=cv2.INTER_LINEAR), -SURE, SURE)
    bright = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    guide = cv2.resize(bright, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    window = _odd(REACH * w / columns), _odd(REACH * h / rows)

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, window)

    middle, level = mean(guide), mean(rough)
    slope = (mean(guide * rough) - middle * level) / (mean(guide * guide) - middle * middle + NOISE)
    slope, level = SHARE * mean(slope), SHARE * mean(level - slope * middle) + (1 - SHARE) * rough
    if size != (width, height):
        slope, level = (cv2.resize(x, (width, height), interpolation=cv2.INTER_LINEAR) for x in (slope, level))
    slope *= bright
    slope /= 255
    slope += level
    return slope


def _odd(length: float) -> int:
    """The odd number of pixels nearest to a length, at least three."""
    return max(3, 2 * round((length - 1) / 2) + 1)
