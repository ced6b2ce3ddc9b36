"""What one drinks, eats and cooks with."""

from __future__ import annotations

import numpy as np

from rsvp_ros.tabletop.shapes.mesh import (
    Mesh,
    circle,
    cylinder,
    lathe,
    loft,
    merge,
    prism,
    ribbon,
    rotation,
    rounded_rectangle,
    smooth,
    tube,
)
from rsvp_ros.tabletop.shapes.shape import LYING, UPRIGHT, UPSIDE_DOWN, Draft, hollow_points, thinned, turned_points


def _walls(outside: np.ndarray, thickness: float, floor: float) -> np.ndarray:
    """The profile of a hollow thing: its outside from the bottom's middle to the rim, and back down its inside."""
    inside = outside[::-1].copy()
    inside[:, 0] = np.maximum(inside[:, 0] - thickness, 0)
    inside = inside[inside[:, 1] > floor]
    rim = outside[-1] + (-thickness / 2, thickness * 0.4)
    corner = float(np.interp(floor, outside[:, 1], outside[:, 0])) - thickness
    # Rings within the flat discs: lighting is computed at vertices only
    bottom = [(corner, floor), (corner * 0.6, floor), (corner * 0.25, floor), (0, floor)]
    low, foot = outside[0, 1], outside[0, 0]
    return np.concatenate(([(0, low), (foot * 0.5, low)], outside, [rim], inside, bottom))


def mug(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.88, 1.15)
    radius, height = s * rng.uniform(0.038, 0.045), s * rng.uniform(0.082, 0.105)
    foot = radius * rng.uniform(0.78, 1.0)
    belly = radius * rng.uniform(0.97, 1.1)
    outside = np.array(
        [[foot - 0.003, 0], [foot, 0.003], *smooth([(foot, 0.003), (belly, height * 0.5), (radius, height)], 7)[1:]]
    )
    body = lathe(_walls(outside, 0.0035, 0.006), 28, by_height=True)
    reach = s * rng.uniform(0.026, 0.034)
    low, high = height * rng.uniform(0.16, 0.25), height * rng.uniform(0.78, 0.88)
    start = radius * 0.95
    if rng.random() < 0.5:  # a rounded handle, or a square one
        knots = [(start, high), (start + reach * 0.75, high + 0.002), (start + reach, (2 * high + low) / 3)]
        knots += [(start + reach * 0.85, (high + 2 * low) / 3), (min(foot, start) - 0.001, low)]
    else:
        knots = [(start, high), (start + reach * 0.9, high), (start + reach, high - 0.012)]
        knots += [(start + reach, low + 0.012), (start + reach * 0.9, low), (min(foot, start) - 0.001, low)]
    curve = smooth(knots, 15)
    thick = s * rng.uniform(0.0042, 0.0058)
    handle = tube(np.column_stack((curve[:, 0], np.zeros(15), curve[:, 1])), np.tile((thick, thick * 1.25), (15, 1)))
    tip = np.array([(start + reach + thick, y, z) for y in (-thick, thick) for z in (low, high)])
    turned = LYING @ rotation((0, 0, 1), rng.uniform(0, 360))
    return Draft(
        [("main", body), ("trim", handle)],
        [np.concatenate((turned_points(outside, 20), tip))],
        0.3,
        [("upright", UPRIGHT, 0.86), ("upside_down", UPSIDE_DOWN, 0.06), ("lying", turned, 0.08)],
    )


def cup(rng: np.random.Generator) -> Draft:
    """A paper cup; some have a lid."""
    s = rng.uniform(0.85, 1.2)
    top, height = s * 0.04, s * rng.uniform(0.085, 0.12)
    foot = top * rng.uniform(0.68, 0.78)
    outside = np.array([[foot - 0.001, 0], [foot, 0.0], [foot, 0.002], [top, height]])
    wall = lathe(_walls(outside, 0.0012, 0.006), 28, by_height=True)
    roll = lathe([(top + 0.0022 * np.cos(a), height + 0.0022 * np.sin(a)) for a in np.arange(9) % 8 * (np.pi / 4)], 28)
    parts: list = [("main", wall)]
    rests = [("upright", UPRIGHT, 0.9), ("lying", LYING, 0.1)]
    if rng.random() < 0.3:
        lid = lathe(
            [
                (top + 0.003, height - 0.004),
                (top + 0.003, height + 0.003),
                (top - 0.004, height + 0.004),
                (top - 0.006, height + 0.011),
                (top - 0.009, height + 0.011),
                (top - 0.011, height + 0.007),
                (0, height + 0.007),
            ],
            28,
        )
        drink = prism(circle(0.004, 10) * (1, 0.5) + (top - 0.017, 0), height + 0.007, height + 0.0076)
        parts += [("light", lid), ("dark", drink)]
        outside = np.array([*outside, [top + 0.003, height], [top - 0.006, height + 0.011]])
    else:
        parts.append(("light", roll))
        rests.append(("upside_down", UPSIDE_DOWN, 0.1))
    return Draft(parts, [turned_points(outside, 20)], 0.03, rests)


