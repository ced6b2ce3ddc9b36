"""The camera side of the node: subscriptions, and what to report when no images arrive."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from rsvp_ros.config import CameraConfig
from rsvp_ros.ros.conversions import compressed_to_array, image_to_array, time_to_ns
from rsvp_ros.ros.depth import have_same_shape
from rsvp_ros.types import Frame

SILENCE_S = 3.0  # without an image for this long, something is wrong
SLOWDOWN = 0.5  # a rate below this share of the best recent one is wrong, too
FADING = 0.99  # factor on that best rate at every status: after a minute or so a new rate counts as usual
DEPTH_KEPT = 16
MAX_DEPTH_DELAY_NS = 60_000_000  # a depth image of another time shows another scene
SAME_TIME_NS = 5_000_000  # stamps no further apart than this are of one time: no better depth image will come
DEPTH_MISSES = 5  # this many images in a row without depth are no accident
STILL_STAMPS = 5  # nor are this many with the stamp of the one before


@dataclass(frozen=True)
class CameraStatus:
    """The state of the image stream."""

    topic: str
    rate_hz: float
    problem: str
    """Empty if all is well."""


class Camera:
    """Subscribes to images (newest only) and, if wanted, to depth. Its callbacks run in the executor's thread."""

    def __init__(self, node: Node, config: CameraConfig, on_frame: Callable[[Frame], None]) -> None:
        self._node = node
        self._on_frame = on_frame
        reliability = ReliabilityPolicy[config.reliability.upper()]
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=reliability)
        if config.image_transport == "compressed":
            # Remapping image_raw moves its compressed topic along, as with image_transport.
            topic = node.resolve_topic_name("image_raw") + "/compressed"
            self._type, self._decode = CompressedImage, compressed_to_array
        else:
            topic = "image_raw"
            self._type, self._decode = Image, image_to_array
        events = SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos)
        self._subscriptions = [node.create_subscription(self._type, topic, self._on_image, qos, event_callbacks=events)]
        self._depth: deque[Image] = deque(maxlen=DEPTH_KEPT)
        self._depth_came = threading.Condition()  # guards `_depth`
        self._depth_apart_ns = 0  # between the last image that wanted depth and the nearest depth image, by stamp
        self._depth_misses = 0
        self._last_image: Image | CompressedImage | None = None
        self._info: CameraInfo | None = None
        self._use_3d = config.use_3d
        self._depth_at_s = self._since = time.monotonic()
        if config.use_3d:
            self._subscriptions += [
                node.create_subscription(Image, "depth_image", self._on_depth, qos),
                node.create_subscription(CameraInfo, "camera_info", self._on_info, qos),
            ]
        self.topic: str = self._subscriptions[0].topic_name
        self._arrivals: deque[float] = deque(maxlen=31)
        self._best_hz = 0.0
        self._incompatible = ""
        self._last_stamp_ns = -1
        self._last_time_ns = self._last_arrival_ns = 0
        self._still = 0  # images in a row with the stamp of the one before

    def destroy(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def depth_at(self, stamp_ns: int, deadline: float) -> tuple[Image, CameraInfo] | None:
        """The depth image taken with an image, and the intrinsics, or None.

        Depth may come after the image: waits for it, at most until `deadline` by the monotonic clock. Must not be
        called in the executor's thread, which receives it.
        """
        if not self._use_3d:
            return None
        with self._depth_came:
            self._depth_came.wait_for(lambda: self._has_come(stamp_ns), max(deadline - time.monotonic(), 0.0))
            images = list(self._depth)
        if not images:
            return None
        nearest = min(reversed(images), key=lambda image: abs(time_to_ns(image.header.stamp) - stamp_ns))
        self._depth_apart_ns = abs(time_to_ns(nearest.header.stamp) - stamp_ns)
        missed = self._depth_apart_ns > MAX_DEPTH_DELAY_NS
        self._depth_misses = self._depth_misses + 1 if missed else 0
        return None if missed or self._info is None else (nearest, self._info)

    def _has_come(self, stamp_ns: int) -> bool:
        """Whether no later depth image can be nearer to this time."""
        return bool(self._depth) and time_to_ns(self._depth[-1].header.stamp) >= stamp_ns - SAME_TIME_NS

    def status(self) -> CameraStatus:
        """The image rate and, in words, what is wrong and what to do about it."""
        now = time.monotonic()
        rate = 0.0
        if len(self._arrivals) > 1 and now - self._arrivals[-1] < SILENCE_S:
            rate = (len(self._arrivals) - 1) / max(self._arrivals[-1] - self._arrivals[0], 1e-6)
        steady = rate if len(self._arrivals) == self._arrivals.maxlen else 0.0
        self._best_hz = max(FADING * self._best_hz, steady)
        last = self._arrivals[-1] if self._arrivals else self._since
        problem = ""
        if now - last > SILENCE_S:
            problem = self._silence()
        elif rate and rate < SLOWDOWN * self._best_hz:
            problem = (
                f"images on {self.topic} come at {rate:.1f} Hz, {self._best_hz:.1f} Hz before: check the camera's "
                "load, and for large images the shared-memory transport (README, 'Lost images')"
            )
        elif self._still >= STILL_STAMPS:
            problem = (
                f"the images on {self.topic} all have the stamp {self._last_stamp_ns * 1e-9:.3f} s: have the camera's "
                "node set header.stamp. Until then targets are followed by when the images arrive; positions have no "
                "time, by which others could transform them"
            )
        elif self._use_3d:
            problem = self._missing_depth(now)
        return CameraStatus(self.topic, rate, problem)

    def _missing_depth(self, now: float) -> str:
        depth, info = (self._node.resolve_topic_name(name) for name in ("depth_image", "camera_info"))
        if now - self._depth_at_s > SILENCE_S:
            return f"no depth: nothing comes on {depth}, but camera.use_3d is set (launch argument input_depth_topic)"
        if self._info is None and now - self._since > SILENCE_S:
            return f"no intrinsics: nothing comes on {info}, but camera.use_3d is set (input_camera_info_topic)"
        if self._depth_misses >= DEPTH_MISSES:
            return (
                f"no depth that fits: the stamps of {depth} and {self.topic} are {self._depth_apart_ns * 1e-9:.2f} s "
                f"apart, at most {MAX_DEPTH_DELAY_NS * 1e-9:g} s are taken: they must be of one clock, and depth must "
                "come as often as the images and soon after them"
            )
        return self._misfit(depth)

    def _misfit(self, topic: str) -> str:
        """Evidence that the depth images on a topic are not registered to the images; empty if there is none."""
        image, depth = self._last_image, self._depth[-1] if self._depth else None
        if image is None or depth is None:
            return ""
        frames = depth.header.frame_id, image.header.frame_id
        if all(frames) and frames[0] != frames[1]:
            apart = f"has the frame {frames[0]!r}, {self.topic} {frames[1]!r}"
        elif isinstance(image, Image) and not have_same_shape(depth.width, depth.height, image.width, image.height):
            apart = f"is {depth.width} x {depth.height}, {self.topic} {image.width} x {image.height}"
        else:
            return self._misfit_info(topic, depth)
        return (
            f"depth that is not the images': {topic} {apart}. It must be registered to them (realsense2_camera: "
            "align_depth.enable, aligned_depth_to_color), or positions are wrong"
        )

    def _misfit_info(self, topic: str, depth: Image) -> str:
        """Evidence that the intrinsics are not those of the depth images on a topic; empty if there is none."""
        of_info = self._info.header.frame_id if self._info is not None else ""
        if of_info and depth.header.frame_id and of_info != depth.header.frame_id:
            return (
                f"intrinsics of another camera: {self._node.resolve_topic_name('camera_info')} has the frame "
                f"{of_info!r}, {topic} {depth.header.frame_id!r}: take the camera_info that belongs to the depth "
                "images (launch argument input_camera_info_topic), or positions are wrong"
            )
        return ""

    def _silence(self) -> str:
        if self._incompatible:
            return self._incompatible
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            return (
                f"no image: nothing publishes {self.topic}. Check the topic (launch argument input_image_topic) and "
                "ROS_DOMAIN_ID; `ros2 topic list` shows what there is"
            )
        others = {publisher.topic_type for publisher in publishers} - {self._type_name()}
        if others:
            return (
                f"no image: {self.topic} has the type {', '.join(sorted(others))}, but {self._type_name()} is "
                "expected: set camera.image_transport or the topic"
            )
        return (
            f"no image: {len(publishers)} publisher(s) on {self.topic}, but nothing comes. Is the camera paused? Are "
            "large images lost (README, 'Lost images')?"
        )

    def _type_name(self) -> str:
        return f"sensor_msgs/msg/{self._type.__name__}"

    def _on_image(self, msg: Image | CompressedImage) -> None:
        arrival_ns = time.monotonic_ns()
        if self._arrivals and arrival_ns * 1e-9 - self._arrivals[-1] > SILENCE_S:
            self._arrivals.clear()  # a pause does not count in the rate
        self._arrivals.append(arrival_ns * 1e-9)
        self._incompatible = ""  # images arrive, so a publisher fits
        self._last_image = msg
        stamp_ns = time_to_ns(msg.header.stamp)
        self._still = self._still + 1 if stamp_ns == self._last_stamp_ns else 0
        if self._still:  # its stamps stand still: time by arrival
            time_ns = self._last_time_ns + arrival_ns - self._last_arrival_ns
        elif stamp_ns > self._last_stamp_ns:
            # Where stamps stood still, time may be ahead of them: it goes on, but no faster than either
            passed_ns = min(stamp_ns - self._last_stamp_ns, arrival_ns - self._last_arrival_ns)
            is_first = self._last_stamp_ns < 0
            time_ns = stamp_ns if is_first else max(stamp_ns, self._last_time_ns + passed_ns)
        else:
            time_ns = stamp_ns
            self._node.get_logger().warning(
                f"The stamps on {self.topic} went back by {(self._last_stamp_ns - stamp_ns) * 1e-9:.3f} s (a bag that "
                "started again?). Targets are followed on, without their speed.",
                throttle_duration_sec=10.0,
            )
        self._last_stamp_ns, self._last_time_ns, self._last_arrival_ns = stamp_ns, time_ns, arrival_ns
        self._on_frame(Frame(partial(self._decode, msg), time_ns, msg.header))

    def _on_depth(self, msg: Image) -> None:
        self._depth_at_s = time.monotonic()
        with self._depth_came:
            self._depth.append(msg)
            self._depth_came.notify_all()

    def _on_info(self, msg: CameraInfo) -> None:
        self._info = msg

    def _on_incompatible_qos(self, event: QoSRequestedIncompatibleQoSInfo) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._incompatible = (
            f"no image: a publisher on {self.topic} offers another QoS ({policy}) than is asked for: set "
            "camera.reliability to 'best_effort', which connects to both"
        )
        self._node.get_logger().warning(self._incompatible)
