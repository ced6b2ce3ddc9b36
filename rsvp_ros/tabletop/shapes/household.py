"""Books, boxes, gadgets, cans, candles, toys."""

from __future__ import annotations

import numpy as np

from rsvp_ros.tabletop.shapes.mesh import (
    Mesh,
    box,
    circle,
    cylinder,
    lathe,
    loft,
    merge,
    prism,
    ribbon,
    rotation,
    rounded_rectangle,
    tube,
)
from rsvp_ros.tabletop.shapes.shape import LYING, UPRIGHT, UPSIDE_DOWN, Draft, box_points, turned_points


def _decal(width: float, height: float, z: float, thick: float = 0.0004) -> Mesh:
    """A thin sheet seen from above, its texture 0 to 1 along both width and height."""
    sheet = box((width, height, thick))
    flat = sheet.vertices[:, :2] / (width, height) + 0.5
    return Mesh(sheet.vertices, sheet.faces, flat).moved((0, 0, z))


def _wrap(radius: float, low: float, high: float, degrees: float, thick: float = 0.0005) -> Mesh:
    """Two labels on a cylinder, their middles at -y and y: u runs to the right as one reads them."""
    angle = np.radians(np.linspace(-degrees / 2, degrees / 2, max(4, int(degrees / 9))))
    way = np.column_stack((np.sin(angle), -np.cos(angle)))
    sheet = ribbon(way * (radius - 0.001), way * (radius + thick), low, high)
    around = np.arctan2(sheet.vertices[:, 0], -sheet.vertices[:, 1])
    texture = np.column_stack((around / np.radians(degrees) + 0.5, (sheet.vertices[:, 2] - low) / (high - low)))
    label = Mesh(sheet.vertices, sheet.faces, texture)
    return merge(label, label.turned((0, 0, 1), 180))


def book(rng: np.random.Generator) -> Draft:
    """Lies on its back, its spine at -x."""
    s = rng.uniform(0.85, 1.1)
    height = s * rng.uniform(0.17, 0.205)
    width, thick = height * rng.uniform(0.65, 0.78), s * rng.uniform(0.016, 0.034)
    board = 0.0024
    top = box((width, height, board), 0.0006, 1)
    span = float(max(top.vertices[:, 1].max() * 2, 0.01))
    top = Mesh(top.vertices, top.faces, top.vertices[:, :2] / span + 0.5)
    lid, floor = top.moved((0, 0, thick / 2 - board / 2)), top.moved((0, 0, -thick / 2 + board / 2))
    turn = np.linspace(np.pi / 2, 3 * np.pi / 2, 9)
    outer = np.column_stack((np.cos(turn) * 0.006 - width / 2, np.sin(turn) * thick / 2))
    inner = np.column_stack((np.cos(turn) * 0.0035 - width / 2, np.sin(turn) * (thick / 2 - board)))
    spine = ribbon(inner, outer, -height / 2, height / 2).turned((1, 0, 0), 90)
    pages = box((width - 0.005, height - 0.009, thick - 2 * board)).moved((-0.0015, 0, 0))
    title = _decal(width * 0.78, height * 0.78, thick / 2 + 0.0001)
    x, y, z = width / 2, height / 2, thick / 2
    return Draft(
        [("main", lid), ("main", floor), ("main", spine), ("paper", pages), ("title", title)],
        [box_points((-x - 0.006, -y, -z), (x, y, z))],
        0.35,
        [("flat", UPRIGHT, 0.85), ("face_down", UPSIDE_DOWN, 0.15)],
    )


