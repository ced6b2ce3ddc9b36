"""The real node in a process of its own, and a robot in this one that shows it pictures and listens, over real DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Log
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from rsvp_ros.action import FindTarget
from rsvp_ros.msg import Reasoning, TargetArray
from rsvp_ros.ros.conversions import array_to_image, time_to_ns

REPOSITORY = Path(__file__).resolve().parent.parent
DEADLINE_S = 120.0
FRAME_ID = "test_camera_optical_frame"

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """Wait for a condition to hold, and give what it gave."""
    deadline = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"in {deadline_s:g} s: no {what}"
        time.sleep(0.01)


class NodeProcess:
    """`rsvp_node` as a user runs it, with these parameters."""

    def __init__(
        self, namespace: str, parameters: dict, arguments: tuple[str, ...] = (), environment: dict | None = None
    ):
        self._ended: tuple[int, str] | None = None
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        params_file = folder / "params.yaml"
        params_file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
        self._log = folder / "log"
        command = [sys.executable, str(REPOSITORY / "scripts" / "rsvp_node"), "--ros-args", "-r", f"__ns:=/{namespace}"]
        command += ["--params-file", str(params_file), *arguments]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | (environment or {}),
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._ended is None else self._ended[1]

    def wait_for_log(self, text: str, deadline_s: float = DEADLINE_S) -> None:
        def found() -> bool:
            assert self.process.poll() is None or text in self.log, f"the node ended:\n{self.log[-4000:]}"
            return text in self.log

        until(found, f"{text!r} on the node's log", deadline_s)

    def stop(self) -> tuple[int, str]:
        """As Ctrl-C on `ros2 launch` does, with a SIGINT from the terminal and one from launch; exit status and log."""
        if self._ended is not None:
            return self._ended
        for _ in range(2):
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGINT)
                time.sleep(0.02)
        try:
            self._ended = self.process.wait(60), self.log
            return self._ended
        except subprocess.TimeoutExpired:
            self._ended = -signal.SIGKILL, self.log
            raise AssertionError(f"SIGINT did not end the node:\n{self.log[-4000:]}") from None
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self._folder.cleanup()


class Robot:
    """Shows the node pictures as a camera does, asks it things, and keeps all it says."""

    def __init__(self, namespace: str) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("robot", namespace=namespace, context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        create = self.node.create_publisher
        self._images = create(Image, "image_raw", best_effort)
        self._compressed = create(CompressedImage, "image_raw/compressed", best_effort)
        self.depth = create(Image, "depth_image", best_effort)
        self.camera_info = create(CameraInfo, "camera_info", best_effort)
        self.instructions = create(String, "instruction", 10)
        self.targets: list[TargetArray] = []
        self.reasonings: list[Reasoning] = []
        self.diagnostics: list[DiagnosticArray] = []
        self.stamps: list[int] = []
        self.feedback: list[FindTarget.Feedback] = []
        self.node.create_subscription(TargetArray, "targets", self.targets.append, 100)
        self.node.create_subscription(Reasoning, "reasoning", self.reasonings.append, latched)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)
        self.find_target = ActionClient(self.node, FindTarget, "find_target")
        self.clear = self.node.create_client(Trigger, "clear")
        self.enable = self.node.create_client(SetBool, "enable")
        # Last: whoever's latched messages come here has heard of everything above
        self._heard_from: set[str] = set()
        self.node.create_subscription(
            Log,
            "/rosout",
            lambda message: self._heard_from.add(message.name),
            QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL),
        )
        self._picture: Image | CompressedImage | None = None
        self._depth_picture: Image | None = None
        self._info: CameraInfo | None = None
        self._stopped = threading.Event()
        self._period_s = 0.1
        self._threads = [threading.Thread(target=self._spin), threading.Thread(target=self._film)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stopped.set()
        self._executor.shutdown()
        for thread in self._threads:
            thread.join()
        self.find_target.destroy()  # destroy_node leaves it, and it the participant with its threads and shared memory
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def wait_until_known(self) -> None:
        """Wait for the node to have discovered this robot: the answer to a goal that comes earlier may be dropped."""
        name = f"{self.node.get_namespace().strip('/').replace('/', '.')}.rsvp_node"
        until(lambda: name in self._heard_from, f"log message of {name}")

    def listen(self, message_type: type, topic: str) -> list:
        """Everything that is published on a topic from now on."""
        messages: list = []
        self.node.create_subscription(message_type, topic, messages.append, 10)
        return messages

    def show(
        self,
        image: np.ndarray | Image | CompressedImage | None,
        rate_hz: float = 10.0,
        depth: Image | None = None,
        info: CameraInfo | None = None,
    ) -> None:
        """Film this from now on: an RGB picture, or a message as it is; None: nothing. With depth, if given."""
        self._period_s = 1 / rate_hz
        self._depth_picture, self._info = depth, info
        self._picture = array_to_image(image, "rgb8", Image().header) if isinstance(image, np.ndarray) else image

    def send(self, goal: FindTarget.Goal):
        """Send a goal; its handle, once it is accepted."""
        assert self.find_target.wait_for_server(DEADLINE_S)
        return self.wait_for(
            lambda: self.find_target.send_goal_async(
                goal, feedback_callback=lambda m: self.feedback.append(m.feedback)
            ),
            "answer to the goal",
        )

    def wait_for(self, start: Callable, what: str, deadline_s: float = DEADLINE_S):
        """Start something in the executor's thread (rclpy's clients are not made for two at once), and wait for it."""
        started = self._executor.create_task(start)
        until(started.done, f"start of: {what}", deadline_s)
        future = started.result()
        until(future.done, what, deadline_s)
        return future.result()

    def result_of(self, handle, deadline_s: float = DEADLINE_S):
        """Wait for a goal's end: `.status` and `.result`."""
        return self.wait_for(handle.get_result_async, "result of the goal", deadline_s)

    def call(self, client, request):
        """Call a service, and wait for the answer."""
        assert client.wait_for_service(DEADLINE_S)
        return self.wait_for(lambda: client.call_async(request), "answer of the service")

    def tracked(self, count: int = 1) -> list[TargetArray]:
        """What was published since the first image with a target that is seen, once there are so many images."""

        def since() -> list[TargetArray]:
            targets = list(self.targets)
            first = next(
                (i for i, array in enumerate(targets) if any(t.state == 1 for t in array.targets)), len(targets)
            )
            return targets[first:]

        return until(lambda: (found := since()) and len(found) >= count and found, f"{count} images with a target")

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except Exception:
            if not self._stopped.is_set():
                raise

    def _film(self) -> None:
        while not self._stopped.wait(self._period_s):
            message = self._picture
            if message is None:
                continue
            if message.header.stamp.sec == 0 or message.header.frame_id == FRAME_ID:
                message.header.stamp = self.node.get_clock().now().to_msg()
                message.header.frame_id = FRAME_ID
            for publisher, beside in ((self.depth, self._depth_picture), (self.camera_info, self._info)):
                if beside is not None:
                    beside.header = message.header
                    publisher.publish(beside)
            self.stamps.append(time_to_ns(message.header.stamp))
            (self._compressed if isinstance(message, CompressedImage) else self._images).publish(message)


@contextmanager
def running(namespace: str, parameters: dict, active: bool = True, **options) -> Iterator[tuple[NodeProcess, Robot]]:
    """A node and a robot, and neither afterwards."""
    node = NodeProcess(namespace, parameters, **options)
    try:
        robot = Robot(namespace)
        try:
            if active:
                node.wait_for_log("Active: images from")
                robot.wait_until_known()
            yield node, robot
        except BaseException:
            print(node.log)  # pytest shows it beside what failed
            raise
        finally:
            robot.close()
    finally:
        node.stop()


def stamps_of(arrays: list[TargetArray]) -> list[int]:
    """The stamps of images, nanoseconds."""
    return [time_to_ns(array.header.stamp) for array in arrays]