def bottle(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.85, 1.12)
    radius, height = s * rng.uniform(0.028, 0.037), s * rng.uniform(0.17, 0.23)
    neck = s * rng.uniform(0.011, 0.0135)
    shoulder, collar = height * rng.uniform(0.56, 0.66), height * rng.uniform(0.80, 0.86)
    curve = smooth(
        [
            (radius, shoulder),
            (radius * 0.93, shoulder + 0.25 * (collar - shoulder)),
            (neck * 1.35, collar - 0.012),
            (neck, collar),
        ],
        9,
    )
    outside = np.array([(radius * 0.85, 0), (radius, 0.006), *curve, (neck, height - 0.016)])
    body = lathe([(0, 0), *outside, (0, height - 0.016)], 28, by_height=True)
    cap = cylinder(neck * 1.22, height - 0.022, height, 0.0015, 20)
    band = cylinder(neck * 1.3, height - 0.027, height - 0.024, 0, 20)
    low, high = shoulder * rng.uniform(0.22, 0.34), shoulder * rng.uniform(0.78, 0.93)
    inner, outer = radius - 0.001, radius + 0.0006
    label = lathe([(inner, low), (outer, low), (outer, high), (inner, high), (inner, low)], 28, by_height=True)
    return Draft(
        [("main", body), ("cap", cap), ("cap", band), ("label", label)],
        [
            turned_points(
                [(radius * 0.85, 0), (radius, 0.006), (radius, shoulder), (neck * 1.3, collar), (neck * 1.22, height)],
                20,
            )
        ],
        0.35,
        [("upright", UPRIGHT, 0.72), ("lying", LYING, 0.28)],
    )


def bowl(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.85, 1.2)
    radius, height = s * rng.uniform(0.062, 0.08), s * rng.uniform(0.048, 0.062)
    foot = radius * rng.uniform(0.45, 0.55)
    side = smooth([(foot, 0.006), (radius * rng.uniform(0.78, 0.9), height * 0.42), (radius, height)], 9)
    outside = np.array([(foot, 0), *side])
    body = lathe(_walls(outside, 0.0045, 0.009), 32, by_height=True)
    return Draft(
        [("main", body)],
        hollow_points(outside, 0.0045, 0.009),
        0.35,
        [("upright", UPRIGHT, 0.92), ("upside_down", UPSIDE_DOWN, 0.08)],
    )


def plate(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.85, 1.15)
    radius, height = s * rng.uniform(0.085, 0.11), s * rng.uniform(0.016, 0.022)
    foot = radius * 0.56
    well = radius * rng.uniform(0.62, 0.68)
    profile = [
        (0, 0.003),
        (foot - 0.003, 0.003),
        (foot - 0.002, 0),
        (foot, 0),
        (foot + 0.002, 0.004),
        (well, 0.006),
        (radius, height),
    ]
    profile += [
        (radius - 0.0015, height + 0.0028),
        (well, 0.0105),
        (well - 0.006, 0.0075),
        (well - 0.012, 0.0065),
        (well * 0.5, 0.0065),
        (well * 0.2, 0.0065),
        (0, 0.0065),
    ]
    body = lathe(profile, 36).mapped(0, 1)
    return Draft(
        [("main", body, 30.0)],
        # No higher than its well: what lies on it cuts into the rim a little, but does not hover
        [turned_points([(foot, 0), (well, 0.006), (radius * 0.97, 0.0075)], 24)],
        0.4,
    )


