"""The camera's side of the node and its outputs in space, with real topics and no model."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("rsvp_ros.msg", reason="the package is not built: make setup")

import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from node_harness import until
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from rsvp_ros.config import CameraConfig
from rsvp_ros.geometry import Box, box_to_mask
from rsvp_ros.msg import TargetArray
from rsvp_ros.ros import camera, outputs
from rsvp_ros.ros.camera import Camera
from rsvp_ros.ros.conversions import array_to_image, time_to_ns
from rsvp_ros.ros.outputs import Outputs
from rsvp_ros.types import Frame, Target, TargetsInFrame, TargetState

WIDTH, HEIGHT = 64, 48
BOX = Box(16, 12, 48, 36)
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
PERIOD_MS = 33


class Rig:
    """A camera with depth; the node's ends towards it and towards those who listen; a target in every image."""

    def __init__(self, **config) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._node = LifecycleNode("seeing", namespace="rig", context=self.context)
        self._robot = rclpy.create_node("robot", namespace="rig", context=self.context)
        for node in (self._node, self._robot):
            self._executor.add_node(node)
        self.problems: list[Exception] = []
        self.frames: list[Frame] = []
        self.targets = [a_target()]
        self.camera = Camera(self._node, CameraConfig(**config), self._on_frame)
        self._outputs = Outputs(self._node, self.camera.depth_at, self.problems.append)
        self._node.trigger_configure()
        self._node.trigger_activate()
        self._depth = self._robot.create_publisher(Image, "depth_image", BEST_EFFORT)
        self._info = self._robot.create_publisher(CameraInfo, "camera_info", BEST_EFFORT)
        self.heights: dict[int, float] = {}
        """Of the target's pose, by the image's time in milliseconds."""
        self.answered: list[int] = []
        """The times of all images whose targets, and (`marked`) whose markers, were published."""
        self.marked: list[int] = []
        self.columns: dict[int, float] = {}
        """Where the pose is to the side, as `heights`."""
        self.bodies: dict[int, list[int]] = {}
        """The targets that had markers, by the image's time."""
        listen = self._robot.create_subscription
        listen(PoseStamped, "target_pose", lambda m: self.heights.update({_ms(m.header): m.pose.position.z}), 10)
        listen(PoseStamped, "target_pose", lambda m: self.columns.update({_ms(m.header): m.pose.position.x}), 10)
        listen(MarkerArray, "markers", self._on_markers, 10)
        listen(TargetArray, "targets", lambda m: self.answered.append(_ms(m.header)), 10)
        listen(MarkerArray, "markers", lambda m: self.marked.append(_ms(m.markers[0].header)), 10)
        self.publish_images()

    def close(self) -> None:
        self._outputs.destroy()
        self._executor.shutdown()
        for node in (self._node, self._robot):
            node.destroy_node()
        rclpy.shutdown(context=self.context)

    def listen(self, kind: type, topic: str) -> None:
        self._robot.create_subscription(kind, topic, lambda message: None, 10)

    def publish_images(self, reliability: ReliabilityPolicy = ReliabilityPolicy.BEST_EFFORT) -> None:
        self._images = self._robot.create_publisher(Image, "image_raw", QoSProfile(depth=10, reliability=reliability))

    def until(self, condition, what: str):
        """Let ROS run until a condition holds."""
        return until(lambda: self._executor.spin_once(timeout_sec=0.01) or condition(), what)

    def connect(self) -> None:
        ends = (self._images, self._depth, self._info, self._outputs.target_pose, self._outputs.markers)
        self.until(lambda: all(end.get_subscription_count() for end in ends), "connections")
        info = CameraInfo(width=WIDTH, height=HEIGHT, k=[60.0, 0.0, 32.0, 0.0, 60.0, 24.0, 0.0, 0.0, 1.0])
        self.until(lambda: self._info.publish(info) or self.camera._info, "intrinsics")

    def show(self, ms: int) -> None:
        """Publish an image of this time, and wait for its targets."""
        before = len(self.answered)
        self._images.publish(array_to_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), "rgb8", _header(ms)))
        self.until(lambda: ms in self.answered[before:], "targets")

    def show_depth(self, ms: int) -> None:
        """Publish a depth image of this time, which everything in it tells: 1 m and as many millimetres."""
        depth = np.full((HEIGHT, WIDTH), 1000 + ms, np.uint16)
        self._depth.publish(array_to_image(depth, "16UC1", _header(ms)))
        self.until(lambda: self.camera._depth and _ms(self.camera._depth[-1].header) == ms, "depth image")

    def _on_markers(self, message: MarkerArray) -> None:
        bodies = [marker.id for marker in message.markers if marker.ns == "targets"]
        self.bodies[_ms(message.markers[0].header)] = bodies

    def _on_frame(self, frame: Frame) -> None:
        self.frames.append(frame)
        self._outputs.publish(TargetsInFrame(frame, tuple(self.targets)))


