"""What both backends do to images before they hand them over."""

from __future__ import annotations

import math

import cv2
import numpy as np


def shrink(image: np.ndarray, max_pixels: int) -> np.ndarray:
    """Scale an H x W x 3 image that has more than `max_pixels` pixels down to at most that many; 0: never."""
    height, width = image.shape[:2]
    if not max_pixels or height * width <= max_pixels:
        return image
    scale = math.sqrt(max_pixels / (height * width))
    size = (max(1, math.floor(width * scale)), max(1, math.floor(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
