"""What the parts of things are coloured with: one colour, or a picture drawn for the part. numpy and OpenCV only."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from rsvp_ros.textures import fractal_noise

Color = tuple[float, float, float]

SIDE = 128
"""Side of a picture, pixels: a thing in an image rarely shows more detail."""


@dataclass(frozen=True, eq=False)
class Paint:
    """How a part looks."""

    rgb: Color
    """0 to 1; white where there is a picture."""
    image: np.ndarray | None
    """uint8 H x W x 3 RGB, laid over the part's texcoords: the first row is v = 0."""
    specular: float
    """0 to 1, as in MuJoCo's materials."""
    shininess: float


_GLOSS: dict[str, tuple[float, float]] = {
    "plastic": (0.45, 0.5),
    "ceramic": (0.7, 0.8),
    "metal": (0.9, 0.6),
    "wood": (0.12, 0.2),
    "paper": (0.06, 0.1),
    "rubber": (0.18, 0.2),
    "glass": (0.9, 0.95),
    "fruit": (0.25, 0.4),
    "wax": (0.3, 0.3),
    "foam": (0.02, 0.05),
}
"""Specular and shininess."""

_FIXED: dict[str, tuple[Color, str]] = {
    "metal": ((0.74, 0.75, 0.77), "metal"),
    "dark": ((0.06, 0.05, 0.05), "plastic"),
    "light": ((0.93, 0.93, 0.91), "plastic"),
    "grip": ((0.07, 0.07, 0.07), "plastic"),
    "copper": ((0.80, 0.56, 0.24), "metal"),
    "lens": ((0.03, 0.03, 0.05), "glass"),
    "screen_edge": ((0.02, 0.02, 0.03), "glass"),
    "leaf": ((0.16, 0.42, 0.10), "fruit"),
    "stalk": ((0.20, 0.13, 0.06), "fruit"),
    "crease": ((0.22, 0.15, 0.09), "paper"),
    "red": ((0.80, 0.10, 0.10), "rubber"),
    "green": ((0.12, 0.58, 0.18), "rubber"),
    "yellow": ((0.95, 0.80, 0.12), "rubber"),
    "blue": ((0.12, 0.28, 0.80), "rubber"),
}
"""Parts that have the same colour on every thing."""


def paint(kind: str, role: str, rgb: Color, pattern: str, material: str, rng: np.random.Generator) -> Paint:
    """How the parts of one role look on a thing of a kind, whose main colour is `rgb` (0 to 1).

    `pattern` and `material` are the thing's, see `kinds.Kind`. Call it once per role: it draws from `rng`.
    """
    if role == "head" and material == "wood":
        role = "main"  # a wooden spoon is all one piece
    if role == "main":
        return _main(kind, rgb, pattern, material, rng)
    if role == "trim":
        return _plain(rgb, material)
    if role == "head":
        role = "metal"
    if role == "metal":
        return _picture(_brushed(_FIXED[role][0], rng), "metal")
    if role in _FIXED:
        color, of = _FIXED[role]
        gain = float(rng.uniform(0.85, 1.08)) if role != "light" else float(rng.uniform(0.92, 1.03))
        return _plain(tuple(min(1.0, c * gain) for c in color), of)
    if role == "cap":
        return _plain(_contrasting(rgb, rng), "plastic")
    if role == "inside":
        return _plain((0.13, 0.13, 0.14) if rng.random() < 0.3 else tuple(0.8 * c for c in rgb), "ceramic")
    if role == "wick":
        return _plain((0.06, 0.05, 0.05) if _brightness(rgb) > 0.2 else (0.85, 0.82, 0.74), "paper")
    if role == "keys":
        return _plain((0.82, 0.82, 0.82) if _brightness(rgb) < 0.3 else (0.14, 0.14, 0.15), "rubber")
    if role == "scour":
        dark = (0.15, 0.21, 0.17) if rng.random() < 0.5 else (0.17, 0.17, 0.19)
        return _picture(_mottled(dark, 0.7, rng, 0.95), "foam")
    if role == "wood":
        return _picture(_grain((0.62, 0.43, 0.24) if kind == "hammer" else (0.30, 0.19, 0.10), rng), "wood")
    if role == "cardboard":
        return _plain((0.70, 0.55, 0.38), "paper")
    return _picture(_PRINTS[role](rgb, pattern, rng), "glass" if role == "screen" else "paper")


