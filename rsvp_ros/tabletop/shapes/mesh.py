"""Meshes from outlines: everything is a loft, a row of rings with a skin over it. numpy only; metres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsvp_ros.tabletop.rotations import matrix_about


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles, counter-clockwise seen from outside."""

    vertices: np.ndarray
    """float64 N x 3."""
    faces: np.ndarray
    """int64 M x 3."""
    texcoords: np.ndarray
    """float64 N x 2: u to the right, v upwards."""

    def moved(self, offset: Sequence[float]) -> Mesh:
        return Mesh(self.vertices + np.asarray(offset, float), self.faces, self.texcoords)

    def turned(self, axis: Sequence[float], degrees: float) -> Mesh:
        """About an axis through the origin."""
        return Mesh(self.vertices @ rotation(axis, degrees).T, self.faces, self.texcoords)

    def scaled(self, factors: Sequence[float]) -> Mesh:
        """By positive factors along x, y, z."""
        return Mesh(self.vertices * np.asarray(factors, float), self.faces, self.texcoords)

    def mapped(self, u: int, v: int) -> Mesh:
        """Texture laid flat over it, seen along the third axis: `u` and `v` are the axes (0, 1, 2) it runs along.

        Both have the same scale, so that a dot stays round: 0 to 1 spans the longer of the mesh's two sides.
        """
        flat = self.vertices[:, [u, v]]
        low, high = flat.min(0), flat.max(0)
        return Mesh(self.vertices, self.faces, (flat - low) / (high - low).max())


def merge(*meshes: Mesh) -> Mesh:
    """Several meshes as one, each unchanged: they may stick into each other."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]),
        np.concatenate([mesh.texcoords for mesh in meshes]),
    )


def rotation(axis: Sequence[float], degrees: float) -> np.ndarray:
    """float64 3 x 3; shapes are laid out in degrees."""
    return matrix_about(axis, np.radians(degrees))


# Outlines: N x 2, closed, counter-clockwise, the first point not repeated.


def circle(radius: float = 1.0, count: int = 24) -> np.ndarray:
    angles = np.arange(count) * (2 * np.pi / count)
    return radius * np.stack((np.cos(angles), np.sin(angles)), 1)


def rounded_rectangle(width: float, height: float, radius: float, steps: int = 4) -> np.ndarray:
    """Around the origin; `steps` points per corner."""
    radius = min(radius, width / 2, height / 2)
    corners = []
    for quarter, (sx, sy) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        angles = (quarter + np.linspace(0, 1, steps)) * (np.pi / 2) if steps > 1 else np.array([quarter + 0.5])
        center = np.array([sx * (width / 2 - radius), sy * (height / 2 - radius)])
        corners.append(center + radius * np.stack((np.cos(angles), np.sin(angles)), 1))
    return np.concatenate(corners)


def smooth(points: Sequence[Sequence[float]], count: int) -> np.ndarray:
    """A Catmull-Rom curve through points (P x D), `count` x D, evenly spaced in its parameter."""
    knots = np.asarray(points, float)
    padded = np.concatenate((2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]))
    t = np.linspace(0, len(knots) - 1, count)
    k = np.minimum(t.astype(int), len(knots) - 2)
    f = (t - k)[:, None]
    a, b, c, d = (padded[k + i] for i in range(4))
    return 0.5 * (2 * b + (c - a) * f + (2 * a - 5 * b + 4 * c - d) * f**2 + (3 * b - a - 3 * c + d) * f**3)


def loft(rings: np.ndarray, caps: bool = True, v: np.ndarray | None = None) -> Mesh:
    """A skin over rings, R x C x 3.

    Each ring runs counter-clockwise about the direction from the first ring to the last. `v` (R) is the texture's
    second coordinate, by default the distance along the skin, 0 to 1; the first coordinate runs around the ring. `caps`
    closes both ends with fans around their middles.
    """
    rings = np.asarray(rings, float)
    count, sides = rings.shape[:2]
    if v is None:
        steps = np.linalg.norm(np.diff(rings, axis=0), axis=2).mean(1)
        way = np.concatenate(([0.0], np.cumsum(steps)))
        v = way / max(way[-1], 1e-9)
    skin = np.concatenate((rings, rings[:, :1]), 1)  # the seam's vertices twice: with u = 0 and with u = 1
    u = np.linspace(0, 1, sides + 1)
    texcoords = np.stack((np.broadcast_to(u, (count, sides + 1)), np.broadcast_to(v[:, None], (count, sides + 1))), 2)
    index = np.arange(count * (sides + 1)).reshape(count, sides + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate((np.stack((a, b, c), -1).reshape(-1, 3), np.stack((a, c, d), -1).reshape(-1, 3)))
    mesh = Mesh(skin.reshape(-1, 3), faces, texcoords.reshape(-1, 2))
    if caps:
        mesh = merge(mesh, _fan(rings[0][::-1], v[0]), _fan(rings[-1], v[-1]))
    return _without_slivers(mesh)


def _fan(ring: np.ndarray, v: float) -> Mesh:
    n = len(ring)
    around = np.arange(n)
    faces = np.stack((around, (around + 1) % n, np.full(n, n)), 1)
    return Mesh(np.concatenate((ring, ring.mean(0)[None])), faces, np.tile((0.5, v), (n + 1, 1)))


def _without_slivers(mesh: Mesh) -> Mesh:
    """The mesh without faces of zero area, such as those at the poles."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    return Mesh(mesh.vertices, mesh.faces[area > 1e-12], mesh.texcoords)


