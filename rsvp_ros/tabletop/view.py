"""What a camera sees of the tabletop, and the truth about it. numpy only.

Frames: *world* has its origin in the middle of the table's top, z up, x to the right and y away from somebody who sits
at the table's near side; metres. A camera's *optical frame* is REP 103's: z forward, x right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsvp_ros.geometry import Box
from rsvp_ros.tabletop.kinds import THIN


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera without distortion, and where it is."""

    width: int
    height: int
    f: float
    """Focal length, pixels; the same in both directions."""
    world_from_optical: np.ndarray
    """float64 4 x 4."""

    @property
    def center(self) -> tuple[float, float]:
        """Principal point, pixels; (0, 0) is the middle of the first pixel, as in sensor_msgs/CameraInfo."""
        return (self.width - 1) / 2, (self.height - 1) / 2

    @property
    def matrix(self) -> np.ndarray:
        """K, float64 3 x 3."""
        cx, cy = self.center
        return np.array([[self.f, 0, cx], [0, self.f, cy], [0, 0, 1]])

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points, N x 3 m, to N x 3: u, v (pixels, middle of the first pixel is 0, 0) and depth (m)."""
        rotation, translation = self.world_from_optical[:3, :3], self.world_from_optical[:3, 3]
        local = (np.asarray(points, np.float64) - translation) @ rotation
        return np.concatenate((local[:, :2] / local[:, 2:] * self.f + self.center, local[:, 2:]), 1)

    def unproject(self, depth: np.ndarray) -> np.ndarray:
        """A depth image, H x W m, to world points, H x W x 3 m; NaN where there is no depth."""
        v, u = np.mgrid[: self.height, : self.width]
        rays = np.stack((u - self.center[0], v - self.center[1], np.full(u.shape, self.f)), -1) / self.f
        local = rays * depth[..., None]
        return local @ self.world_from_optical[:3, :3].T + self.world_from_optical[:3, 3]


@dataclass(frozen=True, eq=False)
class ObjectView:
    """One thing of the scene as a camera sees it."""

    id: int
    """Its value in `View.ids`, from 1; the same in every view of a scene."""
    kind: str
    """A key of `kinds.KINDS`."""
    color: str
    """A key of `kinds.COLORS`."""
    pattern: str
    """"plain", "striped", "dotted", "checked"."""
    material: str
    """"ceramic", "wood", …: see `kinds.Kind.materials`."""
    dimensions: tuple[float, float, float]
    """Size of the box around it in its own frame, as it stands upright: x, y, z, metres."""
    world_from_object: np.ndarray
    """float64 4 x 4; the object's origin is the middle of the box around it."""
    upright: bool
    """Whether its own z axis points up, within 30 degrees: a standing can, not a lying one."""
    box: Box | None
    """Around what is visible of it, pixels, half-open; None if nothing is."""
    area: int
    """Visible pixels."""
    visible: float
    """0 to 1: the share of its pixels in this image that nothing hides. What lies outside the image does not count."""
    inside: float
    """0 to 1: how much of it lies inside the image, by the box around its silhouette."""
    full_mask: np.ndarray | None = None
    """bool H x W: what would be visible of it if it were alone; None if it was not asked for."""

    @property
    def position(self) -> np.ndarray:
        """Middle of the box around it, world, metres; float64 3."""
        return self.world_from_object[:3, 3]

    @property
    def length(self) -> float:
        """Its longest side, metres."""
        return max(self.dimensions)

    @property
    def volume(self) -> float:
        """Of the box around it, cubic metres."""
        return float(np.prod(self.dimensions))


@dataclass(frozen=True, eq=False)
class View:
    """One image of a scene and the truth about it."""

    image: np.ndarray
    """uint8 H x W x 3 RGB."""
    depth: np.ndarray
    """float32 H x W, metres along the optical axis; NaN where the ray meets nothing."""
    ids: np.ndarray
    """uint8 H x W: which object is seen in a pixel; 0: none of them."""
    camera: Camera
    objects: tuple[ObjectView, ...]
    """All of the scene, including those that are hidden or outside the image."""
    table: tuple[float, float]
    """Width (x) and depth (y) of the table's top, metres."""
    stamp_ns: int = 0

    def mask(self, object_id: int) -> np.ndarray:
        """What is visible of an object, bool H x W."""
        return self.ids == object_id

    def object(self, object_id: int) -> ObjectView:
        """Raises KeyError."""
        for thing in self.objects:
            if thing.id == object_id:
                return thing
        raise KeyError(f"no object {object_id} in this scene")

    @property
    def things(self) -> tuple[ObjectView, ...]:
        """The objects that a person would name, as enough of them is seen."""
        return tuple(
            o
            for o in self.objects
            if o.visible >= (MIN_VISIBLE_THIN if o.kind in THIN else MIN_VISIBLE)
            and o.inside >= MIN_VISIBLE
            and o.area >= MIN_AREA * self.ids.size
        )

    @property
    def glimpsed(self) -> tuple[ObjectView, ...]:
        """Objects that are seen, but too little of them to name them: no instruction's answer may depend on them."""
        named = {o.id for o in self.things}
        return tuple(o for o in self.objects if o.area > 0 and o.id not in named)


MIN_VISIBLE = 0.35
"""Share of a thing that must be seen for it to be named."""
MIN_VISIBLE_THIN = 0.6
"""The same for thin kinds: a handle alone does not tell a spoon from a fork."""
MIN_AREA = 60 / (320 * 240)
"""Share of the image that a thing must cover for it to be named."""
