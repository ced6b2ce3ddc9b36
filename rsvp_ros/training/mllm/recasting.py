"""Images in colours that things do not have, so that kinds must be recognised by shape.

If each kind of thing comes in only a few colours, a network relies on these and takes a thing in another colour for
another kind. The colours of a recast image have no names, and no colour is taught from it.
"""

from __future__ import annotations

import numpy as np

_HUES = np.array([[2, -1, -1], [0, np.sqrt(3), -np.sqrt(3)]]) / np.sqrt(6)
"""The plane of hues in RGB, at right angles to gray."""


def recast_colors(image: np.ndarray, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colours rotated in hue, changed in saturation and tinted at random, for the whole image or for each thing alone.

    image: uint8 H x W x 3 RGB; ids: uint8 H x W, which thing is seen in a pixel, 0: none.
    """
    count = 256 if rng.random() < 0.6 else 1
    chroma = _HUES.T @ np.stack([_turn(rng.uniform(0, 2 * np.pi)) for _ in range(count)]) @ _HUES
    saturation = rng.uniform(0, 1.4, (count, 1, 1)) * (rng.random((count, 1, 1)) < 0.85)
    light = rng.uniform(0.7, 1.35, (count, 1)) * (1 + rng.uniform(-0.35, 0.35, (count, 3)))
    matrices = (light[:, :, None] * (np.full((3, 3), 1 / 3) + saturation * chroma)).astype(np.float32)
    if count > 1 and rng.random() < 0.5:
        matrices[0] = np.eye(3)  # the table stays as it is
    chosen = matrices[ids] if count > 1 else matrices[0]
    changed = np.einsum("...ij,...j->...i", chosen, image.astype(np.float32))
    return np.clip(changed, 0, 255).astype(np.uint8)


def _turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
