"""What one works with: shears, hammers, drivers, spanners, keys, tape, pens."""

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
    ribbon,
    ring,
    rotation,
    rounded_rectangle,
    smooth,
    tube,
)
from rsvp_ros.tabletop.shapes.shape import LYING, UPRIGHT, UPSIDE_DOWN, Draft, box_points, thinned, turned_points

_EITHER_SIDE = (("flat", UPRIGHT, 0.5), ("flat", UPSIDE_DOWN, 0.5))


def _along_x(mesh: Mesh) -> Mesh:
    """A mesh that lies along z, laid along x."""
    return mesh.turned((0, 1, 0), 90)


def scissors(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.9, 1.2)
    blade, reach = s * rng.uniform(0.085, 0.105), s * rng.uniform(0.04, 0.048)
    opening = rng.uniform(14, 40) if rng.random() < 0.75 else 8.0
    thick = 0.0016 * s
    large, small = s * rng.uniform(0.021, 0.025), s * rng.uniform(0.018, 0.021)
    halves: list[tuple[str, Mesh]] = []
    pieces = []
    for sign, radius in ((1, large), (-1, small)):
        x = np.linspace(-0.018 * s, blade, 10)
        f = np.clip(x / blade, 0, 1)
        back = s * (0.0085 * (1 - f**2.5) + 0.0008)
        edge = np.full(10, -0.0035 * s) + 0.003 * s * f
        steel = ribbon(np.column_stack((x, back)), np.column_stack((x, edge)), 0, 2 * thick, 0.0006)
        # The bow sits opposite the blade's back, so that open blades mean open bows
        hub = np.array([-reach - radius * 0.8, -radius * 0.95])
        oval = np.array([1.25, 1.0])
        outer, inner = circle(radius, 24) * oval, circle(radius - 0.0062 * s, 24) * oval
        bow = ring(outer, inner, -0.0035 * s, 0.0055 * s, 0.0025 * s).moved((*hub, 0))
        way = smooth([(-0.008 * s, 0.001), (-0.022 * s, 0.0005), (hub[0] + radius * 1.0, hub[1] + radius * 0.62)], 7)
        shank = tube(np.column_stack((way, np.full(7, 0.001 * s))), np.tile((0.0062 * s, 0.0045 * s), (7, 1)), 10)
        half = [("metal", steel), ("main", bow), ("main", shank)]
        for role, mesh in half:
            # the second half is the first one turned over, about the blades' axis
            turned = mesh if sign > 0 else mesh.turned((1, 0, 0), 180)
            turned = turned.turned((0, 0, 1), sign * opening / 2)
            halves.append((role, turned))
        pieces.append(np.concatenate([thinned(mesh, 24) for role, mesh in halves[-2:]]))
        pieces.append(thinned(halves[-3][1], 24))
    pivot = cylinder(0.0045 * s, -0.0042 * s, 0.0042 * s, 0.001, 14)
    return Draft([*halves, ("metal", pivot)], pieces, 0.1, _EITHER_SIDE)


