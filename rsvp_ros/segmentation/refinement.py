"""Masks at full resolution: outlines drawn on a grid, put where the image's own are."""

from __future__ import annotations

import cv2
import numpy as np

SURE = 2.0
"""Logits beyond it count as much as it does: what is inside stays inside."""
FINER = 3
"""Of the grid's cells on each side of one of the filter's, at most: it need not be as fine as the image."""
REACH = 2.0
"""Cells of the grid that the filter's window takes up."""
NOISE = 5e-4
"""Variance of the brightness, from 0 to 1, that is taken for no outline."""
SHARE = 0.6
"""Of the result that is the filter's; where something is thinner than a few pixels it would lose that."""


def refine(logits: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Logits on a grid, float32 h x w, as such of each pixel of what they are about, uint8 H x W x 3 RGB: H x W.

    A fast guided filter (He and Sun, 2015): in each window a linear function of the brightness, so that a mask ends
    where that changes.
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
    """The odd number of pixels next to a length, at least three."""
    return max(3, 2 * round((length - 1) / 2) + 1)
