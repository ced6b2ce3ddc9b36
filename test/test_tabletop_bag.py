"""Bags: what is written comes back, what rosbag2 reads of them is right, and what is broken is told."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import fields

import numpy as np
import pytest
import yaml

pytest.importorskip("rosbags", reason="rosbags is not installed (extra `sim`)")

from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.geometry import Box, mask_to_box
from rsvp_ros.tabletop import bag as bags
from rsvp_ros.tabletop.bag import TimedInstruction, read_bag, read_instructions, write_bag
from rsvp_ros.tabletop.rotations import matrix_of, quaternion_of
from rsvp_ros.tabletop.view import Camera, ObjectView, View

WIDTH, HEIGHT = 64, 48
PERIOD_NS = 100_000_000


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def make_view(number: int) -> View:
    """A disc that moves over a slanted plane; a second object is out of sight."""
    rng = np.random.default_rng(number)
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    disc = (xs - 20 - number) ** 2 + (ys - 24) ** 2 < 64
    image = np.stack((xs * 3, ys * 4, 100 + xs - ys), -1).astype(np.uint8)
    image[disc] = 200, 30, 40
    depth = (0.6 + 0.01 * ys + rng.uniform(0, 1e-4, xs.shape)).astype(np.float32)
    depth[:5] = np.nan
    pose = np.eye(4)
    pose[:3, :3] = rotation(rng.normal(size=3), rng.uniform(0, np.pi))
    pose[:3, 3] = rng.normal(size=3)
    ids = np.where(disc, 7, 0).astype(np.uint8)
    lying = np.eye(4)
    lying[:3, :3], lying[:3, 3] = rotation(rng.normal(size=3), 1.0), rng.normal(size=3)
    ball = ObjectView(
        7,
        "ball",
        "red",
        "plain",
        "rubber",
        (0.07, 0.07, 0.07),
        lying,
        True,
        mask_to_box(disc),
        int(disc.sum()),
        1.0,
        1.0,
    )
    hidden = ObjectView(
        9, "mug", "blue", "striped", "ceramic", (0.08, 0.11, 0.1), np.eye(4), False, None, 0, 0.0, 1 / 3
    )
    return View(
        image, depth, ids, Camera(WIDTH, HEIGHT, 55.5, pose), (ball, hidden), (1.2, 0.8), 10**18 + number * PERIOD_NS
    )


def assert_same_truth(read: View, written: View) -> None:
    np.testing.assert_array_equal(read.ids, written.ids)
    assert read.ids.dtype == np.uint8
    assert read.stamp_ns == written.stamp_ns and read.table == written.table
    assert len(read.objects) == len(written.objects)
    for a, b in zip(read.objects, written.objects, strict=True):
        for field in fields(ObjectView):
            np.testing.assert_equal(getattr(a, field.name), getattr(b, field.name), field.name)
    assert (read.camera.width, read.camera.height, read.camera.f) == (WIDTH, HEIGHT, written.camera.f)
    np.testing.assert_allclose(read.camera.world_from_optical, written.camera.world_from_optical, atol=1e-12)


def test_round_trip_without_loss(tmp_path):
    views = [make_view(i) for i in range(5)]
    said = [TimedInstruction(views[0].stamp_ns - 5, "vorher"), TimedInstruction(views[2].stamp_ns + 1, "给我那个杯子")]
    path = write_bag(tmp_path / "new" / "clip", iter(views), reversed(said), depth="32FC1")
    read = list(read_bag(path))
    assert len(read) == 5
    for a, b in zip(read, views, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.depth, b.depth)
        assert a.image.flags.c_contiguous and a.depth.dtype == np.float32
        assert_same_truth(a, b)
    assert read_instructions(path) == said


def test_jpeg_and_millimetres_are_near(tmp_path):
    views = [make_view(i) for i in range(3)]
    path = write_bag(tmp_path / "clip", views, jpeg_quality=95)
    for a, b in zip(read_bag(path), views, strict=True):
        difference = np.abs(a.image.astype(int) - b.image)
        assert 0 < difference.mean() < 4
        # Red is still red: the channels are in their order.
        assert a.image[a.mask(7)].mean(0)[0] > 180 > 90 > a.image[a.mask(7)].mean(0)[1:].max()
        np.testing.assert_array_equal(np.isnan(a.depth), np.isnan(b.depth))
        assert np.nanmax(np.abs(a.depth - b.depth)) <= 0.000501
        assert_same_truth(a, b)
    assert read_instructions(path) == []


def test_without_truth_and_depth(tmp_path):
    path = write_bag(tmp_path / "clip", [make_view(0)], depth=None, ground_truth=False)
    (view,) = read_bag(path)
    np.testing.assert_array_equal(view.image, make_view(0).image)
    assert np.isnan(view.depth).all() and not view.ids.any() and view.objects == ()


@pytest.mark.parametrize("change", [{"k": 3.0}, {"d": 0.1}])
def test_a_bag_of_a_camera_that_the_world_has_not_is_refused(tmp_path, change):
    path = write_bag(tmp_path / "clip", [make_view(0)])
    types = get_typestore(Stores.ROS2_HUMBLE)
    with Reader(path) as reader, Writer(tmp_path / "other", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connections = {}
        for connection, stamp, raw in reader.messages():
            if connection.topic not in connections:
                connections[connection.topic] = writer.add_connection(
                    connection.topic, connection.msgtype, typestore=types
                )
            if connection.msgtype.endswith("CameraInfo"):
                info = types.deserialize_cdr(raw, connection.msgtype)
                for name, more in change.items():
                    setattr(info, name, getattr(info, name) + np.eye(1, len(getattr(info, name)), 2)[0] * more)
                raw = types.serialize_cdr(info, connection.msgtype)
            writer.write(connections[connection.topic], stamp, raw)
    with pytest.raises(ConfigurationError, match="ros2 bag play"):
        list(read_bag(tmp_path / "other"))


def test_millimetres():
    metres = np.array([[np.nan, 0.0, -1.0, 0.0004, 0.0006, 1.2344, 65.535, 65.6, np.inf]], np.float32)
    np.testing.assert_array_equal(bags.to_millimetres(metres), [[0, 0, 0, 0, 1, 1234, 65535, 0, 0]])


def test_quaternions():
    rng = np.random.default_rng(0)
    cases = [rotation(rng.normal(size=3), angle) for angle in (0.0, 1e-9, 1.0, np.pi - 1e-9, np.pi, -2.0)]
    cases += [np.diag(d) for d in ([1.0, -1, -1], [-1, 1, -1], [-1, -1, 1])]
    for matrix in cases:
        q = quaternion_of(matrix)
        assert np.linalg.norm(q) == pytest.approx(1)
        np.testing.assert_allclose(matrix_of(q), matrix, atol=1e-9)
    half = np.sqrt(0.5)
    assert quaternion_of(rotation(np.array([0, 0, 1.0]), np.pi / 2)) == pytest.approx((half, 0, 0, half))


def test_what_rosbag2_reads(tmp_path):
    """Metadata as rosbag2's own parser wants them (rosbag2_storage/yaml.hpp), the file as its MCAP plugin does."""
    views = [make_view(i) for i in range(4)]
    path = write_bag(tmp_path / "clip", views, [TimedInstruction(views[1].stamp_ns, "the ball")], jpeg_quality=90)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip"]
    assert sorted(p.name for p in path.iterdir()) == ["clip.mcap", "metadata.yaml"]
    information = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert information["version"] == 8
    assert information["storage_identifier"] == "mcap"
    assert information["compression_format"] == information["compression_mode"] == ""
    assert information["relative_file_paths"] == ["clip.mcap"]
    assert information["starting_time"] == {"nanoseconds_since_epoch": views[0].stamp_ns}
    assert information["duration"] == {"nanoseconds": 3 * PERIOD_NS}
    topics = {t["topic_metadata"]["name"]: t for t in information["topics_with_message_count"]}
    assert {name: (t["topic_metadata"]["type"], t["message_count"]) for name, t in topics.items()} == {
        "/camera/color/image_raw/compressed": ("sensor_msgs/msg/CompressedImage", 4),
        "/camera/color/camera_info": ("sensor_msgs/msg/CameraInfo", 4),
        "/camera/aligned_depth_to_color/image_raw": ("sensor_msgs/msg/Image", 4),
        "/camera/aligned_depth_to_color/camera_info": ("sensor_msgs/msg/CameraInfo", 4),
        "/camera/ground_truth/label_image": ("sensor_msgs/msg/Image", 4),
        "/camera/ground_truth/objects": ("std_msgs/msg/String", 4),
        "/rsvp/instruction": ("std_msgs/msg/String", 1),
        "/tf": ("tf2_msgs/msg/TFMessage", 4),
    }
    assert information["message_count"] == 4 * 7 + 1
    for name, topic in topics.items():
        assert topic["topic_metadata"]["serialization_format"] == "cdr"
        # One QoS profile, in the integers of rmw that versions below 9 have: keep last, reliable, volatile.
        (qos,) = yaml.safe_load(topic["topic_metadata"]["offered_qos_profiles"])
        assert (qos["history"], qos["reliability"], qos["durability"], qos["liveliness"]) == (1, 1, 2, 1)
        assert qos["depth"] == (100 if name == "/tf" else 10)
        assert qos["deadline"] == qos["lifespan"] == {"sec": 9223372036, "nsec": 854775807}

    data = (path / "clip.mcap").read_bytes()
    magic = b"\x89MCAP0\r\n"
    assert data.startswith(magic) and data.endswith(magic)
    assert data[8] == 1 and data[17:25] == b"\x04\x00\x00\x00ros2"  # the header record and its profile
    with AnyReader([path]) as reader:
        types = get_typestore(Stores.ROS2_JAZZY)
        for connection in reader.connections:
            assert connection.msgdef.format.name == "MSG"
            assert connection.digest == types.hash_rihs01(connection.msgtype)  # REP 2011
        stamps = []
        for connection, stamp, raw in reader.messages():
            message = types.deserialize_cdr(raw, connection.msgtype)
            stamps.append(stamp)
            if hasattr(message, "header"):
                assert message.header.frame_id == "camera_color_optical_frame"
                assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == stamp
        assert stamps == sorted(stamps)