def _plain(rgb: Color, material: str) -> Paint:
    return Paint(rgb, None, *_GLOSS[material])


def _picture(image: np.ndarray, material: str) -> Paint:
    return Paint((1.0, 1.0, 1.0), np.ascontiguousarray(image), *_GLOSS[material])


def _main(kind: str, rgb: Color, pattern: str, material: str, rng: np.random.Generator) -> Paint:
    if kind == "cube":
        return _picture(_block(rgb, pattern, rng), material)
    if pattern != "plain":
        return _picture(_patterned(kind, rgb, pattern, rng), material)
    if kind == "ball":
        return _picture(_ball(rgb, rng), material)
    if material == "wood":
        return _picture(_grain(rgb, rng), material)
    if material == "fruit":
        return _picture(_SKINS.get(kind, _peel)(rgb, rng), material)
    if material == "foam":
        return _picture(_pores(rgb, rng), material)
    bare = np.ptp(rgb) < 0.06 and 0.65 < _brightness(rgb) < 0.86  # silver
    if material == "metal" and (bare or kind == "key"):
        return _picture(_brushed(rgb, rng), material)
    return _plain(rgb, material)


# Colours


def _brightness(rgb: Color) -> float:
    return float(np.dot(rgb, (0.3, 0.59, 0.11)))


def _contrasting(rgb: Color, rng: np.random.Generator) -> Color:
    """White, black or a grey that contrasts with a colour: no second colour that could be taken for the thing's."""
    level = rng.uniform(0.03, 0.12) if _brightness(rgb) > 0.55 else rng.uniform(0.86, 0.95)
    return (level, level, level)


def _second(rgb: Color) -> Color:
    """The second colour of a pattern: white on a colour, a dark grey on yellow, a mid grey on white."""
    return (0.94, 0.94, 0.92) if _brightness(rgb) < 0.70 else (0.26, 0.27, 0.30) if rgb[2] < 0.5 else (0.48, 0.50, 0.53)


def _bytes(rgb: Color) -> tuple[int, int, int]:
    return tuple(int(np.clip(round(255 * c), 0, 255)) for c in rgb)


