"""From a mask and a depth image to the surface of a target: points, a position, a size. No ROS in it.

Everything is in the camera's optical frame (REP 103: x right, y down, z forward), in metres. The depth image must be
registered to the image that the mask belongs to (the same camera's view, as from RealSense's `aligned_depth_to_color`
or depth_image_proc/register); it may have another resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from rsvp_ros.geometry import Box, mask_to_box


@dataclass(frozen=True)
class CameraModel:
    """A pinhole camera without distortion. Pixel centres have whole coordinates, as in image_geometry."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def scaled(self, width: int, height: int) -> CameraModel:
        """The same field of view in an image of another resolution."""
        sx, sy = width / self.width, height / self.height
        return CameraModel(
            self.fx * sx, self.fy * sy, (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5, width, height
        )

    def unproject(self, u: np.ndarray, v: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Points N x 3 float32 that are seen at pixels `u`, `v` with depth `z`."""
        x = (u - self.cx) / self.fx * z
        y = (v - self.cy) / self.fy * z
        return np.stack([x, y, z], axis=-1).astype(np.float32)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels N x 2 (u, v) at which points N x 3 are seen."""
        x, y, z = points.T
        return np.stack([self.fx * x / z + self.cx, self.fy * y / z + self.cy], axis=-1)


def target_points(
    mask: np.ndarray, depth: np.ndarray, camera: CameraModel, box: Box | None = None, max_points: int = 10_000
) -> np.ndarray:
    """The part of a target's surface that the camera sees: points N x 3 float32, in the image's row order.

    Leaves out the two outermost pixels of the mask (at an object's edge, depth cameras mix it with what lies behind)
    and depths far from the rest of the target's (what the mask covers by mistake).

    Args:
        mask: bool H x W.
        depth: float32 metres, NaN where invalid; any resolution of the same view.
        camera: of the depth image's view; scaled to its resolution.
        box: tight around the mask, if it is known already: saves a search.
        max_points: a target with more pixels is thinned evenly to this many.

    Returns:
        N x 3, N = 0 if no pixel of the target has a depth.
    """
    height, width = depth.shape
    box = box or mask_to_box(mask)
    if box is None:
        return np.empty((0, 3), np.float32)
    if mask.shape != depth.shape:
        box = box.scale(width / mask.shape[1], height / mask.shape[0])
    ys, xs = box.to_slices(width, height)
    if mask.shape == depth.shape:
        inside = mask[ys, xs]
    else:
        rows = ((np.arange(ys.start, ys.stop) + 0.5) * mask.shape[0] / height).astype(int)
        columns = ((np.arange(xs.start, xs.stop) + 0.5) * mask.shape[1] / width).astype(int)
        inside = mask[np.ix_(rows, columns)]
    z = depth[ys, xs]
    v, u = np.nonzero(_interior(inside) & np.isfinite(z))
    if len(u) > max_points:
        chosen = np.linspace(0, len(u) - 1, max_points).astype(int)
        v, u = v[chosen], u[chosen]
    z = z[v, u]
    kept = _inliers(z)
    u, v, z = u[kept], v[kept], z[kept]
    model = camera if (camera.width, camera.height) == (width, height) else camera.scaled(width, height)
    return model.unproject(u + xs.start, v + ys.start, z)


def _interior(mask: np.ndarray) -> np.ndarray:
    """The mask without its two outermost pixels, or without one or none if less than a quarter of it would remain."""
    padded = np.pad(mask.view(np.uint8), 1)
    for pixels in (2, 1):
        eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=pixels)[1:-1, 1:-1].view(bool)
        if np.count_nonzero(eroded) * 4 >= np.count_nonzero(mask):
            return eroded
    return mask.copy()


def _inliers(z: np.ndarray) -> np.ndarray:
    """Which depths belong together: within three robust standard deviations (median absolute deviation) of the median.

    Never tighter than 2 % of the distance, which a depth camera's own noise and depth steps reach on a flat target.
    """
    if z.size == 0:
        return np.ones(0, bool)
    deviation = np.abs(z - np.median(z))
    return deviation <= max(3 * 1.4826 * float(np.median(deviation)), 0.02 * float(np.median(z)))


def target_position(points: np.ndarray) -> np.ndarray | None:
    """Middle of the visible surface, float64 x, y, z: the median of each coordinate; None without points.

    It lies on the side that faces the camera, not in the middle of the body.
    """
    return np.median(points, axis=0).astype(np.float64) if len(points) else None


def target_size(points: np.ndarray) -> np.ndarray | None:
    """Extent of the visible surface along x, y and z, float64 metres, from the 2nd to the 98th percentile."""
    if not len(points):
        return None
    low, high = np.percentile(points, [2, 98], axis=0)
    return (high - low).astype(np.float64)
