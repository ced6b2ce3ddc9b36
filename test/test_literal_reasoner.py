"""Without an MLLM the words themselves are looked for: alone, on files, and in the real node."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_sams import save

from rsvp_ros.cli import main
from rsvp_ros.errors import InvalidImageError, InvalidInstructionError
from rsvp_ros.geometry import Box, mask_iou
from rsvp_ros.reasoning.literal import LiteralReasoner
from rsvp_ros.textures import TextureBank
from rsvp_ros.training.drawn_scenes import Scene, household_scene

IMAGE = np.full((120, 160, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A brown mug, a blue hammer, a green block, a white ball and a pink one."""
    bank = TextureBank(np.random.default_rng(5))
    return household_scene(np.random.default_rng(24), bank, 240, 320)


def assert_shows(mask: np.ndarray, scene: Scene, color: str) -> None:
    """The mask is the ball's of this colour."""
    ball = next(thing for thing in scene.things if (thing.kind, thing.color) == ("ball", color))
    assert mask_iou(mask, scene.mask(ball)) > 0.8


def test_the_words_are_the_description_and_the_image_the_region():
    said = []
    reasoning = LiteralReasoner().reason(IMAGE, "  the red\tmug ", lambda steps, text: said.append((steps, text)))
    (proposal,) = reasoning.proposals
    assert proposal.box == Box(0, 0, 160, 120)
    assert reasoning.instruction == proposal.description == "the red mug"
    assert said == [(reasoning.steps, "")]
    assert "No MLLM" in reasoning.steps[0].text
    assert reasoning.model == ""


@given(st.text(max_size=50))
def test_any_words_are_taken_or_refused(text):
    try:
        (proposal,) = LiteralReasoner().reason(IMAGE, text).proposals
    except InvalidInstructionError:
        assert not "".join(c for c in text if c.isprintable()).strip()
    else:
        assert proposal.description
        assert proposal.description.split() == proposal.description.split(" ")


def test_what_cannot_be_taken():
    with pytest.raises(InvalidInstructionError, match="2000"):
        LiteralReasoner().reason(IMAGE, "x" * 2001)
    with pytest.raises(InvalidImageError, match="RGB"):
        LiteralReasoner().reason(IMAGE[..., 0], "the mug")


def test_on_a_file(scene, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), scene.image[..., ::-1])
    for color in ("white", "pink"):
        assert main(["segment", str(photo), f"the {color} ball", "--out", str(tmp_path)]) == 0
        assert "No MLLM" in capsys.readouterr().out
        (target,) = json.loads((tmp_path / "result.json").read_text())["targets"]
        assert_shows(cv2.imread(str(tmp_path / target["mask"]), cv2.IMREAD_GRAYSCALE) > 0, scene, color)
    assert main(["segment", str(photo), "the yellow banana", "--out", str(tmp_path)]) == 1


def test_a_segmenter_that_reads_only_boxes_refuses(scene, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), scene.image[..., ::-1])
    save("sam2", tmp_path / "sam2")
    options = ["--set", "segmenter.backend=transformers", "--set", f"segmenter.model={tmp_path / 'sam2'}"]
    assert main(["segment", str(photo), "the pink ball", "--out", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert "reads only boxes" in error
    assert "mllm.backend" in error


def test_in_the_node(scene, tmp_path):
    harness = pytest.importorskip("node_harness", reason="ROS 2 is not there")
    from rsvp_ros.action import FindTarget
    from rsvp_ros.ros.conversions import mask_from_msg

    height, width = scene.image.shape[:2]
    with harness.running("literal", {}) as (node, robot):
        assert "instructions are taken literally" in node.log
        robot.show(scene.image)
        for color in ("white", "pink"):
            goal = FindTarget.Goal(instruction=f"the {color} ball")
            result = robot.result_of(robot.send(goal)).result
            assert result.error_code == FindTarget.Result.NONE
            (target,) = result.targets
            assert_shows(mask_from_msg(target, height, width), scene, color)
            assert "No MLLM" in result.reasoning.steps[0].text
        result = robot.result_of(robot.send(FindTarget.Goal(instruction="the yellow banana"))).result
        assert result.error_code == FindTarget.Result.NOT_FOUND
        assert "the yellow banana" in result.error_msg
        assert not result.reasoning.found and result.reasoning.proposals
        last = harness.until(lambda: robot.reasonings[-1].error_code and robot.reasonings[-1], "the last word")
        assert (last.complete, last.found, last.error_msg) == (True, False, result.error_msg)
    save("sam2", tmp_path / "sam2")
    boxes_only = {"segmenter": {"backend": "transformers", "model": str(tmp_path / "sam2")}}
    with harness.running("boxes", boxes_only) as (node, robot):
        robot.show(scene.image)
        result = robot.result_of(robot.send(FindTarget.Goal(instruction="the pink ball"))).result
        assert result.error_code == FindTarget.Result.NO_REASONER
        assert "mllm.backend" in result.error_msg