def _sheet(rgb: Color, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.full((height, width, 3), _bytes(rgb), np.uint8)


def _shade(rgb: Color, gain: np.ndarray) -> np.ndarray:
    """A colour times a field, H x W."""
    return np.clip(255 * np.asarray(rgb) * gain[..., None], 0, 255).astype(np.uint8)


# The main part


_ASPECTS = {"mug": 2.8, "cup": 2.5, "bowl": 6.0, "teapot": 3.8, "can": 2.0, "candle": 1.2, "ball": 2.0}
"""For things turned on a lathe: how many times their height the way around them is."""


def _patterned(kind: str, rgb: Color, pattern: str, rng: np.random.Generator) -> np.ndarray:
    """Stripes, dots or checks; the main colour covers more than half."""
    second = np.array(_bytes(_second(rgb)))
    aspect = _ASPECTS.get(kind, 1.0)
    image = _sheet(rgb, SIDE, round(SIDE * aspect)) if kind in _ASPECTS else _sheet(rgb, 2 * SIDE, 2 * SIDE)
    height, width = image.shape[:2]
    if pattern == "striped":
        upright = kind not in _ASPECTS or kind == "ball"
        repeats = int(rng.integers(5, 8)) if upright else int(rng.integers(2, 5))
        period = (width if upright else height) / repeats
        for i in range(repeats):
            band = slice(round((i + 0.3) * period), round((i + 0.7) * period))
            image[np.s_[:, band] if upright else np.s_[band]] = second
    elif pattern == "checked":
        repeats = int(rng.integers(5, 9))
        for i in range(repeats):
            band = slice(round((i + 0.36) * width / repeats), round((i + 0.62) * width / repeats))
            for cut in (np.s_[band], np.s_[:, band]):
                image[cut] = (0.45 * image[cut] + 0.55 * second).astype(np.uint8)
    else:
        _dots(image, kind, second.tolist(), rng)
    return image


def _dots(image: np.ndarray, kind: str, color: list[int], rng: np.random.Generator) -> None:
    """Rows of dots, every other row shifted by half a spacing."""
    height, width = image.shape[:2]
    rows, low, high = {
        "ball": (5, 0.0, 1.0),
        "bowl": (2, 0.03, 0.52),
        "candle": (4, 0, 1),
        "teapot": (3, 0.08, 0.92),
    }.get(kind, (3, 0.0, 1.0) if kind in _ASPECTS else (int(rng.integers(6, 9)), 0.0, 1.0))
    pitch = (high - low) * height / rows
    for row in range(rows):
        y = low * height + (row + 0.5) * pitch
        stretch = 1 / max(np.sin(np.pi * y / height), 0.3) if kind == "ball" else 1.0  # towards the poles u runs faster
        count = max(3, round(width / (pitch * stretch)))
        for column in range(count + 1):
            x = (column + 0.5 * (row % 2)) * width / count
            axes = (round(0.28 * pitch * stretch), round(0.28 * pitch))
            for shift in (0, -width):
                cv2.ellipse(image, (round(x + shift), round(y)), axes, 0, 0, 360, color, -1, cv2.LINE_AA)


def _ball(rgb: Color, rng: np.random.Generator) -> np.ndarray:
    """Panels in two shades, or the seams of a basketball."""
    image = _sheet(rgb, SIDE, 2 * SIDE)
    height, width = image.shape[:2]
    deep = _bytes(tuple(c * 0.72 for c in rgb) if _brightness(rgb) > 0.12 else (0.2, 0.2, 0.21))
    if rng.random() < 0.5:
        for i in range(3):
            image[:, round(i * width / 3) : round((i + 0.42) * width / 3)] = deep
    else:
        seam = tuple(c * 2 // 3 for c in deep) if _brightness(rgb) > 0.12 else deep
        for i in range(4):
            x = round((i + 0.5) * width / 4)
            cv2.line(image, (x, 0), (x, height), seam, 3)
        cv2.line(image, (0, height // 2), (width, height // 2), seam, 3)
    return image


def _block(rgb: Color, pattern: str, rng: np.random.Generator) -> np.ndarray:
    """A toy block's side: a letter in a frame, or a die's spots."""
    image = _shade(rgb, 0.9 + 0.2 * fractal_noise(rng, SIDE, 0.4))
    light = _bytes(_second(rgb))
    if pattern == "dotted":
        for x in (0.27, 0.73):
            for y in (0.27, 0.73):
                cv2.circle(image, (round(x * SIDE), round(y * SIDE)), 13, light, -1, cv2.LINE_AA)
        cv2.circle(image, (SIDE // 2, SIDE // 2), 13, light, -1, cv2.LINE_AA)
        return image
    cv2.rectangle(image, (14, 14), (SIDE - 15, SIDE - 15), light, 4, cv2.LINE_AA)
    letter = "ABCEHKRS"[int(rng.integers(8))]
    (width, height), _ = cv2.getTextSize(letter, cv2.FONT_HERSHEY_DUPLEX, 2.6, 7)
    cv2.putText(
        image, letter, ((SIDE - width) // 2, (SIDE + height) // 2), cv2.FONT_HERSHEY_DUPLEX, 2.6, light, 7, cv2.LINE_AA
    )
    return image


def _mottled(rgb: Color, depth: float, rng: np.random.Generator, roughness: float) -> np.ndarray:
    return _shade(rgb, 1 - depth / 2 + depth * fractal_noise(rng, SIDE, roughness))


def _endless(cells: np.ndarray) -> np.ndarray:
    """Cells smoothly enlarged to SIDE x SIDE, without a seam where the picture meets itself around a thing."""
    wide = np.concatenate((cells, cells, cells), 1)
    return cv2.resize(wide, (3 * SIDE, SIDE), interpolation=cv2.INTER_CUBIC)[:, SIDE : 2 * SIDE]


def _grain(rgb: Color, rng: np.random.Generator) -> np.ndarray:
    """Wood with its grain along u."""
    grain = _endless(rng.random((SIDE // 3, 4), dtype=np.float32))
    return _shade(rgb, 0.78 + 0.44 * grain * (0.7 + 0.3 * fractal_noise(rng, SIDE, 0.5)))


def _brushed(rgb: Color, rng: np.random.Generator) -> np.ndarray:
    """Bare metal: bright and dark bands, as if it mirrored a room, with fine scratches along them."""
    bands = _endless(rng.random((5, 4), dtype=np.float32))
    scratches = _endless(rng.random((SIDE, 4), dtype=np.float32))
    return _shade(rgb, 0.62 + 0.58 * bands + 0.10 * (scratches - 0.5))


def _pores(rgb: Color, rng: np.random.Generator) -> np.ndarray:
    image = _mottled(rgb, 0.12, rng, 0.8)
    for _ in range(150):
        x, y = rng.integers(0, SIDE, 2)
        cv2.circle(
            image,
            (int(x), int(y)),
            int(rng.integers(1, 4)),
            _bytes(tuple(c * rng.uniform(0.55, 0.8) for c in rgb)),
            -1,
            cv2.LINE_AA,
        )
    return image


# Skins: v runs from the bottom to the top, or from the first end to the second


def _peel(rgb: Color, rng: np.random.Generator) -> np.ndarray:
    """Citrus peel: many small dimples."""
    field = rng.random((SIDE, 2 * SIDE), dtype=np.float32)
    field = cv2.GaussianBlur(field, (0, 0), 1.4)
    field = (field - field.mean()) / field.std()
    broad = cv2.resize(fractal_noise(rng, SIDE, 0.4), (2 * SIDE, SIDE))
    return _shade(rgb, 0.97 + 0.055 * np.clip(field, -2.5, 1.5) + 0.10 * (broad - 0.5))


def _apple(rgb: Color, rng: np.random.Generator) -> np.ndarray:
    """Streaks from the stem down; greener around the stem."""
    height, width = SIDE, 2 * SIDE
    streaks = cv2.resize(_endless(rng.random((9, 90), dtype=np.float32)), (width, height))
    broad = cv2.resize(fractal_noise(rng, SIDE, 0.4), (width, height))
    image = _shade(rgb, 0.88 + 0.10 * streaks + 0.12 * broad).astype(np.float32)
    v = np.linspace(1, 0, height)[:, None]
    ripe = np.clip((v - 0.80 - 0.06 * streaks) / 0.12, 0, 0.75)[..., None]
    pale = np.array((0.72, 0.70, 0.25)) * 255
    image += (pale - image) * ripe
    for _ in range(90):
        x, y = int(rng.integers(width)), int(rng.integers(height // 4, height))
        image[y, x] += (pale - image[y, x]) * 0.6
    return image.astype(np.uint8)


def _pear(rgb: Color, rng: np.random.Generator) -> np.ndarray:
    image = _mottled(rgb, 0.14, rng, 0.6)
    image = cv2.resize(image, (2 * SIDE, SIDE))
    for _ in range(260):
        x, y = int(rng.integers(2 * SIDE)), int(rng.integers(SIDE))
        image[y, x] = (image[y, x] * 0.62).astype(np.uint8)
    if rng.random() < 0.4:  # a blush on the sunny side
        blush = np.exp(-((np.arange(2 * SIDE) - SIDE) ** 2) / (2 * (SIDE / 3) ** 2))[None, :, None] * 0.3
        image = (image + (np.array((190, 70, 30)) - image) * blush).astype(np.uint8)
    return image


def _banana(rgb: Color, rng: np.random.Generator) -> np.ndarray:
    """Greener at both ends, a few brown flecks along it."""
    image = _mottled(rgb, 0.08, rng, 0.4).astype(np.float32)
    v = np.linspace(0, 1, SIDE)
    ends = np.clip((np.abs(v - 0.5) - 0.42) / 0.08, 0, 1)[:, None, None] * 0.5
    image += (np.array((0.55, 0.60, 0.16)) * 255 - image) * ends
    image = image.astype(np.uint8)
    for _ in range(int(rng.integers(0, 26))):
        x, y = int(rng.integers(SIDE)), int(rng.integers(SIDE))
        cv2.ellipse(
            image, (x, y), (int(rng.integers(1, 4)), int(rng.integers(1, 3))), 0, 0, 360, (104, 72, 30), -1, cv2.LINE_AA
        )
    return image


def _carrot(rgb: Color, rng: np.random.Generator) -> np.ndarray:
    """Rings across."""
    image = _mottled(rgb, 0.10, rng, 0.4)
    for _ in range(34):
        y, x = int(rng.integers(SIDE)), int(rng.integers(SIDE))
        cv2.line(image, (x, y), (x + int(rng.integers(14, 60)), y), _bytes(tuple(c * 0.72 for c in rgb)), 1)
    return image


_SKINS = {"apple": _apple, "pear": _pear, "banana": _banana, "carrot": _carrot}


# Prints


def _lines(
    image: np.ndarray, top: float, bottom: float, rows: int, color: tuple[int, int, int], rng: np.random.Generator
) -> None:
    """Centred bars that stand for small print, between these shares of the height."""
    height, width = image.shape[:2]
    step = (bottom - top) * height / rows
    for row in range(rows):
        half = width * rng.uniform(0.18, 0.4)
        y = round(top * height + row * step)
        cv2.rectangle(image, (round(width / 2 - half), y), (round(width / 2 + half), round(y + step * 0.45)), color, -1)


def _label(rgb: Color, pattern: str, rng: np.random.Generator) -> np.ndarray:
    """Around a bottle: the same panel again and again, as it is seen from one side only."""
    ground = (0.95, 0.95, 0.93) if _brightness(rgb) < 0.72 else (0.30, 0.34, 0.42)
    image = _sheet(ground, SIDE, 3 * SIDE)
    ink = _bytes(tuple(c * 0.9 for c in rgb)) if _brightness(rgb) < 0.72 else (235, 235, 230)
    dark = (40, 40, 45) if _brightness(ground) > 0.5 else (225, 225, 225)
    image[: SIDE // 10] = ink
    image[-SIDE // 10 :] = ink
    for i in range(3):
        panel = image[:, i * SIDE : (i + 1) * SIDE]
        cv2.ellipse(panel, (SIDE // 2, SIDE * 2 // 5), (SIDE // 3, SIDE // 5), 0, 0, 360, ink, -1, cv2.LINE_AA)
        _lines(panel, 0.68, 0.86, 2, dark, rng)
    return image


def _emblem(rgb: Color, pattern: str, rng: np.random.Generator) -> np.ndarray:
    """On a can: a white disc or band with writing on it; the rest is the can's own colour."""
    image = _sheet(rgb)
    light = _bytes(_second(rgb))
    if rng.random() < 0.5:
        cv2.circle(image, (SIDE // 2, SIDE // 2), SIDE * 2 // 5, light, -1, cv2.LINE_AA)
    else:
        cv2.rectangle(image, (0, SIDE * 3 // 10), (SIDE, SIDE * 7 // 10), light, -1)
    _lines(image, 0.42, 0.64, 2, _bytes(tuple(c * 0.8 for c in rgb)), rng)
    return image


def _title(rgb: Color, pattern: str, rng: np.random.Generator) -> np.ndarray:
    """A book's cover: a title, a picture or a frame, an author; on a patterned book a plate with the title."""
    height, width = SIDE * 3 // 2, SIDE
    image = _sheet(rgb, height, width)
    light = _bytes(_second(rgb))
    if pattern != "plain":
        image = _patterned("book", rgb, pattern, rng)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        plate = image[height // 4 : height * 6 // 10, width // 8 : width * 7 // 8]
        plate[:] = light
        _lines(plate, 0.2, 0.9, 3, _bytes(tuple(c * 0.7 for c in rgb)), rng)
        return image
    _lines(image, 0.04, 0.30, int(rng.integers(2, 4)), light, rng)
    if rng.random() < 0.6:
        cv2.circle(
            image, (width // 2, height * 58 // 100), width // 4, light, -1 if rng.random() < 0.5 else 5, cv2.LINE_AA
        )
    else:
        cv2.rectangle(image, (width // 5, height * 42 // 100), (width * 4 // 5, height * 76 // 100), light, 4)
    _lines(image, 0.88, 0.98, 1, light, rng)
    return image


def _paper(rgb: Color, pattern: str, rng: np.random.Generator) -> np.ndarray:
    """A block of pages, edge on."""
    rows = rng.uniform(0.9, 1.05, SIDE)
    return _shade((0.95, 0.93, 0.86), np.broadcast_to(rows[:, None], (SIDE, SIDE)))


def _screen(rgb: Color, pattern: str, rng: np.random.Generator) -> np.ndarray:
    """Off, or a dark ground with rows of small coloured squares."""
    height, width = 2 * SIDE, SIDE
    if rng.random() < 0.4:
        return _shade((0.05, 0.05, 0.07), 0.7 + 0.6 * np.mgrid[:height, :width].sum(0) / (height + width))
    top, bottom = rng.uniform(0.05, 0.45, 3), rng.uniform(0.05, 0.45, 3)
    fall = np.linspace(0, 1, height)[:, None, None]
    image = np.broadcast_to(255 * (top + (bottom - top) * fall), (height, width, 3)).astype(np.uint8).copy()
    for row in range(6):
        if row == 0 or (row == 4 and rng.random() < 0.7):
            continue
        for column in range(4):
            x, y = round((column + 0.5) * width / 4), round((row + 0.5) * height / 6)
            color = tuple(int(c) for c in rng.integers(60, 256, 3))
            cv2.rectangle(image, (x - 10, y - 10), (x + 10, y + 10), color, -1)
    cv2.rectangle(image, (width // 4, height // 14), (width * 3 // 4, height // 9), (240, 240, 240), -1)
    return image


def _polarity(rgb: Color, pattern: str, rng: np.random.Generator) -> np.ndarray:
    """A plus sign and a lightning bolt."""
    image = _sheet(rgb)
    light = _bytes(_second(rgb))
    cv2.line(image, (64, 12), (64, 40), light, 8)
    cv2.line(image, (46, 26), (82, 26), light, 8)
    bolt = np.array([(74, 50), (44, 90), (62, 90), (52, 122), (88, 78), (68, 78)])
    cv2.fillPoly(image, [bolt], light, cv2.LINE_AA)
    return image


def _strip(rgb: Color, pattern: str, rng: np.random.Generator) -> np.ndarray:
    """Packing tape: brown, or nearly clear."""
    color = (0.78, 0.66, 0.46) if _brightness(rgb) > 0.65 or rng.random() < 0.5 else (0.86, 0.84, 0.80)
    return _mottled(color, 0.06, rng, 0.5)


def _stamp(rgb: Color, pattern: str, rng: np.random.Generator) -> np.ndarray:
    """An address label with a bar code."""
    image = _sheet((0.95, 0.95, 0.93), SIDE * 2 // 3, SIDE)
    height, width = image.shape[:2]
    _lines(image, 0.12, 0.5, 3, (60, 60, 60), rng)
    x = width // 8
    while x < width * 7 // 8:
        bar = int(rng.integers(1, 4))
        image[height * 6 // 10 : height * 9 // 10, x : x + bar] = 20
        x += bar + int(rng.integers(2, 5))
    return image


_PRINTS = {
    "label": _label,
    "emblem": _emblem,
    "title": _title,
    "paper": _paper,
    "screen": _screen,
    "polarity": _polarity,
    "strip": _strip,
    "stamp": _stamp,
}