def hammer(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.88, 1.12)
    length = s * rng.uniform(0.19, 0.23)
    thick = s * 0.0115
    f = np.linspace(0, 1, 12)
    long_axis = np.interp(f, [0, 0.3, 0.55, 0.85, 1], [0.009, 0.0095, 0.0115, 0.014, 0.012]) * s
    rings = [rounded_rectangle(2 * a, 1.5 * a, 0.7 * a, 4) for a in long_axis]
    x = -f * length
    shaft = loft(
        np.stack([np.column_stack((np.full(len(r), a), -r[:, 0], r[:, 1])) for r, a in zip(rings, x, strict=True)])
    )
    grip_from = 0.5
    parts: list = [("main", shaft)]
    if rng.random() < 0.45:  # a wooden shaft is seen between the head and a painted grip
        cut = int(12 * grip_from)
        wood = loft(
            np.stack(
                [
                    np.column_stack((np.full(len(r), a), -r[:, 0], r[:, 1]))
                    for r, a in zip(rings[: cut + 1], x[: cut + 1], strict=True)
                ]
            )
        )
        grip = loft(
            np.stack(
                [
                    np.column_stack((np.full(len(r), a), -r[:, 0] * 1.12, r[:, 1] * 1.12))
                    for r, a in zip(rings[cut:], x[cut:], strict=True)
                ]
            )
        )
        parts = [("wood", wood), ("main", grip)]
    middle = box((0.026 * s, 0.034 * s, 2 * thick), 0.003).moved((0.006 * s, 0, 0))
    neck = lathe(
        [
            (0, 0.014 * s),
            (0.0105 * s, 0.014 * s),
            (0.0085 * s, 0.022 * s),
            (0.0085 * s, 0.027 * s),
            (0.0135 * s, 0.031 * s),
            (0.0135 * s, 0.042 * s),
            (0.012 * s, 0.044 * s),
            (0, 0.044 * s),
        ],
        20,
    )
    neck = neck.turned((1, 0, 0), -90).moved((0.006 * s, 0, 0))
    pieces = [thinned(shaft, 40), thinned(neck, 40)]
    if rng.random() < 0.6:  # a claw, else a peen
        t = np.linspace(0, 1, 10)
        y = -(0.012 + 0.042 * t) * s
        upper = (0.019 - 0.030 * t**2.0) * s
        width = (0.024 * (1 - t) + 0.0015) * s
        outline = np.column_stack((upper, y)), np.column_stack((upper - width, y))
        for side in (-1, 1):
            prong = ribbon(outline[0], outline[1], 0.0012 * s, thick * 0.98, 0.001)
            parts.append(("metal", prong if side > 0 else _mirrored(prong)))
        pieces.append(thinned(merge(*(mesh for role, mesh in parts[-2:])), 40))
    else:
        rings = []
        for a, wide, high in (
            (0.012, 0.011, 0.0105),
            (0.03, 0.0105, 0.009),
            (0.046, 0.0115, 0.003),
            (0.048, 0.0105, 0.0012),
        ):
            r = rounded_rectangle(2 * wide * s, 2 * high * s, min(high, 0.004) * s, 4)
            rings.append(np.column_stack((r[:, 1] + 0.006 * s, np.full(len(r), -a * s), r[:, 0])))
        peen = loft(np.stack(rings))
        parts.append(("metal", peen if _outward(peen) else loft(np.stack(rings)[:, ::-1])))
        pieces.append(thinned(peen, 40))
    parts += [("metal", middle), ("metal", neck)]
    return Draft(
        parts, [*pieces, box_points((-0.007 * s, -0.017 * s, -thick), (0.019 * s, 0.017 * s, thick))], 0.5, _EITHER_SIDE
    )


def _outward(mesh: Mesh) -> bool:
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return float((a * np.cross(b, c)).sum()) > 0


def _mirrored(mesh: Mesh) -> Mesh:
    """Mirrored in the plane z = 0."""
    return Mesh(mesh.vertices * (1, 1, -1), mesh.faces[:, ::-1], mesh.texcoords)


def screwdriver(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.9, 1.2)
    grip, shaft = s * rng.uniform(0.082, 0.1), s * rng.uniform(0.075, 0.115)
    radius, rod = s * rng.uniform(0.0135, 0.0165), s * 0.0032
    lobes = 6
    angles = np.arange(36) * (2 * np.pi / 36)
    flutes = 1 - rng.uniform(0.06, 0.13) * (0.5 + 0.5 * np.cos(lobes * angles))
    f = np.array([0, 0.02, 0.08, 0.3, 0.6, 0.74, 0.84, 0.93, 1.0])
    size = np.array([0.5, 0.8, 1.0, 1.03, 1.0, 0.82, 0.62, 0.68, 0.5]) * radius
    depth = np.array([0, 0, 0.6, 1, 1, 0.8, 0, 0, 0])[:, None]
    across = size[:, None] * (1 - depth * (1 - flutes))
    rings = np.stack(
        (np.broadcast_to((f * grip - grip)[:, None], across.shape), across * np.cos(angles), across * np.sin(angles)), 2
    )
    handle = loft(rings)
    collar = _along_x(cylinder(radius * 0.52, 0, 0.006 * s, 0.001, 16)).moved((-0.003 * s, 0, 0))
    steel = _along_x(cylinder(rod, 0, shaft, 0, 14))
    parts: list = [("main", handle, 50.0), ("dark", collar), ("metal", steel)]
    if rng.random() < 0.6:  # a slotted tip, else a cross
        tip = loft(
            np.stack(
                [
                    np.column_stack(
                        (np.full(4, shaft + a * s), *(np.array(((-w, -t), (w, -t), (w, t), (-w, t))) * s).T)
                    )
                    for a, w, t in ((-0.001, 0.0031, 0.003), (0.007, 0.0045, 0.0018), (0.012, 0.0042, 0.0006))
                ]
            )
        )
        parts.append(("metal", tip))
    else:
        parts.append(
            (
                "metal",
                _along_x(
                    lathe([(0, -0.001), (rod, -0.001), (rod, 0), (rod * 0.3, 0.007 * s), (0, 0.008 * s)], 12)
                ).moved((shaft, 0, 0)),
            )
        )
    if rng.random() < 0.5:
        cap = _along_x(
            lathe([(0, -0.001), (radius * 0.72, 0), (radius * 0.88, 0.004), (radius * 0.9, 0.009), (0, 0.009)], 18)
        )
        parts.append(("dark", cap.moved((-grip - 0.002, 0, 0))))
    hexagon = np.concatenate(
        [
            np.column_stack((np.full(6, x), circle(r, 6)))
            for x, r in (
                (-grip, radius * 0.85),
                (-grip * 0.9, radius * 1.02),
                (-grip * 0.3, radius * 1.02),
                (0, radius * 0.5),
            )
        ]
    )
    return Draft(
        parts,
        [hexagon, thinned(steel, 24)],
        0.12,
        [("flat", rotation((1, 0, 0), rng.uniform(0, 360)), 1.0)],
    )


