"""The node does its main job: pictures from a camera and an instruction in; targets, masks and reasoning out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("rsvp_ros.msg", reason="the package is not built: make setup")

import rclpy
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from mllm_server import RecordedServer, Reply, unused_url
from node_harness import FRAME_ID, REPOSITORY, running, stamps_of, until
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger
from tiny_mllm import build_tiny_mllm, serve_tiny_mllm
from visualization_msgs.msg import MarkerArray

import rsvp_ros.ros.node
from rsvp_ros.action import FindTarget
from rsvp_ros.errors import ConfigurationError, InvalidInstructionError, RsvpError, ServerUnavailableError
from rsvp_ros.geometry import Box, box_to_mask
from rsvp_ros.msg import BoundingBox2D, Reasoning, Target
from rsvp_ros.request import Request
from rsvp_ros.ros.client import Client
from rsvp_ros.ros.conversions import array_to_image, mask_from_msg
from rsvp_ros.ros.node import RsvpNode
from rsvp_ros.types import ReasoningStep

CODES = FindTarget.Result
UNHURRIED_HZ = 3.0
"""A camera that a busy machine, too, keeps up with: an image that is not answered was lost, not overtaken."""


def record(shared_data: Path, name: str) -> tuple[dict, np.ndarray]:
    """A recorded MLLM output and its photograph, RGB."""
    entry = json.loads((shared_data / "mllm_outputs" / f"{name}.json").read_text())
    image = cv2.imread(str(shared_data / "mllm_outputs" / entry["image_file"]), cv2.IMREAD_COLOR)
    return entry, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def server_parameters(url: str) -> dict:
    return {"mllm": {"backend": "openai", "openai": {"base_url": url, "max_retries": 0}}}


def assert_follows(robot, boxes: list[Box], size: tuple[int, int]) -> None:
    """Targets lie in the boxes (pixels), under the images' own headers, and no image is skipped."""
    arrays = robot.tracked(20)
    stamps = stamps_of(arrays)
    first = robot.stamps.index(stamps[0])
    assert stamps == robot.stamps[first : first + len(stamps)], "every image is answered, in order, under its own stamp"
    for array in arrays:
        assert array.header.frame_id == FRAME_ID
        assert (array.image_width, array.image_height) == size
        assert len(array.targets) == len(boxes)
        for target, box in zip(array.targets, boxes, strict=True):
            assert target.state == Target.STATE_TRACKING
            mask = mask_from_msg(target, array.image_height, array.image_width)
            inside = np.count_nonzero(mask & box_to_mask(box.pad(0.05), *size)) / np.count_nonzero(mask)
            assert inside > 0.95, f"{inside:.0%} of the mask lies in the recorded box"
            assert np.count_nonzero(mask) > 0.1 * box.area


@pytest.mark.parametrize(
    ("name", "model", "boxes"),
    [
        # In pixels, worked out by hand from the records' own conventions.
        ("deepseekvl2_giraffe", "deepseek-vl2-tiny", [Box(420.3, 293.5, 724, 978.4)]),
        ("paligemma_cats", "paligemma-3b-mix", [Box(336.3, 21.6, 638.8, 372.7), Box(0, 51.6, 320, 479.1)]),
    ],
)
def test_a_recorded_answer_over_http(shared_data, name, model, boxes):
    entry, photograph = record(shared_data, name)
    with RecordedServer(Reply(entry["raw_output"], piece_delay_s=0.02), models=[model]) as server:
        with running(f"recorded_{name}", server_parameters(server.url)) as (_, robot):
            robot.show(photograph, UNHURRIED_HZ)
            until(lambda: robot.targets, "images processed")
            robot.instructions.publish(String(data=entry["prompt"]))
            assert_follows(robot, boxes, photograph.shape[1::-1])
            reasoning = until(lambda: [r for r in robot.reasonings if r.complete], "reasoning")[-1]
            assert reasoning.found
            assert reasoning.raw_text == entry["raw_output"]
            assert reasoning.model
            assert reasoning.instruction == " ".join(entry["prompt"].split())
            assert reasoning.header.frame_id == FRAME_ID
            assert len(reasoning.proposals) == len(boxes)
        content = server.requests[0]["messages"][-1]["content"]
        assert any(part["type"] == "image_url" for part in content)


def test_a_tiny_model_on_transformers_serve(shared_data, tmp_path):
    entry, photograph = record(shared_data, "paligemma_cats")
    folder = tmp_path / "paligemma-tiny"  # the family is told by the model's name, here its folder
    folder.mkdir()
    build_tiny_mllm(folder, entry["raw_output"])
    with serve_tiny_mllm(folder) as url:
        parameters = server_parameters(url)
        parameters["mllm"]["openai"] |= {"model": str(folder), "max_tokens": 256}
        with running("served", parameters) as (_, robot):
            robot.show(photograph, UNHURRIED_HZ)
            until(lambda: robot.targets, "images processed")
            robot.instructions.publish(String(data=entry["prompt"]))
            boxes = [Box(336.3, 21.6, 638.8, 372.7), Box(0, 51.6, 320, 479.1)]
            assert_follows(robot, boxes, photograph.shape[1::-1])
            reasoning = until(lambda: [r for r in robot.reasonings if r.complete], "reasoning")[-1]
            assert reasoning.raw_text.strip() == entry["raw_output"].strip()


