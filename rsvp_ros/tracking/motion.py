"""Where a box will be in the next frame: a constant-velocity Kalman filter on its centre, and a smoothed size."""

from __future__ import annotations

import math

import numpy as np

from rsvp_ros.geometry import Box

# Standard deviations of the centre as fractions of the box's size, as SORT and its successors scale them.
MEASUREMENT_NOISE = 0.04
ACCELERATION = 4.0  # per second squared: a hand stops an object within a few tenths of a second
INITIAL_SPEED = 1.0  # per second
MIN_SIDE = 1.0
MAX_STEP_S = 1.0  # after a longer time unseen the state cannot say where a box is

# A size changes steadily as the target comes near, goes away or turns. A box that has shrunk along one side, and more
# than along the other, shows a target that is half hidden and will come out again as large as it was.
SIZE_TIME_S = 1.0
HIDDEN_SIZE_TIME_S = 6.0
HIDDEN_BELOW = 0.85  # shown share of the kept width or height, also relative to the other's share
UNSEEN_SPEED_TIME_S = 2.0  # what goes behind something may just as well stay there


class BoxMotion:
    """Position and velocity of a box's centre in x and y (two independent filters, in arrays of two), and its size."""

    def __init__(self, box: Box) -> None:
        self._center = np.array(box.center)
        self._size = _size(box)
        self._velocity = np.zeros(2)
        self._pp = (MEASUREMENT_NOISE * self._size) ** 2
        self._pv = np.zeros(2)
        self._vv = (INITIAL_SPEED * self._size) ** 2
        self._since_update_s = 0.0

    def predict(self, dt_s: float, seen: bool = True) -> None:
        """Move on by `dt_s` seconds (0 or less: stay); `seen`: whether the target was seen in the last frame."""
        dt = min(max(dt_s, 0.0), MAX_STEP_S)
        if dt == 0.0:
            return
        if not seen:
            self._velocity = self._velocity * math.exp(-dt / UNSEEN_SPEED_TIME_S)
        noise = (ACCELERATION * self._size) ** 2
        self._center = self._center + dt * self._velocity
        self._pp = self._pp + 2 * dt * self._pv + dt * dt * self._vv + noise * dt**4 / 4
        self._pv = self._pv + dt * self._vv + noise * dt**3 / 2
        self._vv = self._vv + noise * dt * dt
        self._since_update_s += dt

    def update(self, box: Box) -> None:
        """Take in the measured box."""
        measured = _size(box)
        # The visible part of a half-hidden target says less about its centre, and nothing about its speed.
        shown = np.minimum(measured / self._size, 1.0)
        hides = (shown < HIDDEN_BELOW) & (shown.min() < HIDDEN_BELOW * shown.max())
        hidden = hides.any()
        variance = self._pp + (MEASUREMENT_NOISE * self._size / shown**2) ** 2
        innovation = np.array(box.center) - self._center
        gain_p, gain_v = self._pp / variance, np.zeros(2) if hidden else self._pv / variance
        self._center = self._center + gain_p * innovation
        self._velocity = self._velocity + gain_v * innovation
        self._vv = self._vv - gain_v * self._pv
        self._pv = (1 - gain_p) * self._pv
        self._pp = (1 - gain_p) * self._pp
        time_s = np.where(hides, HIDDEN_SIZE_TIME_S, SIZE_TIME_S)
        self._size = self._size + (1 - np.exp(-self._since_update_s / time_s)) * (measured - self._size)
        self._since_update_s = 0.0

    def relocate(self, box: Box) -> None:
        """The target was found again in this box, far from where it was expected; its size is kept."""
        self._center, self._velocity = np.array(box.center), np.zeros(2)
        self._pp = (MEASUREMENT_NOISE * self._size) ** 2
        self._pv, self._vv = np.zeros(2), (INITIAL_SPEED * self._size) ** 2
        self._since_update_s = 0.0

    def halt(self) -> None:
        """Forget the velocity: after a jump in time it means nothing."""
        self._velocity = np.zeros(2)

    def rescale(self, sx: float, sy: float) -> None:
        """The image's resolution changed by these factors."""
        factors = np.array((sx, sy))
        self._center, self._velocity, self._size = (v * factors for v in (self._center, self._velocity, self._size))
        self._pp, self._pv, self._vv = (p * factors**2 for p in (self._pp, self._pv, self._vv))

    @property
    def box(self) -> Box:
        (cx, cy), (width, height) = self._center, self._size
        return Box(float(cx - width / 2), float(cy - height / 2), float(cx + width / 2), float(cy + height / 2))

    @property
    def uncertainty(self) -> tuple[float, float]:
        """Standard deviation of the centre, pixels in x and y."""
        return float(np.sqrt(self._pp[0])), float(np.sqrt(self._pp[1]))


def _size(box: Box) -> np.ndarray:
    return np.array((max(box.width, MIN_SIDE), max(box.height, MIN_SIDE)))