def spanner(rng: np.random.Generator) -> Draft:
    """Open at one end; the other is open too, or a ring."""
    s = rng.uniform(0.88, 1.15)
    length = s * rng.uniform(0.13, 0.165)
    thick = s * 0.0032
    size = s * rng.uniform(0.0165, 0.02)
    x = np.linspace(-length / 2 + 0.006, length / 2 - 0.006, 12)
    width = s * (0.0062 + 0.0022 * np.abs(x / (length / 2)) ** 2)
    bar = ribbon(np.column_stack((x, width)), np.column_stack((x, -width)), -thick * 0.8, thick * 0.8, 0.001)
    groove = box((length * 0.55, 0.006 * s, thick * 1.7), 0.001)
    ends = [_jaw(size, thick).turned((0, 0, 1), 15).moved((length / 2 + size * 0.55, 0, 0))]
    if rng.random() < 0.5:
        hexagon = np.array([(np.cos(a), np.sin(a)) for a in np.arange(24) * np.pi / 12])
        bumpy = hexagon * (size * 0.6 * (1 + 0.06 * np.cos(12 * np.arange(24) * np.pi / 12)))[:, None]
        ends.append(
            ring(hexagon * size * 0.92, bumpy, -thick * 1.25, thick * 1.25, 0.0012).moved(
                (-length / 2 - size * 0.5, 0, 0)
            )
        )
    else:
        ends.append(_jaw(size * 0.85, thick).turned((0, 0, 1), 195).moved((-length / 2 - size * 0.45, 0, 0)))
    return Draft(
        [("main", bar), ("main", groove), *(("main", end) for end in ends)],
        [thinned(bar, 24), *(thinned(end, 40) for end in ends)],
        0.15,
        _EITHER_SIDE,
    )


def _jaw(size: float, thick: float) -> Mesh:
    """An open spanner's mouth, towards +x."""
    start = np.radians(40)
    angle = np.linspace(start, 2 * np.pi - start, 19)
    outer = size * np.column_stack((np.cos(angle) * 1.08, np.sin(angle)))
    slot = size * 0.52
    corners = [(outer[0, 0] + 0.1 * size, slot), (0.35 * size, slot), (-0.2 * size, slot), (-0.48 * size, slot * 0.55)]
    corners += [(x, -y) for x, y in corners[::-1]]
    way = np.interp(np.linspace(0, 1, 19), np.linspace(0, 1, 8), np.arange(8))
    inner = np.array([[np.interp(w, np.arange(8), [c[i] for c in corners]) for i in (0, 1)] for w in way])
    return ribbon(inner, outer, -thick, thick, 0.001)


def key(rng: np.random.Generator) -> Draft:
    s = rng.uniform(1.05, 1.35)
    thick = s * 0.0015
    bow = s * rng.uniform(0.0125, 0.0145)
    style = rng.integers(3)
    outline = circle(bow, 24)
    if style == 1:
        outline = outline * (0.85, 1.15)
    elif style == 2:
        outline = outline * (1 + 0.13 * np.cos(3 * np.arctan2(outline[:, 1], outline[:, 0]) + np.pi))[:, None]
    hole = circle(bow * rng.uniform(0.36, 0.5), 24)
    head = ring(outline, hole, -thick, thick, 0.0005).moved((-bow * 0.9, 0, 0))
    shaft = s * rng.uniform(0.036, 0.042)
    half = s * 0.0052
    collar = box((0.004 * s, half * 2.9, thick * 2.2), 0.0004).moved((0.003 * s, 0, 0))
    teeth = 5
    x = (
        np.array([0, *np.repeat(0.3 + 0.62 * np.arange(teeth) / teeth, 2) + np.tile((0, 0.07), teeth), 0.97, 1.0])
        * shaft
    )
    cuts = np.repeat(rng.uniform(0.15, 1.0, teeth), 2) * 1.25
    lower = -half * np.array([1.0, *(0.95 - 0.75 * cuts), 0.1, 0.05])
    upper = half * np.array([1.0, *np.ones(2 * teeth), 0.7, 0.35])
    blade = ribbon(np.column_stack((x, upper)), np.column_stack((x, lower)), -thick * 0.85, thick * 0.85, 0.0004)
    rib = box((shaft * 0.9, half * 0.35, thick * 2), 0.0003).moved((shaft * 0.45, half * 0.5, 0))
    return Draft(
        [("main", head), ("main", collar), ("main", blade, 20.0), ("main", rib)],
        [thinned(head, 30), thinned(blade, 24)],
        0.03,
        _EITHER_SIDE,
    )


