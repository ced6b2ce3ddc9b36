"""Images that the project draws itself, with exact masks and names: the training data of the embedded VLSM.

There are two worlds. *Household scenes*: named, coloured things on a table; they teach the network that the text
decides. *Dead leaves*: anonymous textured shapes that cover each other (Lee, Mumford and Huang, 2001); they stand in
for the variety of photographs and teach it what a boundary is. Photographed things without their background may lie
among them. Everything is determined by the random generator passed in.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from rsvp_ros.geometry import Box, mask_to_box
from rsvp_ros.textures import TextureBank, fractal_noise, random_color
from rsvp_ros.training.cutouts import posed

Polygon = np.ndarray
"""N x 2 float: contour in the thing's own frame, x right, y down, within about -1 to 1."""


@dataclass(frozen=True)
class Part:
    """One area of a thing: contours filled by the even-odd rule, in one of the thing's colours."""

    contours: tuple[Polygon, ...]
    role: str
    """"main": the colour that the thing is named by; "accent", "metal", "dark", "light": other colours."""


@dataclass(frozen=True)
class Thing:
    """One thing in a scene."""

    id: int
    """Its value in `Scene.ids`, from 1."""
    kind: str
    """A key of KINDS; empty in dead leaves."""
    color: str
    """A key of COLORS; empty in dead leaves."""
    box: Box
    """Around the visible part of it."""
    area: int
    """Visible pixels."""
    attributes: tuple[str, ...] = ()
    """What else can be said of it, as English adjectives ("striped", "wooden")."""
    description: str = ""
    """As stage 1 writes it, with all its attributes ("knife, red handle"); empty: by kind and colour only."""
    foreign: tuple[str, ...] = ()
    """Kind and colour in languages other than English."""
    perhaps: tuple[str, ...] = ()
    """Keys of COLORS that some people would also use for it."""


UNKNOWN = 255
"""Value in `Scene.ids` that is not the id of a thing."""


@dataclass(frozen=True, eq=False)
class Scene:
    """An image and what is in it."""

    image: np.ndarray
    """uint8 H x W x 3 RGB."""
    ids: np.ndarray
    """uint8 H x W: which thing is seen in a pixel; 0: none; UNKNOWN: not known, and nothing is learnt there."""
    things: tuple[Thing, ...]
    """Those that are visible enough."""
    doubtful: tuple[Thing, ...] = ()
    """Those that are visible, but too little to be named; a description must not fit any of them either."""

    def mask(self, thing: Thing) -> np.ndarray:
        """bool H x W."""
        return self.ids == thing.id


# Names in English (the first is the usual one) and Chinese.
KINDS: dict[str, tuple[str, ...]] = {
    "cup": ("cup", "杯子"),
    "mug": ("mug", "coffee mug", "马克杯"),
    "bottle": ("bottle", "瓶子"),
    "bowl": ("bowl", "碗"),
    "plate": ("plate", "dish", "盘子"),
    "knife": ("knife", "刀"),
    "scissors": ("scissors", "pair of scissors", "剪刀"),
    "spoon": ("spoon", "勺子"),
    "fork": ("fork", "叉子"),
    "hammer": ("hammer", "锤子"),
    "screwdriver": ("screwdriver", "螺丝刀"),
    "pen": ("pen", "marker", "笔"),
    "book": ("book", "notebook", "书"),
    "box": ("box", "carton", "盒子"),
    "ball": ("ball", "球"),
    "banana": ("banana", "香蕉"),
    "apple": ("apple", "苹果"),
    "key": ("key", "钥匙"),
    "phone": ("phone", "mobile phone", "手机"),
    "can": ("can", "tin can", "罐头"),
    "block": ("block", "cube", "积木"),
    "lamp": ("lamp", "desk lamp", "台灯"),
}

# Hue range (OpenCV, 0 to 180), saturation and value ranges (0 to 255); names in English and Chinese.
COLORS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[str, ...]]] = {
    "red": ((-6, 5), (170, 255), (130, 235), ("red", "红色")),
    "orange": ((9, 16), (190, 255), (190, 255), ("orange", "橙色")),
    "yellow": ((24, 31), (160, 255), (190, 255), ("yellow", "黄色")),
    "green": ((45, 75), (110, 255), (80, 210), ("green", "绿色")),
    "blue": ((104, 120), (140, 255), (100, 235), ("blue", "蓝色")),
    "purple": ((130, 146), (90, 230), (90, 210), ("purple", "紫色")),
    "pink": ((160, 172), (70, 140), (200, 255), ("pink", "粉色")),
    "brown": ((8, 14), (110, 190), (60, 120), ("brown", "棕色")),
    "white": ((0, 180), (0, 22), (205, 255), ("white", "白色")),
    "black": ((0, 180), (0, 60), (10, 48), ("black", "黑色")),
    "gray": ((0, 180), (0, 22), (95, 160), ("gray", "grey", "灰色")),
}