def test_played_in_another_order(tmp_path):
    """`ros2 bag record` stores messages as they come: depth may be behind the image, and one may be lost."""
    views = [make_view(i) for i in range(6)]
    path = write_bag(tmp_path / "clip", views)
    types = get_typestore(Stores.ROS2_HUMBLE)
    with Reader(path) as reader, Writer(tmp_path / "mixed", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connections = {}
        for number, (connection, stamp, raw) in enumerate(reader.messages()):
            if connection.topic not in connections:
                connections[connection.topic] = writer.add_connection(
                    connection.topic, connection.msgtype, typestore=types
                )
            if connection.topic == bags.DEPTH_TOPIC and stamp == views[2].stamp_ns:
                continue
            late = 130_000_000 if connection.topic == bags.DEPTH_TOPIC else number % 3 * 1000
            writer.write(connections[connection.topic], stamp + late, raw)
    assert [view.stamp_ns for view in read_bag(tmp_path / "mixed")] == [
        view.stamp_ns for view in views if view is not views[2]
    ]


def test_no_bag(tmp_path):
    with pytest.raises(ConfigurationError, match="there is no bag .*nowhere.*rsvp tabletop bag"):
        next(read_bag(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match=r"is no bag: give the folder that holds metadata\.yaml"):
        next(read_bag(tmp_path))


@pytest.mark.parametrize("name", ["metadata.yaml", "clip.mcap"])
@pytest.mark.parametrize("damage", ["cut off", "emptied", "overwritten", "gone"])
def test_broken_bag(tmp_path, name, damage):
    path = write_bag(tmp_path / "clip", [make_view(i) for i in range(30)], depth="32FC1")
    file = path / name
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "overwritten":
        middle = len(data) // 3
        file.write_bytes(data[:middle] + b"\0" * 4000 + data[middle + 4000 :])
    else:
        file.write_bytes(data[: len(data) // 2] if damage == "cut off" else b"")
    with pytest.raises(ConfigurationError, match=str(path)):
        list(read_bag(path))


def test_another_cameras_bag(tmp_path):
    with Writer(tmp_path / "other", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        types = get_typestore(Stores.ROS2_HUMBLE)
        connection = writer.add_connection("/front/image", "std_msgs/msg/String", typestore=types)
        message = types.types["std_msgs/msg/String"](data="x")
        writer.write(connection, 1, types.serialize_cdr(message, "std_msgs/msg/String"))
    with pytest.raises(
        ConfigurationError, match="has no /camera/color/camera_info and no /camera/color/image_raw, but /front"
    ):
        next(read_bag(tmp_path / "other"))


def test_nothing_half_written_is_left(tmp_path):
    def breaks_off():
        yield make_view(0)
        raise RuntimeError("the renderer died")

    with pytest.raises(RuntimeError):
        write_bag(tmp_path / "clip", breaks_off())
    with pytest.raises(ValueError, match="at least one view"):
        write_bag(tmp_path / "clip", [])
    with pytest.raises(ValueError, match="ascend"):
        write_bag(tmp_path / "clip", [make_view(1), make_view(0)])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_bag(tmp_path / "file" / "clip", [make_view(0)])


def test_wrong_options(tmp_path):
    write_bag(tmp_path / "clip", [make_view(0)])
    with pytest.raises(ConfigurationError, match="exists already"):
        write_bag(tmp_path / "clip", [make_view(1)])
    with pytest.raises(ConfigurationError, match="JPEG quality"):
        write_bag(tmp_path / "other", [make_view(0)], jpeg_quality=0)
    with pytest.raises(ConfigurationError, match="16UC1"):
        write_bag(tmp_path / "other", [make_view(0)], depth="mono8")
    (view,) = read_bag(tmp_path / "clip")
    assert view.stamp_ns == make_view(0).stamp_ns


@pytest.mark.skipif(shutil.which("ros2") is None, reason="no ros2 command: ROS 2 from PyPI has none")
def test_ros2_bag_info_reads_it(tmp_path):
    if subprocess.run(["ros2", "bag", "--help"], capture_output=True).returncode:
        pytest.skip("`ros2 bag` is not installed (ros-<distro>-ros2bag, ros-<distro>-rosbag2-storage-mcap)")
    path = write_bag(tmp_path / "clip", [make_view(i) for i in range(3)], jpeg_quality=90)
    info = subprocess.run(["ros2", "bag", "info", str(path)], capture_output=True, text=True, timeout=60)
    assert info.returncode == 0, info.stderr
    assert "/camera/color/image_raw/compressed | Type: sensor_msgs/msg/CompressedImage | Count: 3" in info.stdout


def test_box_survives_as_it_is():
    view = make_view(0)
    objects, table = bags.objects_from_json(bags.objects_to_json(view, stamp_ns=5))
    assert objects[0].box == view.objects[0].box and isinstance(objects[0].box, Box)
    assert objects[1].box is None and table == view.table
