"""A camera's calibration from its message, and positions and points (see `rsvp_ros.surface`) as messages."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from sensor_msgs.msg import CameraInfo, PointCloud2, PointField
from std_msgs.msg import Header

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.ros.conversions import to_byte_array
from rsvp_ros.surface import CameraModel


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
