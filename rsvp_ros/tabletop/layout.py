"""Where the things of a view are relative to each other, in the image and on the table, with margins. numpy only.

Sides are as seen from the camera: "left" is left in the image and on the table, "in front" is nearer to the camera.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from rsvp_ros.tabletop.descriptions import Description, negate
from rsvp_ros.tabletop.view import ObjectView, View

SIDE_CONE, IMAGE_CONE = 30.0, 35.0
"""Degrees from a direction, on the table and in the image, within which everybody says "left of"; beyond 90 degrees
nobody does."""
COLUMN_MARGIN = 0.04
"""One thing is right of another if at least this share of the image's width lies between their middles …"""
RIM_MARGIN = 0.015
"""… and more than this share of its width or height between their corresponding edges."""
DEPTH_MARGIN = 0.05
"""One thing is behind another if at least this lies between their middles, metres."""


class Layout:
    """Where the things of a view are, in the image and on the table."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.things = view.things
        self.glimpsed = view.glimpsed
        optical = view.camera.world_from_optical[:3, :3]
        ahead = optical[:2, 2]
        if np.linalg.norm(ahead) < 0.2:  # looks straight down: ahead is what is up in the image
            ahead = -optical[:2, 1]
        ahead = ahead / np.linalg.norm(ahead)
        self.axes = np.array([[ahead[1], -ahead[0]], ahead])
        """Rows: unit vectors to the camera's right and ahead, on the table."""

    @cached_property
    def seen(self) -> tuple[ObjectView, ...]:
        return self.things + self.glimpsed

    @cached_property
    def place(self) -> dict[int, np.ndarray]:
        """For everything seen: how far right and ahead it is, metres."""
        return {o.id: self.axes @ o.position[:2] for o in self.seen}

    @cached_property
    def corners(self) -> dict[int, np.ndarray]:
        """For everything seen: corners of the box around it, world, 8 x 3."""
        unit = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
        return {
            o.id: (unit * o.dimensions) @ o.world_from_object[:3, :3].T + o.world_from_object[:3, 3] for o in self.seen
        }

    @cached_property
    def hulls(self) -> dict[int, np.ndarray]:
        """For everything seen: convex outline on the table, N x 2, world."""
        return {id_: convex_hull(corners[:, :2]) for id_, corners in self.corners.items()}

    @cached_property
    def rims(self) -> dict[int, np.ndarray]:
        """For everything seen: the pixels on the rim of its mask, N x 2."""
        ids = np.pad(self.view.ids, 1)
        middle = ids[1:-1, 1:-1]
        inner = (middle == ids[:-2, 1:-1]) & (middle == ids[2:, 1:-1])
        inner &= (middle == ids[1:-1, :-2]) & (middle == ids[1:-1, 2:])
        rows, columns = np.nonzero(~inner & (middle > 0))
        owners = middle[rows, columns]
        return {o.id: np.stack((columns, rows), 1)[owners == o.id].astype(np.float32) for o in self.seen}

    @cached_property
    def image_place(self) -> dict[int, np.ndarray]:
        """For everything seen: its middle projected into the image, pixels."""
        return {o.id: self.view.camera.project(o.position[None])[0, :2] for o in self.seen}

    def distance(self, a: ObjectView, b: ObjectView) -> float:
        """Distance between two things' middles on the table, metres."""
        return float(np.linalg.norm(self.place[a.id] - self.place[b.id]))

    def gap(self, a: ObjectView, b: ObjectView) -> float:
        """Gap between two things' outlines on the table, metres; 0 if they overlap."""
        return hull_gap(self.hulls[a.id], self.hulls[b.id])

    def seen_gap(self, a: ObjectView, b: ObjectView) -> float:
        """Gap between what is seen of two things, metres, as if it lay across the line of sight.

        `gap` uses the outlines of boxes: between two things that do not fill theirs, more space is free.
        """
        near, far = (self.rims[o.id] for o in (a, b))
        pixels = np.sqrt(((near[:, None] - far) ** 2).sum(-1).min()) - 1
        eye = self.view.camera.world_from_optical[:3, 3]
        return float(pixels * np.linalg.norm((a.position + b.position) / 2 - eye) / self.view.camera.f)

    def right_of(self, a: ObjectView, b: ObjectView) -> bool | None:
        """Whether a is farther right in the image than b; None where it is too close to tell."""
        margin = COLUMN_MARGIN * self.view.camera.width
        seen = a.box.center[0] - b.box.center[0]
        true = self.image_place[a.id][0] - self.image_place[b.id][0]
        ends = (a.box.x0 - b.box.x0, a.box.x1 - b.box.x1)
        rim = RIM_MARGIN * self.view.camera.width
        if min(seen, true) >= margin and min(ends) > rim:
            return True
        return False if max(seen, true) <= -margin and max(ends) < -rim else None

    def behind(self, a: ObjectView, b: ObjectView) -> bool | None:
        """Whether a is farther from the camera than b; None where it is too close to tell."""
        ahead = self.place[a.id][1] - self.place[b.id][1]
        eye = self.view.camera.world_from_optical[:2, 3]
        farther = np.linalg.norm(a.position[:2] - eye) - np.linalg.norm(b.position[:2] - eye)
        up = b.box.y1 - a.box.y1
        rim = RIM_MARGIN * self.view.camera.height
        if min(ahead, farther) >= DEPTH_MARGIN and up > rim:
            return True
        return False if max(ahead, farther) <= -DEPTH_MARGIN and up < -rim else None

    def nearer(self, a: ObjectView, b: ObjectView) -> bool | None:
        """Whether a is nearer to the camera than b, on the table and in space: a tall cup may come nearer than a fork
        that lies in front of it. None where the two disagree or it is too close to tell.
        """
        order = self.behind(b, a)
        return None if order is None or order != (self.reach(a) < self.reach(b)) else order

    def reach(self, thing: ObjectView) -> float:
        """Distance from the camera to the nearest point of the box around a thing, metres."""
        eye = thing.world_from_object[:3, :3].T @ (self.view.camera.world_from_optical[:3, 3] - thing.position)
        half = np.array(thing.dimensions) / 2
        return float(np.linalg.norm(eye - np.clip(eye, -half, half)))

    def is_on_side(self, a: ObjectView, side: str, b: ObjectView) -> bool | None:
        """Whether a is on this side of b: "left", "right", "front" or "behind".

        True within SIDE_CONE of that direction on the table if the image agrees, False in the opposite half.
        """
        right, ahead = self.place[a.id] - self.place[b.id]
        along, across = {
            "left": (-right, ahead),
            "right": (right, ahead),
            "front": (-ahead, right),
            "behind": (ahead, right),
        }[side]
        order = self.right_of(a, b) if side in ("left", "right") else self.behind(a, b)
        order = order if side in ("right", "behind") else negate(order)
        angle = np.degrees(np.arctan2(abs(across), along))
        du, dv = np.subtract(a.box.center, b.box.center)
        seen = np.degrees(np.arctan2(*(np.abs((dv, du)) if side in ("left", "right") else np.abs((du, dv)))))
        if order and angle <= SIDE_CONE and seen <= IMAGE_CONE:
            return None if self.is_within(a, b) else True
        return False if angle >= (90 if order is False else 100) and not order else None

    def is_within(self, a: ObjectView, b: ObjectView) -> bool:
        """Whether one of two things lies in, on or under the other rather than beside it."""
        return any(hull_gap(self.hulls[outer.id], inner.position[None, :2]) == 0 for outer, inner in ((a, b), (b, a)))

    @staticmethod
    def core(thing: ObjectView) -> np.ndarray:
        """How far a thing surely reaches from its middle along each axis of the world, metres; float64 3.

        That of the ellipsoid in the box around it: the corners of a box that is askew hold nothing of a round thing.
        """
        rotation = thing.world_from_object[:3, :3]
        return np.sqrt(((rotation * np.array(thing.dimensions) / 2) ** 2).sum(1))

    def edge_distance(self, thing: ObjectView) -> float:
        """Distance from a thing's outline to the table's nearest edge, metres; negative if it sticks out over it."""
        half = np.array(self.view.table) / 2
        return float((half - np.abs(self.hulls[thing.id]).max(0)).min())

    def core_edge_distance(self, thing: ObjectView) -> float:
        """The same for what the thing surely covers (`core`): at least `edge_distance`."""
        half = np.array(self.view.table) / 2
        return float((half - np.abs(thing.position[:2]) - self.core(thing)[:2]).min())

    def sees_edge(self, thing: ObjectView) -> bool:
        """Whether the point of the table's edge that is nearest to a thing lies in the image."""
        half = np.array(self.view.table) / 2
        hull = self.hulls[thing.id]
        point, axis = np.unravel_index(np.argmin(half - np.abs(hull)), hull.shape)
        edge = hull[point].copy()
        edge[axis] = np.sign(edge[axis]) * half[axis]
        camera = self.view.camera
        u, v, depth = camera.project(np.array([[*edge, 0.0]]))[0]
        return bool(depth > 0 and 0 <= u < camera.width and 0 <= v < camera.height)

    def select(self, description: Description) -> tuple[list[ObjectView], list[ObjectView]]:
        """The things that fit a description, and everything seen that only some would say fits."""
        states = [(o, description.holds(o)) for o in self.things]
        fitting = [o for o, state in states if state]
        doubtful_ones = [o for o, state in states if state is None]
        return fitting, doubtful_ones + [o for o in self.glimpsed if description.might_hold(o)]


