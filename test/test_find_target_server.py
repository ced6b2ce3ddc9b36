"""The action's server alone, with real goals and no perception."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("rsvp_ros.msg", reason="the package is not built: make setup")

import rclpy
from action_msgs.msg import GoalStatus
from node_harness import until
from rclpy.action import ActionClient
from rclpy.action.server import ServerGoalHandle
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy

from rsvp_ros.action import FindTarget
from rsvp_ros.geometry import Box
from rsvp_ros.reasoning.families import find_family
from rsvp_ros.reasoning.parsing import parse_answer
from rsvp_ros.request import Outcome, Request
from rsvp_ros.ros.find_target_server import FindTargetServer, not_found_reason
from rsvp_ros.types import Frame, Reasoning, TargetsInFrame


def test_a_cancel_in_the_middle_of_the_handing_over_loses_no_result(monkeypatch):
    """It comes after rclpy has looked whether there is one, and before it goes on."""
    context = rclpy.Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    nodes = [rclpy.create_node(name, namespace="alone", context=context) for name in ("server", "robot")]
    for node in nodes:
        executor.add_node(node)
    server = FindTargetServer(nodes[0])
    requests: list[Request] = []

    def find(instruction: str, box: None, keep_targets: bool) -> Request:
        requests.append(Request(instruction, box, keep_targets))
        return requests[-1]

    server.perception = SimpleNamespace(find=find)
    client = ActionClient(nodes[1], FindTarget, "find_target")

    def spun(condition, what: str):
        return until(lambda: executor.spin_once(timeout_sec=0.01) or condition(), what)

    looks: list[bool] = []

    def is_cancel_requested(handle: ServerGoalHandle) -> bool:
        seen = handle.status == GoalStatus.STATUS_CANCELING
        if not looks:
            handle._update_state(_rclpy.GoalEvent.CANCEL_GOAL)
        looks.append(seen)
        return seen

    monkeypatch.setattr(ServerGoalHandle, "is_cancel_requested", property(is_cancel_requested))
    try:
        spun(client.server_is_ready, "server")
        sent = client.send_goal_async(FindTarget.Goal(instruction="the red mug"))
        spun(sent.done, "answer to the goal")
        result = sent.result().get_result_async()
        requests[0].cancel()
        spun(result.done, "result")
        assert looks[:2] == [False, True]
        assert result.result().status == GoalStatus.STATUS_CANCELED
        assert result.result().result.error_code == FindTarget.Result.CANCELLED
        assert not server._goals
    finally:
        client.destroy()
        executor.shutdown()
        for node in nodes:
            node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "'the cat' is not in the image"),
        ('{"objects": []}', "'the cat' is not in the image"),
        ('{"target": "a cat", "scene": "a book", "present": false, "objects": []}', "'the cat' is not in the image"),
        ("There is no cat in the image.", "'the cat' is not in the image: There is no cat in the image."),
    ],
)
def test_why_there_are_no_targets(text, said):
    nothing = TargetsInFrame(Frame(np.zeros((2, 2, 3), np.uint8), 1))
    request = Request("the cat", None, False)
    answer = parse_answer(text, find_family("qwen3_vl"), (2, 2))
    request.finish(Outcome(nothing, Reasoning("the cat", steps=answer.steps, model="qwen3-vl")))
    assert not_found_reason(request) == said
    box = Request("", Box(0, 0, 1, 1), False)
    box.finish(Outcome(nothing, Reasoning("")))
    assert not_found_reason(box) == "the segmenter sees nothing in the box"
