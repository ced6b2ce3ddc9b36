"""From a mask and a depth image to points and a position in space.

Everything is in the camera's optical frame (REP 103: x right, y down, z forward), metres. The depth image must be
registered to the image that the mask belongs to (the same camera, as RealSense's `aligned_depth_to_color`, or
depth_image_proc/register make it); it may have another resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from sensor_msgs.msg import CameraInfo, PointCloud2, PointField
from std_msgs.msg import Header

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.geometry import Box, mask_to_box
from rsvp_ros.ros.conversions import to_byte_array


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


def camera_model(info: CameraInfo) -> CameraModel:
    """The pinhole of a calibrated camera, with its region of interest and binning.

    From P, the rectified camera, as depth_image_proc reads it; from K where a driver leaves P empty. An image that is
    not rectified is off by its lens's distortion: little for depth cameras, much for a wide angle.

    Raises:
        ConfigurationError: neither matrix is filled: the camera is not calibrated.
    """
    matrix = np.reshape(info.p, (3, 4)) if info.p[0] else np.reshape(info.k, (3, 3))
    fx, fy, cx, cy = (float(matrix[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    if not (fx > 0 and fy > 0 and info.width and info.height):
        raise ConfigurationError(
            f"camera_info (frame {info.header.frame_id!r}, {info.width} x {info.height}) has no calibration "
            f"(fx = {fx:g}); calibrate the camera, or take the camera_info that belongs to the depth image"
        )
    width, height = info.roi.width or info.width, info.roi.height or info.height
    full = CameraModel(fx, fy, cx - info.roi.x_offset, cy - info.roi.y_offset, width, height)
    return full.scaled(width // max(info.binning_x, 1), height // max(info.binning_y, 1))


def target_points(
    mask: np.ndarray, depth: np.ndarray, camera: CameraModel, box: Box | None = None, max_points: int = 10_000
) -> np.ndarray:
    """The part of a target's surface that the camera sees: points N x 3 float32, in rows of the image.

    Dropped are the two outermost pixels of the mask (at an object's edge depth cameras mix it with what lies behind)
    and depths far from the rest of the target's (what the mask took in by mistake).

    Args:
        mask: bool H x W.
        depth: float32 metres, NaN where invalid; any resolution of the same view.
        camera: of the depth image's view; scaled to its resolution.
        box: tight around the mask, where it is known already: spares a search.
        max_points: of a target with more pixels evenly many are left out.

    Returns:
        N x 3, N = 0 where no pixel of the target has a depth.
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
    """The mask without its two outermost pixels; with them again where little of it would remain."""
    padded = np.pad(mask.view(np.uint8), 1)
    for pixels in (2, 1):
        eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=pixels)[1:-1, 1:-1].view(bool)
        if np.count_nonzero(eroded) * 4 >= np.count_nonzero(mask):
            return eroded
    return mask.copy()


def _inliers(z: np.ndarray) -> np.ndarray:
    """Which depths belong together: within three robust standard deviations (median absolute deviation) of the median.

    No tighter than 2 % of the distance: what a depth camera's own noise and steps amount to on a flat target.
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


def position_to_pose(position: np.ndarray, header: Header) -> PoseStamped:
    """The position as a pose. The orientation is that of the optical frame: a mask tells nothing of the target's."""
    x, y, z = (float(value) for value in position)
    return PoseStamped(
        header=header, pose=Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=0.0, y=0.0, z=0.0, w=1.0))
    )


def points_to_cloud(points: np.ndarray, header: Header, colors: np.ndarray | None = None) -> PointCloud2:
    """A cloud of points N x 3 float32, with `colors` (uint8 N x 3 RGB) as RViz's and PCL's packed `rgb` field."""
    names = ["x", "y", "z"]
    columns = np.asarray(points, np.float32).reshape(-1, 3)
    if colors is not None:
        r, g, b = np.asarray(colors, np.uint32).reshape(-1, 3).T
        columns = np.column_stack([columns, (r << 16 | g << 8 | b).view(np.float32)])
        names.append("rgb")
    return PointCloud2(
        header=header,
        height=1,
        width=len(columns),
        fields=[
            PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, name in enumerate(names)
        ],
        is_bigendian=False,
        point_step=4 * len(names),
        row_step=4 * len(names) * len(columns),
        data=to_byte_array(columns.astype("<f4", copy=False)),
        is_dense=True,
    )