def lathe(profile: Sequence[Sequence[float]], segments: int = 28, by_height: bool = False, caps: bool = True) -> Mesh:
    """A profile turned about z. `profile` (P x 2: radius, z) runs from the bottom's middle over the outside to the top.

    A hollow thing's profile goes on down its inside, a ring's ends where it began. `by_height`: the texture's v is the
    height instead of the distance along the skin. `caps`: ends away from the axis are closed with discs.
    """
    profile = np.asarray(profile, float)
    ring = circle(1, segments)
    rings = np.concatenate(
        (profile[:, None, :1] * ring, np.broadcast_to(profile[:, None, 1:], (len(profile), segments, 1))), 2
    )
    v = None
    if by_height:
        # Not quite 0 to 1: at the very edge, the picture's first row would mix with its last
        v = 0.01 + 0.98 * (profile[:, 1] - profile[:, 1].min()) / max(float(np.ptp(profile[:, 1])), 1e-9)
    return loft(rings, caps and not np.array_equal(profile[0], profile[-1]), v)


def cylinder(radius: float, low: float, high: float, bevel: float = 0.0, segments: int = 24) -> Mesh:
    """Closed, along z."""
    if bevel:
        sides = [(radius - bevel, low), (radius, low + bevel), (radius, high - bevel), (radius - bevel, high)]
    else:
        sides = [(radius, low), (radius, high)]
    return lathe([(0, low), *sides, (0, high)], segments, by_height=True)


def tube(path: Sequence[Sequence[float]], radius: float | np.ndarray, sides: int = 10) -> Mesh:
    """Closed, along a path, P x 3. `radius`: one number, or P, or P x 2: across the path, sideways and upwards.

    Upwards is z as far as the path allows; for a path that runs along z, it is the direction that `_off` gives.
    """
    path = np.asarray(path, float)
    radius = np.asarray(radius, float)
    radius = np.broadcast_to(radius[:, None] if radius.ndim == 1 else radius, (len(path), 2))
    ahead = np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    up = np.array([0.0, 0.0, 1.0]) if np.abs(ahead[:, 2]).max() < 0.95 else _off(path)
    side = np.cross(up, ahead)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    upward = np.cross(ahead, side)
    ring = circle(1, sides)
    rings = (
        path[:, None]
        + (ring[:, 0] * radius[:, :1])[..., None] * side[:, None]
        + (ring[:, 1] * radius[:, 1:])[..., None] * upward[:, None]
    )
    return loft(rings)


def _off(path: np.ndarray) -> np.ndarray:
    """A direction that a flat path never takes: its plane's normal; x where the path is straight."""
    spread = np.linalg.svd(path - path.mean(0), full_matrices=False)
    normal = spread[2][2] if spread[1][1] > 1e-6 else np.array([1.0, 0.0, 0.0])
    return normal if normal @ (1, 1, 1) > 0 else -normal


def prism(outline: np.ndarray, low: float, high: float, bevel: float = 0.0) -> Mesh:
    """An outline, N x 2, extruded from z = `low` to `high`; the whole outline must be visible from its middle.

    `bevel` rounds both rims; the texture lies flat over it, as seen from above.
    """
    middle = outline.mean(0)
    shrunk = middle + (outline - middle) * (1 - bevel / np.abs(outline - middle).max(0)) if bevel else outline
    half = bevel * 0.3
    levels = (
        [
            (shrunk, low),
            (outline * 0.7 + shrunk * 0.3, low + half),
            (outline, low + bevel),
            (outline, high - bevel),
            (outline * 0.7 + shrunk * 0.3, high - half),
            (shrunk, high),
        ]
        if bevel
        else [(outline, low), (outline, high)]
    )
    rings = np.stack([np.column_stack((ring, np.full(len(ring), z))) for ring, z in levels])
    return loft(rings).mapped(0, 1)


def ribbon(left: np.ndarray, right: np.ndarray, low: float, high: float, bevel: float = 0.0) -> Mesh:
    """A flat thing between two curves, each P x 2, from z = `low` to `high`: for outlines that no one point sees whole.

    Both curves run the same way, with `left` on the left.
    """
    left, right = np.asarray(left, float), np.asarray(right, float)
    across = right - left
    width = np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    inset = across / width * np.minimum(bevel, width / 2)

    def at(xy: np.ndarray, z: float) -> np.ndarray:
        return np.column_stack((xy, np.full(len(xy), z)))

    if bevel:
        corners = [at(left + inset, low), at(left, low + bevel), at(left, high - bevel), at(left + inset, high)]
        corners += [at(right - inset, high), at(right, high - bevel), at(right, low + bevel), at(right - inset, low)]
    else:
        corners = [at(left, low), at(left, high), at(right, high), at(right, low)]
    return loft(np.stack(corners, 1)).mapped(0, 1)


