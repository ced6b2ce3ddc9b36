"""The clip, and the camera that shows it to the node."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from rsvp_ros.msg import TargetArray
from rsvp_ros.ros.conversions import array_to_image, image_to_array, time_to_ns
from rsvp_ros.ros.demo.process import NAMESPACE, DemoError, NodeProcess, Worker
from rsvp_ros.tabletop.bag import read_bag
from rsvp_ros.tabletop.view import ObjectView


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture of the clip and its ground truth."""

    image: np.ndarray
    """uint8 H x W x 3 RGB."""
    ids: np.ndarray
    """uint8 H x W: which object is seen in a pixel; 0: none."""
    objects: dict[int, ObjectView]

    def seen(self, object_id: int) -> float:
        """How much of an object the camera sees, 0 to 1: the share that is in the image and not hidden."""
        thing = self.objects.get(object_id)
        return thing.visible * thing.inside if thing is not None else 0.0


@dataclass(frozen=True, eq=False)
class Film:
    """The part of the clip that is played."""

    shots: list[Shot]
    rate_hz: float

    @classmethod
    def read(cls, path: Path, seconds: float | None) -> Film:
        """The clip, or its first seconds. Raises ConfigurationError; DemoError if there is nothing to play."""
        shots: list[Shot] = []
        stamps: list[int] = []
        for view in read_bag(path):
            if seconds is not None and stamps and view.stamp_ns - stamps[0] >= seconds * 1e9:
                break
            stamps.append(view.stamp_ns)
            # Without the depth, which is half of a view's memory.
            shots.append(Shot(view.image, view.ids, {thing.id: thing for thing in view.objects}))
        if len(shots) < 2:
            raise DemoError(f"the clip {path} has {len(shots)} pictures, too few to play")
        return cls(shots, (len(stamps) - 1) * 1e9 / (stamps[-1] - stamps[0]))

    def __len__(self) -> int:
        return len(self.shots)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        height, width = self.shots[0].image.shape[:2]
        return width, height

    def time_s(self, number: int) -> float:
        return number / self.rate_hz

    def name(self, object_id: int) -> str:
        """An object's name for people; 0 is no object."""
        thing = self.shots[0].objects.get(object_id)
        return f"the {thing.color} {thing.kind}" if thing is not None else "no thing"


class Camera:
    """Shows the node the film at its own rate, and keeps what the node answers to each picture."""

    def __init__(self, film: Film) -> None:
        self.targets: dict[int, TargetArray] = {}
        """By picture number."""
        self.overlays: dict[int, np.ndarray] = {}
        self.delays_s: dict[int, float] = {}
        """From a picture's stamp to the arrival of its targets."""
        self.position = 0
        """Number of the newest picture shown; the first and the last one are held before and after the film."""
        self.sent = 0
        self._film = film
        self._numbers: dict[int, int] = {}
        self._counts: tuple[int, dict[str, str]] = (0, {})
        self._closed = threading.Event()
        self._node = rclpy.create_node("camera", namespace=NAMESPACE)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._publisher = self._node.create_publisher(Image, "image_raw", best_effort)
        self._node.create_subscription(TargetArray, "targets", self._on_targets, 100)
        self._node.create_subscription(Image, "overlay", self._on_overlay, 100)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._workers = [Worker(self._executor.spin)]

    def greet(self) -> bool:
        """Show the first picture again. Returns whether the node has answered it with targets and an overlay."""
        if not (self.targets and self.overlays):
            self._show(0)
        return bool(self.targets and self.overlays)

    def roll(self) -> None:
        """Start the film."""
        self._workers.append(Worker(self._run))

    def stop(self) -> None:
        """Show no more pictures. Raises the error that kept them from being shown, if any."""
        self._closed.set()
        for worker in self._workers[1:]:
            worker.wait()

    @property
    def ended(self) -> bool:
        return self.position == len(self._film) - 1

    def number(self, stamp_ns: int) -> int:
        """The picture that carries this stamp."""
        return self._numbers[stamp_ns]

    def counts(self, node: NodeProcess) -> dict[str, int]:
        """The node's counts of the pictures shown: "received", "overtaken". Not to be called while the film runs."""
        after = time.time_ns() + 300_000_000  # by then the last picture shown has arrived
        node.wait_for(lambda: self._counts[0] > after, "rsvp_node published no diagnostics", 10.0)
        return {name: int(self._counts[1][f"images {name}"]) for name in ("received", "overtaken")}

    def close(self) -> None:
        self._closed.set()
        self._executor.shutdown()
        for worker in self._workers:
            worker.wait()
        self._node.destroy_node()

    def _run(self) -> None:
        due, number = time.monotonic(), 0
        while not self._closed.is_set():
            self._show(number)
            number = min(number + 1, len(self._film) - 1)
            due += 1 / self._film.rate_hz
            self._closed.wait(max(due - time.monotonic(), 0.0))

    def _show(self, number: int) -> None:
        message = array_to_image(self._film.shots[number].image, "rgb8", Image().header)
        stamp = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        message.header.frame_id = "demo_camera_optical_frame"
        self._numbers[stamp] = number
        self._publisher.publish(message)
        self.position = number
        self.sent += 1

    def _on_targets(self, message: TargetArray) -> None:
        now, stamp = time.time_ns(), time_to_ns(message.header.stamp)
        number = self._numbers.get(stamp)
        if number is not None:
            self.targets[number], self.delays_s[number] = message, (now - stamp) * 1e-9

    def _on_overlay(self, message: Image) -> None:
        number = self._numbers.get(time_to_ns(message.header.stamp))
        if number is not None:
            self.overlays[number] = image_to_array(message)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        ours = (status for status in message.status if status.name.startswith(f"{NAMESPACE}/"))
        values = {value.key: value.value for status in ours for value in status.values}
        if "images received" in values:
            self._counts = (time_to_ns(message.header.stamp), values)