def test_a_local_model_reasons_in_a_process_of_its_own_and_no_frame_waits(shared_data, tmp_path):
    entry, photograph = record(shared_data, "paligemma_cats")
    folder = tmp_path / "paligemma-tiny"
    folder.mkdir()
    build_tiny_mllm(folder, entry["raw_output"])
    local = {"model": str(folder), "device": "cpu", "max_new_tokens": 256}
    with running("local", {"mllm": {"backend": "transformers", "transformers": local}}) as (node, robot):
        robot.show(photograph, UNHURRIED_HZ)
        until(lambda: robot.targets, "images processed")
        robot.result_of(robot.send(follow(0, 51, 320, 428)))
        until(lambda: robot.targets[-1].targets, "target")
        start = len(robot.targets) - 1
        result = robot.result_of(robot.send(FindTarget.Goal(instruction="detect cat"))).result
        assert result.reasoning.raw_text.strip() == entry["raw_output"].strip()
        assert len(result.targets) == 2
        stamps = stamps_of(robot.targets[start:])
        first = robot.stamps.index(stamps[0])
        assert len(stamps) > 1, "images came while it reasoned"
        assert stamps == robot.stamps[first : first + len(stamps)], "no frame was skipped while it reasoned"
        assert node.process.poll() is None


ANSWER = json.dumps(
    {
        "target": "the red book",
        "scene": "a red book on a grey table",
        "present": True,
        "objects": [
            {"name": "book", "attributes": ["red"], "rows": [4, 5], "columns": [3, 4, 5], "reason": "it is red"}
        ],
    }
)
ABSENT = json.dumps({"target": "a cat", "scene": "a red book", "present": False, "objects": []})


def table(x: int = 100, y: int = 80, width: int = 320, height: int = 240) -> np.ndarray:
    image = np.full((height, width, 3), (120, 125, 130), np.uint8)
    image[y : y + 50, x : x + 60] = (210, 30, 30)
    return image


@pytest.fixture(scope="module")
def server():
    with RecordedServer(ANSWER, models=["qwen3-vl"]) as server:
        yield server


@pytest.fixture(scope="module")
def session(server):
    """One node for all that follows: loading torch costs seconds."""
    with running("session", server_parameters(server.url)) as (node, robot):
        yield node, robot


@pytest.fixture
def robot(session, server):
    """The robot, with the node following nothing and a server that finds the book."""
    _, robot = session
    server.script[:] = [Reply(ANSWER)]
    robot.show(table())
    robot.call(robot.enable, SetBool.Request(data=True))
    robot.call(robot.clear, Trigger.Request())
    count = len(robot.targets)
    until(lambda: len(robot.targets) > count + 1 and not robot.targets[-1].targets, "images without a target")
    robot.feedback.clear()
    yield robot
    robot.show(None)  # the nodes of other tests are not to wait for this one's


def follow(x: float, y: float, width: float, height: float, **options) -> FindTarget.Goal:
    # rosidl aborts the process where a float64 field holds an int.
    sides = {"size_x": float(width), "size_y": float(height)}
    box = BoundingBox2D(center_x=x + width / 2, center_y=y + height / 2, **sides)
    return FindTarget.Goal(use_box=True, bbox=box, **options)


def test_an_action_streams_its_steps_and_gives_the_target(robot, server):
    server.script[:] = [Reply(ANSWER, piece_delay_s=0.02)]
    answer = robot.result_of(robot.send(FindTarget.Goal(instruction="the red book")))
    assert answer.status == GoalStatus.STATUS_SUCCEEDED
    result = answer.result
    assert (result.error_code, result.error_msg) == (CODES.NONE, "")
    assert [target.class_name for target in result.targets] == ["book"]
    assert result.targets[0].description == "book, red"
    assert result.header.frame_id == FRAME_ID
    assert result.reasoning.found
    assert result.reasoning.raw_text == ANSWER
    assert result.total_elapsed_time.sec + result.total_elapsed_time.nanosec > 0
    states = [feedback.state for feedback in robot.feedback]
    assert states == sorted(states)
    assert {FindTarget.Feedback.REASONING, FindTarget.Feedback.CATCHING_UP} <= set(states)
    assert "".join(feedback.text for feedback in robot.feedback) == ANSWER
    streamed = [feedback for feedback in robot.feedback if feedback.state == FindTarget.Feedback.REASONING]
    assert len({len(feedback.steps) for feedback in streamed}) > 1, "the steps come one after the other"
    until(lambda: robot.targets[-1].targets and robot.targets[-1].targets[0].id == result.targets[0].id, "same target")


def test_what_is_followed_stays_where_the_next_thing_is_not_found(robot, server):
    identity = robot.result_of(robot.send(follow(90, 70, 80, 70))).result.targets[0].id
    server.script[:] = [Reply(ABSENT)]
    assert robot.result_of(robot.send(FindTarget.Goal(instruction="the cat"))).result.error_code == CODES.NOT_FOUND
    count = len(robot.targets)
    until(lambda: len(robot.targets) > count + 2, "images processed")
    assert [target.id for target in robot.targets[-1].targets] == [identity]