def phone(rng: np.random.Generator) -> Draft:
    """Lies with its screen up, its top at +y."""
    s = rng.uniform(0.95, 1.15)
    width, height, thick = s * rng.uniform(0.068, 0.074), s * rng.uniform(0.138, 0.152), s * rng.uniform(0.0085, 0.0105)
    outline = rounded_rectangle(width, height, 0.011 * s, 6)
    body = prism(outline, -thick / 2, thick / 2, 0.0022)
    rim = 0.0052 * s
    glass = prism(rounded_rectangle(width - rim, height - rim, 0.009 * s, 5), thick / 2 - 0.001, thick / 2 + 0.0002)
    screen = _decal(width - 2.2 * rim, height - 4.2 * rim, thick / 2 + 0.0002, 0.0005)
    hole = prism(circle(0.0026 * s, 12), 0, 0.0006).moved((0, height / 2 - rim * 1.55, thick / 2 + 0.0001))
    island = prism(
        rounded_rectangle(0.027 * s, 0.032 * s, 0.007 * s, 4), -thick / 2 - 0.0018, -thick / 2 + 0.001, 0.0006
    )
    corner = (width / 2 - 0.0195 * s, height / 2 - 0.022 * s, 0)
    lenses = [
        prism(circle(0.0052 * s, 16), -thick / 2 - 0.0028, -thick / 2).moved(
            (corner[0] + dx * s, corner[1] + dy * s, 0)
        )
        for dx, dy in ((-0.0055, 0.0075), (0.0055, -0.001), (-0.0055, -0.008))
    ]
    buttons = [box((0.002, 0.014 * s, thick * 0.35), 0.0004).moved((width / 2, y * s, 0)) for y in (0.03, 0.012)]
    points = np.concatenate(
        [
            np.column_stack((outline[::2], np.full(len(outline[::2]), z)))
            for z in (-thick / 2 - 0.0018, thick / 2 + 0.0004)
        ]
    )
    return Draft(
        [("main", body), ("screen_edge", glass), ("screen", screen), ("lens", hole), ("main", island.moved(corner))]
        + [("lens", lens) for lens in lenses]
        + [("main", button) for button in buttons],
        [points],
        0.19,
        [("face_up", UPRIGHT, 0.65), ("face_down", UPSIDE_DOWN, 0.35)],
    )


def remote(rng: np.random.Generator) -> Draft:
    """Its buttons are up, its front at +y."""
    s = rng.uniform(0.92, 1.15)
    width, height, thick = s * rng.uniform(0.042, 0.048), s * rng.uniform(0.15, 0.175), s * rng.uniform(0.016, 0.021)
    outline = rounded_rectangle(width, height, 0.009 * s, 5)
    outline = outline * np.column_stack((1 + 0.1 * outline[:, 1] / height, np.ones(len(outline))))
    body = prism(outline, -thick / 2, thick / 2, 0.004)
    top = thick / 2
    parts: list = [("main", body)]

    def button(role: str, outline: np.ndarray, x: float, y: float, lift: float = 0.0022) -> None:
        rings = [(outline, top - 0.001), (outline, top + lift * s - 0.0007), (outline * 0.85, top + lift * s)]
        cap = loft(np.stack([np.column_stack((ring, np.full(len(ring), z))) for ring, z in rings]))
        parts.append((role, cap.moved((x * width, y * height, 0))))

    small = rounded_rectangle(0.0085 * s, 0.0062 * s, 0.0025 * s, 2)
    button("red", circle(0.0048 * s, 12), -0.28, 0.42)
    button("keys", circle(0.0036 * s, 10), 0.28, 0.42)
    for row in range(4):
        for column in (-1, 0, 1):
            button("keys", small, column * 0.28, 0.31 - row * 0.072)
    pad = circle(0.0135 * s, 20)
    button("keys", pad, 0, -0.075, 0.0016)
    button("main", circle(0.0055 * s, 12), 0, -0.075, 0.0028)
    for x, role in zip((-0.33, -0.11, 0.11, 0.33), ("red", "green", "yellow", "blue"), strict=True):
        button(role, rounded_rectangle(0.0072 * s, 0.005 * s, 0.0015 * s, 2), x, -0.2)
    for row in range(2):
        for column in (-1, 0, 1):
            button("keys", small, column * 0.28, -0.27 - row * 0.065)
    window = prism(rounded_rectangle(width * 0.5, 0.004 * s, 0.001, 2), -0.003, 0.003).moved(
        (0, height / 2 - 0.0012, 0)
    )
    parts.append(("lens", window))
    points = np.concatenate(
        [np.column_stack((outline * 0.97, np.full(len(outline), z))) for z in (-thick / 2, thick / 2 + 0.002)]
    )
    return Draft(parts, [points], 0.13, [("face_up", UPRIGHT, 1.0)])


