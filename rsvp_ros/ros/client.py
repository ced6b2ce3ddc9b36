"""For robot programs: ask for a target by instruction, in three lines and without callbacks.

with Client() as rsvp:
    found = rsvp.find("something to cut the rope with")
    for target in found.targets:
        mask = mask_from_msg(target, height, width)   # rsvp_ros.ros.conversions
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import rclpy
from rclpy.action import ActionClient
from rclpy.client import Client as ServiceClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from rsvp_ros import errors
from rsvp_ros.action import FindTarget
from rsvp_ros.geometry import Box
from rsvp_ros.msg import TargetArray
from rsvp_ros.ros.conversions import box_to_msg

GOAL_ANSWERED_S = 5.0
"""A node answers at once whether it accepts a goal; after this time its answer counts as lost."""

Feedback = FindTarget.Feedback
Result = FindTarget.Result

_ERRORS = {
    error.code: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, errors.RsvpError)
}


class Client:
    """A node of its own that talks to `rsvp_node`. Its methods block: not for use in another node's callbacks.

    Args:
        namespace: that of `rsvp_node`, as given to the launch file.
        context: an initialised rclpy context; None: the default one, initialised here if it is not yet.
    """

    def __init__(self, namespace: str = "rsvp", context: rclpy.Context | None = None) -> None:
        self._own_context = context is None and not rclpy.ok()
        if self._own_context:
            # rclpy's own handlers end the context at Ctrl-C, and a goal under way could no longer be cancelled.
            rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("rsvp_client", namespace=namespace, context=context)
        self._executor = SingleThreadedExecutor(context=self._node.context)
        self._executor.add_node(self._node)
        self._find = ActionClient(self._node, FindTarget, "find_target")
        self._clear = self._node.create_client(Trigger, "clear")
        self._enable = self._node.create_client(SetBool, "enable")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Leave ROS."""
        self._find.destroy()
        self._executor.shutdown()
        self._node.destroy_node()
        if self._own_context:
            rclpy.try_shutdown()

    def wait_until_active(self, timeout_s: float = 60.0) -> None:
        """Wait for the node to be active: it serves `clear` only then. Raises TimeoutError."""
        self._wait_for_node(lambda: self._clear.service_is_ready() and self._find.server_is_ready(), timeout_s)

    def find(
        self,
        instruction: str,
        timeout_s: float = 120.0,
        keep_targets: bool = False,
        on_feedback: Callable[[Feedback], None] | None = None,
    ) -> Result:
        """Find what an instruction means. If there are no `targets`, it is not in the image; `error_msg` says more.

        Raises the RsvpError that the node reports, TimeoutError, and what `on_feedback` raises. Whatever ends it early,
        Ctrl-C too, cancels the goal.
        """
        goal = FindTarget.Goal(instruction=instruction, keep_targets=keep_targets)
        return self._send(goal, timeout_s, on_feedback)

    def follow(self, box: Box, name: str = "", timeout_s: float = 30.0, keep_targets: bool = False) -> Result:
        """Segment what is in a box of the newest image (pixels), and follow it. Raises what `find` raises."""
        goal = FindTarget.Goal(instruction=name, use_box=True, bbox=box_to_msg(box), keep_targets=keep_targets)
        return self._send(goal, timeout_s, None)

    def next_targets(self, timeout_s: float = 5.0) -> TargetArray:
        """The targets in the next image. Raises TimeoutError."""
        future: Future = Future(executor=self._executor)

        def take(msg: TargetArray) -> None:
            if not future.done():
                future.set_result(msg)

        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        subscription = self._node.create_subscription(TargetArray, "targets", take, qos)
        try:
            return self._wait(future, timeout_s, "no targets were published")
        finally:
            self._node.destroy_subscription(subscription)

    def clear(self, timeout_s: float = 5.0) -> None:
        """Stop following all targets. Raises TimeoutError."""
        self._call(self._clear, Trigger.Request(), timeout_s)

    def enable(self, enabled: bool, timeout_s: float = 5.0) -> None:
        """Have the node process images, or ignore them. Raises TimeoutError."""
        self._call(self._enable, SetBool.Request(data=enabled), timeout_s)

    def _send(self, goal: FindTarget.Goal, timeout_s: float, on_feedback: Callable[[Feedback], None] | None) -> Result:
        deadline = time.monotonic() + timeout_s
        self.wait_until_active(timeout_s)

        def listen(message: FindTarget.Impl.FeedbackMessage) -> None:
            if on_feedback is not None:
                on_feedback(message.feedback)

        def send() -> Future:
            return self._find.send_goal_async(goal, feedback_callback=listen)

        sent = send()
        try:
            # It is sent again if no answer came: the node may have received it before it knew where to answer. If it
            # has received both, it drops the first.
            while deadline - time.monotonic() > GOAL_ANSWERED_S and not self._spin_until(sent.done, GOAL_ANSWERED_S):
                sent = send()
            handle = self._wait(sent, deadline - time.monotonic(), "the goal was not answered")
            if not handle.accepted:
                raise errors.RsvpError("rsvp_node rejected the goal: it is not active, or disabled (service enable)")
            answer = handle.get_result_async()

            def ended() -> bool:
                return answer.done() or not self._find.server_is_ready()

            if not self._spin_until(ended, deadline - time.monotonic()):
                raise TimeoutError(f"no result after {timeout_s:g} s")
            if not answer.done():
                raise errors.RsvpError("rsvp_node ended before the result: what does its log say?")
            result = answer.result().result
        except BaseException:
            on_feedback = None  # it may be what failed, and would do so again
            with contextlib.suppress(Exception):  # the caller is to see why the goal ended, not what came after
                self._cancel(sent, 2.0)
            raise
        if result.error_code not in (Result.NONE, Result.NOT_FOUND):
            raise _ERRORS.get(result.error_code, errors.RsvpError)(result.error_msg)
        return result

    def _cancel(self, sent: Future, timeout_s: float) -> None:
        """Cancel a goal that may not have been answered yet. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        handle = self._wait(sent, timeout_s, "the goal was not answered")
        if handle.accepted:
            self._wait(handle.cancel_goal_async(), deadline - time.monotonic(), "the goal could not be cancelled")

    def _call(self, service: ServiceClient, request: Trigger.Request | SetBool.Request, timeout_s: float) -> None:
        """Call a service of the node, once it is known: a request sent before is lost. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        self._wait_for_node(service.service_is_ready, timeout_s)
        failure = f"the service {service.srv_name} did not answer"
        self._wait(service.call_async(request), deadline - time.monotonic(), failure)

    def _wait_for_node(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        if not self._spin_until(is_ready, timeout_s):
            raise TimeoutError(
                f"rsvp_node is not active in namespace {self._node.get_namespace()} after {timeout_s:g} s: is it "
                "launched, in this namespace and ROS_DOMAIN_ID, and what does its log say?"
            )

    def _wait(self, future: Future, timeout_s: float, failure: str):
        if not self._spin_until(future.done, timeout_s):
            raise TimeoutError(failure)
        return future.result()

    def _spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Take what arrives until a condition holds; False if it does not in this time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True
