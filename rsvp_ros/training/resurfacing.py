"""The same things on another ground: what lies there must be told from any table, not only from those of training.

Training's split has five kinds of table tops, and wood three times as often as the others; a network that knows no more
takes the grain of a new one for things, and misses things on it.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from rsvp_ros.textures import TextureBank

TEXTURES = 120
"""That grounds are cut from."""
PLAIN_SHARE = 0.4
"""Of the grounds show one texture; of the others as many two, and so on: a ground can be of many colours."""
MOST_LAYERS = 6


@cache
def _bank() -> TextureBank:
    return TextureBank(np.random.default_rng(0), TEXTURES)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """One of the bank's, or patches of up to MOST_LAYERS: each further one shows where yet another is bright."""
    texture = _bank().crop(rng, height, width)
    for _ in range(min(int(rng.geometric(PLAIN_SHARE)), MOST_LAYERS) - 1):
        other, where = _bank().crop(rng, height, width), _bank().crop(rng, height, width).mean(2)
        where = cv2.GaussianBlur(where, (0, 0), rng.uniform(0.3, 3))  # else specks of single pixels
        bright = where > np.quantile(where[::8, ::8], rng.uniform(0.3, 0.95))
        texture = np.where(bright[..., None], other, texture)
    return texture


def resurface(image: np.ndarray, ids: np.ndarray, table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random texture where no thing is seen, in the light and the shadows that lie there; another one beside the
    table: where it ends must be told on any table, too.

    image: uint8 H x W x 3 RGB; ids: uint8 H x W, which thing is seen in a pixel, 0: none; table: bool H x W, which
    pixels show the table, or what lies on it.
    """
    ground = (ids == 0).astype(np.float32)
    height, width = ids.shape
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) * ground
    reach = 2 * int(rng.integers(1, 9)) + 1  # a small one lets the old grain shine through, too
    around = cv2.blur(gray, (reach, reach)) / np.maximum(cv2.blur(ground, (reach, reach)), 1e-3)
    light = np.clip(around / max(1.0, gray.sum() / max(1.0, ground.sum())), 0.35, 1.6)
    texture = np.where(table[..., None], _texture(rng, height, width), _texture(rng, height, width))
    texture = texture * light[..., None]
    # Soft at the edges, as those of the things are
    share = rng.uniform(0.6, 1.0) * (cv2.blur(ground, (3, 3)) * ground)[..., None]
    return np.clip(image + share * (texture - image), 0, 255).astype(np.uint8)
