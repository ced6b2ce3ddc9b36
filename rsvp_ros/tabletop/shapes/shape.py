"""What a thing is made of: parts to be seen, convex pieces to be touched, ways to lie. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsvp_ros.tabletop.rotations import quaternion_of
from rsvp_ros.tabletop.shapes.mesh import Mesh, loft, merge, rotation, shaded


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of a thing, in one colour."""

    role: str
    """What it is coloured as, see `surfaces.paint`: "main" is the part whose colour people call the thing's."""
    vertices: np.ndarray
    """float32 N x 3, metres, in the thing's frame."""
    faces: np.ndarray
    """int32 M x 3, counter-clockwise seen from outside."""
    normals: np.ndarray
    """float32 N x 3, unit length. Vertices at sharp edges occur once per side."""
    texcoords: np.ndarray
    """float32 N x 2; 0 to 1 is the picture once, u along its rows and v down its columns: (0, 0) is its first pixel."""


@dataclass(frozen=True)
class Rest:
    """A way to lie on a table that physics leaves unchanged."""

    name: str
    """"upright", "lying", "upside_down", "face_down", …"""
    quaternion: tuple[float, float, float, float]
    """w, x, y, z: world from object."""
    probability: float
    height: float
    """Height of the thing's origin above the table, metres."""


@dataclass(frozen=True, eq=False)
class Shape:
    """A thing's geometry; the origin is the middle of the box around it, z is up as it stands."""

    kind: str
    parts: tuple[Part, ...]
    dimensions: tuple[float, float, float]
    """Size of the box around it: x, y, z, metres."""
    collision: tuple[np.ndarray, ...]
    """Convex pieces: points, float32 N x 3 each, whose hulls collide. Each has the same share of the mass."""
    rests: tuple[Rest, ...]
    """Probabilities add up to 1."""
    mass: float
    """Kilograms."""


@dataclass(frozen=True, eq=False)
class Draft:
    """A shape as a builder leaves it: not centred, without normals."""

    parts: Sequence[tuple[str, Mesh] | tuple[str, Mesh, float]]
    """Role, mesh and, if it is not 40, the crease in degrees, as in `mesh.shaded`."""
    collision: Sequence[np.ndarray]
    mass: float
    rests: Sequence[tuple[str, np.ndarray, float]] = ()
    """Name, approximate rotation (3 x 3), weight; without any, the thing stands upright."""


UPRIGHT = np.eye(3)
LYING = rotation((1, 0, 0), 90)
UPSIDE_DOWN = rotation((1, 0, 0), 180)


def finish(kind: str, draft: Draft) -> Shape:
    """The draft, centred, with normals."""
    everything = np.concatenate([part[1].vertices[np.unique(part[1].faces)] for part in draft.parts])
    low, high = everything.min(0), everything.max(0)
    middle = (low + high) / 2
    by_role: dict[tuple[str, float], list[Mesh]] = {}
    for role, mesh, *crease in draft.parts:
        by_role.setdefault((role, crease[0] if crease else 40.0), []).append(mesh)
    parts = []
    for (role, crease), meshes in by_role.items():
        mesh, normals = shaded(merge(*meshes).moved(-middle), crease)
        parts.append(
            Part(
                role,
                mesh.vertices.astype(np.float32),
                mesh.faces.astype(np.int32),
                normals.astype(np.float32),
                np.column_stack((mesh.texcoords[:, 0], 1 - mesh.texcoords[:, 1])).astype(np.float32),
            )
        )
    collision = tuple((np.asarray(points) - middle).astype(np.float32) for points in draft.collision)
    touched = np.concatenate(collision)
    center = np.mean([_middle(points) for points in collision], 0)
    rests = [(name, settled(touched, center, turn), w) for name, turn, w in draft.rests or [("upright", UPRIGHT, 1.0)]]
    total = sum(weight for _, _, weight in rests)
    return Shape(
        kind=kind,
        parts=tuple(parts),
        dimensions=tuple(float(side) for side in high - low),
        collision=collision,
        rests=tuple(
            Rest(name, quaternion_of(turn), weight / total, float(-(touched @ turn.T)[:, 2].min()))
            for name, turn, weight in rests
        ),
        mass=draft.mass,
    )