def sample_color(rng: np.random.Generator, name: str) -> np.ndarray:
    """A shade of a named colour, RGB 0 to 255, float32."""
    hue, saturation, value, _ = COLORS[name]
    pixel = np.array([[[rng.uniform(*hue) % 180, rng.uniform(*saturation), rng.uniform(*value)]]], np.float32)
    return cv2.cvtColor(pixel.astype(np.uint8), cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def is_held_out(kind: str, color: str) -> bool:
    """Whether this pair is kept out of training (7 of 242), to measure new combinations of known words."""
    return zlib.crc32(f"{color} {kind}".encode()) % 16 == 0


# --- shapes -----------------------------------------------------------------------------------------------------------


def _ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> Polygon:
    t = np.radians(np.linspace(start, stop, 32))
    return np.stack((cx + rx * np.cos(t), cy + ry * np.sin(t)), 1)


def _points(*xy: float) -> Polygon:
    return np.array(xy, np.float64).reshape(-1, 2)


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return _points(x0, y0, x1, y0, x1, y1, x0, y1)


def _stroke(path: Polygon, width: float) -> Polygon:
    """Outline of a line of a certain width along a path."""
    direction = np.gradient(path, axis=0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-9
    normal = np.stack((-direction[:, 1], direction[:, 0]), 1) * (width / 2)
    return np.concatenate((path + normal, (path - normal)[::-1]))


def _rotate(polygon: Polygon, angle: float, center: tuple[float, float] = (0.0, 0.0)) -> Polygon:
    c, s = np.cos(angle), np.sin(angle)
    return (polygon - center) @ np.array([[c, s], [-s, c]]) + center


def _vessel(rng: np.random.Generator, height: float, top: float, bottom: float, flat: float) -> list[Part]:
    """A round vessel seen from slightly above: wall and opening."""
    rim = top * flat
    wall = np.concatenate(
        (_ellipse(0, -height, top, rim, 180, 360), _ellipse(0, height, bottom, bottom * flat, 0, 180))
    )
    inner = rng.uniform(0.82, 0.93)
    return [Part((wall,), "main"), Part((_ellipse(0, -height, top * inner, rim * inner),), "shade")]


def _cup(rng: np.random.Generator) -> list[Part]:
    return _vessel(rng, rng.uniform(0.6, 0.9), rng.uniform(0.5, 0.65), rng.uniform(0.3, 0.45), rng.uniform(0.2, 0.4))


def _mug(rng: np.random.Generator) -> list[Part]:
    height, radius = rng.uniform(0.6, 0.8), rng.uniform(0.5, 0.6)
    handle = _stroke(_ellipse(radius, 0.05, 0.38, height * 0.6, -100, 100), 0.15)
    return [Part((handle,), "main"), *_vessel(rng, height, radius, radius * 0.95, rng.uniform(0.2, 0.4))]


def _bottle(rng: np.random.Generator) -> list[Part]:
    body, neck = rng.uniform(0.26, 0.36), rng.uniform(0.09, 0.14)
    shoulder = rng.uniform(-0.45, -0.15)
    right = _points(neck, -0.85, neck, shoulder - 0.2, body, shoulder + 0.1, body, 0.95, body * 0.9, 1.0)
    outline = np.concatenate((right, right[::-1] * (-1, 1)))
    label = _rectangle(-body, shoulder + 0.35, body, shoulder + rng.uniform(0.6, 0.9))
    parts = [Part((outline,), "main"), Part((_rectangle(-neck * 1.2, -1, neck * 1.2, -0.82),), "accent")]
    return [*parts, Part((label,), "light")] if rng.random() < 0.6 else parts


def _bowl(rng: np.random.Generator) -> list[Part]:
    flat, depth = rng.uniform(0.25, 0.5), rng.uniform(0.45, 0.7)
    outline = np.concatenate((_ellipse(0, -0.2, 1, flat, 180, 360), _ellipse(0, -0.2, 1, depth + flat, 0, 180)))
    return [Part((outline,), "main"), Part((_ellipse(0, -0.2, 0.9, flat * 0.85),), "shade")]


def _plate(rng: np.random.Generator) -> list[Part]:
    flat = rng.uniform(0.35, 1.0)
    return [
        Part((_ellipse(0, 0, 1, flat),), "main"),
        Part((_ellipse(0, 0, 0.97, 0.97 * flat), _ellipse(0, 0, 0.66, 0.66 * flat)), "tint"),
    ]


def _knife(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.09, 0.16)
    blade = _points(-w, 0.15, -w, -0.95, -w * 0.5, -1, w, -0.55, w, 0.15)
    return [Part((blade,), "metal"), Part((_rectangle(-w * 0.9, 0.13, w * 0.9, 1.0),), "main")]


def _scissors(rng: np.random.Generator) -> list[Part]:
    spread, parts = rng.uniform(0.12, 0.4), []
    for sign in (-1, 1):
        blade = _rotate(_points(-0.07, 0.25, 0.07, 0.25, 0.02, -1.0), sign * spread)
        ring = (_ellipse(0, 0.66, 0.24, 0.32), _ellipse(0, 0.66, 0.13, 0.2))
        shank = _points(-0.06, 0.05, 0.06, 0.05, 0.08, 0.42, -0.08, 0.42)
        parts.append(Part((blade,), "metal"))
        parts.append(Part((_rotate(shank, sign * spread),), "main"))
        parts.append(Part(tuple(_rotate(r, sign * spread) for r in ring), "main"))
    return parts


def _spoon(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.05, 0.09)
    head = _ellipse(0, -0.7, rng.uniform(0.2, 0.28), 0.32)
    return [
        Part((_points(-w * 0.7, -0.5, w * 0.7, -0.5, w * 1.3, 1, -w * 1.3, 1),), "main"),
        Part((head,), "main"),
        Part((_ellipse(0, -0.7, 0.15, 0.24),), "shade"),
    ]


def _fork(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.05, 0.08)
    half = rng.uniform(0.16, 0.22)
    tines = [Part((_rectangle(x - 0.035, -1, x + 0.035, -0.55),), "main") for x in np.linspace(-half, half, 4) * 0.84]
    base = np.concatenate((_points(-half, -0.62, half, -0.62), _ellipse(0, -0.5, half, 0.2, 0, 180)))
    return [*tines, Part((base,), "main"), Part((_points(-w, -0.4, w, -0.4, w * 1.4, 1, -w * 1.4, 1),), "main")]


def _hammer(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.08, 0.12)
    head = _points(-0.5, -0.95, 0.35, -0.95, 0.6, -0.8, 0.35, -0.68, -0.5, -0.62)
    return [Part((_rectangle(-w, -0.7, w, 1.0),), "main"), Part((head,), "metal")]


def _screwdriver(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.14, 0.2)
    handle = _points(-w * 0.7, 0.05, w * 0.7, 0.05, w, 0.2, w, 0.9, w * 0.7, 1, -w * 0.7, 1, -w, 0.9, -w, 0.2)
    tip = _points(-0.045, 0.1, -0.045, -0.85, -0.07, -0.9, -0.05, -1, 0.05, -1, 0.07, -0.9, 0.045, -0.85, 0.045, 0.1)
    return [Part((tip,), "metal"), Part((handle,), "main")]


def _pen(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.06, 0.1)
    cap = rng.uniform(-0.1, 0.3)
    return [
        Part((_points(-w, -0.75, -0.02, -1, 0.02, -1, w, -0.75, w, 1, -w, 1),), "main"),
        Part((_rectangle(-w * 1.15, cap, w * 1.15, cap + 0.12),), "accent"),
    ]


def _book(rng: np.random.Generator) -> list[Part]:
    w, h = rng.uniform(0.55, 0.75), rng.uniform(0.8, 1.0)
    d = rng.uniform(0.06, 0.16)
    pages = _points(-w, h, -w + d, h + d, w + d, h + d, w + d, -h + d, w, -h, w, h)
    return [
        Part((pages,), "light"),
        Part((_rectangle(-w, -h, w, h),), "main"),
        Part((_rectangle(-w * 0.6, -h * 0.6, w * 0.6, -h * rng.uniform(0.2, 0.45)),), "accent"),
        Part((_rectangle(-w, -h, -w * 0.86, h),), "shade"),
    ]


def _box(rng: np.random.Generator) -> list[Part]:
    """Front, top and side of a carton with a strip of tape."""
    w, h, d = rng.uniform(0.55, 0.8), rng.uniform(0.4, 0.6), rng.uniform(0.25, 0.45)
    dx = rng.uniform(0.15, 0.4)
    front = _rectangle(-w, -h, w, h)
    top = _points(-w, -h, -w + dx, -h - d, w + dx, -h - d, w, -h)
    side = _points(w, -h, w + dx, -h - d, w + dx, h - d, w, h)
    tape = _points(-0.1, -h, dx - 0.1, -h - d, dx + 0.1, -h - d, 0.1, -h)
    return [Part((front,), "main"), Part((top,), "tint"), Part((side,), "shade"), Part((tape,), "light")]


def _ball(rng: np.random.Generator) -> list[Part]:
    parts = [Part((_ellipse(0, 0, 0.9, 0.9),), "main")]
    if rng.random() < 0.5:
        x = rng.uniform(0.2, 0.5)
        parts.append(Part((_stroke(_ellipse(0, 0, x, 0.88, -90, 90), 0.07),), "accent"))
    return [*parts, Part((_ellipse(-0.3, -0.35, 0.2, 0.15),), "tint")]


def _banana(rng: np.random.Generator) -> list[Part]:
    thickness = rng.uniform(0.28, 0.38)
    outer = _ellipse(0, -0.5, 1.0, 1.0, 10, 170)
    inner = _ellipse(0, -0.5 - thickness * 0.35, 0.98, 1.0 - thickness, 12, 168)[::-1]
    stem = _stroke(_points(-0.98, -0.33, -1.05, -0.55), 0.1)
    return [Part((np.concatenate((outer, inner)),), "main"), Part((stem,), "dark")]


def _apple(rng: np.random.Generator) -> list[Part]:
    t = np.radians(np.linspace(0, 360, 48))
    dents = ((270, 22, 0.22), (90, 20, 0.08))
    r = 0.8 * (1 - sum(depth * np.exp(-(((np.degrees(t) - at) / wide) ** 2)) for at, wide, depth in dents))
    stem = _stroke(_points(0, -0.55, 0.03, -0.8, 0.1, -0.98), 0.08)
    leaf = _rotate(_ellipse(0.3, -0.85, 0.2, 0.08), -0.4, (0.3, -0.85))
    parts = [Part((np.stack((r * np.cos(t), r * np.sin(t)), 1),), "main"), Part((stem,), "dark")]
    return [*parts, Part((leaf,), "leaf")] if rng.random() < 0.7 else parts


def _key(rng: np.random.Generator) -> list[Part]:
    parts = [
        Part((_ellipse(0, -0.65, 0.33, 0.33), _ellipse(0, -0.72, 0.14, 0.14)), "main"),
        Part((_rectangle(-0.07, -0.4, 0.07, 1.0),), "main"),
    ]
    for y in (0.5, 0.68, 0.86):
        parts.append(Part((_rectangle(0.05, y, 0.05 + rng.uniform(0.12, 0.26), y + 0.11),), "main"))
    return parts


def _phone(rng: np.random.Generator) -> list[Part]:
    w = rng.uniform(0.45, 0.55)
    corners = ((1, 1, 0), (-1, 1, 90), (-1, -1, 180), (1, -1, 270))
    body = np.concatenate([_ellipse(x * (w - 0.1), y * 0.9, 0.1, 0.1, a, a + 90) for x, y, a in corners])
    return [
        Part((body,), "main"),
        Part((_rectangle(-w * 0.86, -0.86, w * 0.86, 0.82),), "screen"),
        Part((_ellipse(0, 0.9, 0.05, 0.04),), "tint"),
    ]


def _can(rng: np.random.Generator) -> list[Part]:
    w, flat = rng.uniform(0.45, 0.6), rng.uniform(0.2, 0.35)
    wall = np.concatenate((_ellipse(0, -0.8, w, w * flat, 180, 360), _ellipse(0, 0.8, w, w * flat, 0, 180)))
    band = np.concatenate((_ellipse(0, 0.3, w, w * flat, 0, 180), _ellipse(0, -0.2, w, w * flat, 0, 180)[::-1]))
    return [
        Part((wall,), "main"),
        Part((_ellipse(0, -0.8, w, w * flat),), "metal"),
        Part((_ellipse(0, -0.8, w * 0.85, w * flat * 0.8), _ellipse(0, -0.8, w * 0.7, w * flat * 0.66)), "shade"),
        Part((band,), "accent"),
    ]


def _block(rng: np.random.Generator) -> list[Part]:
    """A cube: three faces of one colour."""
    a, t = rng.uniform(0.25, 0.75), rng.uniform(0.35, 0.6)
    left, right = -0.9 * a - 0.1, 0.9 * (1 - a) + 0.1
    height = rng.uniform(0.8, 1.1)
    mid = _points(0, -0.4)
    top = np.concatenate((mid, _points(left, -0.4 - t * 0.5, left + right, -0.4 - t, right, -0.4 - t * 0.5)))
    face1 = _points(0, -0.4, left, -0.4 - t * 0.5, left, height - 0.4 - t * 0.5, 0, height - 0.4)
    face2 = _points(0, -0.4, right, -0.4 - t * 0.5, right, height - 0.4 - t * 0.5, 0, height - 0.4)
    return [Part((face1,), "main"), Part((face2,), "shade"), Part((top,), "tint")]


def _lamp(rng: np.random.Generator) -> list[Part]:
    top, bottom = rng.uniform(0.2, 0.4), rng.uniform(0.6, 0.75)
    return [
        Part((_rectangle(-0.05, -0.2, 0.05, 0.85),), "metal"),
        Part((_ellipse(0, 0.87, 0.42, 0.13),), "dark"),
        Part((_points(-top, -0.95, top, -0.95, bottom, -0.05, -bottom, -0.05),), "main"),
    ]


SHAPES: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "cup": _cup, "mug": _mug, "bottle": _bottle, "bowl": _bowl, "plate": _plate, "knife": _knife,
    "scissors": _scissors, "spoon": _spoon, "fork": _fork, "hammer": _hammer, "screwdriver": _screwdriver,
    "pen": _pen, "book": _book, "box": _box, "ball": _ball, "banana": _banana, "apple": _apple, "key": _key,
    "phone": _phone, "can": _can, "block": _block, "lamp": _lamp,
}  # fmt: skip

# Upright things stand on the table; the others lie on it at any angle.
_UPRIGHT = frozenset(("cup", "mug", "bottle", "bowl", "box", "can", "block", "lamp"))


def _role_color(rng: np.random.Generator, role: str, main: np.ndarray) -> np.ndarray:
    match role:
        case "main":
            return main
        case "shade":
            return main * rng.uniform(0.55, 0.8)
        case "tint":
            return main + (255 - main) * rng.uniform(0.15, 0.35)
        case "metal":
            return np.full(3, rng.uniform(130, 215), np.float32) + rng.normal(0, 4, 3).astype(np.float32)
        case "dark":
            return np.full(3, rng.uniform(20, 70), np.float32)
        case "light":
            return np.full(3, rng.uniform(200, 250), np.float32)
        case "leaf":
            return np.array((60, 130, 50), np.float32)
        case "screen":
            return random_color(rng) * 0.4
    return random_color(rng)


# --- painting ---------------------------------------------------------------------------------------------------------

_SHIFT = 4  # OpenCV draws polygons with 4 fractional bits


class _Canvas:
    """Image and id map under construction; whatever is painted later covers what is already there."""

    def __init__(self, background: np.ndarray) -> None:
        self.image = background
        self.ids = np.zeros(background.shape[:2], np.uint8)

    def stencil(self, contours: list[np.ndarray]) -> tuple[tuple[slice, slice], np.ndarray] | None:
        """Where contours (pixels) lie: slices of their bounding rectangle, bool mask in it; None: outside the image."""
        height, width = self.ids.shape
        every = np.concatenate(contours)
        x0, y0 = np.floor(np.maximum(every.min(0), 0)).astype(int)
        x1, y1 = np.ceil(np.minimum(every.max(0) + 1, (width, height))).astype(int)
        if x1 - x0 < 1 or y1 - y0 < 1:
            return None
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        fixed_point = [np.round((c - (x0, y0)) * (1 << _SHIFT)).astype(np.int32) for c in contours]
        cv2.fillPoly(mask, fixed_point, 1, shift=_SHIFT)
        return (slice(y0, y1), slice(x0, x1)), mask.view(bool)

    def paint(self, contours: list[np.ndarray], fill: Callable[[int, int], np.ndarray], id_: int) -> None:
        """`fill(height, width)` returns the area's pixels: uint8 or float, h x w x 3 or a single colour."""
        found = self.stencil(contours)
        if found is None:
            return
        where, mask = found
        pixels = np.broadcast_to(fill(*mask.shape), (*mask.shape, 3))
        self.image[where][mask] = np.clip(pixels[mask], 0, 255).astype(np.uint8)
        self.ids[where][mask] = id_

    def paste(self, piece: np.ndarray, center: np.ndarray, id_: int) -> None:
        """`piece`: uint8 h x w x 4, red, green, blue and alpha; `center`: where its centre is placed, pixels."""
        height, width = self.ids.shape
        x, y = np.round(center - np.array(piece.shape[1::-1]) / 2).astype(int)
        piece = piece[max(-y, 0) : max(height - y, 0), max(-x, 0) : max(width - x, 0)]
        where = np.s_[max(y, 0) : max(y, 0) + piece.shape[0], max(x, 0) : max(x, 0) + piece.shape[1]]
        alpha = piece[..., 3:] / np.float32(255)
        self.image[where] = np.round(self.image[where] * (1 - alpha) + piece[..., :3] * alpha).astype(np.uint8)
        self.ids[where][piece[..., 3] > 127] = id_

    def shade(self, contours: list[np.ndarray], strength: float) -> None:
        """Darken the contours: a shadow that belongs to no thing."""
        found = self.stencil(contours)
        if found is not None:
            where, mask = found
            soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2.0)[..., None] * strength
            self.image[where] = (self.image[where] * (1 - soft)).astype(np.uint8)


