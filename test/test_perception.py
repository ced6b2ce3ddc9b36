"""The streaming system, with real threads, real frames and a real segmenter: one that masks what has the target's
colour."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import numpy as np
import pytest

from rsvp_ros.errors import (
    CancelledError,
    InvalidImageError,
    InvalidInstructionError,
    ModelLoadError,
    ModelRunError,
    NoImageError,
    NoReasonerError,
    ParseError,
    SupersededError,
)
from rsvp_ros.geometry import Box
from rsvp_ros.perception import Perception, PerceptionConfig
from rsvp_ros.reasoning.literal import LiteralReasoner
from rsvp_ros.reasoning.mllm.base import Generation
from rsvp_ros.reasoning.reasoner import Reasoner, ReasonerConfig
from rsvp_ros.request import RequestState
from rsvp_ros.tracking.tracker import TrackerConfig
from rsvp_ros.types import Frame, Prediction, TargetState

DEADLINE_S = 20.0
SIZE = (320, 240)


class RedSegmenter:
    """Masks what is red in the region; presence 0 where nothing is."""

    name = "red"
    reads_text = False

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.fail = False
        self.after_look = lambda: None
        self.threads: set[int] = set()

    def encode(self, image):
        self.threads.add(threading.get_ident())
        if self.fail:
            raise ModelRunError("out of memory: use a smaller model")
        return (image[..., 0] > 200) & (image[..., 1] < 100)

    def segment(self, features, prompts):
        time.sleep(self.delay_s)
        predictions = []
        for prompt in prompts:
            mask = np.zeros_like(features)
            region = prompt.box.to_slices(features.shape[1], features.shape[0])
            mask[region] = features[region]
            predictions.append(Prediction(mask, 0.9, float(mask.any())))
        self.after_look()
        return predictions


class ScriptedMllm:
    """Says what it is told to, when it is let."""

    name = "scripted"

    def __init__(self, text: str) -> None:
        self.text = text
        self.go = threading.Event()

    def prepare(self, cancel=None):
        pass

    def generate(self, messages, on_text=None, cancel=None):
        if on_text:
            on_text(self.text[:10])
        while not self.go.wait(0.01):
            if cancel is not None and cancel.is_set():
                raise CancelledError("cancelled")
        if on_text:
            on_text(self.text[10:])
        return Generation(self.text, 3, 5)

    def close(self) -> None:
        pass


FOUND = (
    '{"target": "the red book", "scene": "one book", "present": true, "objects": [{"name": "book", '
    '"attributes": ["red"], "bbox_2d": [250, 300, 500, 600], "reason": "it is red"}]}'
)
ABSENT = '{"target": "a cat", "scene": "one book", "present": false, "objects": []}'


def picture(x: float, y: float = 80, side: int = 50, color: tuple[int, int, int] = (250, 20, 20)) -> np.ndarray:
    """A red book on grey, its top left corner at (x, y)."""
    image = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
    image[Box.from_xywh(x, y, side, side).to_slices(*SIZE)] = color
    return image


class Stream:
    """A Perception and all that came out of it."""

    def __init__(self, segmenter=None, mllm=None, **options) -> None:
        self.segmenter = segmenter or RedSegmenter()
        self.results = []
        self.progress = []
        self.problems = []
        self.stamp_ns = 10**9
        reasoner = Reasoner(mllm, ReasonerConfig()) if mllm else None
        self.perception = Perception(
            lambda: self.segmenter,
            reasoner,
            self.results.append,
            lambda request, text: self.progress.append((request.state, request.steps, text)),
            on_problem=self.problems.append,
            **options,
        )

    def __enter__(self):
        self.perception.start()
        return self

    def __exit__(self, *_):
        self.perception.close()
        assert not [t for t in threading.enumerate() if t.name.startswith("rsvp_")]

    def frame(self, image, dt_s: float = 0.1):
        """Hand in one frame and wait for its result."""
        self.stamp_ns += round(dt_s * 1e9)
        return self.process(Frame(image, self.stamp_ns))

    def process(self, frame):
        self.perception.submit(frame)
        until(lambda: self.results and self.results[-1].frame is frame)
        return self.results[-1]


def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "nothing came of it in time"
        time.sleep(0.002)
    return condition()


def test_every_frame_is_answered_with_nothing_to_follow():
    with Stream() as stream:
        frames = [stream.frame(picture(10)).frame for _ in range(5)]
    assert [result.frame for result in stream.results] == frames
    assert all(result.targets == () for result in stream.results)


def test_a_box_is_followed_without_a_reasoner():
    with Stream() as stream:
        stream.frame(picture(60))
        outcome = stream.perception.find(box=Box(50, 70, 130, 150)).result(DEADLINE_S)
        assert outcome.result.targets[0].box == Box(60, 80, 110, 130)
        for x in range(64, 200, 4):
            (target,) = stream.frame(picture(x)).targets
            assert target.state is TargetState.TRACKING
            assert target.box == Box(x, 80, x + 50, 130)
            assert target.mask.sum() == 2500
            assert target.id == outcome.result.targets[0].id
    assert len(stream.segmenter.threads) == 1, "one thread owns the models"


def test_reasoning_never_delays_a_frame_and_the_result_catches_up():
    mllm = ScriptedMllm(FOUND)
    with Stream(mllm=mllm) as stream:
        stream.frame(picture(90))
        request = stream.perception.find("the red book")
        until(lambda: request.state is RequestState.REASONING)
        for x in range(92, 192, 2):  # moves far out of the box that the answer will name
            assert stream.frame(picture(x)).targets == ()
        assert not request.done
        mllm.go.set()
        outcome = request.result(DEADLINE_S)
        assert outcome.result.targets[0].box == Box(190, 80, 240, 130)
        assert outcome.reasoning.proposals[0].name == "book"
        assert outcome.reasoning.completion_tokens == 5
        (target,) = stream.frame(picture(192)).targets
        assert target.box == Box(192, 80, 242, 130)
        assert stream.perception.statistics.dropped == 0
    assert {step.name for step in stream.progress[-1][1]} >= {"target", "scene"}
    assert "".join(text for _, _, text in stream.progress) == FOUND


def test_a_target_that_moves_all_the_while_the_mllm_thinks_is_still_there():
    mllm = ScriptedMllm(FOUND)
    with Stream(mllm=mllm) as stream:
        stream.frame(picture(90))
        request = stream.perception.find("the red book")
        until(lambda: request.state is RequestState.REASONING)
        for i in range(1, 301):  # 10 s
            stream.frame(picture(90 + i // 2), 1 / 30)
        mllm.go.set()
        (target,) = request.result(DEADLINE_S).result.targets
        assert target.state is TargetState.TRACKING
        assert target.box == Box(240, 80, 290, 130)


def test_a_target_that_moves_while_its_result_waits_behind_a_busy_camera_is_still_there():
    """Whenever the segmenter has looked, the next frame is there."""
    mllm, segmenter = ScriptedMllm(FOUND), RedSegmenter()
    with Stream(segmenter, mllm=mllm) as stream:
        stream.frame(picture(90))
        stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S)
        request = stream.perception.find("the red book")
        until(lambda: request.state is RequestState.REASONING)
        frames = (Frame(picture(90 + i // 2), stream.stamp_ns + i * 10**9 // 30) for i in range(1, 400))
        for _ in range(60):
            stream.process(next(frames))
        segmenter.after_look = lambda: request.done or stream.perception.submit(next(frames))
        mllm.go.set()
        arrived = request.result(DEADLINE_S).result
        now = stream.process(next(frames))
        assert [t.state for t in (*arrived.targets, *now.targets)] == [TargetState.TRACKING] * 2
        assert now.targets[0].box.x0 > 150, "it has moved far"
        assert now.frame.stamp_ns - arrived.frame.stamp_ns < 0.5e9, "the result reached the present"


def test_tells_the_models_thread_when_stage_1_reasons():
    """Before the frames that are processed beside it, and again before those that are not."""
    mllm, segmenter, told = ScriptedMllm(FOUND), RedSegmenter(), []

    def on_reasoning(reasoning: bool) -> None:
        told.append((reasoning, len(stream.results), threading.current_thread().name))

    with Stream(segmenter, mllm=mllm, on_reasoning=on_reasoning) as stream:
        stream.frame(picture(90))
        request = stream.perception.find("the red book")
        until(lambda: request.state is RequestState.REASONING)
        for _ in range(3):
            stream.frame(picture(90))
        mllm.go.set()
        request.result(DEADLINE_S)
        stream.frame(picture(90))
    assert told == [(True, 1, "rsvp_models"), (False, 4, "rsvp_models")]


def test_a_live_frame_waits_for_no_more_than_one_look_of_a_result():
    class Looked(RedSegmenter):
        """Knows which image it looked at when, and lets something happen in the first look at one."""

        def __init__(self):
            super().__init__()
            self.looks = []
            self.first_look = {}

        def encode(self, image):
            return super().encode(image), id(image)

        def segment(self, features, prompts):
            mask, image = features
            self.looks.append(image)
            self.first_look.pop(image, lambda: None)()
            return super().segment(mask, prompts)

    mllm = ScriptedMllm(FOUND)
    segmenter = Looked()
    with Stream(segmenter, mllm=mllm) as stream:
        stream.frame(picture(90))
        stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S)
        reasoned, live = picture(90), picture(92)
        stream.frame(reasoned)
        request = stream.perception.find("the red book")
        until(lambda: request.state is RequestState.REASONING)
        segmenter.looks.clear()
        segmenter.first_look[id(reasoned)] = lambda: stream.perception.submit(Frame(live, stream.stamp_ns + 10**8))
        mllm.go.set()
        request.result(DEADLINE_S)
        assert segmenter.looks[:3] == [id(reasoned), id(live), id(reasoned)]


def test_old_targets_are_followed_until_there_are_new_ones():
    mllm = ScriptedMllm(FOUND)
    with Stream(mllm=mllm) as stream:
        stream.frame(picture(90))
        old = stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S).result.targets[0]
        request = stream.perception.find("the red book")
        until(lambda: request.state is RequestState.REASONING)
        assert [t.id for t in stream.frame(picture(92)).targets] == [old.id]
        mllm.go.set()
        new = request.result(DEADLINE_S).result.targets[0]
        assert new.id != old.id
        assert [t.id for t in stream.frame(picture(94)).targets] == [new.id]


def test_targets_may_be_kept():
    with Stream() as stream:
        stream.frame(picture(90))
        first = stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S).result.targets[0]
        second = stream.perception.find(box=Box(85, 75, 145, 135), keep_targets=True).result(DEADLINE_S)
        assert len(second.result.targets) == 1
        assert len(stream.frame(picture(90)).targets) == 2
        assert {first.id, second.result.targets[0].id} == {t.id for t in stream.results[-1].targets}
        assert stream.perception.clear() == 2
        assert stream.frame(picture(90)).targets == ()


def test_clearing_waits_for_no_frame():
    """It is called by the thread that takes the images and the cancels."""
    segmenter, go = RedSegmenter(), threading.Event()
    with Stream(segmenter) as stream:
        stream.frame(picture(90))
        stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S)
        segmenter.after_look = lambda: go.wait(DEADLINE_S)
        stream.perception.submit(Frame(picture(92), stream.stamp_ns + 1))
        assert stream.perception.clear() == 1
        assert not go.is_set() and len(stream.results) == 1
        go.set()
        stream.stamp_ns += 1
        assert stream.frame(picture(94)).targets == ()


def test_not_found_is_an_answer():
    mllm = ScriptedMllm(ABSENT)
    mllm.go.set()
    with Stream(mllm=mllm) as stream:
        stream.frame(picture(90))
        outcome = stream.perception.find("the cat").result(DEADLINE_S)
        assert outcome.result.targets == ()
        assert not outcome.reasoning.found


def test_a_region_that_does_not_show_the_target_is_not_found():
    with Stream() as stream:
        stream.frame(picture(90))
        outcome = stream.perception.find(box=Box(200, 10, 250, 40)).result(DEADLINE_S)
        assert outcome.result.targets == ()
        assert stream.frame(picture(90)).targets == ()


def test_occluded_then_lost_then_asked_again():
    mllm = ScriptedMllm(FOUND)
    mllm.go.set()
    config = PerceptionConfig(ask_again=True, ask_again_interval_s=0.0)
    with Stream(mllm=mllm, config=config, tracker_config=TrackerConfig(lost_after_s=1.0)) as stream:
        stream.frame(picture(90))
        first = stream.perception.find("the red book").result(DEADLINE_S).result.targets[0]
        empty = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
        states = [stream.frame(empty, 0.3).targets[0] for _ in range(3)]
        assert [t.state for t in states] == [TargetState.OCCLUDED] * 3
        assert all(t.mask is None for t in states)
        assert stream.frame(picture(90)).targets[0].state is TargetState.TRACKING
        mllm.go.clear()
        while stream.frame(empty, 0.3).targets[0].state is TargetState.OCCLUDED:
            pass
        assert stream.results[-1].targets[0].state is TargetState.LOST
        request = until(lambda: stream.perception.request)
        until(lambda: request.state is RequestState.REASONING)
        assert request.instruction == "the red book"
        request.cancel()
        assert first.instruction == "the red book"
        stream.perception.config = PerceptionConfig(ask_again=True, ask_again_interval_s=1000.0)
        for _ in range(3):
            assert stream.frame(empty, 0.3).targets[0].state is TargetState.LOST
            assert stream.perception.request is None, "not more often than that"


def test_what_is_found_again_is_not_asked_for_any_more():
    mllm = ScriptedMllm(FOUND)
    mllm.go.set()
    config = PerceptionConfig(ask_again=True, ask_again_interval_s=0.0)
    with Stream(mllm=mllm, config=config, tracker_config=TrackerConfig(lost_after_s=1.0)) as stream:
        stream.frame(picture(90))
        book = stream.perception.find("the red book").result(DEADLINE_S).result.targets[0]
        mllm.go.clear()
        empty = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
        while stream.frame(empty, 0.3).targets[0].state is not TargetState.LOST:
            pass
        request = until(lambda: stream.perception.request)
        assert stream.frame(picture(90)).targets[0].state is TargetState.TRACKING
        until(lambda: request.done)
        assert isinstance(request.error, CancelledError)
        (target,) = stream.frame(picture(90)).targets
        assert (target.id, target.state) == (book.id, TargetState.TRACKING)


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
def test_a_request_that_ended_keeps_no_images(ending):
    mllm = ScriptedMllm("no answer" if ending == "failed" else FOUND)
    with Stream(mllm=mllm) as stream:
        images: list[weakref.ref] = []

        def film(count: int) -> None:
            for _ in range(count):
                image = picture(90 + len(images))
                images.append(weakref.ref(image))
                stream.frame(image)

        film(1)
        request = stream.perception.find("the red book")
        until(lambda: request.state is RequestState.REASONING)
        film(9)
        if ending == "cancelled":
            stream.segmenter.delay_s = 0.2
            mllm.go.set()
            until(lambda: request.state is RequestState.CATCHING_UP)
            request.cancel()
        mllm.go.set()
        until(lambda: request.done)
        stream.segmenter.delay_s = 0.0
        film(3)
        stream.results[:] = stream.results[-1:]
        stream.progress.clear()
        if ending == "cancelled":
            request = None  # who keeps it keeps the image that it is about

        def kept() -> int:
            gc.collect()
            return sum(image() is not None for image in images)

        until(lambda: kept() <= 2)  # the newest, and the one that was reasoned about


def test_a_reset_forgets_all_targets():
    with Stream() as stream:
        stream.frame(picture(90))
        stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S)
        assert stream.frame(picture(92)).targets
        stream.perception.reset()
        assert stream.frame(picture(94)).targets == ()


def test_asking_again_replaces_what_is_lost_and_nothing_else():
    def with_cup(image):
        image[10:40, 250:280] = (250, 20, 20)
        return image

    mllm = ScriptedMllm(FOUND)
    mllm.go.set()
    config = PerceptionConfig(ask_again=True, ask_again_interval_s=0.0)
    with Stream(mllm=mllm, config=config, tracker_config=TrackerConfig(lost_after_s=1.0)) as stream:
        stream.frame(with_cup(picture(90)))
        book = stream.perception.find("the red book").result(DEADLINE_S).result.targets[0]
        cup = stream.perception.find(box=Box(245, 5, 285, 45), keep_targets=True).result(DEADLINE_S).result.targets[0]
        assert [t.id for t in stream.frame(with_cup(picture(90))).targets] == [book.id, cup.id]
        another = with_cup(picture(90, color=(250, 20, 250)))  # in the book's place
        until(lambda: book.id not in [t.id for t in stream.frame(another, 0.3).targets])
        cup_now, found = stream.results[-1].targets
        assert cup_now.id == cup.id
        assert found.instruction == "the red book"
        assert [t.state for t in (cup_now, found)] == [TargetState.TRACKING] * 2


def test_a_request_that_is_done_makes_no_more_progress():
    class Late(LiteralReasoner):
        """Notices only when it is through that nobody waits any more."""

        def reason(self, image, instruction, on_steps=None, cancel=None):
            assert cancel.wait(DEADLINE_S)
            return super().reason(image, instruction, on_steps, cancel)

    with Stream() as stream:
        stream.perception.reasoner = Late()
        stream.frame(picture(90))
        request = stream.perception.find("the red book")
        until(lambda: stream.progress)
        request.cancel()
        until(lambda: request.reasoning is not None)
    assert [steps for _, steps, _ in stream.progress] == [()]


def test_cancel_and_supersede():
    mllm = ScriptedMllm(FOUND)
    with Stream(mllm=mllm) as stream:
        stream.frame(picture(90))
        first = stream.perception.find("one")
        second = stream.perception.find("two")
        with pytest.raises(SupersededError):
            first.result(DEADLINE_S)
        until(lambda: second.state is RequestState.REASONING)
        second.cancel()
        with pytest.raises(CancelledError):
            second.result(DEADLINE_S)
        assert stream.perception.request is None
        mllm.go.set()
        assert stream.perception.find("three").result(DEADLINE_S).result.targets


def test_refusals():
    with Stream(config=PerceptionConfig(image_timeout_s=0.2)) as stream:
        with pytest.raises(NoReasonerError, match=r"mllm\.backend"):
            stream.perception.find("the red book").result(DEADLINE_S)
        with pytest.raises(NoImageError, match="QoS"):
            stream.perception.find(box=Box(1, 1, 5, 5)).result(DEADLINE_S)
        stream.perception.config = PerceptionConfig()  # a busy machine may take longer than that for the rest
        stream.frame(picture(90))
        with pytest.raises(InvalidInstructionError, match="320 x 240"):
            stream.perception.find(box=Box(1000, 1, 1005, 5)).result(DEADLINE_S)
        with pytest.raises(InvalidInstructionError, match="100000"):
            stream.perception.find("x" * 100_000, Box(80, 70, 150, 140)).result(DEADLINE_S)


def test_a_refused_instruction_leaves_the_one_under_way_alone():
    mllm = ScriptedMllm(FOUND)
    with Stream(mllm=mllm) as stream:
        with pytest.raises(InvalidInstructionError, match="empty"):
            stream.perception.find(" \n").result(DEADLINE_S)  # not that there is no image
        stream.frame(picture(90))
        first = stream.perception.find("the red\nbook")
        until(lambda: first.state is RequestState.REASONING)
        for bad, words in (("\t ", "empty"), ("x" * 100_000, "100000")):
            with pytest.raises(InvalidInstructionError, match=words):
                stream.perception.find(bad).result(DEADLINE_S)
        mllm.go.set()
        (target,) = first.result(DEADLINE_S).result.targets
        assert first.instruction == target.instruction == "the red book", "on one line"


def test_what_is_forgotten_is_no_longer_counted():
    with Stream() as stream:
        for forget in (stream.perception.clear, stream.perception.reset):
            stream.frame(picture(90))
            stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S)
            stream.frame(picture(90))
            until(lambda: stream.perception.statistics.targets == 1)
            forget()
            until(lambda: stream.perception.statistics.targets == 0)


def test_the_limit_of_instructions_without_an_mllm():
    segmenter, box = RedSegmenter(), Box(80, 70, 150, 140)
    segmenter.reads_text = True
    with Stream(segmenter, max_instruction_chars=10) as stream:
        stream.frame(picture(90))
        for where in (None, box):
            with pytest.raises(InvalidInstructionError, match="11 characters.* 10"):
                stream.perception.find("x" * 11, where).result(DEADLINE_S)
        stream.perception.set_max_instruction_chars(3000)
        for where in (None, box):
            assert stream.perception.find("x" * 3000, where).result(DEADLINE_S).result.targets


def test_a_segmenter_that_cannot_be_loaded():
    def load():
        raise ModelLoadError("no such folder")

    perception = Perception(load, None, lambda result: None)
    with pytest.raises(ModelLoadError):
        perception.start()
    assert not [t for t in threading.enumerate() if t.name.startswith("rsvp_")]


def test_bad_frames_and_a_failing_model_do_not_end_the_stream():
    def broken():
        raise InvalidImageError("encoding 'foo' is unknown")

    with Stream() as stream:
        stream.frame(picture(90))
        stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S)
        stream.perception.submit(Frame(broken, stream.stamp_ns + 1))
        until(lambda: stream.perception.statistics.unusable == 1)
        assert isinstance(stream.problems[-1], InvalidImageError)
        assert stream.frame(picture(92)).targets[0].state is TargetState.TRACKING
        stream.segmenter.fail = True
        assert stream.frame(picture(94)).targets[0].state is TargetState.OCCLUDED
        assert isinstance(stream.problems[-1], ModelRunError)
        stream.segmenter.fail = False
        assert stream.frame(picture(96)).targets[0].state is TargetState.TRACKING


def broken_image():
    raise InvalidImageError("a JPEG that is cut off")


def test_a_request_waits_for_an_image_that_can_be_decoded():
    tried = []

    def broken():
        tried.append(threading.current_thread().name)
        broken_image()

    with Stream() as stream:
        stream.frame(picture(90))
        stream.perception.submit(Frame(broken, stream.stamp_ns + 1))
        request = stream.perception.find(box=Box(80, 70, 150, 140))
        until(lambda: "rsvp_reasoner" in tried)
        good = stream.frame(picture(92)).frame
        assert request.result(DEADLINE_S).result.frame is good
        assert stream.frame(picture(94)).targets[0].state is TargetState.TRACKING


def test_a_camera_of_which_no_image_can_be_decoded_is_named():
    with Stream(config=PerceptionConfig(image_timeout_s=2.0)) as stream:
        stream.perception.submit(Frame(broken_image, 1))
        with pytest.raises(InvalidImageError, match="cut off"):
            stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S)


def test_a_result_has_the_header_of_an_image_that_was_looked_at():
    mllm = ScriptedMllm(FOUND)
    with Stream(mllm=mllm) as stream:
        stream.frame(picture(90))
        request = stream.perception.find("the red book")
        until(lambda: request.state is RequestState.REASONING)
        good = stream.frame(picture(92)).frame
        stream.perception.submit(Frame(broken_image, stream.stamp_ns + 1))
        until(lambda: stream.perception.statistics.unusable == 1)
        mllm.go.set()
        result = request.result(DEADLINE_S).result
    assert result.frame is good
    assert result.targets[0].box == Box(92, 80, 142, 130)


def test_what_was_written_is_kept_where_a_request_fails():
    mllm = ScriptedMllm("I cannot help with that.")
    with Stream(mllm=mllm) as stream:
        stream.frame(picture(90))
        mllm.go.set()
        request = stream.perception.find("the red book")
        with pytest.raises(ParseError):
            request.result(DEADLINE_S)
    assert request.reasoning_so_far.raw_text.startswith("I cannot help with that.")
    assert request.reasoning_so_far.duration_s > 0
    assert not request.reasoning_so_far.found


@pytest.mark.parametrize("error", [ModelRunError("out of memory"), RuntimeError("out of memory")])
def test_a_model_that_fails_on_the_reasoned_frame_fails_the_request(error):
    """And the old targets stay."""

    def fail():
        raise error

    mllm = ScriptedMllm(FOUND)
    with Stream(mllm=mllm) as stream:
        stream.frame(picture(90))
        old = stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S).result.targets[0]
        request = stream.perception.find("the red book")
        until(lambda: request.state is RequestState.REASONING)
        stream.segmenter.after_look = fail
        mllm.go.set()
        with pytest.raises(ModelRunError, match="out of memory"):
            request.result(DEADLINE_S)
        stream.segmenter.after_look = lambda: None
        assert [t.id for t in stream.frame(picture(92)).targets] == [old.id]


def test_changed_resolution_and_stamps_that_go_backwards():
    with Stream() as stream:
        stream.frame(picture(90))
        stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S)
        double = picture(92).repeat(2, axis=0).repeat(2, axis=1)
        (target,) = stream.frame(double).targets
        assert target.state is TargetState.TRACKING
        assert target.box == Box(184, 160, 284, 260)
        (target,) = stream.process(Frame(picture(94), 5)).targets
        assert target.state is TargetState.TRACKING
        assert target.age_ns >= 0
        (target,) = stream.process(Frame(picture(94), 5)).targets
        assert target.box == Box(94, 80, 144, 130)


def test_only_the_newest_frame_counts():
    with Stream(RedSegmenter(delay_s=0.1)) as stream:
        stream.frame(picture(90))
        stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S)
        frames = [Frame(picture(90 + i), stream.stamp_ns + i + 1) for i in range(20)]
        for frame in frames:
            stream.perception.submit(frame)
        until(lambda: stream.results[-1].frame is frames[-1])

        def counted() -> bool:
            now = stream.perception.statistics
            return now.processed + now.dropped == now.received

        until(counted)  # the last one is, after its result
        assert stream.perception.statistics.dropped > 0
        assert len(stream.results) < len(frames)


def test_a_busy_camera_does_not_starve_a_result():
    """Live frames take all the time there is; a new result still arrives."""
    mllm = ScriptedMllm(FOUND)
    with Stream(RedSegmenter(delay_s=0.02), mllm=mllm) as stream:
        stream.frame(picture(90))
        stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S)
        request = stream.perception.find("the red book")
        until(lambda: request.state is RequestState.REASONING)
        mllm.go.set()
        deadline = time.monotonic() + DEADLINE_S
        while not request.done:
            assert time.monotonic() < deadline
            stream.stamp_ns += 10**6
            stream.perception.submit(Frame(picture(90), stream.stamp_ns))
            time.sleep(0.001)
        assert request.result().result.targets


def test_a_result_comes_soon_however_busy_the_camera():
    """After every live frame comes a look of the result, and one look is enough where it shows all targets."""

    class Counting(RedSegmenter):
        encoded = looked = 0

        def encode(self, image):
            self.encoded += 1
            return super().encode(image)

        def segment(self, features, prompts):
            self.looked += 1
            return super().segment(features, prompts)

    mllm = ScriptedMllm(FOUND)
    with Stream(Counting(delay_s=0.01), mllm=mllm) as stream:
        stream.frame(picture(90))
        stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S)
        request = stream.perception.find("the red book")
        until(lambda: request.state is RequestState.REASONING)
        for _ in range(10):
            stream.frame(picture(90))
        mllm.go.set()
        until(lambda: request.state is RequestState.CATCHING_UP)
        before = stream.perception.statistics.processed, stream.segmenter.looked, stream.segmenter.encoded
        deadline = time.monotonic() + DEADLINE_S
        while not request.done:
            assert time.monotonic() < deadline
            stream.stamp_ns += 10**6
            stream.perception.submit(Frame(picture(90), stream.stamp_ns))
            time.sleep(0.001)
        after = stream.perception.statistics.processed, stream.segmenter.looked, stream.segmenter.encoded
        live, looks, encoded = (b - a for a, b in zip(before, after, strict=True))
        assert live <= looks - live + 3, "live frames for every look of the result"
        assert looks - encoded <= 2, "second looks at a frame"


def test_an_automatic_request_gives_way_to_one_under_way():
    mllm = ScriptedMllm(FOUND)
    with Stream(mllm=mllm) as stream:
        stream.frame(picture(90))
        request = stream.perception.find("the red book")
        automatic = stream.perception.find("the red book", keep_targets=True, automatic=True)
        assert isinstance(automatic.error, SupersededError)
        assert not request.done
        mllm.go.set()
        assert request.result(DEADLINE_S).result.targets


def test_a_fault_in_one_frame_does_not_end_the_stream():
    def faulty():
        raise RuntimeError("nobody thought of this")

    with Stream() as stream:
        stream.frame(picture(90))
        stream.perception.submit(Frame(faulty, stream.stamp_ns + 1))
        until(lambda: stream.problems)
        assert "nobody thought of this" in str(stream.problems[-1])
        stream.frame(picture(90))
        request = stream.perception.find(box=Box(80, 70, 150, 140))
        assert request.result(DEADLINE_S).result.targets
    with pytest.raises(CancelledError):
        stream.perception.find(box=Box(80, 70, 150, 140)).result(DEADLINE_S)
