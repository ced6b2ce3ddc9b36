"""A configuration of the package on the tabletop world: what it answers, and how accurate that is.

Everything goes through `Perception`, as in the node: an instruction about an image, or targets followed through a clip.
"""

from __future__ import annotations

import dataclasses
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rsvp_ros.config import Config
from rsvp_ros.errors import ModelRunError, ParseError, RsvpError
from rsvp_ros.evaluation.metrics import box_accuracy, overlap, region_and_boundary, shown_objects
from rsvp_ros.evaluation.oracles import OracleReasoner, OracleSegmenter, Region
from rsvp_ros.geometry import Box, mask_iou
from rsvp_ros.perception import Perception
from rsvp_ros.reasoning.literal import LiteralReasoner
from rsvp_ros.reasoning.mllm.loading import load_mllm
from rsvp_ros.reasoning.reasoner import Reasoner
from rsvp_ros.request import Outcome
from rsvp_ros.segmentation.loading import load_segmenter
from rsvp_ros.segmentation.segmenter import Segmenter
from rsvp_ros.surface import CameraModel, target_points, target_position
from rsvp_ros.tabletop.instruction import Instruction
from rsvp_ros.tabletop.kinds import THIN
from rsvp_ros.tabletop.view import View
from rsvp_ros.types import Frame, Prediction, Prompt, Reasoning, Target, TargetsInFrame

FRAME_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Answer:
    """The outcome of one instruction about one image."""

    scene: int
    """The scene's seed."""
    text: str
    language: str
    kind: str
    """Kind of instruction: a value of InstructionKind."""
    novel: tuple[str, ...]
    objects: int
    """Things in the image that a person would name."""
    thin: bool
    """Whether a target's kind is one of `kinds.THIN`."""
    targets: int
    """Number of things that are meant; 0: what is meant is absent."""
    found: int
    """Number of things that were found."""
    intersection: int
    """Of all predicted masks with all true masks, pixels; `union` likewise."""
    union: int
    boxes: float
    """See `metrics.box_accuracy`."""
    right: bool
    """Whether the things that the masks fit best are exactly those that are meant."""
    errors_mm: tuple[float | None, ...]
    """For each target, how far its position is from the one that the true mask gives; None if it was not found."""
    scores: tuple[float, ...]
    """The segmenter's estimate of its mask, for each thing that was found."""
    presences: tuple[float, ...]
    top: str = ""
    """The table top's style, one of `backgrounds.TOPS`; empty: not known."""
    problem: str = ""
    """Why the MLLM's answer could not be understood; empty if it was."""
    reason_s: float = 0.0
    segment_s: float = 0.0

    @property
    def iou(self) -> float:
        """1 if nothing is meant and nothing was found."""
        return self.intersection / self.union if self.union else 1.0

    @property
    def refused(self) -> bool:
        """Whether the system answered that what is meant is not there."""
        return not self.found and not self.problem


@dataclass(frozen=True, eq=False)
class Case:
    """An answer with everything needed to draw it."""

    answer: Answer
    view: View
    instruction: Instruction
    predicted: tuple[Target, ...]
    reasoning: Reasoning


@dataclass(frozen=True)
class Followed:
    """The outcome for one target in one clip."""

    clip: int
    """The clip's seed."""
    start: str
    """"box": the true box in the first frame was given; "instruction": it was found by an instruction."""
    name: str
    frames: int
    """Number of frames after the first one."""
    region: float
    """J of DAVIS, the mean IoU over these frames."""
    boundary: float
    """F of DAVIS."""
    hidden: int
    """Frames in which nothing of it is visible."""
    hidden_right: int
    """Those of them in which no mask was given."""
    error_mm: float | None
    """Median position error over the frames with a mask in which the target is visible."""
    segment_s: float
    """Median time that a frame takes in the segmenter, for all targets together."""


