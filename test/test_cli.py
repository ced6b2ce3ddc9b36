"""`rsvp segment`: the pipeline on files, with a real HTTP server for the MLLM."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from mllm_server import RecordedServer, unused_url

from rsvp_ros import config
from rsvp_ros.cli import main
from rsvp_ros.errors import ConfigurationError

ANSWER = json.dumps(
    {
        "target": "the red book",
        "scene": "a red book on a grey table",
        "present": True,
        "objects": [{"name": "book", "attributes": ["red"], "bbox_2d": [300, 310, 510, 560], "reason": "it is red"}],
    }
)
ABSENT = json.dumps({"target": "a cat", "scene": "a red book", "present": False, "objects": []})


@pytest.fixture
def photo(tmp_path):
    image = np.full((240, 320, 3), (120, 125, 130), np.uint8)
    image[80:130, 100:160] = (30, 30, 210)  # BGR
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), image)
    return path


def segment(*arguments) -> int:
    return main(["segment", *map(str, arguments)])


def test_an_instruction(photo, tmp_path, capsys):
    with RecordedServer(ANSWER, models=["qwen3-vl"]) as server:
        options = ["--set", "mllm.backend=openai", "--set", f"mllm.openai.base_url={server.url}"]
        assert segment(photo, "the red book", "--out", tmp_path / "out", *options) == 0
    printed = capsys.readouterr().out
    assert "target: the red book" in printed
    assert "book [" in printed
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    (target,) = result["targets"]
    assert result["found"]
    assert (target["name"], target["description"]) == ("book", "book, red")
    assert result["reasoning"]["raw_text"] == ANSWER
    mask = cv2.imread(str(tmp_path / "out" / target["mask"]), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (240, 320)
    truth = np.zeros((240, 320), bool)
    truth[80:130, 100:160] = True
    assert np.count_nonzero((mask > 0) & truth) / np.count_nonzero((mask > 0) | truth) > 0.7
    overlay = cv2.imread(str(tmp_path / "out" / "overlay.png"))
    assert overlay.shape[0] == 240
    assert overlay.shape[1] > 320, "the reasoning stands beside the picture"


def test_not_in_the_image(photo, tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("mask_1.png", "mask_12.png", "mine.png"):
        (tmp_path / "out" / name).write_bytes(b"of an image before")
    before = {"targets": [{"mask": "mask_1.png"}, {"mask": "mask_12.png"}, {"mask": "mask_13.png"}]}
    (tmp_path / "out" / "result.json").write_text(json.dumps(before))
    with RecordedServer(ABSENT, models=["qwen3-vl"]) as server:
        options = ["--set", "mllm.backend=openai", "--set", f"mllm.openai.base_url={server.url}", "--quiet"]
        assert segment(photo, "the cat", "--out", tmp_path / "out", *options) == 1
    assert not json.loads((tmp_path / "out" / "result.json").read_text())["found"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mine.png", "overlay.png", "result.json"]


def test_a_box_needs_no_mllm(photo, tmp_path):
    assert segment(photo, "--box", 95, 75, 165, 135, "--out", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").glob("mask_*.png"))) == 1


@pytest.mark.parametrize(
    "result",
    [None, "{", "[]", '{"targets": [1]}', '{"targets": [{"mask": "mask_1.png"}, {"mask": "../mask_of_mine.png"}]}'],
)
def test_masks_of_the_user_are_kept(photo, tmp_path, result):
    """Only those that an earlier run's result.json names are of that run."""
    out = tmp_path / "out"
    out.mkdir()
    mine = [out / "mask_of_mine.png", out / "mask_7.png", tmp_path / "mask_of_mine.png"]
    for path in mine:
        path.write_bytes(b"drawn by hand")
    if result is not None:
        (out / "result.json").write_text(result)
    assert segment(photo, "--box", 95, 75, 165, 135, "--out", out) == 0
    assert all(path.read_bytes() == b"drawn by hand" for path in mine)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no_such.png", "the cup", "--set", "mllm.backend=openai"], "no_such.png"),
        (["{photo}"], "--box"),
        (["{photo}", "the cup", "--config", "no_such.yaml"], "no_such.yaml"),
        (["{photo}", "the cup", "--set", "mllm.backend=telepathy"], "telepathy"),
        (["{photo}", "the cup", "--set", "no.such=1"], "no.such"),
        (["{photo}", "the cup", "--set", "tracker.padding=wide"], "tracker.padding"),
        (["{photo}", "--box", "900", "900", "950", "950"], "320 x 240"),
        (["{text}", "--box", "1", "1", "5", "5"], "not an image"),
        (["{photo}", "--box", "60", "10", "nan", "60"], "--box: a box needs four finite numbers"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said_in_a_line(photo, tmp_path, capsys, arguments, words):
    text = tmp_path / "text.png"
    text.write_text("no picture")
    values = [argument.format(photo=photo, text=text) for argument in arguments]
    assert segment(*values, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_an_image_too_large_for_opencv(tmp_path, capsys):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path = tmp_path / "large.png"
    header = struct.pack(">IIBBBBB", 40_000, 30_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    assert segment(path, "--box", 1, 1, 5, 5, "--out", tmp_path / "out") == 2
    assert f"{path} is too large for OpenCV" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_an_error(photo, tmp_path, capsys):
    """A folder that cannot be made is told before the model is asked: here there is none to ask."""
    options = ["--set", "mllm.backend=openai", "--set", f"mllm.openai.base_url={unused_url()}"]
    assert segment(photo, "the cup", "--out", photo / "out", *options) == 2
    assert f"{photo}/out cannot be written to" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "overlay.png").symlink_to("/dev/full")
    assert segment(photo, "--box", 95, 75, 165, 135, "--out", tmp_path / "out") == 2
    assert f"no space is left for {tmp_path}/out" in capsys.readouterr().err


def test_a_dead_server(photo, tmp_path, capsys):
    url = unused_url()
    options = [
        "--set",
        "mllm.backend=openai",
        "--set",
        f"mllm.openai.base_url={url}",
        "--set",
        "mllm.openai.max_retries=0",
    ]
    assert segment(photo, "the cup", "--out", tmp_path / "out", *options) == 2
    assert url in capsys.readouterr().err


def test_the_package_needs_no_ros_and_imports_no_torch():
    code = "import sys, rsvp_ros.config, rsvp_ros.cli; assert not {'torch', 'rclpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_configuration_files(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        "/rsvp/rsvp_node:\n  ros__parameters:\n    autostart: true\n    start_type_description_service: true\n"
        "    qos_overrides: {/clock: {subscription: {depth: 1}}}\n    tracker: {padding: 1}\n    mllm.backend: none\n"
    )
    assert config.load(path).tracker.padding == 1.0
    path.write_text("/**: {ros__parameters: {tracker: {min_presence: 1e-3}}}")  # a text to YAML 1.1, a number to ROS
    assert config.load(path).tracker.min_presence == 0.001
    assert config.load_changed(None, ["tracker.min_score=2e-1"]).tracker.min_score == 0.2
    for text in (
        "a: [",
        "/**: {ros__parameters: {tracker: {paddin: 1.0}}}",
        "/**: {ros__parameters: {reasoner: {turns: 3}}}",
    ):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=r"params\.yaml"):
            config.load(path)
    assert config.build(config.flatten(config.Config())) == config.Config()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing but a comment\n",
        "segmenter: {model: /my/weights}\n",
        "/**: {ros_parameters: {segmenter: {model: /my/weights}}}\n",
        "/**:\n  ros__parameters:\n",
        (Path(__file__).parent.parent / "config" / "train" / "vlsm_embedded.yaml").read_text(encoding="utf-8"),
    ],
    ids=["empty", "comment", "flat", "typing error", "no values", "training"],
)
def test_a_configuration_file_that_sets_nothing_is_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"params\.yaml sets no parameters: write them under"):
        config.load(path)
