"""The node `tabletop_camera`: a camera that films the simulated tabletop, or plays a bag of it.

    ros2 run rsvp_ros tabletop_camera --ros-args -p seed:=3
    ros2 launch rsvp_ros rsvp.launch.py

Its topics are those of a RealSense in the namespace /camera, which the launch file listens to by default:
color/image_raw, color/camera_info, aligned_depth_to_color/image_raw, aligned_depth_to_color/camera_info, and /tf from
`world` to the camera's optical frame. The ground truth is in ground_truth/label_image and ground_truth/objects.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import rclpy
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.signals import uninstall_signal_handlers
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String

from rsvp_ros.errors import ConfigurationError, RsvpError
from rsvp_ros.ros.conversions import array_to_image
from rsvp_ros.ros.fastdds import PROFILES_VARIABLE
from rsvp_ros.tabletop import bag as bags
from rsvp_ros.tabletop.rotations import quaternion_of
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view import Camera, View

NAMESPACE = "camera"
LIVE_RATE_HZ = 10.0
LATE = 20
"""A warning follows this many pictures in a row that each took longer than the rate allows."""

_SPLITS = tuple(split.value for split in Split)
_PARAMETERS: tuple[tuple[str, object, str, tuple | None], ...] = (
    ("bag", "", "Play this bag instead of drawing scenes: a folder (`rsvp tabletop bag` writes one), or 'demo'", None),
    ("split", Split.VAL.value, f"Split from which the scene is taken: {', '.join(_SPLITS)}", None),
    ("seed", 0, "Seed of the scene and of what happens in it", (0, 2**31 - 1)),
    ("seconds", 20.0, "Length of the clip that is drawn [s]", (1.0, 600.0)),
    ("width", 320, "Width of a drawn image [pixels]", (64, 1920)),
    ("height", 240, "Height of a drawn image [pixels]", (48, 1200)),
    ("rate", 0.0, f"Images per second; 0: the bag's own rate, {LIVE_RATE_HZ:g} for a drawn scene [Hz]", (0.0, 120.0)),
    ("loop", True, "Go on forever: a bag starts again, a drawn clip runs back and forth", None),
)
"""Name, default, description, range."""


class TabletopCamera(Node):
    """Publishes views at a rate, stamped with the node's clock, until they end."""

    def __init__(self, **options) -> None:
        """Raises ConfigurationError for an invalid parameter, a missing bag, or a machine that cannot render."""
        super().__init__("tabletop_camera", **({"namespace": NAMESPACE} | options))
        self.error: RsvpError | None = None
        """The error that ended the pictures; None if they came to their end."""
        self.ended = False
        self._late = 0
        self._declare_parameters()
        self._create_publishers()
        self._views: Iterator[View] | None = None
        self._views, self._rate_hz = self._open()
        self._timer = self.create_timer(1 / self._rate_hz, self._on_timer)
        self.get_logger().info(f"{self._what()}, {self._rate_hz:g} Hz, on {self._image.topic_name}")

    def close(self) -> None:
        """Free the renderer or the bag; to be called in the thread that drew."""
        if self._views is not None:
            self._views.close()
            self._views = None
        self.destroy_node()

    def _declare_parameters(self) -> None:
        for name, default, description, limits in _PARAMETERS:
            descriptor = ParameterDescriptor(description=description, read_only=True)
            if isinstance(default, float):
                descriptor.floating_point_range = [FloatingPointRange(from_value=limits[0], to_value=limits[1])]
            elif limits:
                descriptor.integer_range = [IntegerRange(from_value=limits[0], to_value=limits[1])]
            try:
                self.declare_parameter(name, default, descriptor)
            except (InvalidParameterTypeException, InvalidParameterValueException) as error:
                wanted = "a number with a point, as 10.0" if isinstance(default, float) else type(default).__name__
                wanted += f", {limits[0]} to {limits[1]}" if limits else ""
                raise ConfigurationError(
                    f"parameter {name} is {self._parameter_overrides[name].value!r}: it must be {wanted}"
                ) from error
        if self._value("split") not in _SPLITS:
            raise ConfigurationError(f"parameter split is {self._value('split')!r}: it must be one of {_SPLITS}")

    def _value(self, name: str):
        return self.get_parameter(name).value

    def _what(self) -> str:
        if self._value("bag"):
            return f"Playing {self._value('bag')}"
        return f"Filming scene {self._value('seed')} of {self._value('split')}"

    def _create_publishers(self) -> None:
        def create(message_type: type, topic: str):
            return self.create_publisher(message_type, topic.removeprefix(f"/{NAMESPACE}/"), qos_profile_sensor_data)

        self._image = create(Image, bags.IMAGE_TOPIC)
        self._depth = create(Image, bags.DEPTH_TOPIC)
        self._infos = [create(CameraInfo, topic) for topic in bags.INFO_TOPICS]
        self._labels = create(Image, bags.LABEL_TOPIC)
        self._objects = create(String, bags.OBJECTS_TOPIC)
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError:  # ROS 2 from PyPI has no tf2
            self.get_logger().warning("tf2_msgs is not installed (ros-<distro>-tf2-msgs): no /tf")
            self._tf = None
        else:
            self._tf = self.create_publisher(TFMessage, bags.TF_TOPIC, QoSProfile(depth=100))

    def _open(self) -> tuple[Iterator[View], float]:
        """The views to show, and how many per second."""
        rate = self._value("rate")
        path = bags.DEMO_CLIP if self._value("bag") == "demo" else self._value("bag")
        if path:
            first = list(islice(bags.read_bag(path), 2))
            if not first:
                raise ConfigurationError(f"the bag {path} holds no whole image: write it again")
            return self._play(path), rate or 1e9 / (first[-1].stamp_ns - first[0].stamp_ns or 1e9)
        from rsvp_ros.tabletop.clips import render_clip, sample_clip

        rate = rate or LIVE_RATE_HZ
        size = (self._value("width"), self._value("height"))
        clip = sample_clip(Split(self._value("split")), self._value("seed"), self._value("seconds"), rate, size)
        return render_clip(clip, endless=self._value("loop")), rate

    def _play(self, path: Path | str) -> Iterator[View]:
        while True:
            yield from bags.read_bag(path)
            if not self._value("loop"):
                return

    def _on_timer(self) -> None:
        start = time.monotonic()
        try:
            view = next(self._views, None)
        except RsvpError as error:
            self.error, view = error, None
        if view is None:
            self.ended = True
            self._timer.cancel()
            return
        self._publish(view)
        took = time.monotonic() - start
        self._late = self._late + 1 if took * self._rate_hz > 1 else 0
        if self._late == LATE:
            advice = "a lower rate" if self._value("bag") else "a lower rate, or a smaller width and height"
            self.get_logger().warning(
                f"A picture takes {took * 1e3:.0f} ms, too long for {self._rate_hz:g} Hz: set {advice}"
            )

    def _publish(self, view: View) -> None:
        now = self.get_clock().now()
        header = Header(stamp=now.to_msg(), frame_id=bags.OPTICAL_FRAME)
        if self._tf is not None:
            self._tf.publish(self._tf.msg_type(transforms=[_transform(view.camera, header)]))
        info = _camera_info(view.camera, header)
        for publisher in self._infos:
            publisher.publish(info)
        self._depth.publish(array_to_image(bags.to_millimetres(view.depth), "16UC1", header))
        self._labels.publish(array_to_image(view.ids.astype(np.uint16), "mono16", header))
        self._objects.publish(String(data=bags.objects_to_json(view, now.nanoseconds)))
        self._image.publish(array_to_image(view.image, "rgb8", header))


