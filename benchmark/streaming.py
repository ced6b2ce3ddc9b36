"""Shared by the benchmarks of the running node: the node in its own process, and a camera that receives its targets."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from rsvp_ros.msg import TargetArray
from rsvp_ros.ros.conversions import array_to_image, time_to_ns

REPOSITORY = Path(__file__).resolve().parent.parent
NODE = (sys.executable, str(REPOSITORY / "scripts" / "rsvp_node"))


@contextlib.contextmanager
def running_node(command: Sequence[str] = NODE, *arguments: str) -> Iterator[subprocess.Popen]:
    """Run the node in the namespace /rsvp and rclpy in this process; both are stopped at the end."""
    ros = ["--ros-args", "-r", "__ns:=/rsvp", "--log-level", "warn", *arguments]
    node = subprocess.Popen([*command, *ros], start_new_session=True)
    rclpy.init()
    try:
        yield node
    finally:
        rclpy.try_shutdown()
        node.send_signal(signal.SIGINT)
        try:
            node.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Answer:
    """When an image's targets arrived, by the system clock, and how long the segmenter took for them."""

    arrived_ns: int
    segmenter_ns: int


class Camera:
    """Publishes the same image at a rate, best effort, and receives the targets. Close it before rclpy shuts down."""

    def __init__(self, image: np.ndarray, encoding: str, rate_hz: float) -> None:
        self._image, self._encoding, self._rate_hz = image, encoding, rate_hz
        self.stamps: list[int] = []
        """The images' stamps, each taken before the image is put into a message."""
        self.answers: dict[int, Answer] = {}
        """By the image's stamp."""
        node = rclpy.create_node("camera", namespace="rsvp")
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._publisher = node.create_publisher(Image, "image_raw", best_effort)
        node.create_subscription(TargetArray, "targets", self._take, QoSProfile(depth=100))
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._film, self._executor.spin)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_filming()
        self._executor.shutdown()
        self._threads[1].join()

    def stop_filming(self) -> None:
        """Stop filming and wait for the last images' targets."""
        if not self._stop.is_set():
            self._stop.set()
            self._threads[0].join()
            time.sleep(0.5)

    def wait_for(self, images: int) -> None:
        """Wait until that many images have been published."""
        while len(self.stamps) < images:
            time.sleep(0.01)

    def _film(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            stamp = time.time_ns()
            message = array_to_image(self._image, self._encoding, Image().header)
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
            self._publisher.publish(message)
            self.stamps.append(stamp)
            due += 1 / self._rate_hz
            time.sleep(max(due - time.monotonic(), 0))

    def _take(self, msg: TargetArray) -> None:
        duration = time_to_ns(msg.segmenter_duration)
        self.answers[time_to_ns(msg.header.stamp)] = Answer(time.time_ns(), duration)