def convex_hull(points: np.ndarray) -> np.ndarray:
    """Corners of the convex hull of N x 2 points, counter-clockwise (Andrew's monotone chain)."""
    ordered = sorted({(round(float(x), 6), round(float(y), 6)) for x, y in points})

    def half(chain: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        hull: list[tuple[float, float]] = []
        for p in chain:
            while len(hull) >= 2:
                (ax, ay), (bx, by) = hull[-2], hull[-1]
                if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0:
                    break
                hull.pop()
            hull.append(p)
        return hull

    return np.array(half(ordered)[:-1] + half(reversed(ordered))[:-1] or ordered)


def hull_gap(a: np.ndarray, b: np.ndarray) -> float:
    """Smallest distance between two convex outlines, N x 2 each, counter-clockwise; 0 if they overlap."""

    def separates(hull: np.ndarray, other: np.ndarray) -> bool:
        if len(hull) < 3:
            return False
        along = np.roll(hull, -1, 0) - hull
        normals = np.stack((along[:, 1], -along[:, 0]), 1)
        return bool(((other @ normals.T).min(0) > (hull * normals).sum(1)).any())

    def to_edges(points: np.ndarray, hull: np.ndarray) -> float:
        along = np.roll(hull, -1, 0) - hull
        offset = points[:, None] - hull
        share = (offset * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)
        return float(np.linalg.norm(offset - np.clip(share, 0, 1)[..., None] * along, axis=-1).min())

    return min(to_edges(a, b), to_edges(b, a)) if separates(a, b) or separates(b, a) else 0.0
