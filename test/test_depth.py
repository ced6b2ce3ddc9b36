"""Points, positions, poses and clouds from masks and depth; real RGB-D pictures have a table's plane for a truth."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("rsvp_ros.msg", reason="the messages are not built: run colcon build and source install/setup.bash")
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from rsvp_ros import surface
from rsvp_ros.errors import ConfigurationError
from rsvp_ros.geometry import Box
from rsvp_ros.ros import conversions, depth
from rsvp_ros.ros.markers import Place, targets_to_markers
from rsvp_ros.types import Target, TargetState
from rsvp_ros.visualization import target_color

HEADER = Header(frame_id="camera_color_optical_frame")
CAMERA = surface.CameraModel(600.0, 610.0, 320.5, 241.5, 640, 480)


def polygon(*corners: tuple[int, int], height: int = 480, width: int = 640) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.array(corners, np.int32)], 1)
    return mask.view(bool)


@pytest.fixture(scope="module")
def rgbd(shared_data):
    """A table with objects on it: RGB, depth in metres, camera."""
    folder = shared_data / "rgbd"
    values = json.loads((folder / "camera_params.json").read_text())
    info = CameraInfo(width=values["img_width"], height=values["img_height"])
    info.k = [values["fx"], 0.0, values["x_offset"], 0.0, values["fy"], values["y_offset"], 0.0, 0.0, 1.0]
    raw = cv2.imread(str(folder / "000000-depth.png"), cv2.IMREAD_UNCHANGED)
    msg = Image(height=raw.shape[0], width=raw.shape[1], encoding="16UC1", step=raw.shape[1] * 2)
    msg.data.frombytes(raw.tobytes())
    image = cv2.cvtColor(cv2.imread(str(folder / "000000-color.png")), cv2.COLOR_BGR2RGB)
    return image, conversions.depth_to_array(msg), depth.camera_model(info)


# Boards of the table without an object; the objects by eye, loosely.
TABLE = [
    polygon((20, 60), (230, 60), (160, 130), (20, 130)),
    polygon((10, 170), (140, 230), (60, 255), (10, 240)),
    polygon((390, 160), (430, 170), (405, 300), (350, 300)),
    polygon((10, 380), (150, 380), (170, 460), (10, 460)),
]
MUG = polygon((275, 215), (322, 212), (322, 285), (280, 288))
SOUP = polygon((510, 325), (575, 330), (560, 405), (505, 395))


def plane(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Unit normal towards the camera and offset of the plane that fits best: normal . p = offset."""
    center = np.median(points, axis=0)
    normal = np.linalg.svd(points - center, full_matrices=False)[2][2]
    normal = -normal if normal[2] > 0 else normal
    return normal, float(normal @ center)


def test_a_real_table_is_flat(rgbd):
    _, z, camera = rgbd
    points = np.concatenate([surface.target_points(mask, z, camera).astype(float) for mask in TABLE])
    normal, offset = plane(points)
    distance = np.abs(points @ normal - offset)
    assert len(points) > 5000
    assert np.median(distance) < 0.006 and np.percentile(distance, 95) < 0.02  # metres; 0.6 to 1.5 m away
    size = surface.target_size(points)
    assert 0.5 < np.linalg.norm(size[:2]) < 2.0  # a table, not a toy and not a hall


def test_real_objects_stand_on_the_real_table(rgbd):
    _, z, camera = rgbd
    normal, offset = plane(np.concatenate([surface.target_points(m, z, camera).astype(float) for m in TABLE]))
    for mask, height in ((MUG, (0.02, 0.11)), (SOUP, (0.02, 0.13))):  # a mug is about 9 cm high, a soup can 10
        position = surface.target_position(surface.target_points(mask, z, camera))
        above = float(position @ normal - offset)
        assert height[0] < above < height[1]


def test_points_project_back_into_the_mask(rgbd):
    _, z, camera = rgbd
    points = surface.target_points(MUG, z, camera)
    u, v = np.rint(camera.project(points)).astype(int).T
    assert len(points) > 1000 and MUG[v, u].all()
    np.testing.assert_allclose(points[:, 2], z[v, u])


def test_another_resolution_of_the_depth_moves_the_position_little(rgbd):
    _, z, camera = rgbd
    full = surface.target_position(surface.target_points(MUG, z, camera))
    coarse = surface.target_position(surface.target_points(MUG, z[::2, ::2], camera))
    fine = surface.target_position(
        surface.target_points(MUG, cv2.resize(z, (960, 720), interpolation=cv2.INTER_NEAREST), camera)
    )
    assert np.linalg.norm(coarse - full) < 0.003 and np.linalg.norm(fine - full) < 0.003


