"""The tabletop of `make demo`: household things, two of which move, and a robot's arm that reaches over them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator, default_rng  # NumPy would import it when first used: a Ctrl-C is lost in that

from rsvp_ros.training.drawn_scenes import SHAPES, Part

WIDTH, HEIGHT = 640, 480
LAP_S = 12.0
"""What moves goes round the table in this time."""
ARM_RESTS_S = 0.9
"""The arm rests for this long before and after the moment in which the first thing is under it."""
ARM_MOVES_S = 0.7
"""It takes this long to come, and to go."""
_FINE = 4  # drawn this many times larger and scaled down: smooth outlines

_ROLES = {
    "metal": (196, 200, 206), "dark": (54, 50, 50), "light": (238, 233, 222), "leaf": (84, 140, 60),
    "screen": (38, 52, 72), "accent": (242, 239, 230), "stripe": (240, 140, 30),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Layer:
    """Something drawn, to be laid over a picture."""

    color: np.ndarray
    """float32 h x w x 3, 0 to 255."""
    alpha: np.ndarray
    """float32 h x w, 0 to 1: how much of a pixel it covers."""

    def place(self, x: float, y: float, angle: float = 0.0) -> Layer:
        """The layer of the whole picture, its middle at (x, y), turned clockwise by `angle` radians."""
        height, width = self.alpha.shape
        c, s = math.cos(angle), math.sin(angle)
        matrix = np.array([[c, -s, 0], [s, c, 0]])
        matrix[:, 2] = np.array((x, y)) - matrix[:, :2] @ ((width - 1) / 2, (height - 1) / 2)
        color = cv2.warpAffine(self.color, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
        return Layer(color, cv2.warpAffine(self.alpha, matrix, (WIDTH, HEIGHT)))


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture of the scene and the truth about it."""

    image: np.ndarray
    """uint8 H x W x 3 RGB."""
    masks: dict[str, np.ndarray]
    """Of each moving thing, what is visible of it; bool H x W."""
    visible: dict[str, float]
    """Of each moving thing, the share of its pixels that the arm does not hide."""


class DemoScene:
    """What the camera of `make demo` sees, as a function of time: always the same, with its masks.

    `moving` names the things that can be followed; the arm hides the first of them once, around `hidden_at_s`.
    """

    moving = ("blue mug", "red ball")

    def __init__(self, hidden_at_s: float) -> None:
        self.hidden_at_s = hidden_at_s
        rng = default_rng(7)
        self._table = _wood(rng)
        _lay(self._table, _place_mat().place(318, 262), shadow=(2, 3, 3.0, 0.45), relief=0.0)
        for kind, seed, color, size, x, y, angle in _STILL_LIFE:
            _lay(self._table, _draw(kind, seed, color, size).place(x, y, angle))
        self._things = {"blue mug": _draw("mug", 5, (36, 92, 190), 50), "red ball": _draw("ball", 3, (206, 38, 36), 40)}
        self._arm = _arm()
        self._noise = rng.normal(0, 2.0, (HEIGHT, WIDTH, 1)).astype(np.float32)

    def render(self, t: float) -> Shot:
        """The scene at `t` seconds."""
        image = self._table.copy()
        # What is nearer to the camera stands lower in the picture and covers what is behind it; the arm is above all.
        things = {name: self._things[name].place(*self._place(name, t)) for name in self.moving}
        for name in sorted(self.moving, key=lambda name: self._place(name, t)[1]):
            _lay(image, things[name])
        away = max(abs(t - self.hidden_at_s) - ARM_RESTS_S, 0.0) / ARM_MOVES_S
        reach = 0.5 + 0.5 * math.cos(math.pi * min(away, 1.0))
        arm = self._arm.place(318, -150 + 280 * reach)
        _lay(image, arm, shadow=(14, 22, 9.0, 0.4))
        image += self._noise
        whole = {name: layer.alpha > 0.5 for name, layer in things.items()}
        masks = {name: mask & (arm.alpha < 0.5) for name, mask in whole.items()}
        visible = {name: np.count_nonzero(masks[name]) / np.count_nonzero(whole[name]) for name in self.moving}
        return Shot(np.clip(image, 0, 255).astype(np.uint8), masks, visible)

    def _place(self, name: str, t: float) -> tuple[float, float, float]:
        """Where it is (x, y), and how far it has turned: on opposite sides of an ellipse, so that they never meet.

        The first one is at the back, under the arm, at `hidden_at_s`.
        """
        phase = 2 * math.pi * (t - self.hidden_at_s) / LAP_S - math.pi / 2
        if name == self.moving[1]:
            phase += math.pi
        x, y = 318 + 190 * math.cos(phase), 258 + 58 * math.sin(phase)
        return x, y, (x - 318) / 36 if name == self.moving[1] else 0.0


