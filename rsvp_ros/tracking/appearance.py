"""What a target looks like: the distribution of its colours, cheap enough for every frame."""

from __future__ import annotations

import math

import cv2
import numpy as np

from rsvp_ros.geometry import Box

BINS = 16
MOST_PIXELS = 4096  # of a mask are counted: more would tell no more
# Neighbouring bins share their pixels, so that slightly more light is a slight change and not another colour.
SMOOTHING = np.array((1, 4, 6, 4, 1)) / 16
SURE_SIMILARITY = 0.7  # what is found after a long time, or somewhere else, must surely be what is looked for
SURE_MARGIN = 0.15  # and so much more similar to its colours than the surroundings are
ADAPTATION = 0.1  # weight of each frame's look in what is learnt: light changes slowly
SLOW_ADAPTATION = 0.01
FINE = 8  # cells along a target's shorter side when its colours are looked for all over an image
MOST_CELLS = 640 * 480  # of an image: in a larger image, a small target has fewer than FINE
SURROUNDINGS = 0.3  # how far a target's surroundings reach, in sizes of its box
RARE = 0.02  # added to a colour's share: smaller shares tell nothing


def color_distribution(image: np.ndarray, mask: np.ndarray, box: Box) -> np.ndarray:
    """Shares of the mask's pixels in bins of red, green and blue: float 3 x 16, each row adds up to 1.

    image: uint8 H x W x 3 RGB; mask: bool H x W, not empty; box: around the mask.
    """
    rows, columns = box.to_slices(mask.shape[1], mask.shape[0])
    step = max(int((box.area / MOST_PIXELS) ** 0.5), 1)
    inside = mask[rows, columns][::step, ::step]
    pixels = image[rows, columns][::step, ::step][inside]
    if not len(pixels):  # a mask that is thinner than the step
        pixels = image[rows, columns][mask[rows, columns]]
    counts = [np.bincount(channel, minlength=BINS) for channel in (pixels >> 4).T]
    return np.stack([_smoothed(count / len(pixels)) for count in counts])


def _smoothed(shares: np.ndarray) -> np.ndarray:
    """Smoothed shares. What spills over the ends is folded back: black and white, too, fully match themselves."""
    beyond = len(SMOOTHING) // 2
    full = np.convolve(shares, SMOOTHING)
    full[beyond : 2 * beyond] += full[:beyond][::-1]
    full[-2 * beyond : -beyond] += full[-beyond:][::-1]
    return full[beyond:-beyond]


def image_colors(image: np.ndarray) -> np.ndarray:
    """`color_distribution` of a whole image."""
    height, width = image.shape[:2]
    return color_distribution(image, np.ones((height, width), bool), Box(0, 0, width, height))


def surrounding_colors(image: np.ndarray, mask: np.ndarray, box: Box) -> np.ndarray:
    """`color_distribution` of what surrounds a mask that does not fill the image; `box`: around the mask."""
    outer = box.pad(SURROUNDINGS)
    return color_distribution(image, ~mask, outer)


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """0 to 1: the overlap of two distributions in the colour channel in which they differ most."""
    return float(np.minimum(a, b).sum(axis=1).min())


def adapted(old: np.ndarray, new: np.ndarray, share: float = ADAPTATION) -> np.ndarray:
    """The old distribution moved a little towards the new one."""
    return old + share * (new - old)


class ColorMap:
    """Where in an image something with a target's colours and size may be.

    Every cell holds how much more of the target's colours there is in a box around it than around that box.
    """

    def __init__(self, image: np.ndarray, colors: np.ndarray, size: tuple[float, float], taken: np.ndarray) -> None:
        """image: uint8 H x W x 3 RGB; colors: as `color_distribution` gives them; size: of the target, width and
        height in pixels; taken: bool H x W, pixels that are known to show something else."""
        self._size = size
        height, width = taken.shape
        self._step = max(int(min(size) / FINE), math.ceil((height * width / MOST_CELLS) ** 0.5))
        cells = image[:: self._step, :: self._step] >> 4
        evidence = np.log((colors + RARE) / (image_colors(image) + RARE)).astype(np.float32)
        total = sum(evidence[channel][cells[..., channel]] for channel in range(3))
        likely = np.where(taken[:: self._step, :: self._step], np.float32(0), 1 / (1 + np.exp(-total)))
        window = tuple(max(round(side / self._step), 1) for side in size)
        around = tuple(2 * side for side in window)
        border = cv2.BORDER_CONSTANT
        inside = cv2.boxFilter(likely, -1, window, borderType=border)
        self._values = inside - (4 * cv2.boxFilter(likely, -1, around, borderType=border) - inside) / 3

    def best(self, least: float) -> Box | None:
        """The box with most of the target's colours; None if there is none with at least `least`."""
        y, x = np.unravel_index(self._values.argmax(), self._values.shape)
        return self._box(x, y) if self._values[y, x] >= least else None

    def leave_out(self, box: Box) -> None:
        """Ignore boxes whose centre is in this one."""
        self._values[self._cells(box)] = -np.inf

    def _cells(self, box: Box) -> tuple[slice, slice]:
        height, width = self._values.shape
        return box.scale(1 / self._step, 1 / self._step).to_slices(width, height)

    def _box(self, x: int, y: int) -> Box:
        width, height = self._size
        return Box.from_xywh((x + 0.5) * self._step - width / 2, (y + 0.5) * self._step - height / 2, width, height)