def teapot(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.85, 1.12)
    radius, height = s * rng.uniform(0.055, 0.062), s * rng.uniform(0.08, 0.1)
    foot, mouth = radius * 0.6, radius * rng.uniform(0.5, 0.6)
    side = smooth([(foot, 0.003), (radius, height * rng.uniform(0.4, 0.5)), (mouth, height)], 13)
    body = lathe([(0, 0), (foot - 0.004, 0), *side, (0, height)], 32, by_height=True)
    dome = smooth([(mouth * 0.96, height + 0.001), (mouth * 0.62, height + 0.011 * s), (0, height + 0.015 * s)], 6)
    lid = lathe([(mouth * 1.05, height - 0.002), (mouth * 1.05, height + 0.001), *dome], 28)
    top = height + 0.015 * s
    knob = lathe(
        [(0.004, top - 0.003), (0.004, top + 0.003), (0.0085, top + 0.008), (0.0065, top + 0.014), (0, top + 0.0155)],
        16,
    )
    way = smooth(
        [
            (radius * 0.75, height * 0.25),
            (radius + 0.02 * s, height * 0.4),
            (radius + 0.03 * s, height * 0.75),
            (radius + 0.05 * s, height * 0.98),
        ],
        12,
    )
    spout = tube(np.column_stack((way[:, 0], np.zeros(12), way[:, 1])), np.linspace(0.0155, 0.0075, 12) * s, 14)
    hole = way[-1] + (way[-1] - way[-2]) * 0.08
    mouth_hole = tube([(way[-1, 0], 0, way[-1, 1]), (hole[0], 0, hole[1])], 0.0055 * s, 10)
    grip = smooth(
        [
            (radius * 0.72, height * 0.85),
            (radius + 0.018 * s, height * 0.98),
            (radius + 0.034 * s, height * 0.7),
            (radius + 0.024 * s, height * 0.34),
            (radius * 0.9, height * 0.2),
        ],
        15,
    )
    handle = tube(np.column_stack((-grip[:, 0], np.zeros(15), grip[:, 1])), np.tile((0.0068 * s, 0.005 * s), (15, 1)))
    return Draft(
        [("main", body), ("trim", lid), ("trim", knob), ("trim", spout), ("dark", mouth_hole), ("trim", handle)],
        [
            turned_points([(foot, 0), *side[2::3], (mouth, height), (0.008, top + 0.015)], 16),
            thinned(spout, 30),
            thinned(handle, 30),
        ],
        0.6,
    )


def pan(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.85, 1.1)
    radius, height = s * rng.uniform(0.085, 0.1), s * rng.uniform(0.034, 0.045)
    foot = radius * rng.uniform(0.76, 0.86)
    outside = np.array(
        [
            (foot - 0.003, 0),
            (foot, 0.002),
            *smooth([(foot, 0.002), (radius * 0.95, height * 0.5), (radius, height)], 6)[1:],
        ]
    )
    profile = _walls(outside, 0.003, 0.004)
    split = len(outside) + 2  # the rim
    body = lathe(profile[: split + 1], 36, by_height=True, caps=False)
    inside = lathe(profile[split:], 36, caps=False)
    length = s * rng.uniform(0.13, 0.16)
    rise = rng.uniform(0.012, 0.022)
    way = smooth(
        [
            (radius - 0.004, height * 0.72),
            (radius + 0.02, height * 0.85),
            (radius + length * 0.5, height + rise * 0.6),
            (radius + length, height + rise),
        ],
        12,
    )
    path = np.column_stack((way[:, 0], np.zeros(12), way[:, 1]))
    neck = tube(path[:4], np.tile((0.008, 0.004), (4, 1)))
    swell = np.array([0.9, 1, 1, 1.05, 1.1, 1.1, 1.05, 0.95, 0.7])
    grip = tube(path[3:], np.column_stack((0.0115 * swell, 0.0075 * swell)), 12)
    hole = cylinder(0.0038, 0.004, 0.0068, 0, 10).moved(path[-2])
    rivets = [cylinder(0.003, 0, 0.003, 0.001, 8).moved((radius - 0.007, y, height * 0.72)) for y in (-0.008, 0.008)]
    return Draft(
        [("main", body), ("inside", inside), ("metal", neck), ("grip", grip), ("metal", hole)]
        + [("metal", rivet) for rivet in rivets],
        [*hollow_points(outside, 0.003, 0.004, 5), thinned(grip, 30)],
        0.9,
    )


def _handle(style: float, length: float, s: float) -> Mesh:
    """A cutlery handle, along -x from 0; the middle of its thickness is at z = 0."""
    x = np.linspace(0, -length, 12)
    f = np.linspace(0, 1, 12)
    width = s * (0.0032 + (0.0095 - 0.0032) * f ** (0.6 + style))
    width[-1] *= 0.75
    rings = [rounded_rectangle(2 * w, s * 0.0052, s * 0.0025, 3) for w in width]
    return loft(
        np.stack([np.column_stack((np.full(len(r), a), -r[:, 0], r[:, 1])) for r, a in zip(rings, x, strict=True)])
    )


