"""Where things are on the table as if seen from above, in steps that follow from the image alone.

How far two things are from each other on the table cannot be told from their bands: what is farther away looks nearer
together, and a camera that looks down steeply sees it otherwise than a flat one. A place is therefore told as on a map:
x to the image's right and y away from the camera, from the point of the table in the middle of the image, in steps of
which the image is STEPS wide there. An image that is magnified or shifted has other places, and the differences of two
are the same but for the magnification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rsvp_ros.tabletop.view import Camera, ObjectView

STEPS = 64
"""Of a place, in an image's width."""
FARTHEST = 52
"""Steps that are told in each direction; what is farther away is told as that far."""

Place = tuple[int, int]
"""Steps to the right and away from the camera."""


def spot(thing: ObjectView) -> tuple[int, int]:
    """Of a thing's middle on the table, world, millimetres."""
    x, y = np.rint(thing.position[:2] * 1000)
    return int(x), int(y)


@dataclass(frozen=True, eq=False)
class Ground:
    """The table's top under an image."""

    world_from_image: np.ndarray
    """Homography, float64 3 x 3: pixels to metres on the table's top."""
    center: tuple[float, float]
    """The image's middle, pixels."""
    width: int
    """Of the image, pixels."""

    @classmethod
    def of(cls, camera: Camera) -> Ground:
        rays = camera.world_from_optical[:3, :3] @ np.linalg.inv(camera.matrix)
        x, y, z = camera.world_from_optical[:3, 3]
        # The point at height 0 on the ray from the eye through a pixel, in homogeneous coordinates
        onto = np.stack((x * rays[2] - z * rays[0], y * rays[2] - z * rays[1], rays[2]))
        return cls(onto, camera.center, camera.width)

    def moved(self, new_from_old: np.ndarray) -> Ground:
        """Under the image after an affine map of its pixels, 2 x 3."""
        back = np.linalg.inv(np.vstack((new_from_old, (0, 0, 1))))
        return Ground(self.world_from_image @ back, self.center, self.width)

    @cached_property
    def step(self) -> float:
        """Metres."""
        return float(np.linalg.norm(self._across) * self.width / STEPS)

    @cached_property
    def _across(self) -> np.ndarray:
        """A pixel to the right in the image's middle, on the table, metres."""
        u, v = self.center
        left, right = self._world([(u - 0.5, v), (u + 0.5, v)])
        return right - left

    def places(self, spots: Sequence[tuple[float, float]]) -> list[Place]:
        """Of points on the table, world, millimetres."""
        u, v = self.center
        middle, above, below = self._world([(u, v), (u, v - 0.5), (u, v + 0.5)])
        across = self._across / np.linalg.norm(self._across)
        ahead = np.array([-across[1], across[0]])
        ahead *= np.sign(ahead @ (above - below))
        away = (np.asarray(spots, np.float64).reshape(-1, 2) / 1000 - middle) / self.step
        steps = np.clip(np.rint(away @ np.stack((across, ahead), 1)), -FARTHEST, FARTHEST).astype(int)
        return [(int(x), int(y)) for x, y in steps]

    def _world(self, pixels: Sequence[tuple[float, float]]) -> np.ndarray:
        mapped = np.column_stack((pixels, np.ones(len(pixels)))) @ self.world_from_image.T
        return mapped[:, :2] / mapped[:, 2:]


def offset(place: Place, reference: Place) -> Place:
    """From one place to another, as it is told."""
    x, y = (max(-FARTHEST, min(FARTHEST, a - b)) for a, b in zip(place, reference, strict=True))
    return x, y
