"""Stage 1 of RSVP: an image and an instruction in, region proposals and the reasoning that led to them out."""

from __future__ import annotations

import threading
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import cv2
import numpy as np

from rsvp_ros.errors import CancelledError, InvalidImageError, InvalidInstructionError, ParseError
from rsvp_ros.ranges import check_ranges
from rsvp_ros.reasoning.families import Family, family_for, find_family
from rsvp_ros.reasoning.mllm.base import Generation, Message, Mllm
from rsvp_ros.reasoning.parsing import Answer, is_prose, parse_answer, partial_steps, split_thought
from rsvp_ros.reasoning.prompts import Prompts
from rsvp_ros.reasoning.proposals import DEFAULT_PADDING, propose
from rsvp_ros.reasoning.visual_prompt import VisualPrompt
from rsvp_ros.types import Reasoning, ReasoningStep, RegionProposal

Steps = tuple[ReasoningStep, ...]
T = TypeVar("T")

TURN_SEPARATOR = "\n----\n"
"""Separates the turns in `Reasoning.raw_text`."""

_MIN_INTERVAL_S = 0.05
"""Shortest time between two reports of a streaming answer."""
_READING_SHARE = 0.1
"""Largest share of the time that is spent on reading an answer that is not complete yet."""
_MAX_REMEMBERED_CHARS = 4000
"""Longest answer that stays in the conversation whole; one that ran wild loses its middle."""


@dataclass(frozen=True)
class ReasonerConfig:
    """How stage 1 asks. Raises ConfigurationError for a value that cannot work."""

    visual_prompt: VisualPrompt = field(default_factory=VisualPrompt)
    family: str = "auto"
    """Whose coordinate convention the MLLM follows, a name in `families.FAMILIES`; "auto": guessed from its name."""
    turns: bool = False
    """False: all five steps in one structured answer. True: each step is a turn of a conversation, for models that do
    not keep to a long instruction; slower, since each turn has its own prompt."""
    padding: float = DEFAULT_PADDING
    """How far a proposal is grown on each side, as a share of its size, so that edges are not cut; see `propose`."""
    max_targets: int = 10
    max_instruction_chars: int = 2000
    reask: int = 1
    """How many times the model is told what was wrong with its answer and asked again."""

    def __post_init__(self) -> None:
        if self.family != "auto":
            find_family(self.family)
        check_ranges(self, padding=(0, 1), max_targets=(1, 100), max_instruction_chars=(1, 100_000), reask=(0, 10))