def battery(rng: np.random.Generator) -> Draft:
    """Round, of a size that fits a torch."""
    s = rng.uniform(1.0, 1.25)
    radius, height = s * rng.uniform(0.0135, 0.0165), s * 0.056
    split = height * rng.uniform(0.62, 0.72)
    body = lathe([(0, 0.001), (radius - 0.001, 0.001), (radius, 0.002), (radius, split)], 24, True)
    band = lathe(
        [
            (radius, split),
            (radius, height - 0.001),
            (radius - 0.001, height),
            (radius * 0.86, height),
            (radius * 0.84, height - 0.0008),
            (0, height - 0.0008),
        ],
        24,
    )
    base = cylinder(radius * 0.8, 0, 0.0015, 0.0003, 20)
    nub = cylinder(radius * 0.34, height - 0.001, height + 0.0045 * s, 0.0009, 14)
    label = _wrap(radius, split * 0.1, split * 0.95, 110)
    return Draft(
        [("main", body), ("copper", band), ("metal", base), ("metal", nub), ("polarity", label)],
        [turned_points([(radius * 0.9, 0), (radius, 0.002), (radius, height - 0.001), (radius * 0.9, height)], 24)],
        0.09,
        [("upright", UPRIGHT, 0.45), ("lying", LYING @ rotation((0, 0, 1), rng.uniform(0, 360)), 0.55)],
    )


def can(rng: np.random.Generator) -> Draft:
    """A drink can with a tab, or a food can with rims and a paper label."""
    s = rng.uniform(0.85, 1.1)
    turn = rotation((0, 0, 1), rng.uniform(0, 360))
    if rng.random() < 0.5:
        radius, height = s * 0.032, s * rng.uniform(0.105, 0.122)
        neck = radius * 0.83
        # Three skins that meet to form one outside
        lower = lathe(
            [(0, 0.004), (neck * 0.85, 0.004), (neck * 0.92, 0), (neck * 0.96, 0.001), (radius, 0.009)], 28, caps=False
        )
        body = lathe(
            [(radius, 0.009), (radius, height - 0.014), (neck, height - 0.003)], 28, by_height=True, caps=False
        )
        lid = lathe(
            [
                (neck, height - 0.003),
                (neck + 0.0015, height - 0.001),
                (neck, height),
                (neck - 0.002, height - 0.001),
                (neck - 0.003, height - 0.005),
                (0, height - 0.005),
            ],
            28,
            caps=False,
        )
        mouth = prism(circle(0.0085 * s, 14) * (1, 0.85), height - 0.0051, height - 0.0046).moved((0, -neck * 0.45, 0))
        tab = prism(rounded_rectangle(0.012 * s, 0.02 * s, 0.006 * s, 4), height - 0.0045, height - 0.003).moved(
            (0, neck * 0.18, 0)
        )
        eye = prism(circle(0.0035 * s, 10), height - 0.003, height - 0.0027).moved((0, neck * 0.35, 0))
        emblem = _wrap(radius, height * 0.2, height * 0.76, 66)
        parts: list = [
            ("metal", lower),
            ("main", body),
            ("metal", lid),
            ("dark", mouth),
            ("metal", tab),
            ("dark", eye),
            ("emblem", emblem),
        ]
        outside = [(neck * 0.96, 0), (radius, 0.009), (radius, height - 0.014), (neck, height)]
    else:
        radius, height = s * rng.uniform(0.034, 0.039), s * rng.uniform(0.075, 0.108)
        rim = 0.002
        lower = lathe(
            [
                (0, 0.003),
                (radius - 0.003, 0.003),
                (radius - 0.002, 0),
                (radius + rim * 0.5, 0),
                (radius + rim * 0.5, 0.004),
                (radius - 0.001, 0.0045),
                (radius - 0.001, 0.011),
            ],
            28,
        )
        upper = lathe(
            [
                (radius - 0.001, height - 0.011),
                (radius - 0.001, height - 0.0045),
                (radius + rim * 0.5, height - 0.004),
                (radius + rim * 0.5, height),
                (radius - 0.002, height),
                (radius - 0.003, height - 0.004),
                (radius * 0.8, height - 0.004),
                (radius * 0.78, height - 0.003),
                (radius * 0.6, height - 0.004),
                (radius * 0.58, height - 0.003),
                (0, height - 0.003),
            ],
            28,
        )
        body = lathe(
            [(radius - 0.001, 0.0095), (radius, 0.0096), (radius, height - 0.0096), (radius - 0.001, height - 0.0095)],
            28,
            by_height=True,
        )
        emblem = _wrap(radius, height * 0.24, height * 0.78, 66)
        parts = [("metal", lower), ("main", body), ("metal", upper), ("emblem", emblem)]
        outside = [(radius + rim * 0.5, 0), (radius + rim * 0.5, height)]
    return Draft(parts, [turned_points(outside, 28)], 0.35, [("upright", UPRIGHT, 0.65), ("lying", LYING @ turn, 0.35)])


