"""`make demo` as a person runs it, on a short film."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not in this environment")

from rsvp_ros.ros.demo_scene import ARM_RESTS_S, HEIGHT, WIDTH, DemoScene

SECONDS = 6
COMMAND = [sys.executable, "-m", "rsvp_ros.ros.demo", "--seconds", str(SECONDS), "--out"]


def nodes_with(folder: Path) -> list[int]:
    """Processes that write their log into this folder: the demo's node does."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "fd" / "1")) == folder / "node.log":
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.fixture(autouse=True)
def no_node_left(tmp_path):
    """Also where the test failed, and killed a demo that could not end its node any more."""
    yield
    for process in nodes_with(tmp_path):
        os.kill(process, signal.SIGKILL)


def test_follows_and_shows_it(tmp_path):
    demo = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True, timeout=300)

    assert demo.returncode == 0, demo.stdout + demo.stderr
    sheet = cv2.imread(str(tmp_path / "overlay.png"))
    assert sheet is not None and sheet.std() > 20
    video = cv2.VideoCapture(str(tmp_path / "overlay.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == SECONDS * 10
    assert video.read()[0]
    assert "Active" in (tmp_path / "node.log").read_text()
    assert float(re.search(r"mean IoU +(\d\.\d+) of all", demo.stdout)[1]) > 0.5
    assert int(re.search(r"followed +(\d+)%", demo.stdout)[1]) > 50
    answered, shown = map(int, re.search(r"frames answered +(\d+) of (\d+)", demo.stdout).groups())
    assert answered > shown * 0.2 and shown == SECONDS * 10
    assert not nodes_with(tmp_path)


@pytest.mark.parametrize("moment", ["the node starts", "the film runs"])
def test_ctrl_c_leaves_nothing_running(tmp_path, moment):
    def reached() -> bool:
        if moment == "the node starts":
            return bool(nodes_with(tmp_path))
        log = tmp_path / "node.log"
        return log.is_file() and "target(s)" in log.read_text()

    demo = subprocess.Popen([*COMMAND, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 60
        while not reached():
            assert demo.poll() is None and time.monotonic() < deadline, f"the demo did not come to where {moment}"
            time.sleep(0.02)
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
    assert demo.returncode == 130 and "interrupted" in output, output
    assert "Traceback" not in output
    assert not nodes_with(tmp_path)


def test_a_node_that_cannot_start_is_told(tmp_path):
    """The node lives on then, but never becomes active: the demo says why instead of waiting for it."""
    params_file = tmp_path / "params.yaml"
    params_file.write_text("/**:\n  ros__parameters:\n    segmenter: {backend: vlsm, model: /nowhere}\n")
    command = [*COMMAND, str(tmp_path), "--params-file", str(params_file)]
    demo = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert demo.returncode == 1
    assert "rsvp_node reports an error" in demo.stderr and "/nowhere" in demo.stderr
    assert not nodes_with(tmp_path)


def test_scene_tells_the_truth():
    hidden_at_s = 5.0
    scene = DemoScene(hidden_at_s)
    before, hidden = scene.render(hidden_at_s - ARM_RESTS_S - 1.0), scene.render(hidden_at_s)
    mug, ball = scene.moving
    for shot in (before, hidden):
        assert shot.image.shape == (HEIGHT, WIDTH, 3) and shot.image.dtype == np.uint8
    assert before.visible == {mug: 1.0, ball: 1.0}
    assert hidden.visible == {mug: 0.0, ball: 1.0}
    red, green, blue = before.image[before.masks[ball]].mean(0)
    assert red > 2 * max(green, blue)
    red, green, blue = before.image[before.masks[mug]].mean(0)
    assert blue > 2 * red
    np.testing.assert_array_equal(before.image, DemoScene(hidden_at_s).render(hidden_at_s - ARM_RESTS_S - 1.0).image)
