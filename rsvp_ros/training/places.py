"""Where things are on the table as if seen from above, in steps that depend on the image alone.

The distance of two things on the table cannot be told from their bands: things farther away look closer together, and
a steep camera sees them differently from a flat one. A place is therefore given as on a map: x to the image's right, y
away from the camera, measured from the point of the table at the image's centre. The unit is a step: the image is STEPS
steps wide at that point. Magnifying or shifting an image changes the places, but their differences only by the
magnification.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from rsvp_ros.tabletop.view import ObjectView, View

STEPS = 64
"""Number of steps in an image's width."""
FARTHEST = 52
"""Most steps told in each direction; places farther away are clipped to it."""
HORIZON = 1e3
"""Coordinate given to a pixel above the horizon, metres."""

Place = tuple[int, int]
"""Steps to the right and away from the camera."""


def spot(thing: ObjectView) -> tuple[int, int]:
    """Position of a thing's middle on the table, world, millimetres."""
    x, y = np.rint(thing.position[:2] * 1000)
    return int(x), int(y)


@dataclass(frozen=True, eq=False)
class Ground:
    """The table top as seen in an image. Its middle is the world's origin, its sides lie along the axes."""

    world_from_image: np.ndarray
    """Homography, float64 3 x 3: pixels to metres on the table top."""
    center: tuple[float, float]
    """The image's middle, pixels."""
    width: int
    """Width of the image, pixels."""
    table: tuple[float, float]
    """Width (x) and depth (y) of the table top, metres."""

    @classmethod
    def of(cls, view: View) -> Ground:
        camera = view.camera
        rays = camera.world_from_optical[:3, :3] @ np.linalg.inv(camera.matrix)
        x, y, z = camera.world_from_optical[:3, 3]
        # The point at height 0 on the ray from the eye through a pixel, in homogeneous coordinates
        onto = np.stack((x * rays[2] - z * rays[0], y * rays[2] - z * rays[1], rays[2]))
        return cls(onto, camera.center, camera.width, view.table)

    def moved(self, new_from_old: np.ndarray) -> Ground:
        """The ground after an affine map of the image's pixels, 2 x 3."""
        back = np.linalg.inv(np.vstack((new_from_old, (0, 0, 1))))
        return replace(self, world_from_image=self.world_from_image @ back)

    @cached_property
    def step(self) -> float:
        """Length of a step, metres."""
        return float(np.linalg.norm(self._across) * self.width / STEPS)

    @cached_property
    def _across(self) -> np.ndarray:
        """Vector on the table that one pixel to the right covers at the image's middle, metres."""
        u, v = self.center
        left, right = self.points([(u - 0.5, v), (u + 0.5, v)])
        return right - left

    def places(self, spots: Sequence[tuple[float, float]]) -> list[Place]:
        """Places of points on the table, which are given in the world, millimetres."""
        u, v = self.center
        middle, above, below = self.points([(u, v), (u, v - 0.5), (u, v + 0.5)])
        across = self._across / np.linalg.norm(self._across)
        ahead = np.array([-across[1], across[0]])
        ahead *= np.sign(ahead @ (above - below))
        away = (np.asarray(spots, np.float64).reshape(-1, 2) / 1000 - middle) / self.step
        steps = np.clip(np.rint(away @ np.stack((across, ahead), 1)), -FARTHEST, FARTHEST).astype(int)
        return [(int(x), int(y)) for x, y in steps]

    def points(self, pixels: Sequence[tuple[float, float]] | np.ndarray) -> np.ndarray:
        """Points of the table's plane that pixels, N x 2, show: world, metres, N x 2; (HORIZON, HORIZON) for none."""
        mapped = np.column_stack((pixels, np.ones(len(pixels)))) @ self.world_from_image.T
        # The image's middle is below the horizon; pixels on the same side of it have the same sign
        below = mapped[:, 2:] * (self.world_from_image[2] @ (*self.center, 1)) > 0
        return np.divide(mapped[:, :2], mapped[:, 2:], out=np.full((len(mapped), 2), HORIZON), where=below)

    def is_table(self, points: np.ndarray) -> np.ndarray:
        """Whether world points, N x 2, are on the table top: bool N."""
        return (np.abs(points) <= np.array(self.table) / 2).all(1)

    def shows_table(self, height: int, width: int) -> np.ndarray:
        """Which pixels show the plane of the table top within the table's sides, bool height x width."""
        rows, columns = np.indices((height, width))
        points = self.points(np.column_stack((columns.ravel(), rows.ravel())))
        return self.is_table(points).reshape(height, width)

    def to_rim(self, points: np.ndarray) -> np.ndarray:
        """Distance from world points, N x 2, to the nearest point of the table's rim that is in the image: metres, N.

        Only the points straight towards the four sides count; infinite if none is in the image. Negative beside the
        table.
        """
        half = np.array(self.table) / 2
        beside = np.hypot(*np.maximum(np.abs(points) - half, 0).T)
        ways = np.full((4, len(points)), np.inf)
        for way, (axis, end) in zip(ways, itertools.product((0, 1), (-1, 1)), strict=True):
            foot = points.copy()
            foot[:, axis] = end * half[axis]
            seen = self._is_seen(foot)
            way[seen] = np.abs(foot - points)[seen, axis]
        return np.where(beside > 0, -beside, ways.min(0))

    def _is_seen(self, points: np.ndarray) -> np.ndarray:
        """Whether world points on the table's plane, N x 2, lie within the image: bool N."""
        mapped = np.column_stack((points, np.ones(len(points)))) @ np.linalg.inv(self.world_from_image).T
        before = mapped[:, 2] * (self.world_from_image[2] @ (*self.center, 1)) > 0
        size = 2 * np.array(self.center) + 1
        pixels = mapped[:, :2] / mapped[:, 2:]
        return before & (pixels >= -0.5).all(1) & (pixels <= size - 0.5).all(1)


def offset(place: Place, reference: Place) -> Place:
    """Steps from `reference` to `place`, clipped to FARTHEST."""
    x, y = (max(-FARTHEST, min(FARTHEST, a - b)) for a, b in zip(place, reference, strict=True))
    return x, y
