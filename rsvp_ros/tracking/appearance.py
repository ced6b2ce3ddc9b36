"""What a target looks like: the distribution of its colours, cheap enough for every frame."""

from __future__ import annotations

import numpy as np

from rsvp_ros.geometry import Box

BINS = 16
MOST_PIXELS = 4096  # more tell no more
# Neighbouring bins share their pixels, so that a little more light is a little change and no other colour.
SMOOTHING = np.array((1, 4, 6, 4, 1)) / 16
ADAPTATION = 0.1  # share of a new look that is learnt a frame: light changes slowly


def color_distribution(image: np.ndarray, mask: np.ndarray, box: Box) -> np.ndarray:
    """Shares of the mask's pixels in bins of red, green and blue: float 3 x 16, each row adds up to nearly 1.

    image: uint8 H x W x 3 RGB; mask: bool H x W, not empty; box: around the mask.
    """
    rows, columns = box.to_slices(mask.shape[1], mask.shape[0])
    step = max(int((box.area / MOST_PIXELS) ** 0.5), 1)
    inside = mask[rows, columns][::step, ::step]
    pixels = image[rows, columns][::step, ::step][inside]
    if not len(pixels):  # a mask that is thinner than the step
        pixels = image[rows, columns][mask[rows, columns]]
    counts = [np.bincount(channel, minlength=BINS) for channel in (pixels >> 4).T]
    return np.stack([np.convolve(count / len(pixels), SMOOTHING, mode="same") for count in counts])


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """0 to 1: what two distributions have in common, in the colour in which they differ most."""
    return float(np.minimum(a, b).sum(axis=1).min())


def adapted(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The old look with a little of the new one."""
    return old + ADAPTATION * (new - old)