# kind, seed of its shape, colour, size, x, y, angle
_STILL_LIFE = (
    ("bottle", 3, (44, 112, 72), 82, 62, 100, 0.0),
    ("book", 2, (46, 66, 110), 68, 180, 84, -0.12),
    ("bowl", 4, (226, 220, 206), 62, 455, 88, 0.0),
    ("apple", 1, (196, 48, 40), 27, 455, 62, 0.1),
    ("can", 6, (214, 158, 44), 58, 582, 96, 0.0),
    ("banana", 1, (236, 200, 62), 56, 92, 412, -0.25),
    ("scissors", 3, (226, 110, 34), 62, 232, 414, 1.2),
    ("key", 0, (204, 172, 92), 40, 340, 430, 1.9),
    ("screwdriver", 1, (214, 168, 30), 66, 448, 424, -1.2),
    ("phone", 0, (40, 42, 48), 60, 576, 396, 0.25),
)


def _draw(kind: str, seed: int, color: tuple[int, int, int], size: float) -> Layer:
    """A household thing with half its height `size` pixels, from the shapes that the VLSM was trained with."""
    return _draw_parts(SHAPES[kind](default_rng(seed)), color, size)


def _draw_parts(parts: list[Part], main: tuple[int, int, int], size: float) -> Layer:
    points = np.concatenate([contour for part in parts for contour in part.contours]) * size
    half = np.ceil(np.abs(points).max(0)).astype(int) + 3
    fine = half * 2 * _FINE
    color = np.zeros((fine[1], fine[0], 3), np.float32)
    color[:] = main
    alpha = np.zeros((fine[1], fine[0]), np.float32)
    for part in parts:
        contours = [np.round((contour * size + half) * _FINE).astype(np.int32) for contour in part.contours]
        area = np.zeros(alpha.shape, np.uint8)
        cv2.fillPoly(area, contours, 1)
        color[area > 0] = _role_color(part.role, main)
        alpha[area > 0] = 1.0
    size_px = (int(half[0]) * 2, int(half[1]) * 2)
    return Layer(*(cv2.resize(array, size_px, interpolation=cv2.INTER_AREA) for array in (color, alpha)))


def _role_color(role: str, main: tuple[int, int, int]) -> np.ndarray:
    color = np.array(main, np.float32)
    if role == "shade":
        return color * 0.62
    if role == "tint":
        return color + (255 - color) * 0.25
    return np.array(_ROLES.get(role, main), np.float32)


def _lay(
    image: np.ndarray,
    layer: Layer,
    shadow: tuple[float, float, float, float] = (5, 7, 5.0, 0.5),
    relief: float = 0.9,
) -> None:
    """Paint a layer onto a float32 picture in light from the upper left.

    `shadow`: its offset to the right and down and its softness, pixels, and its darkness. `relief`: how round it looks.
    """
    rows, columns = np.flatnonzero(layer.alpha.any(1)), np.flatnonzero(layer.alpha.any(0))
    if not rows.size:
        return
    reach = 40
    area = (
        slice(max(rows[0] - reach, 0), rows[-1] + 1 + reach),
        slice(max(columns[0] - reach, 0), columns[-1] + 1 + reach),
    )
    color, alpha, part = layer.color[area], layer.alpha[area], image[area]
    dx, dy, softness, darkness = shadow
    fallen = cv2.warpAffine(alpha, np.float32([[1, 0, dx], [0, 1, dy]]), alpha.shape[::-1])
    part *= 1 - darkness * cv2.GaussianBlur(fallen, (0, 0), softness)[..., None]
    if relief:
        # The blurred outline as a height: its slope toward the light brightens, the other one darkens.
        height = cv2.GaussianBlur(alpha, (0, 0), 5.0)
        slope = cv2.Sobel(height, cv2.CV_32F, 1, 0) * 0.6 + cv2.Sobel(height, cv2.CV_32F, 0, 1) * 0.8
        color = np.clip(color * (1 + relief * np.clip(slope, -0.5, 0.4))[..., None], 0, 255)
    part += (color - part) * alpha[..., None]