def carton(rng: np.random.Generator) -> Draft:
    """A cardboard box, taped shut."""
    s = rng.uniform(0.85, 1.2)
    x, y, z = s * rng.uniform(0.085, 0.13), s * rng.uniform(0.065, 0.1), s * rng.uniform(0.04, 0.095)
    body = box((x, y, z), 0.0008, 1)
    slot = box((x * 0.998, 0.0012, 0.0004)).moved((0, 0, z / 2))
    width = min(0.019 * s, y * 0.3)
    strip = box((x + 0.0006, width, 0.0006)).moved((0, 0, z / 2))
    ends = [box((0.0006, width, z * 0.3)).moved((side * x / 2, 0, z * 0.35)) for side in (-1, 1)]
    stamp = _decal(x * 0.3, y * 0.26, z / 2 + 0.0001).moved((x * 0.28, -y * 0.31, 0))
    front = _decal(x * 0.4, z * 0.55, 0).turned((1, 0, 0), 90).moved((-x * 0.2, -y / 2, 0))
    return Draft(
        [
            ("main", body),
            ("crease", slot),
            ("strip", strip),
            *(("strip", end) for end in ends),
            ("stamp", stamp),
            ("stamp", front),
        ],
        [box_points((-x / 2, -y / 2, -z / 2), (x / 2, y / 2, z / 2))],
        0.25,
    )


def candle(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.88, 1.15)
    radius, height = s * rng.uniform(0.0155, 0.023), s * rng.uniform(0.095, 0.145)
    body = lathe(
        [
            (0, 0),
            (radius, 0),
            (radius, height - 0.003),
            (radius - 0.0015, height),
            (radius - 0.004, height - 0.001),
            (radius * 0.55, height - 0.006),
            (0, height - 0.007),
        ],
        28,
        by_height=True,
    )
    lean = rng.uniform(0.001, 0.004)
    wick = tube(
        [(0, 0, height - 0.009), (0, 0, height + 0.003), (lean, 0, height + 0.009), (lean * 2.2, 0, height + 0.013)],
        0.0016 * s,
        7,
    )
    parts: list = [("main", body, 30.0), ("wick", wick)]
    for _ in range(int(rng.integers(2, 6))):
        turn, drop = rng.uniform(0, 360), rng.uniform(0.15, 0.5) * height
        z = np.array([height - 0.0012, height - 0.003, height - drop * 0.5, height - drop, height - drop - 0.004])
        r = np.array([radius - 0.003, radius - 0.0004, radius, radius, radius - 0.001])
        run = tube(np.column_stack((r, 0 * r, z)), np.array([0.002, 0.0034, 0.0026, 0.004, 0.0014]) * s, 8)
        parts.append(("trim", run.turned((0, 0, 1), turn)))
    return Draft(
        parts,
        [turned_points([(radius + 0.0015, 0), (radius + 0.0015, height)], 28)],
        0.25,
        [("upright", UPRIGHT, 0.75), ("lying", LYING, 0.25)],
    )


