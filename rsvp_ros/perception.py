"""The streaming system: frames and instructions in, targets out. No ROS in it.

There are two threads. The models' thread loads the segmenter and is the only one that runs it: on each newest frame
and, between frames, to carry a new result forward. The reasoner's thread waits for the MLLM. Its answer is about a
frame that is seconds old by then, so the new targets are followed through the frames kept since, faster than real time,
and replace the old ones once they have reached the present.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from rsvp_ros.errors import (
    CancelledError,
    InvalidImageError,
    InvalidInstructionError,
    ModelRunError,
    NoImageError,
    NoReasonerError,
    RsvpError,
    SupersededError,
)
from rsvp_ros.frame_history import FrameHistory
from rsvp_ros.geometry import Box
from rsvp_ros.ranges import check_ranges
from rsvp_ros.reasoning.literal import LiteralReasoner
from rsvp_ros.reasoning.reasoner import Reasoner, ReasonerConfig, check_instruction
from rsvp_ros.request import Outcome, Request, RequestState
from rsvp_ros.segmentation.segmenter import Segmenter
from rsvp_ros.tracking.tracker import MAX_ID, Tracker, TrackerConfig
from rsvp_ros.types import (
    Frame,
    Prediction,
    Reasoning,
    ReasoningStep,
    RegionProposal,
    Target,
    TargetsInFrame,
    TargetState,
)

logger = logging.getLogger(__name__)

PATIENCE_FRAMES = 1  # a new result waits for at most this many frames per look, however busy the camera


@dataclass(frozen=True)
class PerceptionConfig:
    """How the two stages work together."""

    image_timeout_s: float = 5.0
    """How long an instruction waits for an image; an image older than this is not reasoned about."""
    catch_up_frames: int = 16
    """A result is carried from the reasoned frame to the present through at most this many frames in between. Frames
    that come meanwhile follow: at most half as many, then a quarter, and so on."""
    ask_again: bool = False
    """When all targets of the last instruction are lost, ask the MLLM again; other targets are still followed."""
    ask_again_interval_s: float = 10.0
    """Least time between two such requests."""

    def __post_init__(self) -> None:
        """Raises ConfigurationError."""
        check_ranges(self, image_timeout_s=(0.1, 3600), catch_up_frames=(0, 32), ask_again_interval_s=(0, 3600))


@dataclass(frozen=True)
class Statistics:
    """What has happened since the start."""

    received: int = 0
    """Frames handed in."""
    processed: int = 0
    dropped: int = 0
    """Frames overtaken by a newer one before they could be processed."""
    unusable: int = 0
    """Frames that could not be decoded."""
    segment_s: float = 0.0
    """Time spent in the segmenter for the last frame that had targets."""
    targets: int = 0
    """How many targets are followed."""


@dataclass(eq=False)
class _CatchUp:
    """A new result on its way to the present."""

    request: Request
    reasoning: Reasoning
    proposals: Sequence[RegionProposal]
    tracker: Tracker
    frames: deque[Frame]
    """Frames still to go through, the reasoned one first."""
    last: Frame
    """The newest frame in which the targets were looked for; at first the reasoned one."""
    history: FrameHistory
    """The frames that have come since those, and that still come."""
    room: int
    """How many frames of `history` are taken when `frames` is empty: half as many each time, so that it ends."""
    features: object | None = None
    """The first of `frames` encoded, once it has been looked at."""
    waited: int = 0
    """Live frames processed since the result's last step."""


