"""A camera's calibration from its message, and positions and points (see `rsvp_ros.surface`) as messages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from sensor_msgs.msg import CameraInfo, PointCloud2, PointField
from std_msgs.msg import Header

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.ros.conversions import to_byte_array
from rsvp_ros.surface import CameraModel

MAX_STRETCH = 0.02
"""Largest relative difference of the aspect ratios of two images that are taken to have the same field of view."""


def have_same_shape(width: int, height: int, other_width: int, other_height: int) -> bool:
    """Whether an image could be another one at another resolution."""
    a, b = width * other_height, height * other_width
    return abs(a - b) <= MAX_STRETCH * max(a, b)


def depth_camera(info: CameraInfo, depth: np.ndarray) -> CameraModel:
    """The model of the camera that took a depth image, H x W. Raises ConfigurationError as `camera_model` does, and if
    the calibration cannot be that of this image."""
    model = camera_model(info)
    height, width = depth.shape
    if not have_same_shape(model.width, model.height, width, height):
        raise ConfigurationError(
            f"camera_info (frame {info.header.frame_id!r}) is of images of {model.width} x {model.height}, but the "
            f"depth image is {width} x {height}: take the camera_info that belongs to the depth image (launch argument "
            "input_camera_info_topic)"
        )
    return model


def camera_model(info: CameraInfo) -> CameraModel:
    """The pinhole model of a calibrated camera, with its region of interest and binning.

    From P, the rectified camera, as depth_image_proc reads it; from K if a driver leaves P empty. In an image that is
    not rectified, positions are off by the lens's distortion: little for depth cameras, much for wide angles.

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
    """The position as a pose. The orientation is that of the optical frame: a mask says nothing about the target's."""
    x, y, z = (float(value) for value in position)
    return PoseStamped(
        header=header, pose=Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=0.0, y=0.0, z=0.0, w=1.0))
    )


_POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("label", "<u4")])
"""The fields of PCL's PointXYZL, which `pcl::fromROSMsg` reads by their names."""
_FIELD_TYPES = {"<f4": PointField.FLOAT32, "<u4": PointField.UINT32}


def points_to_cloud(points: Mapping[int, np.ndarray], header: Header) -> PointCloud2:
    """The points of targets, N x 3 float32 by target id, as one cloud, whose `label` is the id."""
    cloud = np.empty(sum(map(len, points.values())), _POINT)
    if points:
        cloud["x"], cloud["y"], cloud["z"] = np.concatenate(list(points.values())).T
        cloud["label"] = np.repeat(list(points), [len(of_one) for of_one in points.values()])
    return PointCloud2(
        header=header,
        height=1,
        width=len(cloud),
        fields=[
            PointField(name=name, offset=offset, datatype=_FIELD_TYPES[kind.str], count=1)
            for name, (kind, offset) in _POINT.fields.items()
        ],
        is_bigendian=False,
        point_step=_POINT.itemsize,
        row_step=cloud.nbytes,
        data=to_byte_array(cloud),
        is_dense=True,
    )
