"""The lifecycle node `rsvp_node`: the streaming system on ROS topics, services and an action."""

from __future__ import annotations

import functools
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger

from rsvp_ros.errors import CancelledError, ConfigurationError, NoImageError, RsvpError, SupersededError
from rsvp_ros.perception import Perception
from rsvp_ros.reasoning.mllm.base import Mllm
from rsvp_ros.reasoning.mllm.loading import load_mllm
from rsvp_ros.reasoning.mllm.worker import WorkerMllm
from rsvp_ros.reasoning.reasoner import Reasoner
from rsvp_ros.request import Request
from rsvp_ros.ros import parameters
from rsvp_ros.ros.camera import Camera
from rsvp_ros.ros.conversions import clean_text, reasoning_to_msg
from rsvp_ros.ros.find_target_server import FindTargetServer, not_found_reason, unseen_reason
from rsvp_ros.ros.outputs import Outputs
from rsvp_ros.segmentation.loading import WARM_UP_SIZES, load_segmenter, warm_up
from rsvp_ros.segmentation.torch_runtime import CpuShare
from rsvp_ros.types import Frame, TargetsInFrame

DIAGNOSTICS_PERIOD_S = 1.0
PROBLEM_SHOWN_S = 10.0  # in diagnostics, after it last happened; it is not logged again before
MOST_OF_A_KIND = 5  # problems of one kind are logged at most in this time
REASONING_PERIOD_S = 0.1  # while the MLLM writes, `reasoning` is published at most this often

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