def _shading(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Light that falls off across an area: factors around 1, height x width x 1."""
    gx, gy = rng.uniform(-0.3, 0.3, 2)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] * np.float32(gx)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(gy)
    return (1 + x + y)[..., None]


def _things(canvas: _Canvas, labels: list[tuple[str, str]], least: int) -> tuple[Thing, ...]:
    things = []
    for index, (kind, color) in enumerate(labels, 1):
        mask = canvas.ids == index
        area = int(np.count_nonzero(mask))
        box = mask_to_box(mask) if area >= least else None
        if box is not None and min(box.width, box.height) >= 5:
            things.append(Thing(index, kind, color, box, area))
    return tuple(things)


def household_scene(
    rng: np.random.Generator,
    bank: TextureBank,
    height: int,
    width: int,
    count: tuple[int, int] = (4, 8),
    held_out_pairs: bool = False,
) -> Scene:
    """Named and coloured things on a textured background; some share their kind or colour, some overlap.

    `held_out_pairs`: whether the pairs of kind and colour that are kept out of training may appear.
    """
    canvas = _Canvas(bank.crop(rng, height, width).copy())
    if rng.random() < 0.4:
        _clutter(canvas, rng, bank, int(rng.integers(2, 8)))
        canvas.ids[:] = 0
    labels: list[tuple[str, str]] = []
    kinds, colors = list(KINDS), list(COLORS)
    placed: list[Box] = []
    side = min(height, width)
    for _ in range(int(rng.integers(count[0], count[1] + 1))):
        # A distractor shares a word with an earlier thing, so that every word of a description matters.
        kind, color = kinds[rng.integers(len(kinds))], colors[rng.integers(len(colors))]
        if labels and rng.random() < 0.45:
            other = labels[rng.integers(len(labels))]
            kind, color = (other[0], color) if rng.random() < 0.5 else (kind, other[1])
        if is_held_out(kind, color) and not held_out_pairs:
            continue
        size = side * rng.uniform(0.09, 0.26)
        for _ in range(12):
            center = rng.uniform((size * 0.7, size * 0.7), (width - size * 0.7, height - size * 0.7))
            box = Box.from_xywh(center[0] - size, center[1] - size, 2 * size, 2 * size)
            if all(box.intersection(p) < rng.uniform(0.05, 0.35) * min(box.area, p.area) for p in placed):
                break
        else:
            continue
        placed.append(box)
        labels.append((kind, color))
        _paint_thing(canvas, rng, bank, kind, color, center, size, len(labels))
    return Scene(photograph(rng, canvas.image), canvas.ids, _things(canvas, labels, 40))


def _paint_thing(
    canvas: _Canvas, rng: np.random.Generator, bank: TextureBank, kind: str, color: str,
    center: np.ndarray, size: float, id_: int,
) -> None:  # fmt: skip
    parts = SHAPES[kind](rng)
    angle = rng.normal(0, 0.12) if kind in _UPRIGHT else rng.uniform(-np.pi, np.pi)
    stretch = np.diag(rng.uniform(0.88, 1.12, 2))
    if rng.random() < 0.5:
        stretch[0, 0] *= -1
    c, s = np.cos(angle), np.sin(angle)
    matrix = size * (stretch @ np.array([[c, s], [-s, c]]))
    placed = [(part.role, [contour @ matrix + center for contour in part.contours]) for part in parts]
    if rng.random() < 0.6:
        offset = rng.uniform(0.03, 0.15) * size * np.array((rng.choice((-1.0, 1.0)), 1.0))
        for _, contours in placed:
            canvas.shade([contour + offset for contour in contours], rng.uniform(0.15, 0.5))
    main = sample_color(rng, color)
    grain = rng.uniform(0, 0.12)
    for role, contours in placed:
        base = _role_color(rng, role, main)

        def fill(h: int, w: int, base: np.ndarray = base) -> np.ndarray:
            pixels = base * _shading(rng, h, w)
            if grain > 0.04:
                texture = bank.crop(rng, h, w).mean(2, keepdims=True)
                pixels = pixels * (1 + grain * (texture / 128 - 1))
            return pixels

        canvas.paint(contours, fill, id_)
    if rng.random() < 0.35:
        _markings(canvas, rng, bank, center, size, id_, 0.18)


def _blob(rng: np.random.Generator) -> list[Polygon]:
    """A random outline, within about -1 to 1."""
    kind = rng.random()
    if kind < 0.3:  # smooth
        t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        r = np.ones_like(t)
        for k in range(2, 7):
            r += rng.normal(0, 0.32 / k) * np.cos(k * t + rng.uniform(0, 6.3))
        r = np.maximum(r, 0.25)
        shape = np.stack((r * np.cos(t), r * np.sin(t) * rng.uniform(0.35, 1)), 1)
    elif kind < 0.5:  # polygon
        t = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        shape = np.stack((np.cos(t), np.sin(t) * rng.uniform(0.4, 1)), 1) * rng.uniform(0.55, 1, (len(t), 1))
    elif kind < 0.62:  # rectangle
        shape = _rectangle(-1, -rng.uniform(0.15, 1), 1, rng.uniform(0.15, 1))
    elif kind < 0.75:  # ellipse, or a ring
        flat = rng.uniform(0.3, 1)
        if rng.random() < 0.25:
            angle = rng.uniform(0, 6.3)
            return [_rotate(_ellipse(0, 0, r, r * flat), angle) for r in (1.0, rng.uniform(0.5, 0.85))]
        shape = _ellipse(0, 0, 1, flat)
    else:  # a bent bar
        t = np.linspace(-1, 1, 16)
        path = np.stack((t, rng.uniform(-0.8, 0.8) * t**2 + rng.normal(0, 0.2) * t**3), 1)
        shape = _stroke(path, rng.uniform(0.06, 0.45))
    return [_rotate(shape, rng.uniform(0, 2 * np.pi))]


def _figure(rng: np.random.Generator) -> list[list[Polygon]]:
    """Something with a body, limbs and a head (trunk, bars that start on it, ellipse), without resembling anything."""
    tilt = rng.uniform(0, 2 * np.pi) if rng.random() < 0.4 else rng.normal(0, 0.25)
    width, length = rng.uniform(0.18, 0.4), rng.uniform(0.35, 0.6)
    groups = []
    for x in rng.permutation(np.linspace(-1, 1, int(rng.integers(2, 5)))):
        start = np.array((x * width * 0.7, rng.choice((-0.8, 0.8)) * length))
        knee = start + rng.normal(0, 0.14, 2) + (x * 0.2, np.sign(start[1]) * rng.uniform(0.1, 0.4))
        end = knee + rng.normal(0, 0.2, 2) + (x * 0.1, np.sign(start[1]) * rng.uniform(-0.1, 0.35))
        t = np.linspace(0, 1, 12)[:, None]
        path = (1 - t) ** 2 * start + 2 * t * (1 - t) * knee + t**2 * end
        groups.append([_stroke(path, rng.uniform(0.1, 0.26))])
    trunk = _ellipse(0, 0, width, length) if rng.random() < 0.5 else _rectangle(-width, -length, width, length)
    head = rng.uniform(0.14, 0.24)
    groups += [[trunk], [_ellipse(rng.normal(0, 0.1), -length - head * 0.7, head, head * rng.uniform(0.9, 1.3))]]
    return [[_rotate(polygon, tilt) for polygon in group] for group in groups]


def _composite(rng: np.random.Generator) -> list[list[Polygon]]:
    """One shape, several connected ones, or a figure; each group of contours is filled in its own way."""
    kind = rng.random()
    if kind < 0.22:
        return [_blob(rng)]
    if kind < 0.55:
        return _figure(rng)
    groups, spread = [], rng.uniform(0.25, 0.6)
    for _ in range(int(rng.integers(2, 6))):
        scale, offset = rng.uniform(0.3, 0.75), rng.uniform(-spread, spread, 2)
        groups.append([contour * scale + offset for contour in _blob(rng)])
    return groups


def _leaf(canvas: _Canvas, rng: np.random.Generator, bank: TextureBank, radius: float, id_: int) -> None:
    height, width = canvas.ids.shape
    center = rng.uniform((0, 0), (width, height))
    groups = [[contour * radius + center for contour in group] for group in _composite(rng)]
    if rng.random() < 0.35:
        offset = rng.uniform(-0.12, 0.12, 2) * radius
        strength = rng.uniform(0.1, 0.5)
        for group in groups:
            canvas.shade([contour + offset for contour in group], strength)
    shared = bank.crop(rng, *canvas.ids.shape) if rng.random() < 0.2 else None
    plain = random_color(rng)
    for group in groups:
        style = rng.random()

        def fill(h: int, w: int, style: float = style) -> np.ndarray:
            if shared is not None:
                pixels = shared[:h, :w]
            elif style < 0.6:
                pixels = bank.crop(rng, h, w)
            else:
                pixels = plain if style < 0.8 else random_color(rng)
            return pixels * _shading(rng, h, w)

        canvas.paint(group, fill, id_)
    if rng.random() < 0.6:
        _markings(canvas, rng, bank, center, radius, id_, 0.4)


def _markings(
    canvas: _Canvas,
    rng: np.random.Generator,
    bank: TextureBank,
    center: np.ndarray,
    radius: float,
    id_: int,
    size: float,
) -> None:
    """Spots that are part of a thing, such as a print, an eye or a seam; up to `size` times its radius."""
    is_thing = canvas.ids == id_
    for _ in range(int(rng.integers(1, 7))):
        scale, place = radius * rng.uniform(0.05, size), center + rng.uniform(-0.6, 0.6, 2) * radius
        found = canvas.stencil([contour * scale + place for contour in _blob(rng)])
        if found is None:
            continue
        area, mask = found
        inside = mask & is_thing[area]
        color = bank.crop(rng, *mask.shape)[inside] if rng.random() < 0.3 else random_color(rng).astype(np.uint8)
        canvas.image[area][inside] = color


def _clutter(canvas: _Canvas, rng: np.random.Generator, bank: TextureBank, count: int) -> None:
    side = min(canvas.ids.shape)
    for _ in range(count):
        _leaf(canvas, rng, bank, side * rng.uniform(0.15, 0.6), 255)


CUT_OUT = 0.5
"""Share of the leaves that are cut-outs, if any are given."""


def dead_leaves(
    rng: np.random.Generator, bank: TextureBank, height: int, width: int, cutouts: Sequence[np.ndarray] = ()
) -> Scene:
    """Textured shapes and `cutouts` (`cutouts.py`) that cover each other; none has a name."""
    canvas = _Canvas(bank.crop(rng, height, width).copy())
    side = min(height, width)
    _clutter(canvas, rng, bank, int(rng.integers(0, 12)))
    canvas.ids[:] = 0
    count = int(rng.integers(4, 14))
    # In half of the scenes, the large ones lie below the small ones
    radii = np.sort(side * np.exp(rng.uniform(np.log(0.07), np.log(0.5), count)))[::-1]
    if rng.random() < 0.5:
        rng.shuffle(radii)
    for index, radius in enumerate(radii, 1):
        if cutouts and rng.random() < CUT_OUT:
            piece = posed(rng, cutouts[rng.integers(len(cutouts))], float(radius))
            canvas.paste(piece, rng.uniform((0, 0), (width, height)), index)
        else:
            _leaf(canvas, rng, bank, float(radius), index)
    return Scene(photograph(rng, canvas.image), canvas.ids, _things(canvas, [("", "")] * count, 60))


def photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """An image as a camera would take it: uneven light, blur, exposure, noise, JPEG."""
    if rng.random() < 0.35:
        height, width = image.shape[:2]
        light = cv2.resize(fractal_noise(rng, 32, 0.3), (width, height), interpolation=cv2.INTER_LINEAR)
        image = cv2.convertScaleAbs(image * (0.75 + 0.5 * light[..., None]))
    kind = rng.random()
    if kind < 0.75:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 1.6) if kind < 0.65 else rng.uniform(1.6, 3.0))
    if rng.random() < 0.5:
        gain = rng.uniform(0.75, 1.25) * rng.uniform(0.95, 1.05, 3)
        image = np.clip(image * gain.astype(np.float32) + np.float32(rng.uniform(-18, 18)), 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        noise = rng.integers(-127, 128, image.shape, dtype=np.int8) * np.float32(rng.uniform(0.01, 0.12))
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        _, coded = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 92))))
        image = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(image)
