"""`make demo` as a person runs it: the package's clip, a real node in a process of its own, real DDS."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not in this environment")
pytest.importorskip("rosbags", reason="the extra sim is not installed: clips are read with rosbags")

from hand_made_view import make_view
from mllm_server import RecordedServer, Reply
from std_msgs.msg import Header

from rsvp_ros import types
from rsvp_ros.errors import ConfigurationError
from rsvp_ros.geometry import Box, mask_to_box
from rsvp_ros.msg import ReasoningStep, TargetArray
from rsvp_ros.ros.conversions import target_to_msg
from rsvp_ros.ros.demo.asking import ASKS, Answer, StepPrinter
from rsvp_ros.ros.demo.camera import Film, Shot
from rsvp_ros.ros.demo.pictures import write_sheet
from rsvp_ros.tabletop.bag import DEMO_CLIP, read_bag
from rsvp_ros.types import Reasoning, TargetState

SECONDS = 5
COMMAND = [sys.executable, "-m", "rsvp_ros.ros.demo", "--seconds", str(SECONDS), "--out"]
PICTURES = ("scene.png", "demo.png", "answer_1.png", "answer_2.png", "answer_3.png")


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


@pytest.fixture(scope="module")
def film() -> Film:
    return Film.read(DEMO_CLIP, None)


def run_demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """With a MuJoCo that cannot be imported: the demo draws nothing."""
    stand_in = folder / "no_renderer"
    stand_in.mkdir()
    (stand_in / "mujoco.py").write_text("raise ImportError('the demo needs no renderer')\n")
    path = os.pathsep.join(filter(None, (str(stand_in), os.environ.get("PYTHONPATH", ""))))
    command = [*COMMAND, str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path})


def check_files(folder: Path, film: Film) -> None:
    """The video and every picture are there, and show something."""
    video = cv2.VideoCapture(str(folder / "overlay.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == round(SECONDS * film.rate_hz)
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(film.rate_hz)
    read, first = video.read()
    assert read and first.std() > 20
    for name in PICTURES:
        picture = cv2.imread(str(folder / name))
        assert picture is not None and picture.std() > 20, name
        assert picture.shape[1] >= film.size[0]
        if name.startswith("answer"):
            assert picture.shape[1] > first.shape[1], "the reasoning stands beside the picture"


def test_finds_follows_and_shows_it(tmp_path, film):
    demo = run_demo(tmp_path)

    assert demo.returncode == 0, demo.stdout + demo.stderr
    check_files(tmp_path, film)
    assert "Active" in (tmp_path / "node.log").read_text()
    for name in ("overlay.mp4", *PICTURES[1:], "node.log"):
        assert str(tmp_path / name) in demo.stdout
    for ask in ASKS:
        assert demo.stdout.count(f'"{ask.instruction}"') == 2, "when it is asked, and in the figures"
    for step in ("target", "presence", "region"):
        assert len(re.findall(rf"^ +{step}: ", demo.stdout, re.MULTILINE)) == len(ASKS), (
            "the MLLM in the package reasons"
        )
    assert re.search(r"^ +scene: #1", demo.stdout, re.MULTILINE), "it lists what it sees, where more than looks decide"
    numbers = (
        r"(\d+) shown, (\d+) received, (\d+) lost on the way\W+(\d+) of the clip's (\d+) answered, (\d+) overtaken"
    )
    shown, received, lost, answered, length, overtaken = map(int, re.search(numbers, demo.stdout).groups())
    assert length == round(SECONDS * film.rate_hz) <= shown == received + lost
    assert shown - lost - overtaken >= answered > 0.2 * length
    assert int(re.search(r"found +(\d) of 3", demo.stdout)[1]) >= 1
    best = max(float(iou) for iou in re.findall(r"found the [^;]+; mean IoU (\d\.\d+) over", demo.stdout))
    assert best > 0.5
    assert not nodes_with(tmp_path)


def test_every_end_of_an_instruction_is_told(tmp_path, film):
    """Found, not there, and an MLLM that fails: the demo goes on, with the MLLM's own steps on the console."""
    ask, (width, height) = ASKS[0], film.size
    box = mask_to_box(film.shots[round(ask.at * SECONDS * film.rate_hz)].ids == ask.meant(film))
    thing = {"name": ask.kind, "attributes": [ask.color], "reason": "nothing else is like it"}
    thing["bbox_2d"] = [box.x0 / width * 1000, box.y0 / height * 1000, box.x1 / width * 1000, box.y1 / height * 1000]
    found = {"target": "something to eat", "scene": "things on a table", "present": True, "objects": [thing]}
    absent = {"target": "a ball", "scene": "no ball at all", "present": False, "objects": []}
    script = [Reply(json.dumps(found), piece_delay_s=0.005), json.dumps(absent), Reply(status=500, message="no luck")]
    params_file = tmp_path / "params.yaml"
    with RecordedServer(script, models=["qwen3-vl"]) as server:
        mllm = {"backend": "openai", "openai": {"base_url": server.url, "max_retries": 0}}
        params_file.write_text(json.dumps({"/**": {"ros__parameters": {"mllm": mllm}}}))
        demo = run_demo(tmp_path, "--params-file", str(params_file))

    assert demo.returncode == 0, demo.stdout + demo.stderr
    check_files(tmp_path, film)
    for line in ("target: something to eat", "scene: no ball at all"):
        assert demo.stdout.count(line) == 1
    first, second, third = (
        re.search(rf'^  "{re.escape(ask.instruction)}": (.+)$', demo.stdout, re.MULTILINE)[1] for ask in ASKS
    )
    assert first.startswith(f"found the {ask.color} {ask.kind}, IoU ")
    assert second == "not found, though it is in sight"
    assert third == "failed" and "no luck" in demo.stdout
    assert not nodes_with(tmp_path)