def test_a_cancelled_reasoning_is_complete(robot, server):
    server.script[:] = [Reply(ANSWER, piece_delay_s=0.03, hang_at=20)]
    handle = robot.send(FindTarget.Goal(instruction="the red book"))
    until(lambda: robot.reasonings and not robot.reasonings[-1].complete, "reasoning under way")
    robot.wait_for(handle.cancel_goal_async, "answer to the cancel")
    last = until(lambda: robot.reasonings[-1].complete and robot.reasonings[-1], "complete reasoning")
    assert last.error_code == CODES.CANCELLED


def test_a_box_is_followed_as_it_moves(robot):
    result = robot.result_of(robot.send(follow(90, 70, 80, 70))).result
    assert result.error_code == CODES.NONE
    for x in range(100, 200, 5):
        count = len(robot.targets)
        robot.show(table(x))
        until(lambda count=count: len(robot.targets) > count, "image processed")
    target = until(lambda: robot.targets[-1].targets, "targets")[0]
    assert target.state == Target.STATE_TRACKING
    assert target.bbox.center_x == pytest.approx(195 + 30, abs=12)
    assert target.id == result.targets[0].id


def test_not_found_is_a_success_that_says_so(robot, server):
    server.script[:] = [Reply(ABSENT)]
    answer = robot.result_of(robot.send(FindTarget.Goal(instruction="the cat")))
    assert answer.status == GoalStatus.STATUS_SUCCEEDED
    assert answer.result.error_code == CODES.NOT_FOUND
    assert "the cat" in answer.result.error_msg
    assert not answer.result.reasoning.found
    assert not answer.result.targets


def test_cancel_and_supersede(robot, server):
    server.script[:] = [Reply(ANSWER, hang_at=1)]
    first = robot.send(FindTarget.Goal(instruction="one"))
    second = robot.send(FindTarget.Goal(instruction="two"))
    answer = robot.result_of(first)
    assert (answer.status, answer.result.error_code) == (GoalStatus.STATUS_ABORTED, CODES.SUPERSEDED)
    until(lambda: any(feedback.text for feedback in robot.feedback), "first words")
    robot.wait_for(second.cancel_goal_async, "answer to the cancel")
    answer = robot.result_of(second)
    assert (answer.status, answer.result.error_code) == (GoalStatus.STATUS_CANCELED, CODES.CANCELLED)
    server.script[:] = [Reply(ANSWER)]
    assert robot.result_of(robot.send(FindTarget.Goal(instruction="three"))).result.targets


def test_an_instruction_that_is_published_again_and_again_is_answered(robot, server):
    """As `ros2 topic pub` without --once does: while it is reasoned about, the same one starts nothing anew."""
    count = len(server.requests)
    server.script[:] = [Reply(ANSWER, piece_delay_s=0.1)]
    for _ in range(10):
        robot.instructions.publish(String(data="the book"))
        time.sleep(0.05)
    until(
        lambda: any(m.complete and m.instruction == "the book" and m.found for m in robot.reasonings), "its reasoning"
    )
    assert len(server.requests) == count + 1


def test_a_goal_may_add_to_the_targets(robot):
    first = robot.result_of(robot.send(follow(90, 70, 80, 70))).result.targets[0].id
    second = robot.result_of(robot.send(follow(95, 75, 70, 60, keep_targets=True))).result.targets[0].id
    until(lambda: [target.id for target in robot.targets[-1].targets] == [first, second], "both targets")


def test_outputs_are_made_for_those_who_listen(robot):
    labels = robot.listen(Image, "label_image")
    overlays = robot.listen(Image, "overlay")
    target = robot.result_of(robot.send(follow(90, 70, 80, 70))).result.targets[0]
    image = until(lambda: [m for m in labels if max(m.data)], "label image")[-1]
    assert image.encoding == "mono16"
    pixels = np.frombuffer(image.data, np.uint16).reshape(image.height, image.width)
    assert set(np.unique(pixels)) == {0, target.id}
    overlay = until(lambda: overlays, "overlay")[-1]
    assert (overlay.encoding, overlay.width, overlay.height) == ("rgb8", 320, 240)
    assert image.header.frame_id == overlay.header.frame_id == FRAME_ID


def test_disabled_it_leaves_the_images_alone_and_forgets_all_targets(robot):
    assert robot.result_of(robot.send(follow(90, 70, 80, 70))).result.targets
    until(lambda: robot.targets[-1].targets, "target")
    assert robot.call(robot.enable, SetBool.Request(data=False)).success
    count = len(robot.targets)
    stamp = len(robot.stamps)
    until(lambda: len(robot.stamps) > stamp + 10, "images")
    assert not set(stamps_of(robot.targets[count:])) & set(robot.stamps[stamp + 1 :])
    assert not robot.send(follow(90, 70, 80, 70)).accepted
    assert robot.call(robot.enable, SetBool.Request(data=True)).success
    until(lambda: len(robot.targets) > count + 5, "images processed again")
    assert not robot.targets[-1].targets


