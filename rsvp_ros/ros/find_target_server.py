"""The action `find_target`: turns goals into requests to the streaming system, and their outcomes into results.

A goal's work is done in the streaming system's own threads. The executor must stay free for images and for cancelling,
so no coroutine waits for the work (rclpy resumes a waiting one over and over): a goal is ACCEPTED, its feedback is
published as it comes, and it is EXECUTING only for the moment in which the result is handed over.
"""

from __future__ import annotations

import rclpy
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from std_msgs.msg import Header

from rsvp_ros.action import FindTarget
from rsvp_ros.errors import InvalidInstructionError
from rsvp_ros.perception import Perception
from rsvp_ros.request import Request
from rsvp_ros.ros.conversions import (
    clean_text,
    msg_to_box,
    reasoning_to_msg,
    seconds_to_duration,
    step_to_msg,
    target_to_msg,
)

RCLError = rclpy_implementation.RCLError


def not_found_reason(request: Request) -> str:
    """Why a request that ended without an error has no targets, in a sentence; empty if it has some."""
    outcome = request.result()
    if outcome.result.targets:
        return ""
    if request.box is not None:
        return "the segmenter sees nothing in the box"
    proposals = outcome.reasoning.proposals
    if proposals:
        names = ", ".join(repr(proposal.description) for proposal in proposals)
        if not outcome.reasoning.model:
            return f"no MLLM is configured, and the segmenter alone sees {names} nowhere in the image"
        return f"the MLLM proposed where to look for {names}, but the segmenter sees it nowhere there"
    said = next((step.text for step in outcome.reasoning.steps if step.name == "presence"), "no")
    return f"{request.instruction!r} is not in the image" + (f": {said}" if said != "no" else "")


def unseen_reason(request: Request) -> str:
    """Why a request that ended without an error has no targets although the reasoning proposed some; else empty."""
    return not_found_reason(request) if request.result().reasoning.proposals else ""


class FindTargetServer:
    """Serves `find_target` as long as the node lives; while `perception` is None it refuses goals.

    It is not recreated for each configuration: a goal that ended with one could then no longer be told its result.
    """

    def __init__(self, node: Node) -> None:
        self.perception: Perception | None = None
        self._node = node
        self._goals: dict[Request, ServerGoalHandle] = {}
        self._server = ActionServer(
            node,
            FindTarget,
            "find_target",
            execute_callback=self._finish,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
        )

    def send_feedback(self, request: Request, text: str) -> None:
        """Send this request's state and steps and the MLLM's new text to the goal that made it, if one did."""
        goal = self._goals.get(request)
        if goal is None or request.done:
            return
        goal.publish_feedback(
            FindTarget.Feedback(
                state=int(request.state), steps=[step_to_msg(step) for step in request.steps], text=clean_text(text)
            )
        )

    def _on_goal(self, goal: FindTarget.Goal) -> GoalResponse:
        if self.perception is None:
            self._node.get_logger().warning(
                "A goal was rejected: the node is not active, or disabled (service enable)."
            )
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_accepted(self, handle: ServerGoalHandle) -> None:
        goal = handle.request
        try:
            if self.perception is None:
                raise InvalidInstructionError("the node was deactivated")
            box = msg_to_box(goal.bbox) if goal.use_box else None
            request = self.perception.find(goal.instruction, box, goal.keep_targets)
        except InvalidInstructionError as error:
            request = Request(goal.instruction, None, goal.keep_targets)
            request.cancel(error)
        self._goals[request] = handle
        self.send_feedback(request, "")
        request.add_done_callback(lambda _: self._hand_over(handle))

    def _hand_over(self, handle: ServerGoalHandle) -> None:
        """Have the executor send the result; called in whichever thread ended the request."""
        if not rclpy.ok(context=self._node.context):
            return  # a signal is ending the node: nobody can be told any more; the client sees that it has gone
        try:
            try:
                handle.execute()
            except RCLError:
                # A cancel came between its check and its change of the state: called again, it sees it and changes none
                handle.execute()
        except RCLError as error:
            self._node.get_logger().warning(f"The result of a goal could not be handed over: {error}")

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        for request, goal in list(self._goals.items()):
            if goal.goal_id == handle.goal_id:
                request.cancel()
        return CancelResponse.ACCEPT

    def _finish(self, handle: ServerGoalHandle) -> FindTarget.Result:
        request = next(request for request, goal in self._goals.items() if goal is handle)
        del self._goals[request]
        result = FindTarget.Result(total_elapsed_time=seconds_to_duration(request.elapsed_s))
        error = request.error
        reasoned = request.frame.header if request.frame is not None else Header()
        unseen = "" if error is not None else unseen_reason(request)
        result.reasoning = reasoning_to_msg(request.reasoning_so_far, reasoned, error=error, unseen=unseen)
        if error is None:
            outcome = request.result()
            result.header = outcome.result.frame.header
            result.targets = [target_to_msg(target, result.header) for target in outcome.result.targets]
            if not outcome.result.targets:
                result.error_code = FindTarget.Result.NOT_FOUND
                result.error_msg = clean_text(not_found_reason(request))
            handle.succeed()
        else:
            result.error_code, result.error_msg = error.code, clean_text(str(error))
            if handle.is_cancel_requested:
                handle.canceled()
            else:
                handle.abort()
        return result