def tape(rng: np.random.Generator) -> Draft:
    """A roll with a cardboard core."""
    s = rng.uniform(0.85, 1.15)
    radius, hole, height = s * rng.uniform(0.043, 0.052), s * rng.uniform(0.026, 0.035), s * rng.uniform(0.022, 0.045)
    core = hole + 0.003
    roll = lathe(
        [
            (core, 0),
            (radius - 0.0008, 0),
            (radius, 0.0008),
            (radius, height - 0.0008),
            (radius - 0.0008, height),
            (core, height),
            (core, 0),
        ],
        36,
    )
    inner = lathe(
        [(hole, -0.0008), (core, -0.0008), (core, height + 0.0008), (hole, height + 0.0008), (hole, -0.0008)], 36
    )
    # The end stands off the roll a little
    t = np.linspace(0, 1, 8)
    out = np.column_stack((np.full(8, radius) + 0.004 * np.clip(t - 0.4, 0, 1) ** 1.5 * s, t * 0.024 * s))
    flap = ribbon(out - (0.0012, 0), out, 0.0005, height - 0.0005)
    outside = [(radius, 0), (radius, height)]
    return Draft(
        [("main", roll), ("cardboard", inner), ("main", flap)],
        [turned_points(outside, 28)],
        0.12,
        [("flat", UPRIGHT, 0.85), ("lying", LYING, 0.15)],
    )


def pen(rng: np.random.Generator) -> Draft:
    s = rng.uniform(0.95, 1.25)
    length, radius = s * rng.uniform(0.125, 0.14), s * rng.uniform(0.0048, 0.0058)
    parts: list = []
    if rng.random() < 0.5:  # with a push button at its end, or with a cap
        barrel = lathe(
            [
                (0, -length / 2),
                (radius, -length / 2),
                (radius, length * 0.36),
                (radius * 0.85, length * 0.40),
                (0, length * 0.4),
            ],
            16,
        )
        cone = lathe(
            [
                (0, 0.39 * length),
                (radius * 0.86, 0.395 * length),
                (radius * 0.35, 0.48 * length),
                (0.0006, 0.5 * length),
                (0, 0.5 * length),
            ],
            16,
        )
        button = cylinder(radius * 0.5, -length / 2 - 0.009 * s, -length / 2 + 0.001, 0.0006, 12)
        band = cylinder(radius * 1.06, -0.01 * s, -0.006 * s, 0, 16)
        parts = [("main", barrel), ("metal", cone), ("metal", button), ("metal", band)]
    else:
        barrel = lathe(
            [
                (0, -length / 2),
                (radius * 0.8, -length / 2),
                (radius * 0.9, -length / 2 + 0.001),
                (radius * 0.9, length * 0.06),
                (0, length * 0.06),
            ],
            16,
        )
        cap = lathe(
            [
                (0, length * 0.05),
                (radius * 1.12, length * 0.05),
                (radius * 1.12, length * 0.46),
                (radius * 0.8, length * 0.5),
                (0, length * 0.5),
            ],
            16,
        )
        band = cylinder(radius * 1.17, length * 0.05, length * 0.065, 0, 16)
        parts = [("main", barrel), ("main", cap), ("metal", band)]
    end = -1 if len(parts) == 4 else 1
    clip = box((0.0022 * s, 0.0034 * s, 0.038 * s), 0.0006).moved(
        (radius * 1.12 + 0.0016 * s, 0, end * (length * 0.5 - 0.021 * s))
    )
    foot = box((0.004 * s, 0.0034 * s, 0.0025 * s), 0.0004).moved((radius * 1.05, 0, end * (length * 0.5 - 0.003 * s)))
    parts += [("metal", clip), ("metal", foot)]
    # Along x, the clip to the side: it keeps the pen from rolling
    laid = [(role, _along_x(mesh).turned((1, 0, 0), 90)) for role, mesh in parts]
    hull = np.concatenate([thinned(mesh, 24) for _, mesh in laid])
    return Draft(
        laid,
        [hull],
        0.02,
        [("flat", rotation((1, 0, 0), rng.uniform(0, 360)), 1.0)],
    )
