"""What the table, the floor and the wall are made of: procedural textures. numpy and OpenCV only."""

from __future__ import annotations

import colorsys
import itertools

import cv2
import numpy as np

SIDE = 256
"""Side of a texture, pixels."""

TOPS = ("wood", "cloth", "checked", "plastic", "metal", "marble", "terrazzo")
"""What a table top can be."""
HELD_OUT_TOPS = ("marble", "terrazzo")
"""Never in the training split."""


def _noise(rng: np.random.Generator, cells: tuple[int, int], octaves: int = 4) -> np.ndarray:
    """Smooth noise, float32 SIDE x SIDE, 0 to 1; `cells`: how many its coarsest octave has along y and x."""
    total = np.zeros((SIDE, SIDE), np.float32)
    rows, columns = cells
    for octave in range(octaves):
        shape = (min(rows << octave, SIDE), min(columns << octave, SIDE))
        grid = rng.random(shape, dtype=np.float32)
        total += 0.5**octave * cv2.resize(grid, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return cv2.normalize(total, None, 0.0, 1.0, cv2.NORM_MINMAX)


def _mix(low: np.ndarray, high: np.ndarray, share: np.ndarray) -> np.ndarray:
    return low + (high - low) * share[..., None]


def muted_color(rng: np.random.Generator, value: tuple[float, float] = (0.3, 0.9)) -> np.ndarray:
    """RGB, 0 to 1, for walls and cloths, so that things usually stand out against them."""
    return np.array(colorsys.hsv_to_rgb(rng.random(), 0.6 * rng.beta(1.2, 2.8), rng.uniform(*value)), np.float32)


def _wood(rng: np.random.Generator) -> np.ndarray:
    light = np.array(colorsys.hsv_to_rgb(rng.uniform(0.06, 0.11), rng.uniform(0.3, 0.6), rng.uniform(0.45, 0.9)))
    dark = light * rng.uniform(0.55, 0.8)
    bend = _noise(rng, (2, 1), 2) + np.linspace(0, rng.uniform(1, 4), SIDE, dtype=np.float32)[:, None]
    grain = _noise(rng, (int(rng.integers(20, 50)), 1), 4)
    rings = 0.5 + 0.5 * np.sin(bend * rng.uniform(15, 35))
    image = _mix(light, dark, np.clip(0.65 * grain + rng.uniform(0.05, 0.3) * rings, 0, 1))
    planks = int(rng.integers(0, 6))
    if planks > 1:
        edges = np.linspace(0, SIDE, planks + 1).astype(int)
        for top, bottom in itertools.pairwise(edges):
            image[top:bottom] *= rng.uniform(0.88, 1.08)
            image[top : top + 1] *= 0.55
            image[top:bottom] = np.roll(image[top:bottom], int(rng.integers(SIDE)), axis=1)
    return image


def _cloth(rng: np.random.Generator) -> np.ndarray:
    threads = 0.5 * (rng.random((SIDE, 1), dtype=np.float32) + rng.random((1, SIDE), dtype=np.float32))
    folds = _noise(rng, (2, 2), 3)
    return muted_color(rng) * (0.85 + 0.15 * threads + 0.15 * (folds - 0.5))[..., None]


def _checked(rng: np.random.Generator) -> np.ndarray:
    """A gingham tablecloth."""
    period = SIDE // int(rng.choice([8, 12, 16]))
    band = (np.arange(SIDE) // max(period // 2, 1) % 2).astype(np.float32)
    share = 0.5 * (band[:, None] + band[None])
    return _mix(np.array([0.93, 0.92, 0.9]), muted_color(rng, (0.4, 0.8)), share) * (0.94 + 0.06 * _cloth_threads(rng))


def _cloth_threads(rng: np.random.Generator) -> np.ndarray:
    return rng.random((SIDE, SIDE, 1), dtype=np.float32)


def _plastic(rng: np.random.Generator) -> np.ndarray:
    return muted_color(rng) * (0.98 + 0.04 * _noise(rng, (3, 3), 2))[..., None]


def _metal(rng: np.random.Generator) -> np.ndarray:
    grey = rng.uniform(0.4, 0.7)
    brushed = cv2.blur(rng.random((SIDE, SIDE), dtype=np.float32), (61, 1))
    return np.array([1.0, 1.0, 1.02]) * (grey * (0.7 + 0.6 * brushed))[..., None]


def _marble(rng: np.random.Generator) -> np.ndarray:
    base = np.array([0.9, 0.89, 0.87]) if rng.random() < 0.6 else muted_color(rng, (0.15, 0.5))
    vein = base * 0.55 if base.mean() > 0.5 else np.clip(base + 0.4, 0, 1)
    share = np.exp(-(((_noise(rng, (3, 3), 5) - 0.5) / 0.03) ** 2)) * _noise(rng, (4, 4), 2)
    return _mix(base, vein, 0.8 * share + 0.15 * _noise(rng, (4, 4), 5))


def _terrazzo(rng: np.random.Generator) -> np.ndarray:
    base = muted_color(rng, (0.6, 0.9))
    image = np.empty((SIDE, SIDE, 3), np.float32)
    image[:] = base
    for _ in range(260):
        center, axes = rng.integers(0, SIDE, 2).tolist(), rng.integers(1, 5, 2).tolist()
        cv2.ellipse(image, center, axes, float(rng.uniform(0, 180)), 0, 360, muted_color(rng, (0.2, 0.9)).tolist(), -1)
    return image


_MAKERS = {
    "wood": _wood,
    "cloth": _cloth,
    "checked": _checked,
    "plastic": _plastic,
    "metal": _metal,
    "marble": _marble,
    "terrazzo": _terrazzo,
}


def _to_image(texture: np.ndarray) -> np.ndarray:
    return (np.clip(texture, 0, 1) * 255).astype(np.uint8)


def table_top(style: str, rng: np.random.Generator) -> np.ndarray:
    """uint8 SIDE x SIDE x 3 RGB; `style` is one of TOPS."""
    return _to_image(_MAKERS[style](rng))


def floor(rng: np.random.Generator) -> np.ndarray:
    """Boards, a carpet or tiles: uint8 SIDE x SIDE x 3 RGB."""
    kind = rng.random()
    if kind < 0.4:
        return _to_image(_wood(rng) * 0.85)
    if kind < 0.75:
        return _to_image(_cloth(rng) * 0.85)
    color, count = muted_color(rng, (0.4, 0.8)), int(rng.choice([2, 4, 8]))
    image = color * (0.92 + 0.12 * _noise(rng, (5, 5)))[..., None]
    seam = np.arange(SIDE) % (SIDE // count) < 3
    image[seam], image[:, seam] = color * 0.6, color * 0.6
    return _to_image(image)


def wall(rng: np.random.Generator) -> np.ndarray:
    """Paint, wallpaper or bricks: uint8 SIDE x SIDE x 3 RGB."""
    kind, color = rng.random(), muted_color(rng, (0.45, 0.95))
    image = color * (0.95 + 0.08 * _noise(rng, (3, 3), 3))[..., None]
    if kind < 0.25:
        stripe = np.arange(SIDE) // int(rng.integers(8, 32)) % 2 == 0
        image[:, stripe] *= rng.uniform(0.8, 0.93)
    elif kind < 0.45:
        rows, columns = np.mgrid[:SIDE, :SIDE]
        shifted = columns + 32 * (rows // 32 % 2)
        image[(rows % 32 < 3) | (shifted % 64 < 3)] *= 0.75
    return _to_image(image)
