"""Textures to fill the drawn images, procedural or cut from photographs. numpy and OpenCV only."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

SIDE = 384
"""Side of a stored texture, pixels."""


def fractal_noise(rng: np.random.Generator, side: int, roughness: float) -> np.ndarray:
    """Sum of upsampled noise, each octave `roughness` times as strong as the one before it; float32, 0 to 1."""
    total = np.zeros((side, side), np.float32)
    strength, cells = 1.0, int(rng.integers(2, 7))
    while cells < side:
        noise = rng.random((cells, cells), dtype=np.float32)
        total += strength * cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
        strength *= roughness
        cells *= 2
    return cv2.normalize(total, None, 0.0, 1.0, cv2.NORM_MINMAX)


def _stripes(rng: np.random.Generator, side: int) -> np.ndarray:
    """Stripes or a checked cloth, slightly bent."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 60)
    bend = fractal_noise(rng, side, 0.4) * rng.uniform(0, 25)
    phase = (x * np.cos(angle) + y * np.sin(angle) + bend) * (2 * np.pi / period)
    wave = np.sin(phase)
    if rng.random() < 0.35:
        wave = wave * np.sin((y * np.cos(angle) - x * np.sin(angle) + bend) * (2 * np.pi / period))
    sharpness = rng.uniform(0.6, 8)
    return np.clip(0.5 + 0.5 * wave * sharpness, 0, 1).astype(np.float32)


def _wood(rng: np.random.Generator, side: int) -> np.ndarray:
    """Long grain: noise stretched along one axis."""
    noise = rng.random((side // int(rng.integers(2, 6)), max(2, side // int(rng.integers(60, 200)))), dtype=np.float32)
    grain = cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    grain = cv2.normalize(grain + 0.5 * fractal_noise(rng, side, 0.5), None, 0.0, 1.0, cv2.NORM_MINMAX)
    return grain if rng.random() < 0.5 else np.ascontiguousarray(grain.T)


def _cells(rng: np.random.Generator, side: int) -> np.ndarray:
    """Spots, pebbles, blades of grass: many small shapes in random grey."""
    canvas = np.full((side, side), rng.integers(0, 256), np.uint8)
    size = rng.uniform(3, 22)
    ratio = rng.uniform(0.15, 1.0)
    for _ in range(int(min(1500, 2.0 * side * side / (size * size * 3 * ratio)))):
        center = rng.integers(0, side, 2)
        axes = (max(1, int(size * rng.uniform(0.5, 1.3))), max(1, int(size * ratio * rng.uniform(0.5, 1.3))))
        cv2.ellipse(canvas, center.tolist(), axes, float(rng.uniform(0, 180)), 0, 360, int(rng.integers(0, 256)), -1)
    return cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.5, 2)).astype(np.float32) / 255


def random_color(rng: np.random.Generator) -> np.ndarray:
    """RGB, 0 to 255, float32: muted more often than vivid, like the things in a photograph."""
    hue, saturation, value = rng.uniform(0, 180), 255 * rng.beta(1.2, 1.8), 255 * rng.beta(1.6, 1.3)
    pixel = np.array([[[hue, saturation, value]]], np.float32).astype(np.uint8)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def texture(rng: np.random.Generator, side: int = SIDE) -> np.ndarray:
    """One random texture, uint8 side x side x 3 RGB."""
    kind = rng.random()
    if kind < 0.40:
        grey = fractal_noise(rng, side, rng.uniform(0.3, 0.95))
    elif kind < 0.55:
        grey = _stripes(rng, side)
    elif kind < 0.72:
        grey = _wood(rng, side)
    elif kind < 0.88:
        grey = _cells(rng, side)
    else:
        grey = np.full((side, side), 0.5, np.float32)
    a = random_color(rng)
    b = random_color(rng) if rng.random() < 0.35 else np.clip(a * rng.uniform(0.4, 1.6), 0, 255)
    image = a + (b - a) * grey[..., None]
    if rng.random() < 0.5:
        image *= 1 + rng.uniform(0.05, 0.5) * (fractal_noise(rng, side, 0.4)[..., None] - 0.5)
    if rng.random() < 0.7:
        image += rng.normal(0, rng.uniform(1, 12), (side, side, 1)).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def _cut(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """A square piece of a photograph as a texture; its side is a quarter to all of the photograph's shorter one."""
    height, width = photograph.shape[:2]
    side = min(max(2, int(min(height, width) * rng.uniform(0.25, 1.0))), height, width)
    y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    method = cv2.INTER_AREA if side > SIDE else cv2.INTER_LINEAR
    return cv2.resize(photograph[y : y + side, x : x + side], (SIDE, SIDE), interpolation=method)


class TextureBank:
    """A store of textures made once; `crop` gives endless variants of them."""

    def __init__(
        self, rng: np.random.Generator, count: int = 160, photographs: Sequence[np.ndarray] = (), share: float = 0.5
    ) -> None:
        """`photographs`: uint8 H x W x 3 RGB; `share` of the textures are cut from them, the others are procedural."""
        cut = round(count * share) if photographs else 0
        self._textures = [texture(rng) for _ in range(count - cut)]
        self._textures += [_cut(rng, photographs[i % len(photographs)]) for i in range(cut)]

    def crop(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """uint8 height x width x 3: a piece of a random texture, scaled, flipped, with other light and colours."""
        source = self._textures[int(rng.integers(len(self._textures)))]
        zoom = float(np.exp(rng.uniform(np.log(0.5), np.log(1.6))))
        h = int(np.clip(height / zoom, 2, SIDE))
        w = int(np.clip(width / zoom, 2, SIDE))
        y, x = int(rng.integers(0, SIDE - h + 1)), int(rng.integers(0, SIDE - w + 1))
        piece = cv2.resize(source[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_LINEAR)
        if rng.random() < 0.5:
            piece = piece[:, ::-1]
        if rng.random() < 0.3:
            piece = piece[..., rng.permutation(3)]
        gain, lift = rng.uniform(0.6, 1.35), rng.uniform(-35, 35)
        return cv2.convertScaleAbs(np.maximum(piece * np.float32(gain) + np.float32(lift), 0))