def ring(outline: np.ndarray, hole: np.ndarray, low: float, high: float, bevel: float = 0.0) -> Mesh:
    """A flat ring between two outlines with the same number of points."""
    loop = [*range(len(outline)), 0]
    return ribbon(hole[loop], outline[loop], low, high, bevel)


def box(size: Sequence[float], bevel: float = 0.0, steps: int = 2) -> Mesh:
    """Around the origin, edges rounded; every side has the texture at the same scale, 0 to 1 along the longest side."""
    x, y, z = size
    bevel = min(bevel, x / 2, y / 2, z / 2)
    if not bevel:
        rings = [rounded_rectangle(x, y, 0, 1)] * 2
        heights = [-z / 2, z / 2]
    else:
        turn = np.linspace(0, np.pi / 2, steps + 1)
        insets = np.concatenate((bevel * (1 - np.sin(turn)), bevel * (1 - np.sin(turn[::-1]))))
        heights = np.concatenate((-z / 2 + bevel * (1 - np.cos(turn)), z / 2 - bevel * (1 - np.cos(turn[::-1]))))
        rings = [rounded_rectangle(x - 2 * i, y - 2 * i, max(bevel - i, bevel * 0.05), steps + 1) for i in insets]
    mesh = loft(np.stack([np.column_stack((r, np.full(len(r), h))) for r, h in zip(rings, heights, strict=True)]))
    return _wrapped(mesh, max(size))


def _wrapped(mesh: Mesh, measure: float) -> Mesh:
    """Each face's texture laid flat along the axis that it faces most: each face gets vertices of its own."""
    corners = mesh.vertices[mesh.faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    facing = np.abs(normal).argmax(1)
    axes = np.array([[1, 2], [0, 2], [0, 1]])[facing]
    flat = np.take_along_axis(corners, np.broadcast_to(axes[:, None], (len(corners), 3, 2)), 2)
    low, high = mesh.vertices.min(0)[axes][:, None], mesh.vertices.max(0)[axes][:, None]
    # On three of the six sides the first axis runs to the left, as seen from outside
    leftward = np.take_along_axis(normal, facing[:, None], 1)[:, 0] * np.array([1, -1, 1])[facing] < 0
    texcoords = flat - low
    texcoords[leftward, :, 0] = (high - flat)[leftward, :, 0]
    faces = np.arange(corners.size // 3).reshape(-1, 3)
    return Mesh(corners.reshape(-1, 3), faces, (texcoords / measure).reshape(-1, 2))


def shaded(mesh: Mesh, crease: float) -> tuple[Mesh, np.ndarray]:
    """The mesh with one normal per vertex, N x 3: smooth over edges that bend less than `crease` degrees.

    At sharper edges, and where the texture has a seam, vertices are duplicated.
    """
    mesh = _without_slivers(mesh)
    corners = mesh.vertices[mesh.faces]
    edges = np.roll(corners, -1, 1) - corners
    edges /= np.maximum(np.linalg.norm(edges, axis=2, keepdims=True), 1e-12)
    angles = np.arccos(np.clip(-(edges * np.roll(edges, 1, 1)).sum(2), -1, 1)).ravel()
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.repeat(normals, 3, 0)  # one per corner from here on

    cells = np.round((mesh.vertices - mesh.vertices.min(0)) / 2e-6).astype(np.int64)
    place = np.unique(cells @ np.array([1, 1 << 20, 1 << 40]), return_inverse=True)[1].ravel()[mesh.faces.ravel()]
    order = np.argsort(place, kind="stable")
    sizes = np.bincount(place)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    partners = sizes[place]
    first = np.repeat(np.arange(len(place)), partners)
    within = np.arange(len(first)) - np.repeat(np.cumsum(partners) - partners, partners)
    second = order[np.repeat(starts[place], partners) + within]
    alike = (normals[first] * normals[second]).sum(1) > np.cos(np.radians(crease))
    first, second = first[alike], second[alike]
    weighted = normals[second] * angles[second, None]
    summed = np.stack([np.bincount(first, weighted[:, i], len(place)) for i in range(3)], 1)
    summed /= np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)

    texture = np.round(mesh.texcoords * 1000).astype(np.int64)[mesh.faces.ravel()]
    leaning = np.round(summed * 60).astype(np.int64) + 64
    key = place * (1 << 21) + leaning @ np.array([1, 1 << 7, 1 << 14])
    key = key * (1 << 23) + texture @ np.array([1, 4001])
    _, kept, faces = np.unique(key, return_index=True, return_inverse=True)
    source = mesh.faces.ravel()[kept]
    return Mesh(mesh.vertices[source], faces.reshape(-1, 3), mesh.texcoords[source]), summed[kept]
