"""Rotations as float64 3 x 3 matrices and as unit quaternions w, x, y, z (MuJoCo's order; ROS messages name them)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Quaternion = tuple[float, float, float, float]
"""w, x, y, z."""


def matrix_of(quaternion: Quaternion) -> np.ndarray:
    """The rotation matrix of a unit quaternion."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_of(turn: np.ndarray) -> Quaternion:
    """The quaternion of a rotation matrix; its component of greatest magnitude is positive."""
    w, x, y, z = (
        np.sqrt(max(0.0, 1 + a * turn[0, 0] + b * turn[1, 1] + c * turn[2, 2])) / 2
        for a, b, c in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
    )
    big = max(w, x, y, z)
    if big == w:
        x, y, z = (
            np.copysign(x, turn[2, 1] - turn[1, 2]),
            np.copysign(y, turn[0, 2] - turn[2, 0]),
            np.copysign(z, turn[1, 0] - turn[0, 1]),
        )
    elif big == x:
        w = np.copysign(w, turn[2, 1] - turn[1, 2])
        y, z = np.copysign(y, turn[0, 1] + turn[1, 0]), np.copysign(z, turn[0, 2] + turn[2, 0])
    elif big == y:
        w = np.copysign(w, turn[0, 2] - turn[2, 0])
        x, z = np.copysign(x, turn[0, 1] + turn[1, 0]), np.copysign(z, turn[1, 2] + turn[2, 1])
    else:
        w = np.copysign(w, turn[1, 0] - turn[0, 1])
        x, y = np.copysign(x, turn[0, 2] + turn[2, 0]), np.copysign(y, turn[1, 2] + turn[2, 1])
    return float(w), float(x), float(y), float(z)


def matrix_about(axis: Sequence[float], angle: float) -> np.ndarray:
    """The rotation by an angle, radians, about an axis of any length (Rodrigues)."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def matrix_of_turn(turn: Sequence[float]) -> np.ndarray:
    """The rotation about the vector `turn` by its length, radians."""
    angle = float(np.linalg.norm(turn))
    return matrix_about(turn, angle) if angle else np.eye(3)