@pytest.mark.parametrize("moment", ["the node starts", "the clip runs"])
def test_ctrl_c_leaves_nothing_running(tmp_path, moment):
    def reached() -> bool:
        if moment == "the node starts":
            return bool(nodes_with(tmp_path))
        log = tmp_path / "node.log"
        return log.is_file() and f"'{ASKS[0].instruction}'" in log.read_text()

    demo = subprocess.Popen([*COMMAND, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 180
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


# What the figures mean ------------------------------------------------------------------------------------------------


def test_the_film_is_the_clip(film):
    views = list(read_bag(DEMO_CLIP))
    assert len(film) == len(views)
    duration_s = (views[-1].stamp_ns - views[0].stamp_ns) * 1e-9
    assert film.time_s(len(film) - 1) == pytest.approx(duration_s)
    for shot, view in zip(film.shots, views, strict=True):
        np.testing.assert_array_equal(shot.image, view.image)
        np.testing.assert_array_equal(shot.ids, view.ids)
    assert len(Film.read(DEMO_CLIP, 5.0)) == round(5 * film.rate_hz)
    with pytest.raises(ConfigurationError, match="there is no bag"):
        Film.read(DEMO_CLIP / "nowhere", None)


def test_what_is_asked_for_is_there_and_not_at_rest(film):
    """One thing is meant each time, in sight when it is asked for; then it moves, or is hidden and comes back."""
    lively = 0
    for ask in ASKS:
        meant = ask.meant(film)
        seen = np.array([shot.seen(meant) for shot in film.shots[round(ask.at * len(film)) :]])
        assert seen[0] > 0.9
        places = [shot.objects[meant].position for shot in film.shots[round(ask.at * len(film)) :]]
        lively += np.ptp(places, axis=0).max() > 0.1 or (seen.min() < 0.1 and seen[-1] > 0.9)
    assert lively >= 1


def shot_of(view) -> Shot:
    return Shot(view.image, view.ids, {thing.id: thing for thing in view.objects})


def answer_with(meant: int, **found) -> Answer:
    return Answer(ASKS[0], meant, 0, Reasoning(""), **found)


def message(mask: np.ndarray | None, id: int = 7) -> TargetArray:
    state = TargetState.TRACKING if mask is not None else TargetState.OCCLUDED
    box = mask_to_box(mask) if mask is not None else Box(0, 0, 10, 10)
    target = types.Target(id, "thing", "thing", state, box, mask, 0.9, 0.9)
    return TargetArray(targets=[target_to_msg(target, Header())])


def test_following_is_measured_where_the_thing_is_in_sight():
    mug, key, shot = 1, 4, shot_of(make_view())
    assert shot.seen(mug) == 1.0 and shot.seen(key) == 0.0 and shot.seen(99) == 0.0
    followed = answer_with(mug, targets=frozenset({7}), shown=frozenset({mug}))
    followed.add(0, message(shot.ids == mug, id=8), shot)
    assert not followed.ious, "before the answer has come through, another's target says nothing"
    followed.add(1, message(shot.ids == mug), shot)
    followed.add(2, message(None), shot)
    followed.add(3, TargetArray(), shot)
    assert followed.ious == {1: 1.0, 2: 0.0, 3: 0.0}, "a picture without a mask counts"
    assert followed.followed == 1 and not followed.kept
    followed.add(4, message(shot.ids == mug), shot)
    assert followed.kept and "mean IoU 0.500 over 4 frames" in str(followed)

    hidden = answer_with(key, targets=frozenset({7}), shown=frozenset({key}))
    hidden.add(1, message(None), shot)
    hidden.add(2, message(shot.ids == mug), shot)
    assert not hidden.ious and (hidden.hidden, hidden.noticed) == (2, 1)


def test_only_what_was_asked_for_is_right(film):
    meant, other = 1, 2
    assert answer_with(meant, targets=frozenset({7}), shown=frozenset({meant})).right
    for shown in ({other}, {meant, other}, {0}, set()):
        wrong = answer_with(meant, targets=frozenset({7}), shown=frozenset(shown))
        wrong.ious, wrong.followed = {1: 1.0}, 1
        assert not wrong.right and not wrong.kept
    wrong = answer_with(meant, targets=frozenset({7}), shown=frozenset({other}))
    assert wrong.verdict(film) == f"wrong: found {film.name(other)}"
    assert answer_with(meant).verdict(film) == "not found, though it is in sight"
    assert answer_with(99).verdict(film) == "not found, and not in sight"
    assert answer_with(meant, failure="no server").verdict(film) == "failed"


def test_a_first_answer_at_the_clips_end_is_shown(tmp_path, film):
    last = len(film) - 1
    camera = SimpleNamespace(overlays={last: film.shots[last].image}, targets={last: TargetArray()})
    late = [Answer(ask, 1, last, Reasoning("")) for ask in ASKS]
    write_sheet(tmp_path / "demo.png", camera, film, late)
    assert cv2.imread(str(tmp_path / "demo.png")).std() > 20


def test_a_step_is_printed_once_it_is_written(capsys):
    printer, steps = StepPrinter(), [ReasoningStep(name="target", text="the m")]
    printer.show(steps)
    assert not capsys.readouterr().out
    steps = [ReasoningStep(name="target", text="the mug"), ReasoningStep(name="scene", text="a ta")]
    printer.show(steps)
    printer.show(steps)
    assert capsys.readouterr().out.split() == ["target:", "the", "mug"]
    steps[1].text = "a table"
    printer.show(steps, finished=True)
    assert capsys.readouterr().out.split() == ["scene:", "a", "table"]