def bad(**fields) -> Image:
    image = Image(encoding="rgb8", width=320, height=240, step=960, data=bytes(320 * 240 * 3))
    image.header.stamp.sec = 5
    for name, value in fields.items():
        setattr(image, name, value)
    return image


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (bad(encoding="rgb123"), "rgb123"),
        (bad(width=0, height=0, step=0, data=b""), "0 x 0"),
        (bad(width=1, height=1, step=3, data=b"abc"), "1 x 1"),
        (bad(data=b"too short"), "rgb8"),
    ],
    ids=["encoding", "no pixels", "one pixel", "buffer"],
)
def test_bad_images_are_named_and_no_image_of_a_target_is_lost(session, robot, image, words):
    node, _ = session
    robot.result_of(robot.send(follow(90, 70, 80, 70)))
    until(lambda: robot.targets[-1].targets, "target")
    robot.diagnostics.clear()
    stamp = len(robot.stamps)
    robot.show(image)
    until(lambda: len(robot.stamps) > stamp + 3, "bad images shown")
    status = until(
        lambda: [
            s for d in robot.diagnostics for s in d.status if s.level == DiagnosticStatus.ERROR and words in s.message
        ],
        f"diagnostics that name {words}",
    )
    assert status[0].name.startswith("session/rsvp_node")
    assert words in node.log
    robot.show(table(), UNHURRIED_HZ)
    first = len(robot.stamps)
    until(lambda: len(robot.stamps) > first + 12, "good images")
    good = robot.stamps[first + 1 : first + 10]
    published = until(lambda: [a for a in robot.targets if stamps_of([a])[0] in good][8:], "targets again") and [
        array for array in robot.targets if stamps_of([array])[0] in good
    ]
    assert all(array.targets and array.targets[0].state == Target.STATE_TRACKING for array in published)


def test_a_changed_resolution_and_stamps_that_go_back(session, robot):
    node, _ = session
    identity = robot.result_of(robot.send(follow(90, 70, 80, 70))).result.targets[0].id
    robot.show(table().repeat(2, axis=0).repeat(2, axis=1))
    array = until(lambda: robot.targets[-1].image_width == 640 and robot.targets[-1], "larger images")
    assert array.targets[0].id == identity
    until(lambda: robot.targets[-1].targets[0].bbox.center_x == pytest.approx(260, abs=24), "target in larger images")
    past = bad(data=table().tobytes())
    robot.show(past)
    array = until(lambda: robot.targets[-1].header.stamp.sec == 5 and robot.targets[-1], "images of the past")
    assert array.targets[0].id == identity
    assert array.targets[0].state == Target.STATE_TRACKING
    node.wait_for_log("went back")


@pytest.mark.parametrize(
    ("instruction", "words"),
    [("", "empty"), (" \n\t", "empty"), ("x" * 100_000, "100000")],
    ids=["empty", "blank", "100 kB"],
)
def test_bad_instructions(session, robot, instruction, words):
    answer = robot.result_of(robot.send(FindTarget.Goal(instruction=instruction)))
    assert (answer.status, answer.result.error_code) == (GoalStatus.STATUS_ABORTED, CODES.INVALID_INSTRUCTION)
    assert words in answer.result.error_msg
    robot.reasonings.clear()
    robot.instructions.publish(String(data=instruction))
    reasoning = until(lambda: [r for r in robot.reasonings if r.error_code], "refusal on the topic")[-1]
    assert reasoning.error_code == CODES.INVALID_INSTRUCTION
    assert len(reasoning.instruction) < 1000


@pytest.mark.parametrize(
    "box",
    [(10, 10, 0, 0), (float("nan"), 5, 5, 5), (900, 900, 20, 20), (10, 10, -5, 5), (1.5e307, 5, 1.7e308, 5)],
    ids=str,
)
def test_bad_boxes(robot, box):
    robot.reasonings.clear()
    answer = robot.result_of(robot.send(follow(*box)))
    assert (answer.status, answer.result.error_code) == (GoalStatus.STATUS_ABORTED, CODES.INVALID_INSTRUCTION)
    assert answer.result.error_msg
    robot.instructions.publish(String(data=""))
    until(lambda: robot.reasonings, "refusal on the topic")
    assert "empty" in robot.reasonings[0].error_msg, "nothing is said of a box, which involves no reasoning"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(status=500), CODES.SERVER_UNAVAILABLE),
        (Reply(status=401), CODES.SERVER_UNAVAILABLE),
        (Reply(ANSWER, disconnect_at=3), CODES.SERVER_UNAVAILABLE),
        (Reply("I cannot help with that."), CODES.PARSE),
    ],
    ids=["500", "401", "disconnect", "nonsense"],
)
def test_a_bad_server_is_named_and_no_image_of_a_target_is_lost(session, robot, server, reply, code):
    node, _ = session
    identity = robot.result_of(robot.send(follow(90, 70, 80, 70))).result.targets[0].id
    robot.show(table(), UNHURRIED_HZ)
    count = len(robot.targets)
    until(lambda: len(robot.targets) > count + 1 and robot.targets[-1].targets, "target")
    start = robot.targets[-1]
    server.script[:] = [reply]
    robot.reasonings.clear()
    answer = robot.result_of(robot.send(FindTarget.Goal(instruction="the red book")))
    assert (answer.status, answer.result.error_code) == (GoalStatus.STATUS_ABORTED, code)
    assert answer.result.error_msg
    said = answer.result.reasoning
    assert (said.instruction, said.error_code, said.found) == ("the red book", code, False)
    assert said.duration.sec + said.duration.nanosec
    if code == CODES.PARSE:
        assert "I cannot help with that." in said.raw_text
        last = until(lambda: [said for said in robot.reasonings if said.complete], "complete reasoning")[-1]
        assert (last.raw_text, last.error_code) == (said.raw_text, code)
    if code == CODES.SERVER_UNAVAILABLE:
        assert server.url.split("//")[1].split("/")[0] in answer.result.error_msg
    until(lambda: answer.result.error_msg.splitlines()[0] in node.log, "error on the log")
    arrays = robot.targets[robot.targets.index(start) :]
    stamps = stamps_of(arrays)
    first = robot.stamps.index(stamps[0])
    assert stamps == robot.stamps[first : first + len(stamps)]
    assert all([target.id for target in array.targets] == [identity] for array in arrays)


