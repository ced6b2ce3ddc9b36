"""Stages that know the truth: with one of them in place of a model, the figures show the other stage's errors alone."""

from __future__ import annotations

import enum
import re
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from rsvp_ros.geometry import Box, RegionGrid, mask_to_box
from rsvp_ros.reasoning.parsing import Answer, Finding
from rsvp_ros.reasoning.proposals import propose
from rsvp_ros.reasoning.reasoner import ReasonerConfig, Steps
from rsvp_ros.tabletop.instruction import Instruction
from rsvp_ros.tabletop.instructions import english_name
from rsvp_ros.tabletop.kinds import COLORS, KINDS
from rsvp_ros.tabletop.view import ObjectView, View
from rsvp_ros.types import Prediction, Prompt, Reasoning, ReasoningStep


class Region(enum.Enum):
    """How exactly the oracle says where a target is."""

    BOX = "box"
    """The box around its visible pixels, padded as an MLLM's box is."""
    BANDS = "bands"
    """The bands of the region grid that its box spans, padded as an MLLM's bands are."""
    IMAGE = "image"
    """The whole image: only the description identifies the target."""


class OracleReasoner:
    """A stage 1 that knows the answers: what an instruction means, as region, name and attributes."""

    def __init__(self, region: Region = Region.BOX, config: ReasonerConfig | None = None) -> None:
        self.region = region
        self.config = config or ReasonerConfig()
        self._view: View | None = None
        self._instruction: Instruction | None = None

    def expect(self, view: View, instruction: Instruction) -> None:
        """Announce what will be asked next."""
        self._view, self._instruction = view, instruction

    def reason(
        self,
        image: np.ndarray,
        instruction: str,
        on_steps: Callable[[Steps, str], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Reasoning:
        """See `Reasoner.reason`. Raises ValueError if something other than expected is asked."""
        started = time.monotonic()
        view, expected = self._view, self._instruction
        if view is None or expected is None or image is not view.image or instruction != expected.text:
            raise ValueError(f"the oracle was not told of {instruction!r} about this image")
        steps = tuple(ReasoningStep(step.name, step.text) for step in expected.chain)
        if on_steps:
            on_steps(steps, "")
        height, width = image.shape[:2]
        prompt = self.config.visual_prompt
        findings = tuple(
            self._finding(view.mask(target), name, attributes, RegionGrid(prompt.rows, prompt.columns, width, height))
            for target, name, attributes in zip(expected.targets, expected.names, expected.attributes, strict=False)
        )
        answer = Answer(steps, bool(findings), findings)
        proposals = propose(answer, RegionGrid(prompt.rows, prompt.columns, width, height), self.config.padding)
        return Reasoning(
            instruction, proposals, steps, model=f"oracle ({self.region.value})", duration_s=time.monotonic() - started
        )

    def _finding(self, mask: np.ndarray, name: str, attributes: tuple[str, ...], grid: RegionGrid) -> Finding:
        box = mask_to_box(mask)
        if self.region is Region.IMAGE or box is None:
            return Finding(name, attributes, box=Box(0, 0, grid.width, grid.height))
        if self.region is Region.BOX:
            return Finding(name, attributes, box=box)
        rows, columns = grid.bands(box)
        return Finding(name, attributes, rows, columns)


class OracleSegmenter:
    """A stage 2 that knows the masks: it returns the visible part of the thing that fits region and text best."""

    name = "oracle"
    reads_text = True

    def __init__(self) -> None:
        self._view: View | None = None

    def expect(self, view: View) -> None:
        """Announce the view whose image will be encoded next."""
        self._view = view

    def encode(self, image: np.ndarray) -> View:
        """See `Segmenter.encode`. Raises ValueError for an image that it was not told of."""
        if self._view is None or image is not self._view.image:
            raise ValueError("the oracle was not told of this image")
        return self._view

    def segment(self, features: View, prompts: Sequence[Prompt]) -> list[Prediction]:
        """See `Segmenter.segment`. Presence is 0 if no visible thing in the region is of the named kind."""
        return [self._predict(features, prompt) for prompt in prompts]

    @staticmethod
    def _predict(view: View, prompt: Prompt) -> Prediction:
        kind, colors = _kind_and_colors(prompt.description)
        ranks = {thing.id: _fit(thing, prompt.box, kind, colors) for thing in view.objects if thing.box is not None}
        best = max(ranks, key=ranks.__getitem__, default=0)
        if not ranks or ranks[best] <= 0:
            return Prediction(np.zeros(view.ids.shape, bool), 0.0, 0.0)
        return Prediction(view.mask(best), 1.0, 1.0)


def _kind_and_colors(description: str) -> tuple[str, set[str]]:
    """The kind that a description names ("" if none is known), and the colours that it names.

    The kind is the last one before the comma: "orange mug", "mug, orange" and "orange" are a mug, a mug and a fruit.
    """
    name, _, attributes = description.lower().partition(",")
    words = re.findall(r"\w+", name)
    said = next((word for word in reversed(words) if word in _KINDS_BY_WORD), "")
    if said:
        words.remove(said)
    return _KINDS_BY_WORD.get(said, ""), {word for word in (*words, *re.findall(r"\w+", attributes)) if word in COLORS}


_KINDS_BY_WORD = {kind: kind for kind in KINDS} | {english_name(kind).split()[-1]: kind for kind in KINDS}
"""A spanner is called a wrench."""


def _fit(thing: ObjectView, region: Box, kind: str, colors: set[str]) -> float:
    """How well a visible thing fits a region and a description; 0 to 1, 0: not at all.

    The mean of the IoU, which suits tight regions, and of the share of its box inside, which suits loose ones; half of
    that if the colour differs.
    """
    if kind and thing.kind != kind:
        return 0.0
    agreement = (thing.box.intersection(region) / thing.box.area + thing.box.iou(region)) / 2
    return agreement if not colors or thing.color in colors else agreement / 2