def a_target(id: int = 1, box: Box = BOX, state: TargetState = TargetState.TRACKING, **options) -> Target:
    mask = box_to_mask(box, WIDTH, HEIGHT) if state is TargetState.TRACKING else None
    return Target(**({"id": id, "name": "", "description": "", "score": 1.0, "presence": 1.0} | options),
                  state=state, box=box, mask=mask)  # fmt: skip


def _header(ms: int) -> Header:
    return Header(stamp=Time(sec=100 + ms // 1000, nanosec=ms % 1000 * 1_000_000))


def _ms(header: Header) -> int:
    return time_to_ns(header.stamp) // 1_000_000 - 100_000


@pytest.fixture
def rig(request) -> Iterator[Rig]:
    rig = Rig(**getattr(request, "param", {"use_3d": True}))
    yield rig
    rig.close()
    assert not rig.problems


@pytest.mark.parametrize("later", [0, 2], ids=["before the next image", "after two more images"])
def test_an_image_waits_for_its_own_depth_and_its_targets_do_not(rig, monkeypatch, later):
    monkeypatch.setattr(outputs, "DEPTH_WAIT_S", 60.0)
    rig.connect()
    times = [PERIOD_MS * k for k in range(8)]
    for image, depth in zip([*times, *[None] * later], [*[None] * later, *times], strict=True):
        if image is not None:
            rig.show(image)
            assert image not in rig.marked
        if depth is not None:
            rig.show_depth(depth)
            rig.until(lambda depth=depth: depth in rig.heights, "pose")
    assert rig.heights == {ms: pytest.approx(1 + ms * 1e-3) for ms in times}


def test_pictures_that_nobody_listens_to_are_not_made(rig, monkeypatch):
    made = []
    for name in ("draw_targets", "label_image", "targets_to_markers"):
        make = getattr(outputs, name)
        monkeypatch.setattr(outputs, name, lambda *given, name=name, make=make: made.append(name) or make(*given))
    rig.connect()
    rig.show_depth(0)
    rig.show(0)
    rig.until(lambda: 0 in rig.bodies, "markers, to which somebody listens")
    assert made == ["targets_to_markers"]
    for topic in ("overlay", "label_image"):
        rig.listen(Image, topic)
    rig.until(lambda: rig.show(100) or {"draw_targets", "label_image"} <= set(made), "pictures")


def test_depth_that_never_comes_is_done_without(rig, monkeypatch):
    monkeypatch.setattr(camera, "SILENCE_S", 600.0)
    rig.connect()
    rig.show_depth(0)
    rig.show(20)
    rig.until(lambda: rig.heights, "pose by the nearest depth image")
    assert rig.heights == {20: pytest.approx(1.0)}
    for ms in range(200, 200 + camera.DEPTH_MISSES):
        assert not rig.camera.status().problem
        rig.show(ms)
        rig.until(lambda ms=ms: rig.camera._depth_misses > ms - 200, "search for its depth")
    assert "0.20 s apart" in rig.camera.status().problem
    assert list(rig.heights) == [20]
    rig.show_depth(300)
    rig.show(300)
    rig.until(lambda: 300 in rig.heights, "pose")
    assert not rig.camera.status().problem


LEFT, RIGHT = Box(4, 12, 20, 36), Box(44, 12, 60, 36)


def test_the_pose_is_of_one_target_as_long_as_that_is_followed(rig):
    rig.connect()

    def pose_side(ms: int, *targets: Target) -> str:
        rig.targets = list(targets)
        rig.show_depth(ms)
        rig.show(ms)
        rig.until(lambda: ms in rig.bodies, "markers")
        if not any(target.mask is not None for target in targets):
            return "none"
        rig.show(ms + 1)  # its pose is published after these markers
        rig.until(lambda: ms + 1 in rig.bodies, "markers")
        return {True: "left", False: "right"}[rig.columns[ms] < 0] if ms in rig.columns else "none"

    occluded, lost = TargetState.OCCLUDED, TargetState.LOST
    assert pose_side(0, a_target(1, LEFT, score=0.8), a_target(2, RIGHT, score=0.9)) == "right"
    assert pose_side(100, a_target(1, LEFT, score=0.9), a_target(2, RIGHT, score=0.8)) == "right", "no jump"
    assert pose_side(200, a_target(1, LEFT), a_target(2, RIGHT, occluded)) == "none"
    assert pose_side(300, a_target(1, LEFT), a_target(2, RIGHT)) == "right", "it is back"
    assert pose_side(400, a_target(1, LEFT), a_target(2, RIGHT, lost)) == "left"
    assert pose_side(500, a_target(1, LEFT), a_target(3, RIGHT, instruction="the other")) == "right", "asked for last"
    assert pose_side(550, a_target(1, LEFT), a_target(3, RIGHT, lost, instruction="the other")) == "none", "no stand-in"
    assert pose_side(600, a_target(1, LEFT)) == "left"


def test_markers_stay_while_a_target_is_hidden_and_where_an_image_has_no_depth(rig, monkeypatch):
    rig.connect()
    rig.show_depth(0)
    rig.show(0)
    rig.until(lambda: rig.bodies.get(0) == [1], "marker")
    rig.targets = [a_target(state=TargetState.OCCLUDED)]
    rig.show_depth(100)
    rig.show(100)
    rig.until(lambda: 100 in rig.bodies, "markers")
    assert rig.bodies[100] == [1]
    rig.targets = [a_target()]
    rig.show(300)
    rig.until(lambda: rig.camera._depth_misses, "search for its depth")
    rig.targets = [a_target(state=TargetState.LOST)]
    rig.show_depth(400)
    rig.show(400)
    rig.until(lambda: 400 in rig.bodies, "markers")
    assert rig.bodies == {0: [1], 100: [1], 400: []}, "the image without depth takes no marker away"


@pytest.mark.parametrize("rig", [{}], indirect=True)
def test_by_stamps_that_stand_still_time_goes_on_all_the_same(rig):
    rig.until(lambda: rig._images.get_subscription_count(), "connection")
    for _ in range(camera.STILL_STAMPS):
        rig.show(0)
        assert not rig.camera.status().problem
        time.sleep(0.02)
    rig.show(0)
    assert "header.stamp" in rig.camera.status().problem
    times = [frame.stamp_ns for frame in rig.frames]
    assert all(b - a > 10_000_000 for a, b in itertools.pairwise(times)), times
    assert {_ms(frame.header) for frame in rig.frames} == {0}, "what is published has the stamp that came"
    rig.show(10_000)
    assert not rig.camera.status().problem
    assert rig.frames[-1].stamp_ns == time_to_ns(rig.frames[-1].header.stamp)
    rig.show(5_000)
    assert rig.frames[-1].stamp_ns == time_to_ns(rig.frames[-1].header.stamp), "it may go back"


@pytest.mark.parametrize("rig", [{}], indirect=True)
def test_after_images_that_stood_still_time_goes_on_as_fast_as_they_come(rig):
    """It has gone ahead of the stamps meanwhile, and does not wait for these."""
    rig.until(lambda: rig._images.get_subscription_count(), "connection")
    for _ in range(12):
        rig.show(0)
        time.sleep(0.05)
    ahead = rig.frames[-1].stamp_ns
    for k in range(1, 9):
        time.sleep(0.05)
        rig.show(30 * k)  # still behind
    passed = [b.stamp_ns - a.stamp_ns for a, b in itertools.pairwise(rig.frames[-9:])]
    assert ahead > time_to_ns(rig.frames[-1].header.stamp)
    assert all(20_000_000 <= ns <= 30_000_001 for ns in passed), passed


@pytest.mark.parametrize("rig", [{"reliability": "reliable"}], indirect=True)
def test_a_camera_that_fits_is_not_blamed_for_one_that_did_not(rig, monkeypatch):
    monkeypatch.setattr(camera, "SILENCE_S", 0.0)
    rig.until(lambda: "QoS" in rig.camera.status().problem, "word of the QoS")
    rig.publish_images(ReliabilityPolicy.RELIABLE)
    rig.until(lambda: rig._images.get_subscription_count(), "connection")
    rig.show(0)
    assert "nothing comes" in rig.camera.status().problem


@pytest.mark.parametrize("rig", [{}], indirect=True)
def test_a_rate_that_fell_is_told_for_a_while_and_a_pause_is_none(rig, monkeypatch):
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], monotonic_ns=lambda: int(now[0] * 1e9))
    monkeypatch.setattr(camera, "time", clock)
    image = array_to_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), "rgb8", _header(0))
    rig.targets = []

    def film(seconds: float, hz: float) -> list[str]:
        """What is said each second."""
        said = []
        for k in range(int(seconds * hz)):
            now[0] += 1 / hz
            image.header.stamp = Time(sec=int(now[0]), nanosec=int(now[0] % 1 * 1e9))
            rig.camera._on_image(image)
            if k % hz == 0:
                said.append(rig.camera.status().problem)
        return said

    assert not any(film(10, 10))
    now[0] += 60
    assert "nothing publishes" in rig.camera.status().problem or "nothing comes" in rig.camera.status().problem
    assert not any(film(10, 10)), "after a pause"
    fallen = film(150, 4)
    assert "4.0 Hz" in fallen[12], fallen[12]
    assert not any(fallen[120:]), "by now this is its usual rate"