def test_a_dead_and_a_hanging_server():
    with running("dead", server_parameters(unused_url())) as (_, robot):
        robot.show(table())
        answer = robot.result_of(robot.send(FindTarget.Goal(instruction="the red book")))
        assert answer.result.error_code == CODES.SERVER_UNAVAILABLE
        assert robot.result_of(robot.send(follow(90, 70, 80, 70))).result.targets
    with RecordedServer(Reply(ANSWER, hang_at=0)) as server:
        parameters = server_parameters(server.url)
        parameters["mllm"]["openai"]["first_token_timeout_s"] = 0.5
        with running("hanging", parameters) as (_, robot):
            robot.show(table())
            answer = robot.result_of(robot.send(FindTarget.Goal(instruction="the red book")))
            assert answer.result.error_code == CODES.SERVER_TIMEOUT


def test_without_a_camera():
    parameters = {"perception": {"image_timeout_s": 0.5}}
    with running("alone", parameters) as (node, robot):
        answer = robot.result_of(robot.send(follow(1, 1, 20, 20)))
        assert answer.result.error_code == CODES.NO_IMAGE
        node.wait_for_log("no image: ")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"segmenter": {"model": "/no/such/folder"}}, "/no/such/folder"),
        ({"mllm": {"backend": "telepathy"}}, "telepathy"),
        ({"mllm": {"backend": "transformers", "transformers": {"model": "/no/such/mllm"}}}, "/no/such/mllm"),
        ({"segmenter": {"device": "cuda:77"}}, "cuda:77"),
        ({"reasoner": {"family": "martian"}}, "martian"),
        ({"tracker": {"padding": "wide"}}, "tracker.padding is 'wide'"),
        ({"tracker": {"padding": 7.0}}, "from 0 to 1"),
        ({"autostart": 1}, "autostart is 1: it must be a bool"),
    ],
    ids=["folder", "backend", "mllm", "device", "family", "type", "range", "autostart"],
)
def test_a_wrong_parameter_is_named_and_the_node_lives(parameters, words):
    with running("wrong", parameters, active=False) as (node, robot):
        node.wait_for_log(words)
        status = until(
            lambda: [s for d in robot.diagnostics for s in d.status if words in s.message], "diagnostics that name it"
        )
        assert status[0].level == DiagnosticStatus.ERROR
        assert node.process.poll() is None


def test_a_whole_number_is_a_float_too():
    parameters = {"tracker": {"lost_after_s": 3, "min_score": 7}, "mllm": {"openai": {"temperature": 0}}}
    with running("whole", parameters, active=False) as (node, _):
        node.wait_for_log("parameter tracker.min_score is 7: it must be a float from 0 to 1")
        assert "lost_after_s is" not in node.log and "temperature is" not in node.log


def test_ctrl_c_ends_it_cleanly():
    """While the MLLM is being asked, for a goal that nobody cancelled."""
    with (
        RecordedServer(Reply(ANSWER, hang_at=1), models=["qwen3-vl"]) as server,
        running("ending", server_parameters(server.url)) as (node, robot),
    ):
        robot.show(table())
        robot.result_of(robot.send(follow(90, 70, 80, 70)))
        robot.send(FindTarget.Goal(instruction="the red book"))
        server.wait_for_request()
        status, log = node.stop()
    assert status == 0, log
    assert "Traceback" not in log
    assert "rror" not in log


def test_a_goal_is_told_of_a_shutdown():
    with (
        RecordedServer(Reply(ANSWER, hang_at=1), models=["qwen3-vl"]) as server,
        running("shutdown", server_parameters(server.url)) as (node, robot),
    ):
        robot.show(table())
        handle = robot.send(FindTarget.Goal(instruction="the red book"))
        server.wait_for_request()
        change = robot.node.create_client(ChangeState, "rsvp_node/change_state")
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVE_SHUTDOWN))
        assert robot.call(change, request).success
        answer = robot.result_of(handle)
        assert (answer.status, answer.result.error_code) == (GoalStatus.STATUS_ABORTED, CODES.CANCELLED)
        assert "Traceback" not in node.log