class Perception:
    """Frames and instructions in, targets out.

    Args:
        load_segmenter: makes the segmenter; like the segmenter itself, it is called only in the models' thread.
        reasoner: stage 1; None: instructions are taken literally if the segmenter reads text, and refused if it does
            not.
        on_targets: receives the targets of every frame, in the models' thread.
        on_progress: receives a request whose state or steps changed, and the MLLM's new text, in the reasoner's thread.
        on_done: receives every request when it is done, in whichever thread ended it.
        on_problem: receives an error that did not end a request, in the thread where it occurred.
        on_reasoning: called in the models' thread, before the first frame after stage 1 has started (True) or stopped
            (False) reasoning.
        max_instruction_chars: limit for an instruction taken literally, and for the name of what is in a box.
    """

    def __init__(
        self,
        load_segmenter: Callable[[], Segmenter],
        reasoner: Reasoner | LiteralReasoner | None,
        on_targets: Callable[[TargetsInFrame], None],
        on_progress: Callable[[Request, str], None] | None = None,
        on_done: Callable[[Request], None] | None = None,
        on_problem: Callable[[RsvpError], None] | None = None,
        config: PerceptionConfig | None = None,
        tracker_config: TrackerConfig | None = None,
        on_reasoning: Callable[[bool], None] | None = None,
        max_instruction_chars: int = ReasonerConfig.max_instruction_chars,
    ) -> None:
        self.config = config or PerceptionConfig()
        self.reasoner = reasoner
        self._load_segmenter = load_segmenter
        self._on_targets = on_targets
        self._on_progress = on_progress or (lambda request, text: None)
        self._on_done = on_done or (lambda request: None)
        self._on_problem = on_problem or (lambda error: logger.warning("%s", error))
        self._on_reasoning = on_reasoning or (lambda reasoning: None)
        self._tracker = Tracker(tracker_config)
        self._catch_up: _CatchUp | None = None
        self._last_id = 0
        self._max_instruction_chars = max_instruction_chars
        self._last_instruction = ""
        self._last_found: frozenset[int] = frozenset()  # ids of the targets it found
        self._asked_again: Request | None = None
        self._asked_again_at = -float("inf")

        self._changed = threading.Condition()  # guards all of the following
        self._slot: Frame | None = None
        self._newest: Frame | None = None
        self._newest_at = 0.0  # when it arrived, by the monotonic clock
        self._history: FrameHistory | None = None  # frames since the one that the request is about
        self._commands: deque[Callable[[], None]] = deque()
        self._request: Request | None = None
        self._inbox: Request | None = None
        self._stopped = False
        self._statistics = Statistics()

        self._loaded: Future[Segmenter] = Future()
        self._threads = [
            threading.Thread(target=self._run_models, name="rsvp_models", daemon=True),
            threading.Thread(target=self._run_reasoner, name="rsvp_reasoner", daemon=True),
        ]

    # May be called from any thread.

    def start(self) -> Segmenter:
        """Start both threads; returns the segmenter once it is loaded. Raises what loading it raises."""
        for thread in self._threads:
            thread.start()
        try:
            segmenter = self._loaded.result()
        except BaseException:
            self.close()
            raise
        if self.reasoner is None and segmenter.reads_text:
            self.reasoner = LiteralReasoner(self._max_instruction_chars)
        return segmenter

    def close(self) -> None:
        """End both threads; a request that is under way is cancelled."""
        with self._changed:
            self._stopped = True
            request = self._request
            self._changed.notify_all()
        if request is not None:
            request.cancel(CancelledError("the system is shutting down"))
        for thread in self._threads:
            # A thread that is still loading a model ends by itself once that is done: Ctrl-C need not wait for it.
            if thread.is_alive() and (self._loaded.done() or thread is not self._threads[0]):
                thread.join()

    def submit(self, frame: Frame) -> None:
        """Hand in a frame. Never waits: it replaces a frame that has not been looked at yet."""
        with self._changed:
            dropped = self._slot is not None
            self._slot = self._newest = frame
            self._newest_at = time.monotonic()
            if self.request is None:
                self._history = None
            elif self._history is not None:
                self._history.add(frame)
            statistics = self._statistics
            self._statistics = replace(
                statistics, received=statistics.received + 1, dropped=statistics.dropped + dropped
            )
            self._changed.notify_all()

    def find(
        self, instruction: str = "", box: Box | None = None, keep_targets: bool = False, automatic: bool = False
    ) -> Request:
        """Find what an instruction means, or follow a box of the newest image without reasoning.

        Replaces a request that is under way, unless it is `automatic`, asked by nobody: then it gives way to that.
        Old targets are followed until there are new ones.
        """
        request = Request(instruction, box, keep_targets, automatic)
        request.add_done_callback(self._on_done)
        try:  # before it takes the place of another
            request.instruction = self._checked(instruction, box)
        except RsvpError as error:
            request.cancel(error)
            return request
        with self._changed:
            if self._stopped:
                request.cancel(CancelledError("the system is shut down"))
            if automatic and self.request is not None:
                request.cancel(SupersededError("another request is under way"))
                return request
            old, self._request, self._inbox = self._request, request, request
            self._changed.notify_all()
        if old is not None:
            old.cancel(SupersededError("a newer request took its place"))
        return request

    def _checked(self, instruction: str, box: Box | None) -> str:
        """The instruction on one line. Raises InvalidInstructionError, NoReasonerError."""
        limit = self._max_instruction_chars
        if box is not None:
            if len(instruction) > limit:
                raise InvalidInstructionError(
                    f"the name of what is in the box has {len(instruction)} characters; at most {limit} are taken"
                )
            return instruction
        if self.reasoner is None:
            raise NoReasonerError(
                "no MLLM is configured, and the segmenter reads only boxes: set mllm.backend to 'openai' or "
                "'transformers' (config/server.yaml, config/qwen3_vl_sam2.yaml), take a segmenter that reads text "
                "(segmenter.backend 'vlsm', or SAM 3), or give a box to follow"
            )
        return check_instruction(instruction, limit)

    def clear(self) -> int:
        """Stop following all targets, from the next frame on, and cancel a request under way.

        Returns how many targets were followed.
        """
        self._cancel_request("all targets were cleared")

        def command() -> None:
            self._tracker.clear()
            self._count(targets=0)

        with self._changed:
            self._commands.append(command)
            self._changed.notify_all()
        return len(self._tracker)

    def reset(self) -> None:
        """Forget all targets and frames, as if just started."""
        self._cancel_request("the system was reset")

        def command() -> None:
            self._tracker = Tracker(self._tracker.config)
            self._catch_up = None
            self._count(targets=0)

        with self._changed:
            self._slot = self._newest = self._history = None
            self._commands.append(command)
            self._changed.notify_all()

    def set_tracker_config(self, config: TrackerConfig) -> None:
        """Take new thresholds from the next frame on."""
        with self._changed:
            self._commands.append(lambda: self._tracker.set_config(config))
            self._changed.notify_all()

    def set_max_instruction_chars(self, limit: int) -> None:
        """Take a new limit from the next request on."""
        self._max_instruction_chars = limit
        if isinstance(self.reasoner, LiteralReasoner):
            self.reasoner = LiteralReasoner(limit)

    @property
    def statistics(self) -> Statistics:
        return self._statistics

    @property
    def request(self) -> Request | None:
        """The request that is under way, or None."""
        request = self._request
        return request if request is not None and not request.done else None

    def _cancel_request(self, why: str) -> None:
        request = self.request
        if request is not None:
            request.cancel(CancelledError(why))

    # The models' thread.

    def _run_models(self) -> None:
        try:
            segmenter = self._load_segmenter()
        except BaseException as error:
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(segmenter)
        was_reasoning = False
        while True:
            with self._changed:
                while not (self._stopped or self._slot or self._commands or self._catch_up):
                    self._changed.wait()
                frame, self._slot = self._slot, None
                commands, self._commands = self._commands, deque()
                stopped = self._stopped
            while commands:  # none may be kept: it holds a request's images
                commands.popleft()()
            if stopped:
                return
            request = self.request
            reasoning = request is not None and request.state is RequestState.REASONING
            try:
                if reasoning is not was_reasoning:
                    was_reasoning = reasoning
                    self._on_reasoning(reasoning)
                if frame is not None:
                    self._process(segmenter, frame)
                    if self._catch_up is not None:
                        self._catch_up.waited += 1
                catch_up = self._catch_up
                # A live frame goes first, but a camera that leaves no time between frames must not starve the result.
                if catch_up is not None and (frame is None or catch_up.waited >= PATIENCE_FRAMES):
                    self._advance(segmenter, catch_up)
            except Exception as error:
                # A fault in this package's own code costs a frame and a result on its way, but does not end the stream.
                logger.exception("a frame could not be processed")
                self._on_problem(
                    ModelRunError(f"a frame could not be processed: {error!r}; the log holds the traceback")
                )
                if self._catch_up is not None:
                    self._catch_up.request.cancel(ModelRunError(f"the result could not be carried on: {error!r}"))

    def _process(self, segmenter: Segmenter, frame: Frame) -> None:
        tracker = self._tracker
        seconds = 0.0
        try:
            frame.image  # noqa: B018  decoded even if nothing is followed: a bad camera is reported at once
            seconds, _ = self._follow(segmenter, tracker, frame)
        except InvalidImageError as error:
            self._count(unusable=1)
            self._on_problem(error)
            return
        except ModelRunError as error:
            self._on_problem(error)
        targets = tracker.targets()
        try:
            self._on_targets(TargetsInFrame(frame, targets, seconds))
        except Exception:
            # Whatever goes wrong with one result (a subscriber's fault, a full disk) must not end the stream.
            logger.exception("could not hand over the targets of one frame")
        self._count(processed=1, segment_s=seconds, targets=len(targets))
        if self.config.ask_again:
            self._ask_again(targets)

    def _follow(
        self, segmenter: Segmenter, tracker: Tracker, frame: Frame, features: object | None = None
    ) -> tuple[float, object | None]:
        """Find a tracker's targets in a frame. Returns the seconds spent in the segmenter, and the encoded frame.

        `features`: the encoded frame from a first look, to look again where that saw the targets. Returns None for it
        if nothing is followed. Raises InvalidImageError; ModelRunError if the segmenter failed, so that the targets
        were not seen.
        """
        if not tracker.active:
            return 0.0, None
        image = frame.image
        height, width = image.shape[:2]
        again = features is not None
        prompts = tracker.prompts(frame.stamp_ns, width, height, segmenter.reads_text)
        predictions: Sequence[Prediction | None] = [None] * len(prompts)
        failure: ModelRunError | None = None
        start = time.perf_counter()
        try:
            if features is None:
                features = segmenter.encode(image)
            predictions = segmenter.segment(features, prompts)
        except ModelRunError as error:
            failure = error
        except Exception as error:
            logger.exception("the segmenter failed")
            failure = ModelRunError(f"the segmenter {segmenter.name} failed: {error!r}; the log holds the traceback")
        seconds = time.perf_counter() - start
        tracker.update(image, predictions, frame.stamp_ns, again)
        if failure is not None:
            raise failure
        return seconds, features

    def _advance(self, segmenter: Segmenter, catch_up: _CatchUp) -> None:
        """Carry a new result one step towards the present: a single look, so that a live frame waits no longer."""
        catch_up.waited = 0
        request, tracker = catch_up.request, catch_up.tracker
        if request.done:  # cancelled or superseded
            self._catch_up = None
            return
        if catch_up.frames:
            frame = catch_up.frames[0]
            first = frame is request.frame
            if first and not len(tracker):
                tracker.start(self._new_ids(len(catch_up.proposals)), catch_up.proposals, request.instruction)
            # Two looks: in the reasoned frame to find the targets' own regions, later if one has moved too far.
            seen_before, features = catch_up.features is not None, None
            try:
                _, features = self._follow(segmenter, tracker, frame, catch_up.features)
                catch_up.last = frame
            except (InvalidImageError, ModelRunError) as error:
                if isinstance(error, ModelRunError):  # counts as unseen; an invalid image says nothing about them
                    catch_up.last = frame
                if first:
                    # A new error: this one's traceback would keep the model's data while the request lives.
                    request.cancel(type(error)(str(error)))
                    return
                self._on_problem(error)
            unseen = any(target.state is TargetState.OCCLUDED for target in tracker.targets())
            if features is not None and not seen_before and (first or unseen):
                catch_up.features = features
                return
            catch_up.features = None
            catch_up.frames.popleft()
            if first:
                tracker.keep_seen()
        if len(tracker) and not catch_up.frames:
            with self._changed:
                catch_up.frames.extend(catch_up.history.take(catch_up.room))
            catch_up.room = len(catch_up.frames) // 2
        if not (len(tracker) and catch_up.frames):
            self._arrive(catch_up)

    def _arrive(self, catch_up: _CatchUp) -> None:
        """The new result has reached the present."""
        self._catch_up = None
        request = catch_up.request
        outcome = Outcome(TargetsInFrame(catch_up.last, catch_up.tracker.targets()), catch_up.reasoning)
        if request.finish(outcome) and len(catch_up.tracker):
            if not request.keep_targets:
                self._tracker = Tracker(self._tracker.config)
            if request is self._asked_again:
                for id in self._last_found:
                    self._tracker.clear(id)
            self._tracker.join(catch_up.tracker)
            if request.box is None:
                self._last_instruction = request.instruction
                self._last_found = frozenset(target.id for target in outcome.result.targets)

    def _new_ids(self, count: int) -> list[int]:
        ids = []
        for _ in range(count):
            self._last_id = self._last_id % MAX_ID + 1
            ids.append(self._last_id)
        return ids

    def _ask_again(self, targets: Sequence[Target]) -> None:
        """Ask for the last instruction again if all targets that it found are lost."""
        states = {target.state for target in targets if target.id in self._last_found}
        if self._asked_again is not None and not self._asked_again.done and states - {TargetState.LOST}:
            self._asked_again.cancel(CancelledError("a target that it was for was found again"))
        due = time.monotonic() - self._asked_again_at >= self.config.ask_again_interval_s
        if states == {TargetState.LOST} and due and self.request is None:
            self._asked_again_at = time.monotonic()
            self._asked_again = self.find(self._last_instruction, keep_targets=True, automatic=True)

    def _count(self, processed: int = 0, unusable: int = 0, segment_s: float = 0.0, targets: int | None = None) -> None:
        with self._changed:
            old = self._statistics
            self._statistics = replace(
                old,
                processed=old.processed + processed,
                unusable=old.unusable + unusable,
                segment_s=segment_s or old.segment_s,
                targets=old.targets if targets is None else targets,
            )

    # The reasoner's thread.

    def _run_reasoner(self) -> None:
        while True:
            with self._changed:
                while not (self._stopped or self._inbox):
                    self._changed.wait()
                if self._stopped:
                    return
                request, self._inbox = self._inbox, None
            try:
                self._answer(request)
            except RsvpError as error:
                traceback.clear_frames(error.__traceback__)  # its frames hold the images that came since
                request.cancel(error)
            except Exception as error:
                # A fault in a model's own code ends this request, not the thread that serves all others.
                logger.exception("reasoning failed")
                request.cancel(ModelRunError(f"reasoning failed: {error!r}; the log holds the traceback"))

    def _answer(self, request: Request) -> None:
        frame, history = self._wait_for_frame(request)
        if frame is None:
            return

        def tell(text: str = "") -> None:
            if not request.done:  # nothing is reported after it has ended
                self._on_progress(request, text)

        request.frame = frame
        height, width = frame.image.shape[:2]
        if request.box is not None:
            box = request.box.clip(width, height)
            if box.width < 1 or box.height < 1:
                raise InvalidInstructionError(
                    f"the box {request.box.as_tuple()} covers less than one pixel of the image, which is "
                    f"{width} x {height}: give it in pixels of the newest image"
                )
            reasoning = Reasoning(request.instruction)
            proposals: Sequence[RegionProposal] = (RegionProposal(box, request.instruction),)
        else:
            request.state = RequestState.REASONING
            tell()

            def on_steps(steps: tuple[ReasoningStep, ...], text: str) -> None:
                request.steps, request.text = steps, request.text + text
                tell(text)

            reasoning = self.reasoner.reason(frame.image, request.instruction, on_steps, request.stopping)
            reasoning = replace(reasoning, duration_s=request.elapsed_s)
            proposals = reasoning.proposals
        request.reasoning, request.steps = reasoning, reasoning.steps
        request.state = RequestState.CATCHING_UP
        tell()

        with self._changed:
            between = history.take(self.config.catch_up_frames + 1)  # plus the newest
            frames = deque([frame, *between] if proposals else ())
            room = max(len(frames) // 2, 1)

            def command() -> None:
                self._catch_up = _CatchUp(
                    request, reasoning, proposals, Tracker(self._tracker.config), frames, frame, history, room
                )

            self._commands.append(command)
            self._changed.notify_all()

    def _wait_for_frame(self, request: Request) -> tuple[Frame | None, FrameHistory]:
        """The newest frame, unless it is too old, and the history that keeps later ones while the request is under way.

        The frame is None if nobody waits for an answer any more. If an image cannot be decoded, takes the next one that
        can. Raises NoImageError, InvalidImageError.
        """
        timeout = self.config.image_timeout_s
        deadline = time.monotonic() + timeout
        broken = ""
        tried: Frame | None = None
        while True:
            history = FrameHistory()
            with self._changed:
                while self._newest is None or self._newest is tried or time.monotonic() - self._newest_at > timeout:
                    left = deadline - time.monotonic()
                    if request.done or self._stopped:
                        return None, history
                    if left <= 0:
                        if broken:
                            raise InvalidImageError(broken)
                        raise NoImageError(
                            f"no image came within {timeout:g} s: check that the camera runs and that its topic and "
                            "QoS are those that are subscribed to"
                        )
                    self._changed.wait(min(left, 0.1))  # `cancel` does not notify: check for it now and then
                self._history = history
                tried = self._newest
            try:
                history.limit(tried.image.nbytes)
                return tried, history
            except InvalidImageError as error:
                broken = str(error)
