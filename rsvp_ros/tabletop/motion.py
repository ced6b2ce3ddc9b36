"""Where things and the camera are at a given time. numpy only; poses are world_from_object, float64 4 x 4, metres.

All motion is prescribed, not simulated: it starts and ends at rest, and is the same at every image rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsvp_ros.tabletop.rotations import matrix_of_turn
from rsvp_ros.tabletop.scenes import CameraSpec, look_at
from rsvp_ros.tabletop.view import Camera


@dataclass(frozen=True)
class Move:
    """A move from one place to another, with a soft start and end."""

    start_s: float
    end_s: float
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """World, metres."""
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """About a world axis through the thing's origin, radians; may be more than a full turn."""
    rolls: bool = False
    """Whether its lowest point stays at the same height."""

    def share(self, time_s: float) -> float:
        """How much of it is done, 0 to 1, along a minimum-jerk curve."""
        s = min(max((time_s - self.start_s) / (self.end_s - self.start_s), 0.0), 1.0)
        return s * s * s * (10 + s * (6 * s - 15))


@dataclass(frozen=True, eq=False)
class Path:
    """A thing's path: where it starts, and its moves one after the other."""

    start: np.ndarray
    """Pose before the first move."""
    moves: tuple[Move, ...] = ()
    surface: np.ndarray | None = None
    """Points of its surface in its own frame, N x 3 m; needed if it rolls."""

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
        """The same path, continued by these moves."""
        return Path(self.start, self.moves + moves, self.surface)


@dataclass(frozen=True)
class CameraPath:
    """A hand-held camera that swings about what it looks at, comes nearer and goes back.

    After `period_s` it is back where it started.
    """

    spec: CameraSpec
    """The camera in the middle of its path."""
    period_s: float
    swing: float = 0.0
    """How far to each side, about the vertical through the target, radians."""
    approach: float = 0.0
    """Share of its distance by which it moves nearer and farther."""
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
        # A hand moves at 0.3 to 3 Hz, and more at lower frequencies.
        cycles = np.maximum(1, np.round(self.period_s * np.array([0.31, 0.73, 1.3, 2.6])))
        axes = np.arange(3)[:, None]
        waves = np.sin(angle * (cycles + axes) + 2.4 * axes + 1.7 * cycles + 3.1 * offset)
        return waves @ np.array([0.55, 0.3, 0.15, 0.06])