def knife(rng: np.random.Generator) -> Draft:
    """A kitchen knife."""
    s = rng.uniform(0.9, 1.25)
    blade, grip = s * rng.uniform(0.105, 0.135), s * rng.uniform(0.092, 0.108)
    depth = s * rng.uniform(0.021, 0.027)
    f = np.linspace(0, 1, 14)
    back = depth * 0.45 - depth * 0.3 * f**3
    edge = -depth * 0.55 + (depth * 0.7) * np.clip((f - 0.35) / 0.65, 0, 1) ** 2.2
    edge[-1] = back[-1] - 0.0005
    x = f * blade
    # The cutting edge is thin, the back is thick
    rings = np.stack(
        [
            np.column_stack((x, edge, np.full(14, 0.0))),
            np.column_stack((x, back, np.full(14, 0.0011))),
            np.column_stack((x, back, np.full(14, -0.0011))),
        ],
        1,
    )
    rings = rings[:, ::-1] if _volume(loft(rings)) < 0 else rings
    steel = loft(rings)
    bolster = prism(rounded_rectangle(0.008, depth * 0.72, 0.003), -0.0045 * s, 0.0045 * s, 0.001).moved((-0.003, 0, 0))
    along = np.linspace(0, 1, 10)
    wide = s * np.interp(along, [0, 0.15, 0.5, 0.85, 1], [0.0085, 0.0098, 0.0085, 0.011, 0.009])
    drop = -s * 0.006 * along**2.5
    outlines = [rounded_rectangle(2 * w, s * 0.0145, s * 0.006, 4) for w in wide]
    grip_mesh = loft(
        np.stack(
            [
                np.column_stack((np.full(len(o), -0.004 - a * grip), -o[:, 0] + d, o[:, 1]))
                for o, a, d in zip(outlines, along, drop, strict=True)
            ]
        )
    )
    parts: list = [("metal", steel, 25.0), ("metal", bolster), ("main", grip_mesh)]
    if rng.random() < 0.65:
        rivet = cylinder(0.0028 * s, -0.0076 * s, 0.0076 * s, 0, 10)
        parts += [("metal", rivet.moved((-0.004 - grip * a, -0.001 - 0.006 * a**2.5, 0))) for a in (0.22, 0.5, 0.78)]
    return Draft(
        parts, [thinned(steel, 30), thinned(grip_mesh, 40)], 0.12, [("flat", UPRIGHT, 0.5), ("flat", UPSIDE_DOWN, 0.5)]
    )


def _volume(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def fork(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.95, 1.25)
    length = s * rng.uniform(0.105, 0.12)
    half, thick = s * 0.0125, s * 0.0011

    def bend(mesh: Mesh) -> Mesh:
        """The tines curve up and down again: seen from above a fork is flat, seen along the table it is not."""
        x = np.clip(mesh.vertices[:, 0] / s, 0, 0.1)
        lift = 0.0035 * s * np.sin(x / 0.085 * np.pi * 1.35)
        return Mesh(mesh.vertices + np.column_stack((np.zeros((len(x), 2)), -lift)), mesh.faces, mesh.texcoords)

    f = np.linspace(0, 1, 9)
    wide = np.interp(f, [0, 0.3, 0.6, 0.85, 1], [0.0034 * s, 0.0045 * s, 0.0105 * s, half, half])
    x = np.linspace(-0.004, 0.042 * s, 9)
    neck = bend(ribbon(np.column_stack((x, wide)), np.column_stack((x, -wide)), -thick, thick, thick * 0.6))
    tines = []
    count = 4 if rng.random() < 0.75 else 3
    pitch = 2 * half / (count + (count - 1) * 0.75)
    for i in range(count):
        y = -half + pitch / 2 + i * pitch * 1.75
        x = np.linspace(0.04 * s, 0.084 * s, 7)
        w = pitch / 2 * np.interp(np.arange(7), [0, 4, 6], [1, 0.9, 0.3])
        tines.append(bend(ribbon(np.column_stack((x, y + w)), np.column_stack((x, y - w)), -thick, thick, thick * 0.6)))
    handle = _handle(rng.uniform(0.3, 1.4), length, s)
    metal = merge(neck, *tines)
    return Draft(
        [("main", handle), ("head", metal)], [thinned(metal, 40), thinned(handle, 30)], 0.05, [("flat", UPRIGHT, 1.0)]
    )


def spoon(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.95, 1.25)
    length = s * rng.uniform(0.105, 0.125)
    long, wide, deep = s * rng.uniform(0.027, 0.031), s * rng.uniform(0.018, 0.021), s * 0.008
    profile = np.array([(np.sin(a), -np.cos(a)) for a in np.linspace(0, np.pi / 2, 7)])
    inner = profile[::-1] * (0.93, 0.86)
    hollow = lathe([*profile, *inner], 24).scaled((long, wide, deep)).moved((0.022 * s + long, 0, 0.003 * s))
    egg = hollow.vertices.copy()
    egg[:, 1] *= 1 + 0.18 * (egg[:, 0] - 0.022 * s - long) / long
    hollow = Mesh(egg, hollow.faces, hollow.texcoords)
    way = smooth([(-0.004, 0, 0), (0.012 * s, 0, 0.0005), (0.026 * s, 0, 0.0015)], 6)
    neck = tube(way, np.tile((0.0036 * s, 0.0022 * s), (6, 1)))
    handle = _handle(rng.uniform(0.3, 1.4), length, s)
    return Draft(
        [("main", handle), ("head", neck), ("head", hollow)],
        [thinned(hollow, 40), thinned(handle, 30)],
        0.05,
        [("flat", UPRIGHT, 1.0)],
    )