def sponge(rng: np.random.Generator) -> Draft:
    """Soft below, its scouring side up."""
    s = rng.uniform(0.88, 1.15)
    x, y, z = s * rng.uniform(0.088, 0.105), s * rng.uniform(0.058, 0.068), s * rng.uniform(0.026, 0.032)
    pad = 0.007 * s
    soft = box((x, y, z), 0.004)
    if rng.random() < 0.4:  # with a waist
        pull = 1 - 0.12 * np.cos(soft.vertices[:, 0] / x * np.pi) ** 2
        soft = Mesh(
            soft.vertices * np.column_stack((np.ones(len(pull)), pull, np.ones(len(pull)))), soft.faces, soft.texcoords
        )
        parts: list = [("main", soft)]
        scour = loft(_dense(x, y)[None].repeat(2, 0) + np.array([[[0, 0, 0]], [[0, 0, pad]]]))
    else:
        parts = [("main", soft)]
        scour = box((x, y, pad), 0.0012).moved((0, 0, pad / 2))
    parts.append(("scour", scour.moved((0, 0, z / 2 - 0.004))))
    top = z / 2 - 0.004 + pad
    return Draft(
        parts,
        [box_points((-x / 2, -y / 2, -z / 2), (x / 2, y / 2, top))],
        0.03,
        [("upright", UPRIGHT, 0.4), ("upside_down", UPSIDE_DOWN, 0.6)],
    )


def _dense(x: float, y: float) -> np.ndarray:
    """A rectangle with a waist."""
    side = np.linspace(-x / 2, x / 2, 13)
    half = y / 2 * (1 - 0.12 * np.cos(side / x * np.pi) ** 2)
    outline = np.concatenate((np.column_stack((side, -half)), np.column_stack((side[::-1], half[::-1]))))
    return np.column_stack((outline, np.zeros(len(outline))))


def ball(rng: np.random.Generator) -> Draft:
    radius = 0.034 * rng.uniform(0.85, 1.25)
    angles = np.linspace(-np.pi / 2, np.pi / 2, 19)
    profile = radius * np.column_stack((np.cos(angles), np.sin(angles)))
    profile[[0, -1], 0] = 0
    skin = lathe(profile, 32)
    tilt = rotation((1, 0, 0), rng.uniform(20, 90)) @ rotation((0, 0, 1), rng.uniform(0, 360))
    return Draft(
        [("main", skin, 80.0)],
        [turned_points(profile[1:-1:2], 18)],
        0.06,
        [("upright", UPRIGHT, 0.3), ("rolled", tilt, 0.7)],
    )


def cube(rng: np.random.Generator) -> Draft:
    """A toy block: every side has the texture once."""
    side = 0.042 * rng.uniform(0.85, 1.25)
    block = box((side, side, side), 0.0035)
    turn = rotation((0, 0, 1), 90 * int(rng.integers(4)))
    return Draft(
        [("main", block)],
        [box_points((-side / 2,) * 3, (side / 2,) * 3)],
        0.06,
        [("upright", turn, 0.6), ("turned", LYING @ turn, 0.4)],
    )