def test_wrong_parameters_can_be_put_right_one_by_one():
    parameters = {"mllm": {"backend": "telepathy", "openai": {"baseurl": "x"}}, "reasoner": {"family": "martian"}}
    with running("repair", parameters, active=False) as (node, robot):
        node.wait_for_log("martian")
        assert "no parameter mllm.openai.baseurl, it is ignored: did you mean mllm.openai.base_url?" in node.log
        setter = robot.node.create_client(SetParameters, "rsvp_node/set_parameters")
        for name, value in (("mllm.backend", "none"), ("reasoner.family", "auto")):
            parameter = Parameter(name, value=value).to_parameter_msg()
            (result,) = robot.call(setter, SetParameters.Request(parameters=[parameter])).results
            assert result.successful, result.reason
        change = robot.node.create_client(ChangeState, "rsvp_node/change_state")
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            assert robot.call(change, ChangeState.Request(transition=Transition(id=transition))).success
        robot.show(table())
        until(lambda: robot.targets, "images processed")


def test_it_can_be_cleaned_up_and_configured_again():
    with running("cycle", {}) as (_, robot):
        robot.show(table())
        change = robot.node.create_client(ChangeState, "rsvp_node/change_state")
        for _ in range(2):
            assert robot.result_of(robot.send(follow(90, 70, 80, 70))).result.targets
            for name in ("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE"):
                transition = Transition(id=getattr(Transition, f"TRANSITION_{name}"))
                assert robot.call(change, ChangeState.Request(transition=transition)).success
            count = len(robot.targets)
            until(lambda count=count: len(robot.targets) > count + 1, "images processed")
            assert not robot.targets[-1].targets


def test_parameters_of_a_running_node(session, robot):
    """Those that may change take effect; the others are refused until it is cleaned up."""

    def set_to(name: str, value):
        parameter = Parameter(name, value=value).to_parameter_msg()
        (result,) = robot.call(setter, SetParameters.Request(parameters=[parameter])).results
        return result

    def state() -> int | None:
        return next((target.state for target in robot.targets[-1].targets), None)

    setter = robot.node.create_client(SetParameters, "rsvp_node/set_parameters")
    refused = set_to("segmenter.model", "/another")
    assert not refused.successful and "deactivate and clean up first" in refused.reason
    assert robot.result_of(robot.send(follow(90, 70, 80, 70))).result.targets
    try:
        assert set_to("tracker.min_score", 1.0).successful, "no mask is as good"
        count = len(robot.targets)
        until(
            lambda: any(t.state == Target.STATE_OCCLUDED for array in robot.targets[count:] for t in array.targets),
            "a target that is not seen",
        )
    finally:
        assert set_to("tracker.min_score", 0.15).successful
    until(lambda: state() == Target.STATE_TRACKING, "a target that is seen")


def test_every_parameter_is_described():
    from rsvp_ros.config import Config, flatten
    from rsvp_ros.ros.parameters import OPTIONS, describe

    defaults = flatten(Config())
    assert set(OPTIONS) == set(defaults)
    for name, default in defaults.items():
        option = OPTIONS[name]
        assert describe(name, default).description
        if option.choices:
            assert default in option.choices
        if option.low is not None:
            assert option.low <= default <= option.high


def test_ranges_hold_without_ros_too():
    from rsvp_ros.config import Config, build, flatten
    from rsvp_ros.ros.parameters import LIVE_PARTS, OPTIONS

    defaults = flatten(Config())
    ranged = [name for name, option in OPTIONS.items() if name.startswith(LIVE_PARTS) and option.low is not None]
    assert len(ranged) > 12
    for name in ranged:
        kind = type(defaults[name])
        for value in (OPTIONS[name].low, OPTIONS[name].high):
            build({name: kind(value)})
        for value in (OPTIONS[name].low - 1, OPTIONS[name].high + 1):
            with pytest.raises(ConfigurationError, match=name.rpartition(".")[2]):
                build({name: kind(value)})


def test_the_page_of_parameters_is_current():
    from rsvp_ros.ros.parameters_page import page

    command = "run `python -m rsvp_ros.ros.parameters_page > docs/parameters.md`"
    assert (REPOSITORY / "docs" / "parameters.md").read_text(encoding="utf-8") == page(), command


def test_the_configurations_that_are_shipped_fit():
    from rsvp_ros.config import load

    files = sorted((REPOSITORY / "config").glob("*.yaml"))
    assert {file.stem for file in files} >= {"embedded", "qwen3_vl_sam2", "server"}
    for file in files:
        load(file)


def test_reasoning_is_latched(robot):
    robot.result_of(robot.send(FindTarget.Goal(instruction="the red book")))
    from rclpy.qos import DurabilityPolicy, QoSProfile

    late: list[Reasoning] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    robot.node.create_subscription(Reasoning, "reasoning", late.append, latched)
    assert until(lambda: late, "the last reasoning")[0].complete


def test_the_last_word_of_a_request_is_the_last(monkeypatch):
    """Also where it ends while the MLLM's thread is about to tell of its progress."""
    monkeypatch.setattr(rsvp_ros.ros.node, "REASONING_PERIOD_S", 0.0)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = RsvpNode(context=context, namespace="last_word")
    said: list[Reasoning] = []
    try:
        node._outputs = SimpleNamespace(reasoning=SimpleNamespace(publish=said.append), destroy=lambda: None)
        request = Request("the red book", None, False)
        request.steps = (ReasoningStep("target", "the red book"),)
        node._on_progress(request, "the red book")
        request.add_done_callback(node._on_done)
        request.cancel()
        node._on_progress(request, "the red book lies")
    finally:
        node.close()
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert [(message.complete, message.error_code) for message in said] == [(False, 0), (True, CODES.CANCELLED)]