def sphere_scene(center=(0.1, -0.05, 0.8), radius=0.06, wall=1.5):
    """What a perfect depth camera sees of a ball before a wall: depth, mask of the ball."""
    v, u = np.mgrid[0:480, 0:640]
    ray = CAMERA.unproject(u.ravel(), v.ravel(), np.ones(u.size)).astype(float)
    a, b, c = (ray**2).sum(1), ray @ np.array(center), np.dot(center, center) - radius**2
    root = b**2 - a * c
    mask = (root > 0).reshape(480, 640)
    z = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, wall).reshape(480, 640)
    return z.astype(np.float32), mask


def test_a_ball_is_where_it_is():
    z, mask = sphere_scene()
    points = surface.target_points(mask, z, CAMERA)
    np.testing.assert_allclose(np.linalg.norm(points - [0.1, -0.05, 0.8], axis=1), 0.06, atol=1e-4)
    position = surface.target_position(points)
    assert np.linalg.norm(position[:2] - [0.1, -0.05]) < 0.008 and 0.74 <= position[2] < 0.78
    assert np.all(surface.target_size(points)[:2] > 0.09) and np.all(surface.target_size(points)[:2] < 0.12)


def test_a_loose_mask_and_a_bad_sensor_change_nothing():
    """The mask takes in a rim of wall, edges are mixed, a fifth has no depth, some pixels are wildly off."""
    z, mask = sphere_scene()
    clean = surface.target_position(surface.target_points(mask, z, CAMERA))
    rng = np.random.default_rng(0)
    loose = cv2.dilate(mask.view(np.uint8), np.ones((9, 9), np.uint8)).view(bool)
    noisy = cv2.blur(z, (3, 3)) + rng.normal(0, 0.002, z.shape).astype(np.float32)
    noisy[rng.random(z.shape) < 0.2] = np.nan
    wild = rng.random(z.shape) < 0.03
    noisy[wild] = rng.uniform(0.2, 5, wild.sum())
    points = surface.target_points(loose, noisy, CAMERA)
    assert np.linalg.norm(surface.target_position(points) - clean) < 0.005
    assert points[:, 2].max() < 1.0  # no point of the wall


def test_the_rim_of_a_mask_is_left_out():
    """A wall 1.5 cm behind a box is too near to be told by its depth, but a mask takes it in at its rim only."""
    z = np.full((480, 640), 1.015, np.float32)
    z[100:200, 100:200] = 1.0
    mask = np.zeros((480, 640), bool)
    mask[98:202, 98:202] = True
    points = surface.target_points(mask, z, CAMERA)
    assert len(points) == 100 * 100 and (points[:, 2] == 1.0).all()


def test_nothing_to_see_gives_nothing():
    z, mask = sphere_scene()
    for m, d in ((mask & False, z), (mask, np.full_like(z, np.nan))):
        points = surface.target_points(m, d, CAMERA)
        assert points.shape == (0, 3) and points.dtype == np.float32
        assert surface.target_position(points) is None and surface.target_size(points) is None


def test_a_thin_target_keeps_its_points():
    """Eroded like the others, nothing would remain of a cable two pixels wide."""
    mask = polygon((100, 100), (101, 100), (101, 300), (100, 300))
    assert len(surface.target_points(mask, np.full((480, 640), 0.5, np.float32), CAMERA)) == mask.sum()


def test_dense_targets_are_thinned_evenly():
    mask, z = np.ones((480, 640), bool), np.full((480, 640), 1.0, np.float32)
    points = surface.target_points(mask, z, CAMERA, max_points=1000)
    assert len(points) == 1000
    np.testing.assert_allclose(surface.target_position(points), [0, 0, 1], atol=0.02)


# Camera models --------------------------------------------------------------------------------------------------------