class System:
    """The package as configured, or with an oracle in place of a stage, one frame and one question at a time.

    Use as a context manager. It waits for each answer and each frame, so that the results do not depend on timing.
    """

    def __init__(
        self,
        config: Config,
        reasoner: Reasoner | LiteralReasoner | OracleReasoner | None,
        load: Callable[[], Segmenter],
    ) -> None:
        """`reasoner`: closed with the system; None as for `Perception`. `load`: makes the segmenter."""
        self._reasoner = reasoner
        self._segmenter: Segmenter | None = None
        self._timed: _Timed | None = None
        self._events: queue.SimpleQueue[TargetsInFrame | RsvpError] = queue.SimpleQueue()

        def load_timed() -> Segmenter:
            self._segmenter = load()
            self._timed = _Timed(self._segmenter)
            return self._timed

        self._perception = Perception(
            load_timed,
            reasoner,
            on_targets=self._events.put,
            on_problem=self._events.put,
            config=dataclasses.replace(config.perception, image_timeout_s=FRAME_TIMEOUT_S, ask_again=False),
            tracker_config=config.tracker,
            max_instruction_chars=config.reasoner.max_instruction_chars,
        )

    @classmethod
    def configured(
        cls,
        config: Config,
        reasoner: str = "configured",
        segmenter: str = "configured",
        region: Region = Region.BOX,
    ) -> System:
        """The system that a configuration describes, with stages replaced as asked.

        reasoner: "configured", "literal", or "oracle", which says as exactly as `region` asks where a target is.
        segmenter: "configured", "boxes" (the configured one without the words), or "oracle".

        Raises ModelLoadError, ConfigurationError.
        """
        stage1: Reasoner | LiteralReasoner | OracleReasoner | None = None
        if reasoner == "oracle":
            stage1 = OracleReasoner(region, config.reasoner)
        elif reasoner == "literal":
            stage1 = LiteralReasoner(config.reasoner.max_instruction_chars)
        elif config.mllm.backend != "none":
            mllm = load_mllm(getattr(config.mllm, config.mllm.backend), isolated=False)
            stage1 = Reasoner(mllm, config.reasoner)
        stage2: dict[str, Callable[[], Segmenter]] = {
            "configured": lambda: load_segmenter(config.segmenter),
            "boxes": lambda: _WithoutWords(load_segmenter(config.segmenter)),
            "oracle": OracleSegmenter,
        }
        return cls(config, stage1, stage2[segmenter])

    def __enter__(self) -> System:
        """Raises ModelLoadError, ConfigurationError."""
        try:
            self._perception.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._perception.close()
        if isinstance(self._reasoner, Reasoner):
            self._reasoner.mllm.close()

    @property
    def names(self) -> dict[str, str]:
        """Names of the running models, by stage."""
        reasoner = self._perception.reasoner
        if isinstance(reasoner, Reasoner):
            name = reasoner.mllm.name
        elif isinstance(reasoner, OracleReasoner):
            name = f"oracle ({reasoner.region.value})"
        else:
            name = "none: words are taken literally" if reasoner is not None else "none"
        return {"reasoner": name, "segmenter": self._timed.name}

    @property
    def segment_s(self) -> float:
        """Time spent in the segmenter so far, seconds."""
        return self._timed.seconds

    def reset(self) -> None:
        """Stop following anything, as if just started."""
        self._perception.reset()

    def show(self, view: View) -> TargetsInFrame:
        """Show the next frame; returns the followed targets in it. Raises RsvpError if the segmenter fails."""
        if isinstance(self._segmenter, OracleSegmenter):
            self._segmenter.expect(view)
        frame = Frame(view.image, view.stamp_ns)
        self._perception.submit(frame)
        while True:
            try:
                event = self._events.get(timeout=FRAME_TIMEOUT_S)
            except queue.Empty:
                raise ModelRunError(f"no answer to a frame within {FRAME_TIMEOUT_S:g} s") from None
            if isinstance(event, RsvpError):
                raise event
            if event.frame is frame:
                return event

    def ask(self, view: View, instruction: Instruction) -> Outcome:
        """Ask about the last frame shown. Raises RsvpError."""
        if isinstance(self._reasoner, OracleReasoner):
            self._reasoner.expect(view, instruction)
        return self._find(instruction.text)

    def follow(self, name: str, box: Box) -> Outcome:
        """Additionally follow what is in this box of the last frame shown. Raises RsvpError."""
        return self._find(name, box, keep_targets=True)

    def _find(self, *arguments, **options) -> Outcome:
        outcome = self._perception.find(*arguments, **options).result()
        while not self._events.empty():
            event = self._events.get()
            if isinstance(event, RsvpError):
                raise event
        return outcome


