"""The node `tabletop_camera`, and what rsvp_node makes of a clip: real processes, real DDS."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("rsvp_ros.msg", reason="the package is not built: make setup")
pytest.importorskip("rosbags", reason="rosbags is not installed (extra `sim`)")

import rclpy
from clip_tracks import tracks
from node_harness import REPOSITORY, running, until
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from test_tabletop_bag import HEIGHT, WIDTH, make_view

from rsvp_ros.action import FindTarget
from rsvp_ros.errors import ConfigurationError
from rsvp_ros.geometry import mask_iou
from rsvp_ros.msg import BoundingBox2D, Target
from rsvp_ros.ros.conversions import array_to_image, depth_to_array, image_to_array, mask_from_msg, time_to_ns
from rsvp_ros.ros.tabletop_camera import TabletopCamera
from rsvp_ros.tabletop.bag import DEMO_CLIP, objects_from_json, read_bag, write_bag
from rsvp_ros.tabletop.rotations import matrix_of


class CameraProcess:
    """`tabletop_camera` as a user runs it."""

    def __init__(self, namespace: str, environment: dict | None = None, **parameters) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [sys.executable, "-m", "rsvp_ros.ros.tabletop_camera", "--ros-args", "-r", f"__ns:=/{namespace}"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value}"]
        self.process = subprocess.Popen(
            command,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
            cwd=REPOSITORY,
            start_new_session=True,
        )

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def wait(self) -> int:
        """Its exit status, once it ends by itself."""
        return self.process.wait(180)

    def interrupt(self) -> int:
        """As Ctrl-C on `ros2 launch` does, twice; its exit status."""
        for _ in range(2):
            self.process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        return self.process.wait(60)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._log.close()


@contextmanager
def filming(namespace: str, **options) -> Iterator[CameraProcess]:
    camera = CameraProcess(namespace, **options)
    try:
        yield camera
    finally:
        camera.kill()


TOPICS = {
    "color/image_raw": Image,
    "color/camera_info": CameraInfo,
    "aligned_depth_to_color/image_raw": Image,
    "aligned_depth_to_color/camera_info": CameraInfo,
    "ground_truth/label_image": Image,
    "ground_truth/objects": String,
}


class Listener:
    """All that a camera publishes, by topic and stamp."""

    def __init__(self, namespace: str) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("listener", namespace=namespace, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard: dict[str, dict[int, object]] = {topic: {} for topic in TOPICS}
        for topic, kind in TOPICS.items():
            self.node.create_subscription(
                kind, topic, lambda message, topic=topic: self._hear(topic, message), qos_profile_sensor_data
            )

    def _hear(self, topic: str, message) -> None:
        stamp = (
            json.loads(message.data)["stamp_ns"] if isinstance(message, String) else time_to_ns(message.header.stamp)
        )
        self.heard[topic][stamp] = message

    def wait_for(self, count: int) -> list[dict[str, object]]:
        """Everything that belongs to one image, of so many images, by stamp."""

        def complete() -> list[int]:
            self.executor.spin_once(timeout_sec=0.05)
            return sorted(set.intersection(*(set(messages) for messages in self.heard.values())))

        stamps = until(lambda: (found := complete()) and len(found) >= count and found, f"{count} images")
        return [{topic: messages[stamp] for topic, messages in self.heard.items()} for stamp in stamps]

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def listen():
    listeners = []

    def start(namespace: str) -> Listener:
        listeners.append(Listener(namespace))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.close()


def test_plays_a_bag_again_and_again(tmp_path, listen):
    views = [make_view(i) for i in range(4)]
    path = write_bag(tmp_path / "clip", views)
    listener = listen("played")
    with filming("played", bag=path, rate=5.0) as camera:
        before = time.time_ns()
        moments = listener.wait_for(9)
        assert camera.interrupt() == 0
        assert "Traceback" not in camera.log and "tabletop_camera" in camera.log
    numbers = []
    for moment in moments:
        image = image_to_array(moment["color/image_raw"])
        number = next(i for i, view in enumerate(views) if np.array_equal(view.image, image))
        numbers.append(number)
        view = views[number]
        header = moment["color/image_raw"].header
        assert header.frame_id == "camera_color_optical_frame"
        assert before - 60e9 < time_to_ns(header.stamp) < time.time_ns()
        depth = depth_to_array(moment["aligned_depth_to_color/image_raw"])
        np.testing.assert_allclose(depth, view.depth, atol=0.000501)
        labels = moment["ground_truth/label_image"]
        assert labels.encoding == "mono16"
        np.testing.assert_array_equal(np.frombuffer(labels.data, np.uint16).reshape(HEIGHT, WIDTH), view.ids)
        objects, table = objects_from_json(moment["ground_truth/objects"].data)
        assert table == view.table and [o.id for o in objects] == [7, 9] and objects[0].box == view.objects[0].box
        for topic in ("color/camera_info", "aligned_depth_to_color/camera_info"):
            info = moment[topic]
            assert (info.width, info.height) == (WIDTH, HEIGHT)
            np.testing.assert_array_equal(np.reshape(info.k, (3, 3)), view.camera.matrix)
            np.testing.assert_array_equal(np.reshape(info.p, (3, 4))[:, :3], view.camera.matrix)
    assert set(numbers) == {0, 1, 2, 3}
    assert any(after < before for before, after in pairwise(numbers)), "it starts again"


def test_its_topics_are_those_that_the_launch_file_listens_to(tmp_path):
    path = write_bag(tmp_path / "clip", [make_view(0)])
    launch = (REPOSITORY / "launch" / "rsvp.launch.py").read_text()
    with node_with(bag=str(path)) as camera:
        topics = {name for name, _ in camera.get_publisher_names_and_types_by_node("tabletop_camera", "/camera")}
    for argument in ("input_image_topic", "input_depth_topic", "input_camera_info_topic"):
        (default,) = re.findall(rf'"{argument}"[^)]*?default_value="([^"]+)"', launch)
        assert default in topics


def test_tf_says_where_the_camera_is(tmp_path, listen):
    messages = pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not installed: ROS 2 from PyPI has none")
    view = make_view(0)
    listener = listen("with_tf")
    transforms = []
    listener.node.create_subscription(messages.TFMessage, "/tf", lambda m: transforms.extend(m.transforms), 10)
    with filming("with_tf", bag=write_bag(tmp_path / "clip", [view]), rate=20.0):
        moments = listener.wait_for(3)
        until(lambda: listener.executor.spin_once(timeout_sec=0.05) or len(transforms) > 3, "transforms")
    transform = transforms[-1]
    assert (transform.header.frame_id, transform.child_frame_id) == ("world", "camera_color_optical_frame")
    assert {time_to_ns(t.header.stamp) for t in transforms} & {
        time_to_ns(moment["color/image_raw"].header.stamp) for moment in moments
    }
    q, p = transform.transform.rotation, transform.transform.translation
    np.testing.assert_allclose(matrix_of((q.w, q.x, q.y, q.z)), view.camera.world_from_optical[:3, :3], atol=1e-9)
    np.testing.assert_allclose((p.x, p.y, p.z), view.camera.world_from_optical[:3, 3], atol=1e-12)


@contextmanager
def node_with(**parameters) -> Iterator[TabletopCamera]:
    """The node in this process, not spinning."""
    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        camera = TabletopCamera(context=context, parameter_overrides=overrides)
        try:
            yield camera
        finally:
            camera.close()
    finally:
        rclpy.shutdown(context=context)


def test_parameters_are_described_and_fixed(tmp_path):
    with node_with(bag=str(write_bag(tmp_path / "clip", [make_view(0)]))) as camera:
        names = ["bag", "split", "seed", "seconds", "width", "height", "rate", "loop"]
        for name, descriptor in zip(names, camera.describe_parameters(names), strict=True):
            assert descriptor.description and descriptor.read_only
            if name in ("seed", "width", "height"):
                assert descriptor.integer_range[0].to_value > 100
            if name in ("seconds", "rate"):
                assert descriptor.floating_point_range[0].to_value > 100
        assert not camera.set_parameters([Parameter("seed", value=3)])[0].successful


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"bag": "/nowhere"}, "there is no bag /nowhere: write one with `rsvp tabletop bag`"),
        ({"rate": 10}, "parameter rate is 10: it must be a number with a point, as 10.0"),
        ({"seed": -1}, "parameter seed is -1: it must be int, 0 to 2147483647"),
        ({"split": "training"}, "one of \\('train', 'val', 'test', 'novel'\\)"),
    ],
)
def test_what_cannot_be_is_named(parameters, words):
    with pytest.raises(ConfigurationError, match=words), node_with(**parameters):
        pass


def test_exits_with_a_message():
    """Where there is nothing to draw with, the process says what to do, and ends."""
    with filming("failing", environment={"MUJOCO_GL": "glfw"}) as camera:
        assert camera.wait() == 1
        assert "ConfigurationError" in camera.log and "egl or osmesa" in camera.log
        assert "Traceback" not in camera.log


def test_a_bag_that_breaks_off(tmp_path):
    path = write_bag(tmp_path / "clip", [make_view(i) for i in range(60)], depth="32FC1")
    file = path / "clip.mcap"
    data = bytearray(file.read_bytes())
    middle = 2 * len(data) // 3
    data[middle : middle + 2000] = bytes(2000)
    file.write_bytes(data)
    with filming("breaking", bag=path, rate=100.0) as camera:
        assert camera.wait() == 1
        assert "is broken" in camera.log and "Traceback" not in camera.log
        assert "Playing" in camera.log


def test_films_scenes(listen, headless_gl):
    # Long enough for the listener to be matched to the camera while it films
    listener = listen("live")
    with filming("live", seed=2, width=96, height=72, rate=120.0, seconds=4.0, loop=False) as camera:
        moment = listener.wait_for(2)[-1]
        assert camera.wait() == 0, camera.log
        assert "Filming scene 2 of val" in camera.log
        assert "too long for 120 Hz: set a lower rate, or a smaller width and height" in camera.log
    image = image_to_array(moment["color/image_raw"])
    assert image.shape == (72, 96, 3) and image.std() > 5
    depth = depth_to_array(moment["aligned_depth_to_color/image_raw"])
    assert 0.3 < np.nanmedian(depth) < 3
    labels = np.frombuffer(moment["ground_truth/label_image"].data, np.uint16)
    objects, _ = objects_from_json(moment["ground_truth/objects"].data)
    assert set(labels) - {0} <= {thing.id for thing in objects} and len(set(labels)) > 2


# ---- rsvp_node follows what moves in the clip of the package


@dataclass
class Followed:
    """How one thing was followed, image by image since it was given to the node."""

    seen: list[float] = field(default_factory=list)
    """IoU in the images in which it is in sight, before it was hidden for the first time."""
    returned: list[float] = field(default_factory=list)
    """And after."""
    hidden: int = 0
    noticed: int = 0
    """In how many of the images in which it is hidden there was no mask."""


def follow(robot, images, views: list, kind: str) -> Followed:
    """Show the node a part of a clip, each image after the answer to the last, and have it follow one thing."""

    def show(view) -> object:
        message = array_to_image(view.image, "rgb8", Image().header)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(view.stamp_ns, 10**9)

        def answer() -> object:
            # Best effort: an image may be lost, the first one while the two still find each other.
            if time.monotonic() - shown[-1] > 2:
                shown.append(time.monotonic())
                images.publish(message)
            return next((a for a in reversed(robot.targets) if time_to_ns(a.header.stamp) == view.stamp_ns), None)

        shown = [-float("inf")]
        return until(answer, f"answer to the image of {view.stamp_ns * 1e-9:.1f} s")

    show(views[0])
    thing = next(o for o in views[0].objects if o.kind == kind)
    (x, y), box = thing.box.center, thing.box
    goal = FindTarget.Goal(use_box=True, instruction=kind)
    goal.bbox = BoundingBox2D(center_x=x, center_y=y, size_x=box.width, size_y=box.height)
    assert len(robot.result_of(robot.send(goal)).result.targets) == 1
    track = next(track for track in tracks(views) if track.id == thing.id)
    result = Followed()
    for number, view in enumerate(views[1:], 1):
        (target,) = show(view).targets
        followed = target.state == Target.STATE_TRACKING
        if track.in_sight[number]:
            mask = mask_from_msg(target, *view.ids.shape) if followed else np.zeros(view.ids.shape, bool)
            (result.returned if result.hidden else result.seen).append(mask_iou(mask, view.mask(track.id)))
        elif track.hidden[number]:
            result.hidden += 1
            result.noticed += not followed
    return result


def test_the_clip_of_the_package_is_followed():
    """The apple, until the arm has hidden it and shown it again; the mug, until it is carried out of the image."""
    views = list(read_bag(DEMO_CLIP))
    with running("clip", {"segmenter": {"backend": "vlsm", "model": "embedded"}}) as (_, robot):
        images = robot.node.create_publisher(Image, "image_raw", 10)
        until(lambda: images.get_subscription_count(), "subscription of the node")
        mug = follow(robot, images, views[40:76], "mug")
        apple = follow(robot, images, views[100:150], "apple")
    print(f"mug {np.mean(mug.seen):.3f}, apple {np.mean(apple.seen):.3f} and {np.mean(apple.returned):.3f}")
    print(f"hidden: {mug.noticed} of {mug.hidden}, {apple.noticed} of {apple.hidden} images noticed")
    assert np.mean(mug.seen) > 0.6
    assert np.mean(apple.seen) > 0.75 and np.mean(apple.returned) > 0.6
    assert mug.hidden > 10 and mug.noticed >= mug.hidden - 2
    assert apple.hidden > 10 and apple.noticed >= apple.hidden - 2


def test_the_clip_of_the_package_shows_what_it_says():
    views = list(read_bag(DEMO_CLIP))
    assert len(views) == 180 and np.all(np.diff([view.stamp_ns for view in views]) == 100_000_000)
    found = {track.kind: track for track in tracks(views)}
    assert all(found[kind].returns and found[kind].good for kind in ("mug", "apple"))
    assert found["ball"].good and found["scissors"].good
    assert len(found) == 9
    size = sum(file.stat().st_size for file in Path(DEMO_CLIP).iterdir())
    assert size < 4.6e6