def test_the_rectified_matrix_is_preferred_and_an_empty_one_replaced():
    info = CameraInfo(width=640, height=480)
    info.k = [500.0, 0.0, 319.0, 0.0, 510.0, 239.0, 0.0, 0.0, 1.0]
    assert depth.camera_model(info) == surface.CameraModel(500, 510, 319, 239, 640, 480)
    info.p = [450.0, 0.0, 310.0, 0.0, 0.0, 460.0, 230.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert depth.camera_model(info) == surface.CameraModel(450, 460, 310, 230, 640, 480)


def test_region_of_interest_and_binning():
    """The same point in space falls on the pixel that the cut and binned image shows it in."""
    info = CameraInfo(width=640, height=480, binning_x=2, binning_y=2)
    info.k = [600.0, 0.0, 320.0, 0.0, 600.0, 240.0, 0.0, 0.0, 1.0]
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 100, 40, 400, 400
    camera = depth.camera_model(info)
    assert (camera.width, camera.height) == (200, 200)
    u, v = 340.5, 260.5  # between pixels 340 and 341 of the full image: the centre of a binned pixel
    point = np.array([[(u - 320) / 600, (v - 240) / 600, 1.0]])
    np.testing.assert_allclose(camera.project(point), [[(u - 100 - 0.5) / 2, (v - 40 - 0.5) / 2]])


def test_intrinsics_of_other_images_are_refused():
    """Their proportions tell; another resolution with the same ones is scaled."""
    info = CameraInfo(width=1280, height=720)
    info.header.frame_id = "color"
    info.k = [920.0, 0.0, 640.0, 0.0, 920.0, 360.0, 0.0, 0.0, 1.0]
    assert depth.depth_camera(info, np.ones((360, 640), np.float32)) == depth.camera_model(info)
    with pytest.raises(ConfigurationError, match=r"1280 x 720.*640 x 480.*input_camera_info_topic"):
        depth.depth_camera(info, np.ones((480, 640), np.float32))


def test_an_uncalibrated_camera_is_named():
    info = CameraInfo(width=640, height=480)
    info.header.frame_id = "wrist_camera"
    with pytest.raises(ConfigurationError, match=r"wrist_camera.*calibrat"):
        depth.camera_model(info)


# Messages -------------------------------------------------------------------------------------------------------------


def test_clouds_arrive_point_by_point(rgbd):
    _, z, camera = rgbd
    surfaces = {7: surface.target_points(MUG, z, camera), 70_000: surface.target_points(TABLE[0], z, camera)}
    cloud = depth.points_to_cloud(surfaces, HEADER)
    cloud = deserialize_message(serialize_message(cloud), PointCloud2)
    assert cloud.header == HEADER and (cloud.height, cloud.width) == (1, sum(map(len, surfaces.values())))
    assert len(cloud.data) == cloud.row_step == cloud.point_step * cloud.width
    formats = {PointField.FLOAT32: "<f4", PointField.UINT32: "<u4"}
    read = np.frombuffer(
        cloud.data,
        np.dtype(
            {
                "names": [field.name for field in cloud.fields],
                "formats": [formats[field.datatype] for field in cloud.fields],
                "offsets": [field.offset for field in cloud.fields],
                "itemsize": cloud.point_step,
            }
        ),
    )
    for number, points in surfaces.items():
        of_one = read[read["label"] == number]
        np.testing.assert_array_equal(np.stack([of_one[c] for c in "xyz"], axis=-1), points)


@pytest.mark.parametrize("surfaces", [{}, {3: np.empty((0, 3), np.float32)}], ids=["no target", "no point"])
def test_an_empty_cloud_is_a_message_too(surfaces):
    cloud = depth.points_to_cloud(surfaces, HEADER)
    assert (cloud.width, len(cloud.data)) == (0, 0) and len(cloud.fields) == 4


def test_a_pose_has_the_position_and_the_frame():
    pose = depth.position_to_pose(np.array([0.1, -0.2, 0.9]), HEADER)
    assert pose.header == HEADER and pose.pose.orientation.w == 1.0
    assert (pose.pose.position.x, pose.pose.position.y, pose.pose.position.z) == (0.1, -0.2, 0.9)


def test_markers_stand_where_the_targets_are():
    def target(id: int, state: TargetState) -> Target:
        return Target(id, "杯\0子", "", state, Box(0, 0, 9, 9), None, 0.9, 0.9)

    targets = [target(1, TargetState.TRACKING), target(2, TargetState.OCCLUDED), target(3, TargetState.LOST)]
    targets.append(target(4, TargetState.TRACKING))  # without depth
    before = Header(frame_id=HEADER.frame_id, stamp=Time(sec=4))
    size = np.array([0.08, 0.12, 0.0])
    places = {i: Place(np.array([0.1 * i, -0.2, 0.9]), size, HEADER if i == 1 else before) for i in (1, 2, 3)}
    markers = targets_to_markers(targets, places, HEADER, lifetime_s=0.5)
    markers = deserialize_message(serialize_message(markers), MarkerArray).markers
    assert markers[0].action == Marker.DELETEALL and all(m.action == Marker.ADD for m in markers[1:])
    assert [(m.ns, m.id) for m in markers[1:]] == [("targets", 1), ("names", 1), ("targets", 2), ("names", 2)]
    body, name, occluded = markers[1], markers[2], markers[3]
    assert (body.pose.position.x, body.pose.position.y, body.pose.position.z) == (0.1, -0.2, 0.9)
    assert (body.scale.x, body.scale.y) == (0.08, 0.12) and body.scale.z > 0  # RViz refuses a scale of 0
    np.testing.assert_allclose(np.array([body.color.r, body.color.g, body.color.b]) * 255, target_color(1), atol=0.01)
    assert name.text == "1 杯子" and name.pose.position.y < -0.26  # above: y points down in an optical frame
    assert "occluded" in markers[4].text and occluded.color.a < body.color.a
    for marker in markers[1:]:
        assert marker.header == (HEADER if marker.id == 1 else before), "since then the camera may have turned"
        assert marker.pose.orientation.w == 1.0 and marker.lifetime.nanosec == 500_000_000
    assert [m.action for m in targets_to_markers([], {}, HEADER).markers] == [Marker.DELETEALL]