class _Timed:
    """A segmenter, and the time spent in it."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self.name = segmenter.name
        self.reads_text = segmenter.reads_text
        self.seconds = 0.0

    def encode(self, image: np.ndarray) -> object:
        start = time.perf_counter()
        features = self._segmenter.encode(image)
        self.seconds += time.perf_counter() - start
        return features

    def segment(self, features: object, prompts: Sequence[Prompt]) -> list[Prediction]:
        start = time.perf_counter()
        predictions = self._segmenter.segment(features, prompts)
        self.seconds += time.perf_counter() - start
        return predictions


class _WithoutWords:
    """A segmenter that gets regions only, no descriptions."""

    reads_text = False

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self.name = f"{segmenter.name}, boxes only"

    def encode(self, image: np.ndarray) -> object:
        return self._segmenter.encode(image)

    def segment(self, features: object, prompts: Sequence[Prompt]) -> list[Prediction]:
        return self._segmenter.segment(features, [Prompt(prompt.box) for prompt in prompts])


# --- Instructions about images ----------------------------------------------------------------------------------------


def answer(system: System, scene: int, view: View, instruction: Instruction, top: str = "") -> Case:
    """Ask one instruction about an image that the system has not seen before; `scene`, `top`: see Answer.

    An MLLM's answer that cannot be understood (ParseError) counts as a wrong answer; any other RsvpError is raised.
    """
    before = system.segment_s
    system.reset()
    system.show(view)
    predicted, reasoning, problem = (), Reasoning(instruction.text), ""
    try:
        outcome = system.ask(view, instruction)
        predicted, reasoning = outcome.result.targets, outcome.reasoning
    except ParseError as error:
        problem = str(error)
    masks = [target.mask for target in predicted]
    truths = [view.mask(target) for target in instruction.targets]
    nothing = np.zeros(view.ids.shape, bool)
    intersection, union = overlap(np.logical_or.reduce([nothing, *masks]), np.logical_or.reduce([nothing, *truths]))
    if problem:
        union = max(union, 1)  # wrong even if nothing is meant
    result = Answer(
        scene=scene,
        text=instruction.text,
        language=instruction.language,
        kind=instruction.kind.value,
        novel=instruction.novel,
        objects=len(view.things),
        thin=any(view.object(target).kind in THIN for target in instruction.targets),
        targets=len(instruction.targets),
        found=len(predicted),
        intersection=intersection,
        union=union,
        boxes=box_accuracy([target.box for target in predicted], [view.object(i).box for i in instruction.targets]),
        right=not problem and shown_objects(masks, view.ids) == frozenset(instruction.targets),
        errors_mm=tuple(_best_error(masks, truth, view) for truth in truths),
        scores=tuple(target.score for target in predicted),
        presences=tuple(target.presence for target in predicted),
        top=top,
        problem=problem,
        reason_s=reasoning.duration_s,
        segment_s=system.segment_s - before,
    )
    return Case(result, view, instruction, predicted, reasoning)


def _best_error(masks: Sequence[np.ndarray], truth: np.ndarray, view: View) -> float | None:
    """Position error of the mask that overlaps the true one most; None if none does."""
    best = max(masks, key=lambda mask: mask_iou(mask, truth), default=None)
    return None if best is None or not (best & truth).any() else position_error_mm(best, truth, view)


def position_error_mm(mask: np.ndarray, truth: np.ndarray, view: View) -> float | None:
    """Distance between the positions that the node would publish for the two masks; None without depth."""
    found, true = surface_position(mask, view), surface_position(truth, view)
    return None if found is None or true is None else float(np.linalg.norm(found - true)) * 1e3


def surface_position(mask: np.ndarray, view: View) -> np.ndarray | None:
    """Middle of the surface under a mask, float64 x, y, z in the optical frame, metres; None without depth."""
    cx, cy = view.camera.center
    camera = CameraModel(view.camera.f, view.camera.f, cx, cy, view.camera.width, view.camera.height)
    return target_position(target_points(mask, view.depth, camera))


# --- Clips ------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Track:
    """A target, with its predictions compared with the truth from the second frame on."""

    id: int
    """Id of the thing that is meant, in the views."""
    name: str
    frames: int = 0
    region: float = 0.0
    """Sum of J over the frames …"""
    boundary: float = 0.0
    """… and of F."""
    hidden: int = 0
    hidden_right: int = 0
    errors_mm: list[float] = field(default_factory=list)

    def add(self, target: Target | None, view: View) -> None:
        truth = view.mask(self.id)
        mask = np.zeros_like(truth) if target is None or target.mask is None else target.mask
        region, boundary = region_and_boundary([mask], [truth])
        self.frames += 1
        self.region += region
        self.boundary += boundary
        self.hidden += not truth.any()
        self.hidden_right += not truth.any() and not mask.any()
        if mask.any() and truth.any() and (error := position_error_mm(mask, truth, view)) is not None:
            self.errors_mm.append(error)

    def result(self, clip: int, start: str, segment_s: float) -> Followed:
        region, boundary = self.region / self.frames, self.boundary / self.frames
        error = float(np.median(self.errors_mm)) if self.errors_mm else None
        return Followed(
            clip, start, self.name, self.frames, region, boundary, self.hidden, self.hidden_right, error, segment_s
        )


def follow_boxes(system: System, clip: int, views: Sequence[View]) -> list[Followed]:
    """Follow all things that are well seen in a clip's first frame, each from its true box and its name there."""
    first = views[0]
    system.reset()
    system.show(first)
    tracks = {}
    for thing in first.things:
        name = f"{thing.kind}, {thing.color}"
        found = system.follow(name, thing.box).result.targets
        # What is not found in its own box counts as never found.
        tracks[found[0].id if found else -thing.id] = _Track(thing.id, name)
    return _follow(system, clip, "box", views[1:], tracks)


def follow_instruction(system: System, clip: int, views: Sequence[View], instruction: Instruction) -> Followed:
    """Follow what an instruction about a clip's first frame means: one thing that is there."""
    first = views[0]
    (wanted,) = instruction.targets
    system.reset()
    system.show(first)
    try:
        found = system.ask(first, instruction).result.targets
    except ParseError:
        found = ()
    best = max(found, key=lambda target: target.score, default=None)
    track = _Track(wanted, instruction.text)
    (result,) = _follow(system, clip, "instruction", views[1:], {best.id if best is not None else -1: track})
    return result


def _follow(system: System, clip: int, start: str, views: Sequence[View], tracks: dict[int, _Track]) -> list[Followed]:
    """`tracks`: by the target's id in the system; negative ids are for what was not found."""
    seconds = []
    for view in views:
        before = system.segment_s
        targets = {target.id: target for target in system.show(view).targets}
        seconds.append(system.segment_s - before)
        for id, track in tracks.items():
            track.add(targets.get(id), view)
    median = float(np.median(seconds))
    return [track.result(clip, start, median) for track in tracks.values()]