_WAYS = np.array(
    [
        [(np.cos(a) * np.sin(b), np.sin(a) * np.sin(b), -np.cos(b)) for a in np.arange(20) * np.pi / 10]
        for b in np.linspace(0, np.pi, 13)
    ]
).round(12)  # so that all directions at a pole are equal


def _middle(points: np.ndarray) -> np.ndarray:
    """About the centre of mass of the points' convex hull, from a skin over its farthest points in many directions."""
    skin = loft(points[(_WAYS @ points.T).argmax(2)], caps=False)
    a, b, c = (skin.vertices[skin.faces[:, i]] - points[0] for i in range(3))
    volumes = (a * np.cross(b, c)).sum(1)
    return points[0] + (volumes[:, None] * (a + b + c)).sum(0) / (4 * volumes.sum())


def settled(points: np.ndarray, center: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """How a convex body that is put on a table with rotation `turn` lies in the end: it tips over edge after edge.

    `points` (N x 3) and the centre of mass are in the body's own frame. Returns a rotation, 3 x 3.
    """
    for _ in range(60):
        x, y, z = (points @ turn.T).T - (turn @ center)[:, None]
        z = z - z.min()
        feet = np.column_stack((x, y))[z < 1e-5]  # relative to the point below the centre of mass
        first, second = np.triu_indices(len(feet), 1)
        edges = (feet[second] - feet[first]) @ np.array([[0, 1], [-1, 0]])
        ways = np.concatenate((edges, -edges, -feet, [(1.0, 0.0)]))
        lengths = np.linalg.norm(ways, axis=1)
        ways = ways[lengths > 1e-6] / lengths[lengths > 1e-6, None]
        reach = (feet @ ways.T).max(0)
        if len(feet) > 2 and reach.min() > 6e-4:
            return turn
        falls = ways[reach.argmin()]
        ahead = x * falls[0] + y * falls[1] - reach.min()
        free = z >= 1e-5
        angle = np.arctan2(z[free], ahead[free]).min()
        turn = rotation((-falls[1], falls[0], 0), np.degrees(angle)) @ turn
    return turn


def turned_points(profile: Sequence[Sequence[float]], count: int = 16) -> np.ndarray:
    """Points on the outside of a lathed thing, N x 3: what a convex piece needs."""
    angles = np.arange(count) * (2 * np.pi / count)
    rows = [
        np.array([[0.0, 0.0, z]])
        if r <= 0
        else np.column_stack((r * np.cos(angles), r * np.sin(angles), np.full(count, z)))
        for r, z in profile
    ]
    return np.concatenate(rows)


def hollow_points(outside: np.ndarray, thickness: float, floor: float, walls: int = 6) -> list[np.ndarray]:
    """Convex pieces of an open vessel, so that things can fall into it: its floor, and its wall in `walls` pieces.

    `outside` is the profile of its outside, P x 2: radius, z, from the floor to the rim.
    """
    low = outside[0, 1]
    foot = float(np.interp(floor, outside[:, 1], outside[:, 0]))
    pieces = [turned_points([(outside[0, 0], low), (foot, floor)], 20)]
    upper = outside[outside[:, 1] > floor][[0, len(outside[outside[:, 1] > floor]) // 2, -1]]
    rows = np.concatenate(([(foot, floor)], upper, upper - (thickness, 0)))
    for wall in range(walls):
        angles = (wall + np.linspace(0, 1, 4)) * (2 * np.pi / walls)
        around = np.stack((np.cos(angles), np.sin(angles)), 1)
        points = rows[:, None, :1] * around
        pieces.append(np.column_stack((points.reshape(-1, 2), np.repeat(rows[:, 1], 4))))
    return pieces


def box_points(low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """A box's eight corners."""
    return np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])], float)


def thinned(mesh: Mesh, directions: int = 60) -> np.ndarray:
    """The outermost points of a mesh, N x 3: roughly its convex hull, with few points."""
    i = np.arange(directions) + 0.5
    z = 1 - 2 * i / directions
    around = np.pi * (1 + 5**0.5) * i
    flat = np.sqrt(1 - z * z)
    ways = np.column_stack((flat * np.cos(around), flat * np.sin(around), z))
    ways = np.concatenate((ways, np.eye(3), -np.eye(3)))
    return mesh.vertices[np.unique((mesh.vertices @ ways.T).argmax(0))]
