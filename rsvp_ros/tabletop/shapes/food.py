"""Fruit and carrots."""

from __future__ import annotations

import numpy as np

from rsvp_ros.tabletop.shapes.mesh import Mesh, lathe, loft, prism, rotation, smooth, tube
from rsvp_ros.tabletop.shapes.shape import LYING, UPRIGHT, Draft, thinned


def _uneven(mesh: Mesh, rng: np.random.Generator, strength: float) -> Mesh:
    """The mesh made uneven: nothing that grew is perfectly round."""
    angle = np.arctan2(mesh.vertices[:, 1], mesh.vertices[:, 0])
    swell = np.ones(len(angle))
    for waves in (1, 2, 3):
        swell += rng.uniform(-strength, strength) / waves * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    return Mesh(mesh.vertices * np.column_stack((swell, swell, np.ones(len(swell)))), mesh.faces, mesh.texcoords)


def _leaf(length: float, turn: float) -> Mesh:
    """A drooping leaf along x, visible from both sides."""
    f = np.linspace(0, 1, 7)
    wide = 0.24 * length * np.sin(np.pi * f**0.8) + 0.0004
    lift = length * 0.35 * np.sin(f * 2.4)
    curl = wide * 0.35
    rings = np.stack(
        [
            np.column_stack((f * length, -wide, lift + curl)),
            np.column_stack((f * length, 0 * f, lift - 0.0006)),
            np.column_stack((f * length, wide, lift + curl)),
            np.column_stack((f * length, 0 * f, lift + 0.0006)),
        ],
        1,
    )
    return loft(rings).turned((0, 0, 1), turn)


def apple(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.86, 1.15)
    r = 0.038 * s
    knots = [
        (0, -0.74),
        (0.14, -0.80),
        (0.36, -0.93),
        (0.72, -0.70),
        (0.97, -0.12),
        (1.0, 0.25),
        (0.82, 0.68),
        (0.45, 0.84),
        (0.2, 0.76),
        (0.08, 0.64),
        (0, 0.60),
    ]
    profile = np.maximum(smooth(knots, 21), (0, -9)) * r
    profile[[0, -1], 0] = 0
    flesh = _uneven(lathe(profile, 28), rng, 0.025)
    bottom = np.clip(-flesh.vertices[:, 2] / r, 0, 1) * np.clip(np.hypot(*flesh.vertices[:, :2].T) / (0.3 * r), 0, 1)
    angle = np.arctan2(flesh.vertices[:, 1], flesh.vertices[:, 0])
    flesh = Mesh(
        flesh.vertices * (1 + 0.025 * (bottom * np.cos(5 * angle))[:, None] * (1, 1, 0.6)), flesh.faces, flesh.texcoords
    )
    lean = rng.uniform(0.002, 0.007) * s
    stem = tube(
        [(0, 0, 0.52 * r), (lean * 0.3, 0, 0.8 * r), (lean, 0, 1.06 * r), (lean * 2.2, 0, 1.28 * r)],
        np.array([0.0021, 0.0018, 0.0018, 0.0028]) * s,
        7,
    )
    parts: list = [("main", flesh, 80.0), ("wood", stem)]
    if rng.random() < 0.55:
        parts.append(("leaf", _leaf(0.034 * s, rng.uniform(0, 360)).moved((lean * 0.6, 0, 0.82 * r))))
    dot = lathe([(0, -0.76 * r), (0.1 * r, -0.775 * r), (0, -0.70 * r)], 8)
    tilt = LYING @ rotation((0, 0, 1), rng.uniform(0, 360))
    return Draft(
        [*parts, ("dark", dot)], [thinned(flesh, 120)], 0.17, [("upright", UPRIGHT, 0.7), ("lying", tilt, 0.3)]
    )


