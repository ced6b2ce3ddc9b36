"""The same things on another ground: things must be told apart from any table, not only from those seen in training.

The training split has five kinds of table tops, with wood three times as frequent as the others; a network that has
seen no more takes the grain of a new table for things, and misses things on it.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from rsvp_ros.textures import TextureBank

TEXTURES = 120
"""Number of textures that grounds are cut from."""
PLAIN_SHARE = 0.4
"""Share of the grounds that show a single texture; the same share of the rest shows two, and so on, as a ground may
have many colours."""
MOST_LAYERS = 6


@cache
def _bank() -> TextureBank:
    return TextureBank(np.random.default_rng(0), TEXTURES)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """One of the bank's textures, or up to MOST_LAYERS of them in patches: each further one is shown where another,
    invisible one is bright."""
    texture = _bank().crop(rng, height, width)
    for _ in range(min(int(rng.geometric(PLAIN_SHARE)), MOST_LAYERS) - 1):
        other, where = _bank().crop(rng, height, width), _bank().crop(rng, height, width).mean(2)
        where = cv2.GaussianBlur(where, (0, 0), rng.uniform(0.3, 3))  # otherwise there are specks of single pixels
        bright = where > np.quantile(where[::8, ::8], rng.uniform(0.3, 0.95))
        texture = np.where(bright[..., None], other, texture)
    return texture


def resurface(image: np.ndarray, ids: np.ndarray, table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put a random texture wherever no thing is seen, keeping the light and shadows there, and another texture beside
    the table: where the table ends must be recognised on any table, too.

    image: uint8 H x W x 3 RGB; ids: uint8 H x W, which thing is seen in a pixel, 0: none; table: bool H x W, which
    pixels show the table or what lies on it.
    """
    ground = (ids == 0).astype(np.float32)
    height, width = ids.shape
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) * ground
    reach = 2 * int(rng.integers(1, 9)) + 1  # a small one lets the old grain show through
    around = cv2.blur(gray, (reach, reach)) / np.maximum(cv2.blur(ground, (reach, reach)), 1e-3)
    light = np.clip(around / max(1.0, gray.sum() / max(1.0, ground.sum())), 0.35, 1.6)
    texture = np.where(table[..., None], _texture(rng, height, width), _texture(rng, height, width))
    texture = texture * light[..., None]
    # Soft towards the things, like their own edges
    share = rng.uniform(0.6, 1.0) * (cv2.blur(ground, (3, 3)) * ground)[..., None]
    return np.clip(image + share * (texture - image), 0, 255).astype(np.uint8)