def _wood(rng: Generator) -> np.ndarray:
    """Planks with their grain, float32 H x W x 3."""
    table = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    light, dark = np.float32((206, 160, 112)), np.float32((150, 104, 66))
    edges = (0, 92, 190, 286, 384, HEIGHT)
    for top, bottom in itertools.pairwise(edges):
        size = (WIDTH, bottom - top)
        warp = cv2.resize(rng.random((4, 6), np.float32), size, interpolation=cv2.INTER_CUBIC)
        fibre = cv2.resize(rng.random(((bottom - top) // 2, 9), np.float32), size, interpolation=cv2.INTER_CUBIC)
        y = np.arange(bottom - top, dtype=np.float32)[:, None] / 13
        rings = 0.5 + 0.5 * np.sin(2 * np.pi * (y + 2.5 * warp))
        grain = np.clip(0.32 * rings + 0.5 * fibre + rng.uniform(-0.08, 0.12), 0, 1)[..., None]
        table[top:bottom] = light + (dark - light) * grain
        table[top : top + 2] *= 0.55
        table[top + 2 : top + 3] *= 1.06
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    lamp = 1.1 - 0.34 * np.hypot((x - 0.35 * WIDTH) / WIDTH, (y - 0.25 * HEIGHT) / HEIGHT)
    return cv2.GaussianBlur(table, (0, 0), 0.7) * lamp[..., None]


def _place_mat() -> Layer:
    """Woven linen with a border."""
    width, height = 470, 216
    y, x = np.mgrid[:height, :width].astype(np.float32)
    weave = 1 + 0.035 * np.sign(np.sin(x * 1.6) * np.sin(y * 1.6))
    color = np.float32((198, 206, 200)) * weave[..., None]
    border = np.minimum(np.minimum(x, width - 1 - x), np.minimum(y, height - 1 - y))
    color[(border > 10) & (border < 15)] *= np.float32((0.62, 0.74, 0.78))
    alpha = np.clip(border / 1.5, 0, 1)
    return Layer(color, alpha.astype(np.float32))


def _arm() -> Layer:
    """A robot's forearm and gripper, from above."""

    def box(x0: float, y0: float, x1: float, y1: float, radius: float) -> np.ndarray:
        corners = [(x1 - radius, y1 - radius, 0), (x0 + radius, y1 - radius, 90), (x0 + radius, y0 + radius, 180),
                   (x1 - radius, y0 + radius, 270)]  # fmt: skip
        t = np.radians(np.linspace(0, 90, 9))
        return np.concatenate(
            [np.stack((x + radius * np.cos(t + math.radians(a)), y + radius * np.sin(t + math.radians(a))), 1)
             for x, y, a in corners]
        )  # fmt: skip

    def part(role: str, *shape: np.ndarray) -> Part:
        return Part(shape, role)

    parts = [
        part("main", box(-52, -140, 52, 40, 12)),
        part("shade", box(-52, -64, 52, -52, 1)),
        part("dark", box(-82, 24, 82, 128, 20)),
        part("stripe", box(-70, 40, 70, 50, 4)),
        part("metal", box(-66, 108, -34, 140, 9)),
        part("metal", box(34, 108, 66, 140, 9)),
    ]
    return _draw_parts(parts, (224, 227, 230), 1.0)
