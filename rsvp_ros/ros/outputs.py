"""All that the node publishes about an image. But for the targets, what nobody subscribes to is not even computed."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from rsvp_ros.errors import RsvpError
from rsvp_ros.msg import Reasoning, TargetArray
from rsvp_ros.ros.conversions import array_to_image, depth_to_array, label_image, targets_to_msg, time_to_ns
from rsvp_ros.ros.depth import depth_camera, points_to_cloud, position_to_pose
from rsvp_ros.ros.markers import Place, targets_to_markers
from rsvp_ros.surface import target_points, target_position, target_size
from rsvp_ros.types import Target, TargetsInFrame, TargetState
from rsvp_ros.visualization import draw_targets

# Reliable publishers connect to best-effort subscribers, too; none of these waits for a slow subscriber (KEEP_LAST).
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
SOME = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
DEPTH_WAIT_S = 0.1  # an image's depth may come this much later than its targets
WAITING = 3  # at most this many images wait for depth; beyond that, the oldest are left out

logger = logging.getLogger(__name__)


class Outputs:
    """The publishers. `publish` is called in the models' thread only; positions and points in space are
    published by a separate thread, which waits for depth."""

    def __init__(
        self,
        node: LifecycleNode,
        depth_at: Callable[[int, float], tuple[Image, CameraInfo] | None],
        on_problem: Callable[[RsvpError], None],
    ) -> None:
        """`depth_at` gives the depth image and intrinsics for an image's stamp, and may wait for them until a deadline
        by the monotonic clock."""
        self._depth_at = depth_at
        self._on_problem = on_problem
        create = node.create_lifecycle_publisher
        self.targets = create(TargetArray, "targets", SOME)
        self.reasoning = create(Reasoning, "reasoning", LATCHED)
        self.label_image = create(Image, "label_image", NEWEST)
        self.overlay = create(Image, "overlay", NEWEST)
        self.markers = create(MarkerArray, "markers", NEWEST)
        self.target_pose = create(PoseStamped, "target_pose", NEWEST)
        self.target_points = create(PointCloud2, "target_points", NEWEST)
        self._node = node
        self._pose_of: int | None = None  # the target whose pose is published
        self._places: dict[int, Place] = {}  # where each target was last
        self._shows_points = False  # whether the last cloud has any
        self._waiting: deque[tuple[TargetsInFrame, float]] = deque(maxlen=WAITING)
        self._stopped = False
        self._changed = threading.Condition()  # guards `_waiting` and `_stopped`
        self._thread = threading.Thread(target=self._run_in_space, name="rsvp_space", daemon=True)
        self._thread.start()

    def destroy(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()
        for publisher in (
            self.targets,
            self.reasoning,
            self.label_image,
            self.overlay,
            self.markers,
            self.target_pose,
            self.target_points,
        ):
            self._node.destroy_lifecycle_publisher(publisher)

    def publish(self, result: TargetsInFrame) -> None:
        """Publish what is known about one image, with the image's own header."""
        header = result.frame.header
        self.targets.publish(targets_to_msg(result, header))
        if self.label_image.get_subscription_count():
            height, width = result.frame.image.shape[:2]
            self.label_image.publish(array_to_image(label_image(result.targets, height, width), "mono16", header))
        if self.overlay.get_subscription_count():
            self.overlay.publish(array_to_image(draw_targets(result.frame.image, result.targets), "rgb8", header))
        with self._changed:
            self._waiting.append((result, time.monotonic() + DEPTH_WAIT_S))
            self._changed.notify()

    def _run_in_space(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._waiting)
                if self._stopped:
                    return
                result, deadline = self._waiting.popleft()
            try:
                self._publish_in_space(result, self._depth_at(time_to_ns(result.frame.header.stamp), deadline))
            except Exception:
                if self._node.context.ok():  # else a signal is ending the node
                    logger.exception("could not publish the targets of one frame in space")

    def _publish_in_space(self, result: TargetsInFrame, depth: tuple[Image, CameraInfo] | None) -> None:
        markers, pose, cloud = (
            publisher.get_subscription_count() > 0 for publisher in (self.markers, self.target_pose, self.target_points)
        )
        if not (markers or pose or cloud):
            return
        seen = [target for target in result.targets if target.mask is not None]
        header = result.frame.header
        positions: dict[int, np.ndarray] = {}
        surfaces: dict[int, np.ndarray] = {}
        try:
            if seen and depth is not None:
                metres = depth_to_array(depth[0])
                camera = depth_camera(depth[1], metres)
                for target in seen:
                    points = target_points(target.mask, metres, camera, target.box)
                    position = target_position(points)
                    if position is not None:
                        positions[target.id] = position
                        if markers:
                            self._places[target.id] = Place(position, target_size(points), header)
                        surfaces[target.id] = points
        except RsvpError as error:
            self._on_problem(error)
        followed = {target.id for target in result.targets if target.state is not TargetState.LOST}
        self._places = {id: place for id, place in self._places.items() if id in followed}
        if markers and not (seen and depth is None):  # markers without places would delete the last ones
            shown = [t for t in result.targets if t.id in positions or t.state is TargetState.OCCLUDED]
            self.markers.publish(targets_to_markers(shown, self._places, header))
        if pose:
            self._pose_of = _pose_target(result.targets, positions, self._pose_of)
            if self._pose_of in positions:
                self.target_pose.publish(position_to_pose(positions[self._pose_of], header))
        if cloud and (surfaces or (self._shows_points and not seen)):  # one without points takes the last ones back
            self.target_points.publish(points_to_cloud(surfaces, header))
            self._shows_points = bool(surfaces)


def _pose_target(targets: Sequence[Target], seen: Collection[int], last: int | None) -> int | None:
    """Which target's pose is published: the same as before as long as it is followed, so that the pose does not jump.

    Only targets of the latest instruction count; the first choice is the one that is seen best (`seen`: ids).
    """
    followed = [target for target in targets if target.state is not TargetState.LOST]
    newest = [target for target in followed if target.instruction == targets[-1].instruction]
    if any(target.id == last for target in newest):
        return last
    best = max((t for t in newest if t.id in seen), key=lambda t: t.presence * t.score, default=None)
    return best.id if best is not None else None