def _logged(transition: Callable) -> Callable:
    """Log an exception in a transition, which rclpy silently turns into ERROR."""

    @functools.wraps(transition)
    def run(node: RsvpNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            node.get_logger().error(f"{transition.__name__} failed:\n{traceback.format_exc()}")
            node._not_configured = f"{transition.__name__} failed: {error!r}"
            return TransitionCallbackReturn.ERROR

    return run


class RsvpNode(LifecycleNode):
    """Images and instructions in; targets, masks and reasoning out (README, "Topics").

    Configuring loads the models, activating subscribes to the camera. One thread of the streaming system owns the
    segmenter and publishes targets, the reasoner's thread publishes the reasoning, and a third publishes what needs
    depth; the executor's thread only receives messages.
    """

    def __init__(self, **options) -> None:
        super().__init__("rsvp_node", **options)
        self._wrong_parameters = parameters.declare(self)
        self._perception: Perception | None = None
        self._mllm: Mllm | None = None
        self._segmenter_name = ""
        self._outputs: Outputs | None = None
        self._server = FindTargetServer(self)
        self._camera: Camera | None = None
        self._inputs: list = []  # what exists only while the node is active
        self._enabled = True
        self._asked: tuple[str, Request] | None = None  # the last instruction that came on the topic
        self._not_configured = ""  # why
        self._problem = ""
        self._problem_at = -float("inf")
        self._said: dict[tuple[str, str], float] = {}
        self._saying = threading.Lock()  # problems come from all threads
        self._reasoning_published_at = 0.0
        self._telling = threading.Lock()  # keeps a request's last word last: it may end while its progress is told
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # A clock that always runs: with use_sim_time and no /clock, the user needs diagnostics most.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(DIAGNOSTICS_PERIOD_S, self._on_timer, clock=steady)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self.add_post_set_parameters_callback(self._on_parameters_set)

    # Lifecycle.

    @_logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        start = time.monotonic()
        try:
            if self._wrong_parameters:
                raise ConfigurationError("; ".join(self._wrong_parameters.values()))
            config = parameters.read(self)
            if config.mllm.backend != "none":
                self._mllm = load_mllm(getattr(config.mllm, config.mllm.backend))
            reasoner = Reasoner(self._mllm, config.reasoner) if self._mllm is not None else None

            # A compiled segmenter would be recompiled for another number of threads, which takes seconds.
            shares = isinstance(self._mllm, WorkerMllm) and not config.segmenter.compile

            def load():
                segmenter = load_segmenter(config.segmenter)
                # Without compilation, images of other proportions are just as fast.
                for size in WARM_UP_SIZES if config.segmenter.compile else WARM_UP_SIZES[:1]:
                    warm_up(segmenter, *size)
                return segmenter

            perception = Perception(
                load,
                reasoner,
                self._on_targets,
                self._on_progress,
                self._on_done,
                self._report,
                config.perception,
                config.tracker,
                CpuShare(self._mllm.threads).set if shares else None,
                config.reasoner.max_instruction_chars,
            )
            self._segmenter_name = perception.start().name
        except RsvpError as error:
            self._report(error)
            self._not_configured = str(error)
            self._unload()
            return FAILURE
        self._not_configured = ""
        self._perception = perception
        self._outputs = Outputs(self, self._depth_at, self._report)
        if self._mllm is not None:
            mllm = self._mllm.name
        elif perception.reasoner is not None:
            mllm = "none: instructions are taken literally"
        else:
            mllm = "none: only boxes can be followed"
        self.get_logger().info(
            f"Configured in {time.monotonic() - start:.1f} s. Segmenter: {self._segmenter_name}. MLLM: {mllm}."
        )
        return SUCCESS

    @_logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)  # activates the publishers
        self._camera = Camera(self, parameters.read(self).camera, self._on_frame)
        self._inputs = [
            self.create_subscription(String, "instruction", self._on_instruction, 10),
            self.create_service(Trigger, "clear", self._on_clear),
            self.create_service(SetBool, "enable", self._on_enable),
        ]
        self._server.perception = self._perception
        self._enabled = True
        self.get_logger().info(
            f"Active: images from {self._camera.topic}, instructions from {self._inputs[0].topic_name}."
        )
        return result

    @_logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_inputs()
        return super().on_deactivate(state)

    @_logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._unload()
        return SUCCESS

    @_logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_inputs()
        self._unload()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_inputs()
        self._unload()
        return SUCCESS

    def close(self) -> None:
        """End all threads and processes of the node, whatever state it is in."""
        self._stop_inputs()
        self._unload()

    def _stop_inputs(self) -> None:
        if self._camera is None:
            return
        self._server.perception = None
        self._camera.destroy()
        self._camera = None
        for item in self._inputs:
            (self.destroy_subscription if isinstance(item, Subscription) else self.destroy_service)(item)
        self._inputs = []
        self._perception.reset()

    def _unload(self) -> None:
        if self._perception is not None:
            self._perception.close()
            self._perception = None
        if self._mllm is not None:
            self._mllm.close()
            self._mllm = None
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None

    # Inputs, in the executor's thread.

    def _on_frame(self, frame: Frame) -> None:
        if self._enabled:
            self._perception.submit(frame)

    def _on_instruction(self, msg: String) -> None:
        asked = self._asked
        if asked is not None and not asked[1].done and asked[0] == msg.data:
            return  # published again and again (`ros2 topic pub` without --once): an answer is on its way
        self.get_logger().info(f"Instruction: {_shortened(msg.data)!r}")
        if self._enabled:
            self._asked = msg.data, self._perception.find(msg.data)
        else:
            self._report(NoImageError("an instruction came, but the node is disabled: call the service enable"))

    def _on_clear(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        count = self._perception.clear()
        response.success, response.message = True, f"{count} target(s) cleared"
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = request.data
        self._server.perception = self._perception if request.data else None
        if not request.data:
            self._perception.reset()
        response.success, response.message = True, "enabled" if request.data else "disabled, targets cleared"
        return response

    def _on_set_parameters(self, changes: Sequence[Parameter]) -> SetParametersResult:
        fixed = [change.name for change in changes if parameters.read_when_configured(change.name)]
        if fixed and self._perception is not None:
            reason = f"{fixed[0]} is read when the node is configured: deactivate and clean up first"
            return SetParametersResult(successful=False, reason=reason)
        try:
            if any(change.name in parameters.OPTIONS for change in changes):
                parameters.check(self, changes, alone=self._perception is None)
        except RsvpError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _on_parameters_set(self, changes: Sequence[Parameter]) -> None:
        for change in changes:
            self._wrong_parameters.pop(change.name, None)
        if self._perception is None:
            return
        config = parameters.read(self)
        self._perception.config = config.perception
        self._perception.set_tracker_config(config.tracker)
        self._perception.set_max_instruction_chars(config.reasoner.max_instruction_chars)
        if self._mllm is not None:
            self._perception.reasoner = Reasoner(self._mllm, config.reasoner)

    # Outputs, in the threads of the streaming system.

    def _on_targets(self, result: TargetsInFrame) -> None:
        if self._outputs is not None and rclpy.ok(context=self.context):
            self._outputs.publish(result)

    def _on_progress(self, request: Request, text: str) -> None:
        if not rclpy.ok(context=self.context):
            return
        with self._telling:
            if request.done:
                return
            self._server.send_feedback(request, text)
            if request.reasoning is not None:
                if request.box is None:
                    self._publish_reasoning(request, complete=True)
            elif (
                request.steps
                and not request.automatic
                and time.monotonic() - self._reasoning_published_at >= REASONING_PERIOD_S
            ):
                self._reasoning_published_at = time.monotonic()
                self._publish_reasoning(request, complete=False)

    def _on_done(self, request: Request) -> None:
        error = request.error
        if error is None:
            reason = not_found_reason(request)
            if request.box is None and (unseen := unseen_reason(request)):
                with self._telling:  # after the message that something was found
                    self._publish_reasoning(request, complete=True, unseen=unseen)
            count = len(request.result().result.targets)
            self.get_logger().info(
                f"{_shortened(request.instruction)!r}: {f'not found: {reason}' if reason else f'{count} target(s)'}, "
                f"{request.elapsed_s:.1f} s"
            )
        else:
            if not isinstance(error, (CancelledError, SupersededError)):
                self._report(error)
            # A box involves no reasoning; what the system asked by itself and dropped says nothing (see _on_progress)
            dropped = request.automatic and isinstance(error, (CancelledError, SupersededError))
            if request.box is None and not dropped:
                with self._telling:  # latched: the last word of a cancelled request must be complete, too
                    self._publish_reasoning(request, complete=True, error=error)

    def _publish_reasoning(
        self, request: Request, complete: bool, error: RsvpError | None = None, unseen: str = ""
    ) -> None:
        if self._outputs is not None and rclpy.ok(context=self.context):
            header = request.frame.header if request.frame is not None else Header()
            self._outputs.reasoning.publish(reasoning_to_msg(request.reasoning_so_far, header, complete, error, unseen))

    def _depth_at(self, stamp_ns: int, deadline: float) -> tuple[Image, CameraInfo] | None:
        camera = self._camera
        return camera.depth_at(stamp_ns, deadline) if camera is not None else None

    # Health.

    def _report(self, error: RsvpError) -> None:
        """Report what went wrong: in diagnostics while it lasts, and in the log once, then again later."""
        kind, problem, now = type(error).__name__, str(error), time.monotonic()
        with self._saying:
            self._problem, self._problem_at = problem, now
            self._said = {key: at for key, at in self._said.items() if now - at < PROBLEM_SHOWN_S}
            # Broken images may each fail in a different way: a few of a kind tell enough.
            few = sum(said[0] == kind for said in self._said) < MOST_OF_A_KIND
            new = few and (kind, problem) not in self._said
            if new:
                self._said[kind, problem] = now
        if new:
            self.get_logger().error(f"{kind}: {problem}")

    def _on_timer(self) -> None:
        status = DiagnosticStatus(name=f"{self.get_fully_qualified_name().lstrip('/')}: perception")
        status.hardware_id = self._segmenter_name
        level, message, values = DiagnosticStatus.OK, "ok", {}
        if self._camera is None:
            message = "not active" if self._perception is not None else "not configured"
        else:
            camera = self._camera.status()
            statistics = self._perception.statistics
            values = {
                "image topic": camera.topic,
                "image rate [Hz]": f"{camera.rate_hz:.1f}",
                "images received": str(statistics.received),
                "images processed": str(statistics.processed),
                "images overtaken": str(statistics.dropped),
                "images unusable": str(statistics.unusable),
                "segmenter [ms]": f"{statistics.segment_s * 1e3:.1f}",
                "targets": str(statistics.targets),
                "segmenter": self._segmenter_name,
                "mllm": self._mllm.name if self._mllm is not None else "none",
            }
            if camera.problem:
                level, message = DiagnosticStatus.WARN, camera.problem
                self.get_logger().warning(camera.problem, throttle_duration_sec=30.0)
            elif not self._enabled:
                message = "disabled"
        if time.monotonic() - self._problem_at < PROBLEM_SHOWN_S:
            level, message = DiagnosticStatus.ERROR, self._problem
        if self._not_configured:
            level, message = DiagnosticStatus.ERROR, f"not configured: {self._not_configured}"
        status.level, status.message = level, clean_text(message)
        status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        self._diagnostics.publish(
            DiagnosticArray(header=Header(stamp=self.get_clock().now().to_msg()), status=[status])
        )


def _shortened(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"


def main(args: Sequence[str] | None = None) -> None:
    """Run the node; with the parameter `autostart` (default true) it configures and activates itself."""
    rclpy.init(args=args)
    node = RsvpNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.get_parameter("autostart").value and node.trigger_configure() == SUCCESS:
            node.trigger_activate()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # Ctrl-C on `ros2 launch` comes twice, from the terminal and from launch: the second must not stop the shutdown.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        node.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