def _transform(camera: Camera, header: Header) -> TransformStamped:
    pose = camera.world_from_optical
    w, x, y, z = quaternion_of(pose[:3, :3])
    return TransformStamped(
        header=Header(stamp=header.stamp, frame_id=bags.WORLD_FRAME),
        child_frame_id=header.frame_id,
        transform=Transform(
            translation=Vector3(x=float(pose[0, 3]), y=float(pose[1, 3]), z=float(pose[2, 3])),
            rotation=Quaternion(x=x, y=y, z=z, w=w),
        ),
    )


def _camera_info(camera: Camera, header: Header) -> CameraInfo:
    k = camera.matrix
    return CameraInfo(
        header=header,
        width=camera.width,
        height=camera.height,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=k.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack((k, np.zeros((3, 1)))).ravel(),
    )


def main(args: Sequence[str] | None = None) -> None:
    """Run the node until Ctrl-C or the end of what it shows; exits with status 1 if it cannot show it."""
    try:  # large images through shared memory
        profiles = Path(get_package_share_directory("rsvp_ros")) / "config" / "fastdds.xml"
        os.environ.setdefault(PROFILES_VARIABLE, str(profiles))
    except PackageNotFoundError:
        pass
    rclpy.init(args=args)
    node: TabletopCamera | None = None
    error: RsvpError | None = None
    executor = SingleThreadedExecutor()
    try:
        node = TabletopCamera()
        executor.add_node(node)
        while not node.ended:
            executor.spin_once()
        error = node.error
    except RsvpError as failure:
        error = failure
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # Ctrl-C on `ros2 launch` comes twice, from the terminal and from launch: the second must not stop the shutdown.
        # rclpy, when it shuts down, would restore the handler that it found.
        uninstall_signal_handlers()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if error is not None:
            rclpy.logging.get_logger("tabletop_camera").fatal(f"{type(error).__name__}: {error}")
        executor.shutdown()
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    if error is not None:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