class Reasoner:
    """The multi-modal chain of thought (MCoT, RSVP sec. 3.2) with any MLLM.

    The five steps: (1) the target: what is meant, (2) the scene: what in the image matters for it, (3) the presence: is
    it there, (4) the region: which bands it spans and its box, (5) the reason.

    As thread-safe as the MLLM it is given.
    """

    def __init__(self, mllm: Mllm, config: ReasonerConfig | None = None) -> None:
        self.mllm = mllm
        self.config = config or ReasonerConfig()

    @property
    def family(self) -> Family:
        """The convention in which the MLLM writes coordinates."""
        return family_for(self.mllm.name) if self.config.family == "auto" else find_family(self.config.family)

    def reason(
        self,
        image: np.ndarray,
        instruction: str,
        on_steps: Callable[[Steps, str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Reasoning:
        """Find what an instruction means in an image.

        image: uint8 H x W x 3 RGB, 2 x 2 pixels or more.
        on_steps: called while the MLLM writes, in the calling thread, at most twenty times a second and at the end,
            with the steps so far (the last one possibly unfinished) and the text that is new since its last call. When
            the MLLM has to be asked again, the steps begin anew.
        cancel: when set, the call ends with CancelledError as soon as the MLLM stops.

        Returns a Reasoning, without proposals if the target is not in the image.
        Raises InvalidImageError, InvalidInstructionError; ParseError if the answer could not be understood, even after
        asking again; CancelledError; and what `Mllm.generate` raises.
        """
        started = time.monotonic()
        check_image(image)
        instruction = check_instruction(instruction, self.config.max_instruction_chars)
        self.mllm.prepare(cancel)
        conversation = _Conversation(self.mllm, on_steps, cancel)
        inquiry = _Inquiry(self.config, self.family, image, instruction)
        steps, proposals = inquiry.in_turns(conversation) if self.config.turns else inquiry.at_once(conversation)
        conversation.report(steps)
        return Reasoning(
            instruction=instruction,
            proposals=proposals,
            steps=steps,
            raw_text=TURN_SEPARATOR.join(g.text for g in conversation.generations),
            model=self.mllm.name,
            duration_s=time.monotonic() - started,
            prompt_tokens=sum(g.prompt_tokens for g in conversation.generations),
            completion_tokens=sum(g.completion_tokens for g in conversation.generations),
        )


class _Inquiry:
    """One image and one instruction, and the ways to ask about them."""

    def __init__(self, config: ReasonerConfig, family: Family, image: np.ndarray, instruction: str) -> None:
        height, width = image.shape[:2]
        self.config, self.family, self.image_size = config, family, (width, height)
        self.prompts = Prompts(instruction, config.visual_prompt, family, self.image_size, config.max_targets)
        size = family.size_to_send(self.image_size)
        if size != self.image_size:
            smaller = size[0] < width
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
        self.drawn = config.visual_prompt.draw(image)

    def at_once(self, conversation: _Conversation) -> tuple[Steps, tuple[RegionProposal, ...]]:
        conversation.instruct(self.prompts.render("system"))
        answer, proposals = self._ask(
            conversation, self.prompts.render("mcot_structured"), self._read, partial_steps, self.drawn
        )
        return answer.steps, proposals

    def in_turns(self, conversation: _Conversation) -> tuple[Steps, tuple[RegionProposal, ...]]:
        steps: Steps = ()

        def with_text(name: str) -> Callable[[str], Steps]:
            return lambda text: (*steps, ReasoningStep(name, _without_thought(text)))

        def with_region(text: str) -> Steps:
            return (*steps, *(step for step in partial_steps(text) if step.name == "region"))

        conversation.instruct(self.prompts.render("system"))
        generation = conversation.ask(self.prompts.render("turn_1_target"), with_text("target"), self.drawn)
        steps = with_text("target")(generation.text)
        generation = conversation.ask(self.prompts.render("turn_2_scene"), with_text("scene"))
        steps = with_text("scene")(generation.text)
        generation = conversation.ask(self.prompts.render("turn_3_presence"), with_text("presence"))
        present, why = self._read_presence(generation)
        steps = with_text("presence")(why)
        if not present:
            return steps, ()
        answer, proposals = self._ask(conversation, self.prompts.render("turn_4_region"), self._read, with_region)
        steps = (*steps, *(step for step in answer.steps if step.name == "region"))
        if not proposals:
            return steps, ()
        generation = conversation.ask(self.prompts.render("turn_5_reason"), with_text("reason"))
        steps = with_text("reason")(generation.text)
        return steps, tuple(replace(proposal, reason=proposal.reason or steps[-1].text) for proposal in proposals)

    def _ask(
        self,
        conversation: _Conversation,
        text: str,
        read: Callable[[Generation], T],
        steps_in: Callable[[str], Steps],
        *images: np.ndarray,
    ) -> T:
        """Ask and read the answer; if it cannot be read, say why and ask again."""
        generation = conversation.ask(text, steps_in, *images)
        for _ in range(self.config.reask):
            if _is_cut_off(generation):
                break  # it would be cut off again
            try:
                return read(generation)
            except ParseError as error:
                generation = conversation.ask(self.prompts.render("reask", error=error), steps_in)
        if _is_cut_off(generation):
            raise ParseError(
                f"the answer of {conversation.mllm.name!r} was cut off before it said what it found: raise max_tokens "
                "(mllm.openai) or max_new_tokens (mllm.transformers); models that think take 8192 and more. Where it "
                "repeats itself without end, put the instruction in fewer words. It wrote: "
                f"{_shortened(generation.text, 300)!r}"
            )
        try:
            return read(generation)
        except ParseError as error:
            again = ", also when it was asked again" if self.config.reask else ""
            raise ParseError(
                f"the answer of {conversation.mllm.name!r} could not be understood{again}: {error} It wrote: "
                f"{_shortened(generation.text, 300)!r}. Put the instruction in other words, use a larger model, or "
                f"check that it keeps to the coordinates of the family {self.family.name!r} (option `family`)."
            ) from error

    def _parse(self, generation: Generation) -> Answer:
        return parse_answer(generation.text, self.family, self.image_size, generation.image_size)

    def _read(self, generation: Generation) -> tuple[Answer, tuple[RegionProposal, ...]]:
        answer = self._parse(generation)
        if answer.present is False:
            return answer, ()
        proposals = propose(answer, self.config.visual_prompt.grid(*self.image_size), self.config.padding)
        return answer, proposals[: self.config.max_targets]

    def _read_presence(self, generation: Generation) -> tuple[bool, str]:
        """Whether the third turn says that the target is there, and why. Unclear counts as yes: the next turn tells."""
        try:
            answer = self._parse(generation)
        except ParseError:
            return True, generation.text
        why = next((step.text for step in answer.steps if step.name == "reason"), generation.text)
        return answer.present is not False, why


class _Conversation:
    """The turns so far, what they cost, and who gets reports while an answer is being written."""

    def __init__(
        self, mllm: Mllm, on_steps: Callable[[Steps, str], None] | None, cancel: threading.Event | None
    ) -> None:
        self.mllm = mllm
        self.generations: list[Generation] = []
        self._messages: list[Message] = []
        self._on_steps = on_steps
        self._cancel = cancel
        self._unreported = ""

    def instruct(self, system: str) -> None:
        self._messages.append(Message("system", system))

    def ask(self, text: str, steps_in: Callable[[str], Steps], *images: np.ndarray) -> Generation:
        """One turn. `steps_in` reads the steps from an answer that is still being written."""
        self._stop_if_cancelled()
        self._messages.append(Message("user", text, images))
        written = ""
        next_report = 0.0

        def on_text(piece: str) -> None:
            nonlocal written, next_report
            written += piece
            self._unreported += piece
            now = time.monotonic()
            if now >= next_report:
                self.report(steps_in(written))
                spent = time.monotonic() - now
                next_report = now + max(_MIN_INTERVAL_S, spent / _READING_SHARE)

        generation = self.mllm.generate(self._messages, on_text if self._on_steps else None, self._cancel)
        self._stop_if_cancelled()
        self.generations.append(generation)
        remembered = _shortened(_without_thought(generation.text), _MAX_REMEMBERED_CHARS)
        self._messages.append(Message("assistant", remembered or "(no answer)"))  # some servers refuse an empty one
        if self._on_steps:
            self.report(steps_in(generation.text))
        return generation

    def report(self, steps: Steps) -> None:
        if self._on_steps:
            text, self._unreported = self._unreported, ""
            self._on_steps(steps, text)

    def _stop_if_cancelled(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise CancelledError("the reasoning was cancelled")


def check_instruction(instruction: str, limit: int) -> str:
    """The instruction on one line and without control characters.

    Raises InvalidInstructionError for one that is empty or has more than `limit` characters.
    """
    if len(instruction) > limit:
        raise InvalidInstructionError(
            f"the instruction has {len(instruction)} characters, the limit is {limit}: say it in a sentence or two"
        )
    printable = (" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in instruction)
    instruction = " ".join("".join(printable).split())
    if not instruction:
        raise InvalidInstructionError("the instruction is empty: say what to find, as in 'the red cup'")
    return instruction


def check_image(image: np.ndarray) -> None:
    """Raises InvalidImageError where an image cannot be reasoned about."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or min(image.shape[:2]) < 2:
        raise InvalidImageError(
            f"an image of shape {image.shape} and type {image.dtype} cannot be reasoned about; give uint8 H x W x 3 "
            "RGB of at least 2 x 2 pixels"
        )


def _without_thought(text: str) -> str:
    """A thinking model's answer, or its thought as long as there is nothing else."""
    thought, answer = split_thought(text)
    return answer.strip() or thought


def _is_cut_off(generation: Generation) -> bool:
    """Whether it ended before its answer began: it is then all prose, the thought of a model whose server does not mark
    thoughts."""
    return generation.cut and is_prose(generation.text)


def _shortened(text: str, limit: int) -> str:
    """The text; a long one without its middle."""
    return text if len(text) <= limit else f"{text[: limit * 2 // 3]} [...] {text[-limit // 3 :]}"