def test_depth_that_is_not_registered_to_the_images_is_told_of(rig, monkeypatch):
    rig.connect()
    rig.show(0)
    color = array_to_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8), "rgb8", Header(frame_id="color_optical_frame"))
    rig.camera._on_image(color)

    def problem(height: int, width: int, frame_id: str) -> str:
        depth = np.ones((height, width), np.uint16)
        rig.camera._on_depth(array_to_image(depth, "16UC1", Header(frame_id=frame_id)))
        return rig.camera.status().problem

    assert not problem(HEIGHT, WIDTH, "color_optical_frame")
    assert not problem(2 * HEIGHT, 2 * WIDTH, "color_optical_frame"), "another resolution is told by the intrinsics"
    assert not problem(HEIGHT, WIDTH, ""), "does not tell"
    assert "align_depth" in problem(HEIGHT, WIDTH, "depth_optical_frame")
    rig.camera._info = CameraInfo(header=Header(frame_id="infra_optical_frame"))
    assert "'infra_optical_frame'" in problem(HEIGHT, WIDTH, "color_optical_frame")
    rig.camera._info = CameraInfo(header=Header(frame_id="color_optical_frame"))
    assert f"is {WIDTH} x {HEIGHT // 2}" in problem(HEIGHT // 2, WIDTH, "color_optical_frame")
    assert not problem(HEIGHT, WIDTH, "color_optical_frame"), "put right"
