"""Where things and the camera are at a time. numpy only; poses are world_from_object, float64 4 x 4, metres.

All motion is given, not simulated: it starts and ends at rest, and is the same at every rate of images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsvp_ros.tabletop.rotations import matrix_of_turn
from rsvp_ros.tabletop.scenes import CameraSpec, look_at
from rsvp_ros.tabletop.view import Camera


@dataclass(frozen=True)
class Move:
    """From one place to another, with a soft start and end."""

    start_s: float
    end_s: float
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """World, metres."""
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """About an axis of the world through the thing's origin, radians; more than a full turn is one."""
    rolls: bool = False
    """Its lowest point stays as high as it is."""

    def share(self, time_s: float) -> float:
        """How much of it is done, 0 to 1: the path of least jerk."""
        s = min(max((time_s - self.start_s) / (self.end_s - self.start_s), 0.0), 1.0)
        return s * s * s * (10 + s * (6 * s - 15))


@dataclass(frozen=True, eq=False)
class Path:
    """A thing's way: where it starts, and its moves one after the other."""

    start: np.ndarray
    """Pose before the first move."""
    moves: tuple[Move, ...] = ()
    surface: np.ndarray | None = None
    """Points of its surface in its own frame, N x 3 m; needed where it rolls."""

    def pose(self, time_s: float) -> np.ndarray:
        pose = self.start.copy()
        for move in self.moves:
            share = move.share(time_s)
            if share > 0:
                lowest = (self.surface @ pose[2, :3]).min() if move.rolls else 0.0
                pose[:3, :3] = matrix_of_turn(share * np.array(move.turn)) @ pose[:3, :3]
                pose[:3, 3] += share * np.array(move.shift)
                if move.rolls:
                    pose[2, 3] += lowest - (self.surface @ pose[2, :3]).min()
        return pose

    @property
    def end(self) -> np.ndarray:
        """Pose after the last move."""
        return self.pose(max((move.end_s for move in self.moves), default=0.0))

    def then(self, *moves: Move) -> Path:
        """The same way, and on."""
        return Path(self.start, self.moves + moves, self.surface)


@dataclass(frozen=True)
class CameraPath:
    """A camera that swings about what it looks at, comes nearer and goes back, and is held by a hand.

    After `period_s` it is where it was.
    """

    spec: CameraSpec
    """In the middle of its way."""
    period_s: float
    swing: float = 0.0
    """To each side about the target's vertical, radians."""
    approach: float = 0.0
    """Share of the distance by which it comes nearer and goes away."""
    shake: float = 0.0
    """How far a hand moves it, metres; what it looks at moves as far."""
    phase: float = 0.0
    """Where in its swing it starts, radians."""

    def camera(self, time_s: float, size: tuple[int, int]) -> Camera:
        """`size`: width and height of the image, pixels."""
        angle = 2 * np.pi * time_s / self.period_s
        eye, target = np.array(self.spec.eye), np.array(self.spec.target)
        distance = 1 + self.approach * np.sin(2 * angle + self.phase)
        eye = target + distance * matrix_of_turn((0, 0, self.swing * np.sin(angle + self.phase))) @ (eye - target)
        eye += self.shake * self._tremble(angle, 0.0)
        target += self.shake * self._tremble(angle, 1.0)
        camera = self.spec.camera(*size)
        return Camera(*size, camera.f, look_at(eye, target))

    def _tremble(self, angle: float, offset: float) -> np.ndarray:
        """Slow and quick waves, a whole number of each in a period; about -1 to 1 along each axis."""
        # A hand moves at 0.3 to 3 Hz, the more the slower.
        cycles = np.maximum(1, np.round(self.period_s * np.array([0.31, 0.73, 1.3, 2.6])))
        axes = np.arange(3)[:, None]
        waves = np.sin(angle * (cycles + axes) + 2.4 * axes + 1.7 * cycles + 3.1 * offset)
        return waves @ np.array([0.55, 0.3, 0.15, 0.06])