def test_a_request_that_nobody_made_says_nothing_when_it_is_dropped():
    """The system asked again and then found the target itself: the last word stays that about the target."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = RsvpNode(context=context, namespace="nobody")
    said: list[Reasoning] = []
    try:
        node._outputs = SimpleNamespace(reasoning=SimpleNamespace(publish=said.append), destroy=lambda: None)
        for automatic in (True, False):
            request = Request("the red book", None, True, automatic)
            request.add_done_callback(node._on_done)
            request.cancel()
            assert len(said) == (not automatic)
    finally:
        node.close()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_a_robot_program_asks_through_the_client(robot, server):
    with Client(namespace="session", context=robot.context) as client:
        client.wait_until_active()
        words: list[str] = []
        found = client.find("the red book", on_feedback=lambda feedback: words.append(feedback.text))
        assert [target.class_name for target in found.targets] == ["book"]
        assert "".join(words) == ANSWER
        array = until(lambda: (array := client.next_targets()) and array.targets and array, "targets")
        assert array.targets[0].id == found.targets[0].id
        assert mask_from_msg(array.targets[0], array.image_height, array.image_width).any()
        assert client.follow(Box(90, 70, 170, 140), keep_targets=True).targets[0].id != found.targets[0].id
        client.clear()
        until(lambda: not client.next_targets().targets, "images without a target")
        server.script[:] = [Reply(ABSENT)]
        absent = client.find("the cat")
        assert not absent.targets
        assert "not in the image" in absent.error_msg
        server.script[:] = [Reply(status=500)]
        with pytest.raises(ServerUnavailableError):
            client.find("the red book")
        with pytest.raises(InvalidInstructionError):
            client.find("")
        server.script[:] = [Reply(ANSWER, hang_at=0)]
        server.hung_up.clear()
        with pytest.raises(TimeoutError, match="no result after"):
            client.find("the red book", timeout_s=3.0)
        assert server.hung_up.wait(30), "the goal that timed out was not cancelled"
        server.script[:] = [Reply(ANSWER)]
        assert client.find("the red book").targets
        client.enable(False)
        with pytest.raises(RsvpError, match="disabled"):
            client.find("the red book")


def test_a_robot_program_as_the_readme_has_it(robot):
    """A process of its own, which brings up ROS and ends it."""
    text = (REPOSITORY / "README.md").read_text()
    start = text.index("    from rsvp_ros.ros.client import Client")
    code = textwrap.dedent(text[start : text.index("\nWithout ROS, on a file")])
    code = (
        code.replace('namespace="rsvp"', 'namespace="session"') + "\nprint(target.class_name, mask.shape, mask.any())\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout.split("\n")[0]) == (0, "book (240, 320) True"), ran.stderr


@pytest.mark.parametrize(
    "call", [lambda client: client.clear(60.0), lambda client: client.enable(True, 60.0)], ids=["clear", "enable"]
)
def test_a_service_may_be_the_first_thing_a_robot_program_calls(robot, call):
    """Before the node is known to it: the request is not lost."""
    context = rclpy.Context()  # that of the robot knows the node
    rclpy.init(context=context)
    try:
        with Client(namespace="session", context=context) as client:
            call(client)
    finally:
        rclpy.shutdown(context=context)


def test_a_goal_whose_feedback_fails_is_cancelled(robot, server):
    server.script[:] = [Reply(ANSWER, piece_delay_s=0.02, hang_at=20)]
    server.hung_up.clear()
    heard = []

    def fail(feedback: FindTarget.Feedback) -> None:
        if feedback.text:  # so the server has been asked
            heard.append(feedback.text)
            raise ValueError("in the robot program")

    with Client(namespace="session", context=robot.context) as client:
        with pytest.raises(ValueError, match="in the robot program"):
            client.find("the red book", on_feedback=fail)
        assert server.hung_up.wait(30), "the goal was not cancelled"
    assert len(heard) == 1, "it is not called again once it has failed"
    last = until(lambda: robot.reasonings and robot.reasonings[-1].complete and robot.reasonings[-1], "its end")
    assert last.error_code == CODES.CANCELLED


def test_ctrl_c_in_a_robot_program_cancels_its_goal(robot, server):
    server.script[:] = [Reply(ANSWER, hang_at=1)]
    server.hung_up.clear()
    count = len(server.requests)
    code = """
        import signal
        from rsvp_ros.ros.client import Client
        signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background, it is ignored
        with Client(namespace="session") as client:
            try:
                client.find("the red book")
            except KeyboardInterrupt:
                client.next_targets()  # ROS still works
                print("ended")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        try:
            server.wait_for_request(count + 1)
            program.send_signal(signal.SIGINT)
            output, _ = program.communicate(timeout=60)
        finally:
            program.kill()
    assert (program.returncode, output) == (0, "ended\n"), "ROS still works after Ctrl-C"
    assert server.hung_up.wait(30), "the goal was not cancelled"


def test_a_node_that_ends_ends_the_goals_of_its_clients():
    parameters = {"perception": {"image_timeout_s": 600.0}}
    with running("ending", parameters) as (node, robot), Client(namespace="ending", context=robot.context) as client:
        client.wait_until_active()
        threading.Timer(1.0, node.stop).start()
        with pytest.raises(RsvpError, match="rsvp_node ended"):
            client.find("the red book", timeout_s=250.0)