def orange(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.88, 1.15)
    r = 0.038 * s
    angles = np.linspace(-np.pi / 2, np.pi / 2, 17)
    flat = rng.uniform(0.9, 0.98)
    profile = np.column_stack((np.cos(angles), np.sin(angles) * flat)) * r
    profile[[0, -1], 0] = 0
    profile[-1, 1] -= 0.0022 * s
    flesh = _uneven(lathe(profile, 28), rng, 0.012)
    top = r * flat
    calyx = np.array([(0.0055 if i % 2 else 0.0026) for i in range(12)]) * s
    angle = np.arange(12) * np.pi / 6
    star = prism(np.column_stack((np.cos(angle), np.sin(angle))) * calyx[:, None], top - 0.003 * s, top - 0.0006 * s)
    tilt = rotation((1, 0, 0), rng.uniform(40, 140)) @ rotation((0, 0, 1), rng.uniform(0, 360))
    return Draft(
        [("main", flesh, 80.0), ("leaf", star)],
        [thinned(flesh, 150)],
        0.18,
        [("upright", UPRIGHT, 0.5), ("lying", tilt, 0.5)],
    )


def pear(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.88, 1.15)
    r = 0.034 * s
    slim = rng.uniform(0.42, 0.52)
    knots = [
        (0, -0.93),
        (0.15, -0.98),
        (0.5, -0.95),
        (0.92, -0.5),
        (0.98, 0.0),
        (0.78, 0.6),
        (slim + 0.04, 1.15),
        (slim - 0.06, 1.6),
        (0.22, 1.83),
        (0.06, 1.82),
        (0, 1.80),
    ]
    profile = np.maximum(smooth(knots, 23), (0, -9)) * r
    profile[[0, -1], 0] = 0
    flesh = _uneven(lathe(profile, 26), rng, 0.025)
    bend = rng.uniform(0, 0.14)
    height = np.clip(flesh.vertices[:, 2] / r, 0, 2)
    lean = bend * r * height**1.5
    flesh = Mesh(flesh.vertices + np.column_stack((lean, 0 * lean, 0 * lean)), flesh.faces, flesh.texcoords)
    at = bend * r * 1.8**1.5
    stem = tube(
        [(at, 0, 1.76 * r), (at + 0.001, 0, 1.98 * r), (at + 0.004, 0, 2.25 * r), (at + 0.009 * s, 0, 2.42 * r)],
        np.array([0.0018, 0.0015, 0.0015, 0.0024]) * s,
        7,
    )
    parts: list = [("main", flesh, 80.0), ("wood", stem)]
    if rng.random() < 0.4:
        parts.append(("leaf", _leaf(0.036 * s, rng.uniform(0, 360)).moved((at, 0, 1.9 * r))))
    roll = LYING @ rotation((0, 0, 1), rng.uniform(0, 360))
    return Draft(parts, [thinned(flesh, 120)], 0.17, [("upright", UPRIGHT, 0.5), ("lying", roll, 0.5)])


def lemon(rng: np.random.Generator) -> Draft:
    """Lies along x."""
    s = rng.uniform(0.88, 1.15)
    r = 0.0265 * s
    long = rng.uniform(1.34, 1.5)
    knots = [
        (0, -1.0),
        (0.15, -0.97),
        (0.24, -0.88),
        (0.62, -0.66),
        (0.93, -0.3),
        (1.0, 0),
        (0.93, 0.3),
        (0.6, 0.68),
        (0.24, 0.92),
        (0.17, 1.05),
        (0.11, 1.1),
        (0, 1.11),
    ]
    profile = np.maximum(smooth(knots, 25), (0, -9)) * (r, r * long)
    profile[[0, -1], 0] = 0
    flesh = _uneven(lathe(profile, 26), rng, 0.02).turned((0, 1, 0), 90)
    scar = tube([(-r * long * 1.01, 0, 0), (-r * long * 0.9, 0, 0)], 0.003 * s, 8)
    tilt = rotation((1, 0, 0), rng.uniform(0, 360))
    return Draft([("main", flesh, 80.0), ("leaf", scar)], [thinned(flesh, 120)], 0.11, [("lying", tilt, 1.0)])


