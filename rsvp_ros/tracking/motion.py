"""Where a box will be in the next frame: a constant-velocity Kalman filter on its centre and size."""

from __future__ import annotations

import numpy as np

from rsvp_ros.geometry import Box

# Standard deviations of centre x, y, width and height as fractions of the box's size, as SORT and its successors scale
# them. A size is measured worse than a place (a hand covers half of the target), and changes more slowly.
MEASUREMENT_NOISE = np.array((0.04, 0.04, 0.12, 0.12))
ACCELERATION = np.array(
    (4.0, 4.0, 1.0, 1.0)
)  # per second squared: a hand stops an object within a few tenths of a second
INITIAL_SPEED = np.array((1.0, 1.0, 0.3, 0.3))  # per second
# The state cannot say where a box is after a long time unseen; below this the motion still is a prediction.
MAX_STEP_S = 1.0
MIN_SIDE = 1.0


class BoxMotion:
    """Four independent filters (centre x, centre y, width, height), each with the state position and velocity.

    The noises of a box are alike in all four coordinates up to its size, and uncorrelated, so that the 8 x 8 filter of
    SORT falls into four of 2 x 2, written here with arrays of four: no matrix inverse on the per-frame path.
    """

    def __init__(self, box: Box) -> None:
        self._position = _to_state(box)
        self._velocity = np.zeros(4)
        scale = self._scale()
        self._pp = (MEASUREMENT_NOISE * scale) ** 2
        self._pv = np.zeros(4)
        self._vv = (INITIAL_SPEED * scale) ** 2

    def predict(self, dt_s: float) -> None:
        """Move on by `dt_s` seconds (0 or less: stay)."""
        dt = min(max(dt_s, 0.0), MAX_STEP_S)
        if dt == 0.0:
            return
        noise = (ACCELERATION * self._scale()) ** 2
        self._position = self._position + dt * self._velocity
        self._position[2:] = np.maximum(self._position[2:], MIN_SIDE)
        self._pp = self._pp + 2 * dt * self._pv + dt * dt * self._vv + noise * dt**4 / 4
        self._pv = self._pv + dt * self._vv + noise * dt**3 / 2
        self._vv = self._vv + noise * dt * dt

    def update(self, box: Box) -> None:
        """Take in where the box was measured."""
        innovation = _to_state(box) - self._position
        variance = self._pp + (MEASUREMENT_NOISE * self._scale()) ** 2
        gain_p, gain_v = self._pp / variance, self._pv / variance
        self._position = self._position + gain_p * innovation
        self._velocity = self._velocity + gain_v * innovation
        self._position[2:] = np.maximum(self._position[2:], MIN_SIDE)
        self._vv = self._vv - gain_v * self._pv
        self._pv = (1 - gain_p) * self._pv
        self._pp = (1 - gain_p) * self._pp

    def halt(self) -> None:
        """Forget the velocity: after a jump in time it means nothing."""
        self._velocity = np.zeros(4)

    def rescale(self, sx: float, sy: float) -> None:
        """The image's resolution changed by these factors."""
        factors = np.array((sx, sy, sx, sy))
        self._position, self._velocity = self._position * factors, self._velocity * factors
        self._pp, self._pv, self._vv = (p * factors**2 for p in (self._pp, self._pv, self._vv))

    @property
    def box(self) -> Box:
        cx, cy, width, height = self._position
        return Box(float(cx - width / 2), float(cy - height / 2), float(cx + width / 2), float(cy + height / 2))

    @property
    def uncertainty(self) -> tuple[float, float]:
        """Standard deviation of the centre, pixels in x and y."""
        return float(np.sqrt(self._pp[0])), float(np.sqrt(self._pp[1]))

    def _scale(self) -> np.ndarray:
        width, height = self._position[2], self._position[3]
        return np.array((width, height, width, height))


def _to_state(box: Box) -> np.ndarray:
    return np.array((*box.center, max(box.width, MIN_SIDE), max(box.height, MIN_SIDE)))
