"""What is asked for while the clip runs, what the node answers, and how that compares with the ground truth."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rsvp_ros import msg
from rsvp_ros.action import FindTarget
from rsvp_ros.errors import RsvpError
from rsvp_ros.evaluation.metrics import shown_objects
from rsvp_ros.geometry import mask_iou
from rsvp_ros.ros.client import Client
from rsvp_ros.ros.conversions import mask_from_msg, msg_to_box, time_to_ns
from rsvp_ros.ros.demo.camera import Camera, Film, Shot
from rsvp_ros.types import Reasoning, ReasoningStep, RegionProposal

ANSWER_S = 60.0
"""The node may take this long for an answer."""
IN_SIGHT, HIDDEN = 0.5, 0.1
"""A thing is in sight if at least the first share of it is seen, and hidden if at most the second is."""
ON_IT = 0.5
"""A mask with at least this IoU is on the thing."""


@dataclass(frozen=True)
class Ask:
    """Something to ask for while the clip runs, and which of the clip's things is meant."""

    at: float
    """When to ask, as a share of the time that is played."""
    instruction: str
    color: str
    kind: str

    def meant(self, film: Film) -> int:
        """The object that is meant: the clip's only one of this kind and colour."""
        things = film.shots[0].objects.values()
        (object_id,) = (thing.id for thing in things if (thing.color, thing.kind) == (self.color, self.kind))
        return object_id


ASKS = (
    Ask(0.03, "something to cut with", "orange", "scissors"),
    Ask(0.12, "something to drink from", "blue", "mug"),
    Ask(0.32, "the purple ball", "purple", "ball"),
)
"""Uses that things of several kinds serve, so that the MLLM lists what it sees; and words of kind and colour, which a
segmenter that reads text understands, too."""


@dataclass
class Answer:
    """What the node answered to one instruction, and how it followed what it found."""

    ask: Ask
    meant: int
    """The object that is asked for."""
    number: int
    """Number of the picture in which it was found, or was not."""
    reasoning: Reasoning
    failure: str = ""
    """Why there is no answer."""
    targets: frozenset[int] = frozenset()
    """Ids of what was found."""
    shown: frozenset[int] = frozenset()
    """The objects on which the targets' masks lay; 0: none."""
    iou: float = 0.0
    """IoU of all the masks together with the object that is meant, in that picture."""
    followed: int = 0
    """Pictures in which it was in sight and the mask was on it."""
    hidden: int = 0
    noticed: int = 0
    """Pictures in which it was hidden and there was no mask."""
    ious: dict[int, float] = field(default_factory=dict)
    """IoU by picture number, for pictures in which the thing is in sight; 0 without a mask."""

    @property
    def right(self) -> bool:
        """Whether what was asked for was found, and nothing else."""
        return self.shown == {self.meant}

    @property
    def kept(self) -> bool:
        """Whether the right thing was followed in at least half of the pictures in which it was in sight."""
        return self.right and self.followed * 2 >= len(self.ious) > 0

    def add(self, number: int, message: msg.TargetArray, shot: Shot) -> None:
        """Take in the node's targets in one picture; called with the pictures in order."""
        targets = [target for target in message.targets if target.id in self.targets]
        if not targets and not (self.ious or self.hidden):
            return  # the answer is still on its way
        mask, seen = union(targets, shot), shot.seen(self.meant)
        if seen >= IN_SIGHT:
            self.ious[number] = mask_iou(mask, shot.ids == self.meant)
            self.followed += self.ious[number] >= ON_IT
        elif seen <= HIDDEN:
            self.hidden += 1
            self.noticed += not mask.any()

    def verdict(self, film: Film) -> str:
        """Whether it was found, in words."""
        if self.failure:
            return "failed"
        if not self.targets:
            in_sight = film.shots[self.number].seen(self.meant) >= IN_SIGHT
            return "not found, though it is in sight" if in_sight else "not found, and not in sight"
        if self.right:
            return f"found {film.name(self.meant)}, IoU {self.iou:.2f}"
        return f"wrong: found {' and '.join(film.name(thing) for thing in sorted(self.shown))}"

    def __str__(self) -> str:
        text = f"mean IoU {np.mean(list(self.ious.values()) or [0.0]):.3f} over {len(self.ious)} frames in sight, "
        text += f"on it in {self.followed}"
        if self.hidden and self.right:
            text += f"; no mask in {self.noticed} of the {self.hidden} in which it is hidden"
        return text


def union(targets: Sequence[msg.Target], shot: Shot) -> np.ndarray:
    """The union of all their masks, bool H x W."""
    mask = np.zeros(shot.ids.shape, bool)
    for target in targets:
        mask |= mask_from_msg(target, *mask.shape)
    return mask


def say(text: str) -> None:
    """Print text on the console, under the instruction."""
    print(textwrap.fill(text, 110, initial_indent=" " * 9, subsequent_indent=" " * 11), flush=True)


class StepPrinter:
    """Prints the steps of the reasoning as they are written, each when it is finished."""

    def __init__(self) -> None:
        self._printed = 0

    def show(self, steps: Sequence[msg.ReasoningStep], finished: bool = False) -> None:
        for step in steps[self._printed : None if finished else -1]:
            say(f"{step.name}: {step.text}")
            self._printed += 1


def find(client: Client, camera: Camera, film: Film, ask: Ask) -> Answer:
    """Ask the node for something, as a robot program would."""
    asked, printer = camera.position, StepPrinter()
    print(f'  {film.time_s(asked):4.1f} s  "{ask.instruction}"', flush=True)
    start = time.monotonic()
    try:
        result = client.find(
            ask.instruction,
            ANSWER_S,
            keep_targets=True,
            on_feedback=lambda feedback: printer.show(feedback.steps),
        )
    except (RsvpError, TimeoutError) as error:
        say(f"-> failed: {error}")
        return Answer(ask, ask.meant(film), asked, Reasoning(ask.instruction), failure=str(error))
    took_s = time.monotonic() - start
    printer.show(result.reasoning.steps, finished=True)
    number = camera.number(time_to_ns(result.header.stamp))
    shot, meant = film.shots[number], ask.meant(film)
    answer = Answer(
        ask,
        meant,
        number,
        to_reasoning(result),
        targets=frozenset(target.id for target in result.targets),
        shown=shown_objects([union([target], shot) for target in result.targets], shot.ids),
        iou=mask_iou(union(result.targets, shot), shot.ids == meant),
    )
    text = f"-> after {took_s:.1f} s: {answer.verdict(film)}"
    for target in result.targets:
        text += f" (target {target.id}, score {target.score:.2f}, presence {target.presence:.2f})"
    if not result.targets:
        text += f": {result.error_msg}"
    say(text)
    return answer


def to_reasoning(result: FindTarget.Result) -> Reasoning:
    """The reasoning in a result, with its proposals if targets were found."""
    message = result.reasoning
    proposals = tuple(
        RegionProposal(
            msg_to_box(proposal.bbox), proposal.class_name, tuple(proposal.attributes), reason=proposal.reason
        )
        for proposal in message.proposals
    )
    return Reasoning(
        message.instruction,
        # The segmenter may see none of what the MLLM proposed.
        proposals if result.targets else (),
        tuple(ReasoningStep(step.name, step.text) for step in message.steps),
        message.raw_text,
        message.model,
        message.duration.sec + message.duration.nanosec * 1e-9,
        message.prompt_tokens,
        message.completion_tokens,
    )