def banana(rng: np.random.Generator) -> Draft:
    """Lies on its side, bent in the table's plane."""
    s = rng.uniform(0.9, 1.15)
    bend, length, r = np.radians(rng.uniform(62, 88)), 0.165 * s, s * rng.uniform(0.0155, 0.0178)
    f = np.linspace(0, 1, 18)
    radius = length / bend
    angle = (f - 0.5) * bend

    def arc(a: np.ndarray) -> np.ndarray:
        return np.column_stack((radius * np.sin(a), radius * (1 - np.cos(a)), 0 * a))

    thick = r * np.interp(
        f, [0, 0.06, 0.14, 0.28, 0.55, 0.8, 0.92, 1.0], [0.34, 0.36, 0.66, 0.95, 1.0, 0.86, 0.55, 0.25]
    )
    body = _ridged(arc(angle), thick)
    end = bend / 2
    stalk_way = arc(np.linspace(-end * 0.96, -end * 1.22, 5))
    stalk = _ridged(stalk_way, r * np.array([0.36, 0.32, 0.31, 0.33, 0.4]))
    cut = tube(arc(np.array([-end * 1.2, -end * 1.245])), r * 0.38, 8)
    tip = tube(arc(np.linspace(end * 0.985, end * 1.045, 3)), r * np.array([0.30, 0.26, 0.16]), 8)
    n = 6
    middle = [
        thinned(
            Mesh(
                arc(angle[i : i + n])[:, None].repeat(8, 1).reshape(-1, 3)
                + _around(arc(angle[i : i + n]), thick[i : i + n]),
                np.zeros((0, 3), int),
                np.zeros((0, 2)),
            ),
            40,
        )
        for i in (0, 4, 8, 12)
    ]
    return Draft(
        [("main", body, 45.0), ("main", stalk), ("stalk", cut), ("stalk", tip)],
        middle,
        0.13,
        [("flat", UPRIGHT, 0.5), ("flat", rotation((1, 0, 0), 180), 0.5)],
    )


def _around(path: np.ndarray, radius: np.ndarray) -> np.ndarray:
    ahead = np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    side = np.cross((0, 0, 1), ahead)
    angles = np.arange(8) * np.pi / 4
    return (
        radius[:, None, None]
        * (np.cos(angles)[:, None] * side[:, None] + np.sin(angles)[:, None] * np.array([0, 0, 1.0]))
    ).reshape(-1, 3)


def _ridged(path: np.ndarray, radius: np.ndarray) -> Mesh:
    """A tube with five blunt edges."""
    angles = np.arange(15) * (2 * np.pi / 15)
    size = 1 + 0.07 * np.cos(5 * angles)
    ahead = np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    side = np.cross((0, 0, 1), ahead)
    return loft(
        path[:, None]
        + radius[:, None, None]
        * ((size * np.cos(angles))[:, None] * side[:, None] + (size * np.sin(angles))[:, None] * np.array([0, 0, 1.0]))
    )


def carrot(rng: np.random.Generator) -> Draft:
    """Lies along x, its leaves at -x."""
    s = rng.uniform(0.88, 1.2)
    length, r = s * rng.uniform(0.125, 0.15), s * rng.uniform(0.0145, 0.0175)
    f = np.linspace(0, 1, 22)
    shape = np.interp(f, [0, 0.04, 0.12, 0.5, 0.85, 0.96, 1], [0.45, 0.85, 1.0, 0.74, 0.42, 0.24, 0.06])
    shape *= 1 + rng.normal(0, 0.018, 22)
    way = np.column_stack((f * length, 0.004 * s * rng.uniform(-1, 1) * np.sin(f * 4), np.zeros(22)))
    root = tube(way, r * shape, 16)
    parts: list = [("main", root, 30.0)]
    for i in range(7):
        turn = 2 * np.pi * i / 7 + rng.uniform(-0.3, 0.3)
        spread = np.array([0, np.cos(turn), np.sin(turn) * 0.6]) * rng.uniform(0.15, 0.4)
        reach = s * rng.uniform(0.035, 0.06)
        t = np.linspace(0, 1, 5)[:, None]
        stalk = np.array([0.002, 0, 0]) + spread * 0.012 + t * np.array([-reach, 0, 0]) + t**1.4 * spread * reach
        stalk[:, 2] = np.maximum(stalk[:, 2], -r * 0.9)
        parts.append(("leaf", tube(stalk, np.array([0.0022, 0.0019, 0.0018, 0.003, 0.0012]) * s, 6)))
        if i % 2 == 0:
            parts.append(("leaf", _leaf(0.02 * s, 180 + 40 * rng.uniform(-1, 1)).moved(stalk[3])))
    return Draft(parts, [thinned(root, 60)], 0.08, [("flat", rotation((1, 0, 0), rng.uniform(0, 360)), 1.0)])