def test_a_client_without_a_node_says_so(robot):
    with Client(namespace="nowhere", context=robot.context) as client:
        for ask in (client.wait_until_active, client.clear, lambda timeout_s: client.enable(True, timeout_s)):
            with pytest.raises(TimeoutError, match="is not active in namespace /nowhere"):
                ask(0.2)
        with pytest.raises(TimeoutError, match="no targets were published"):
            client.next_targets(0.2)


def test_a_goal_whose_answer_is_lost_is_sent_again(robot, server, monkeypatch):
    monkeypatch.setattr("rsvp_ros.ros.client.GOAL_ANSWERED_S", 2.0)
    with Client(namespace="session", context=robot.context) as client:
        client.wait_until_active()
        send, lost = client._find.send_goal_async, []

        def lossy(*args, **options):
            future = send(*args, **options)
            if lost:
                return future
            lost.append(future)
            return Future()

        monkeypatch.setattr(client._find, "send_goal_async", lossy)
        server.script[:] = [Reply(ANSWER), Reply(ANSWER)]
        assert client.find("the red book", timeout_s=60.0).targets
        lost.clear()
        with pytest.raises(TimeoutError, match="not answered"):
            client.find("the red book", timeout_s=0.2)


def test_a_target_in_space(shared_data):
    """On real RGB-D: the cracker box stands where the depth camera sees it."""
    folder = shared_data / "rgbd"
    color = cv2.cvtColor(cv2.imread(str(folder / "000001-color.png")), cv2.COLOR_BGR2RGB)
    depth = cv2.imread(str(folder / "000001-depth.png"), cv2.IMREAD_UNCHANGED)
    camera = json.loads((folder / "camera_params.json").read_text())
    info = CameraInfo(width=640, height=480)
    info.k = [camera["fx"], 0.0, camera["x_offset"], 0.0, camera["fy"], camera["y_offset"], 0.0, 0.0, 1.0]
    info.p = [
        camera["fx"],
        0.0,
        camera["x_offset"],
        0.0,
        0.0,
        camera["fy"],
        camera["y_offset"],
        0.0,
        0.0,
        0.0,
        1.0,
        0.0,
    ]
    box = Box(389, 224, 574, 409)
    front = depth[300:380, 430:520]
    expected_z = float(np.median(front[front > 0])) / 1000
    with running("space", {"camera": {"use_3d": True}}) as (_, robot):
        poses = robot.listen(PoseStamped, "target_pose")
        clouds = robot.listen(PointCloud2, "target_points")
        markers = robot.listen(MarkerArray, "markers")
        robot.show(color, depth=array_to_image(depth, "16UC1", Image().header), info=info)
        result = robot.result_of(robot.send(follow(box.x0, box.y0, box.width, box.height))).result
        pose = until(lambda: poses, "pose")[-1]
        assert pose.header.frame_id == FRAME_ID
        position = pose.pose.position
        assert position.z == pytest.approx(expected_z, abs=0.05)
        x = camera["x_offset"] + camera["fx"] * position.x / position.z
        y = camera["y_offset"] + camera["fy"] * position.y / position.z
        assert box.x0 < x < box.x1
        assert box.y0 < y < box.y1
        cloud = until(lambda: clouds, "cloud")[-1]
        points = np.frombuffer(cloud.data, np.float32).reshape(-1, cloud.point_step // 4)[:, :3]
        labels = np.frombuffer(cloud.data, np.uint32).reshape(-1, cloud.point_step // 4)[:, 3]
        assert set(labels) == {target.id for target in result.targets}
        assert len(points) > 500
        assert np.median(points[:, 2]) == pytest.approx(expected_z, abs=0.05)
        array = until(lambda: [m for m in markers if len(m.markers) > 1], "markers")[-1]
        body = next(marker for marker in array.markers if marker.ns == "targets")
        assert 0.1 < body.scale.y < 0.4, "as tall as a box of crackers"
        robot.call(robot.clear, Trigger.Request())
        until(lambda: clouds[-1].width == 0, "a cloud that takes the last points back")


def test_compressed_images():
    with running("compressed", {"camera": {"image_transport": "compressed"}}) as (_, robot):
        data = cv2.imencode(".jpg", cv2.cvtColor(table(), cv2.COLOR_RGB2BGR))[1]
        robot.show(CompressedImage(format="rgb8; jpeg compressed bgr8", data=data.tobytes()))
        assert robot.result_of(robot.send(follow(90, 70, 80, 70))).result.targets
        until(lambda: robot.targets and robot.targets[-1].targets, "targets")
        assert (robot.targets[-1].image_width, robot.targets[-1].image_height) == (320, 240)


def test_a_camera_with_another_qos_is_named():
    with running("qos", {"camera": {"reliability": "reliable"}}) as (node, robot):
        robot.show(table())  # best effort
        node.wait_for_log("offers another QoS (RELIABILITY)")
        status = until(
            lambda: [s for d in robot.diagnostics for s in d.status if "camera.reliability" in s.message],
            "diagnostics that name the remedy",
        )
        assert status[0].level == DiagnosticStatus.WARN
