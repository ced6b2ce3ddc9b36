"""Cut-outs: photographed things without their background, used to make random compositions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from rsvp_ros.errors import ConfigurationError

SIDE = 256
"""Longest side that a cut-out is kept at, pixels; larger ones are scaled down."""
LEAST_SIDE = 12
"""Shortest side of a usable thing, pixels: a smaller one shows nothing."""
OPAQUE = 0.95
"""If more than this share of a picture is opaque, nothing was cut out of it."""
MARGIN = 3
"""Transparent pixels around a posed cut-out, room for softened edges."""


def read_cutouts(folders: Sequence[str]) -> tuple[np.ndarray, ...]:
    """The PNG pictures in these folders and all their subfolders that have an alpha channel and use it.

    Each is uint8 H x W x 4 (red, green, blue, alpha), cropped to its thing. All are kept in memory. Raises
    ConfigurationError for a folder that holds none.
    """
    cutouts: list[np.ndarray] = []
    for folder in folders:
        paths = sorted(path for path in Path(folder).expanduser().rglob("*") if path.suffix.lower() == ".png")
        found = [cutout for path in paths if (cutout := _read(path)) is not None]
        if not found:
            raise ConfigurationError(f"`cutouts` {folder} holds no PNG picture of a thing on a transparent background")
        cutouts += found
    return tuple(cutouts)


def _read(path: Path) -> np.ndarray | None:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] != 4:
        return None
    if pixels.dtype == np.uint16:
        pixels = (pixels // 257).astype(np.uint8)
    solid = pixels[..., 3] > 127
    x, y, width, height = cv2.boundingRect(solid.view(np.uint8))
    if min(width, height) < LEAST_SIDE or solid.mean() > OPAQUE:
        return None
    pixels = cv2.cvtColor(pixels[y : y + height, x : x + width], cv2.COLOR_BGRA2RGBA)
    return _plain(_scaled(_weighed(pixels), min(1.0, SIDE / max(width, height))))


def _weighed(cutout: np.ndarray) -> np.ndarray:
    """float32 h x w x 4 with colours multiplied by their opacity, so that the hidden colours of transparent pixels do
    not leak in where pixels are mixed."""
    pixels = cutout.astype(np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    return pixels


def _plain(weighed: np.ndarray) -> np.ndarray:
    """The inverse of `_weighed`; uint8."""
    color = weighed[..., :3] * 255 / np.maximum(weighed[..., 3:], 1e-3)
    return np.dstack((color, weighed[..., 3])).round().clip(0, 255).astype(np.uint8)


def _scaled(weighed: np.ndarray, factor: float) -> np.ndarray:
    size = [max(2, round(side * factor)) for side in weighed.shape[1::-1]]
    return cv2.resize(weighed, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def posed(rng: np.random.Generator, cutout: np.ndarray, radius: float) -> np.ndarray:
    """A cut-out rotated, mirrored, stretched, relit and with softened edges; its longer side is about 2 `radius`.

    uint8 h x w x 4.
    """
    if rng.random() < 0.5:
        cutout = cutout[:, ::-1]
    piece = _scaled(_weighed(cutout), 2 * radius / max(cutout.shape[:2]))
    height, width = piece.shape[:2]
    angle = rng.uniform(-180, 180) if rng.random() < 0.4 else rng.normal(0, 12)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    turn[0] *= rng.uniform(0.8, 1.25)
    reach = np.abs(turn[:, :2]) @ (width, height) + 2 * MARGIN
    turn[:, 2] += reach / 2 - turn @ (width / 2, height / 2, 1)
    piece = cv2.warpAffine(piece, turn, [int(np.ceil(side)) for side in reach])
    if rng.random() < 0.5:  # cutting out leaves sharp, light seams; cameras do not
        if 2 * radius > 24:
            alpha = piece[..., 3:]
            piece *= cv2.erode(alpha, np.ones((3, 3), np.uint8))[..., None] / np.maximum(alpha, 1e-3)
        piece = cv2.GaussianBlur(piece, (0, 0), rng.uniform(0.4, 1.2))
    piece = _plain(piece)
    color = piece[..., :3]
    if rng.random() < 0.2:
        color = color[..., rng.permutation(3)]
    gain = rng.uniform(0.6, 1.35) * rng.uniform(0.9, 1.1, 3)
    color = np.clip(color * gain + rng.uniform(-30, 30), 0, 255).astype(np.uint8)
    return np.dstack((color, piece[..., 3]))
