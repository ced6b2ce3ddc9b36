"""The segmenter alone on the tabletop world: asked for every thing by region and description, and for absent things.

Names and attributes are written as stage 1 writes them (`RegionProposal.description`): "mug, blue", "knife,
red handle".
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rsvp_ros.evaluation.metrics import mean, shown_objects
from rsvp_ros.evaluation.segmentation import area_under_curve
from rsvp_ros.geometry import Box, mask_iou
from rsvp_ros.segmentation.segmenter import Segmenter
from rsvp_ros.tabletop.descriptions import has_colored_handle
from rsvp_ros.tabletop.instruction import LANGUAGES
from rsvp_ros.tabletop.instructions import english_name
from rsvp_ros.tabletop.kinds import KINDS, THIN, TRAINING_KINDS
from rsvp_ros.tabletop.language import GRAMMARS
from rsvp_ros.tabletop.queries import Description
from rsvp_ros.tabletop.view import ObjectView, View
from rsvp_ros.types import Prompt, RegionProposal


class PromptKind(enum.Enum):
    """Which region and description a prompt has."""

    TIGHT = "tight box + text"
    """The box around the thing, padded by 5 %; also if others have the same name and colour."""
    BOX = "tight box, no text"
    LOOSE = "loose box + text"
    """A box three times as wide and as high, with another thing in it."""
    PAIR = "box around two + text"
    """The box around the thing and its nearest neighbour."""
    WHOLE = "whole image + text"
    WHOLE_KIND = "whole image + kind alone"
    FOREIGN = "whole image + es, de, zh"
    """The same as WHOLE, in Spanish, German or Chinese."""
    ABSENT_ELSEWHERE = "absent: elsewhere"
    """In the box around one thing: the words for another thing."""
    ABSENT_KIND = "absent: no such kind"
    """In the whole image: a kind that it does not show, in a colour that it shows (and that the kind can have)."""
    ABSENT_COLOR = "absent: not in this colour"
    """In the whole image: a kind that it shows, in a colour that nothing has."""
    ABSENT_PAIR = "absent: both words, on different things"
    """In the whole image: a kind and a colour that it shows, but not on the same thing."""
    ABSENT_KIND_ALONE = "absent: no such kind, no colour"
    """In the whole image: a kind that it does not show."""
    ABSENT_FOREIGN = "absent: in es, de, zh"
    """The first three kinds of absent words for the whole image, in Spanish, German or Chinese."""

    @property
    def absent(self) -> bool:
        return self.name.startswith("ABSENT")

    @property
    def judges_presence(self) -> bool:
        """Whether a refusal can be judged: that takes words."""
        return self is not PromptKind.BOX


@dataclass(frozen=True)
class Question:
    """A prompt and its answer."""

    kind: PromptKind
    prompt: Prompt
    target: int
    """Id of the thing; 0: it is absent."""


@dataclass(frozen=True)
class Reply:
    """The segmenter's answer to a question."""

    kind: PromptKind
    thin: bool
    iou: float
    """With the target's mask; NaN where it is absent."""
    right: bool
    """Whether the mask fits the target better than any other thing."""
    presence: float


def questions(view: View, rng: np.random.Generator) -> Iterator[Question]:
    """Every question about a view that has a certain answer.

    A thing is asked for by words only if nothing else in the region fits them, not even for somebody who sees only a
    corner of it or confuses two colours; and words count as absent only if nothing could fit them.
    """
    height, width = view.ids.shape
    whole = Box(0, 0, width, height)
    glimpsed = {thing.id for thing in view.glimpsed}

    def fitting(kind: str, color: str | None, region: Box) -> set[int]:
        """Ids of everything in a region that the words could mean."""
        words = Description(kind=kind, color=color)
        inside = (o for o in view.objects if o.box is not None and o.box.intersection(region) > 0)
        return {o.id for o in inside if (words.might_hold(o) if o.id in glimpsed else words.holds(o) is not False)}

    for thing in view.things:
        text = _text(thing.kind, thing.color, material=thing.material)
        tight = thing.box.pad(0.05).clip(width, height)
        yield Question(PromptKind.BOX, Prompt(tight), thing.id)
        yield Question(PromptKind.TIGHT, Prompt(tight, text), thing.id)
        others = [o for o in view.things if o is not thing]
        loose = thing.box.pad(1.0).clip(width, height)
        neighbour = min(others, key=lambda o: np.hypot(*np.subtract(o.box.center, thing.box.center)), default=None)
        regions = {PromptKind.WHOLE: whole}
        if any(o.box.intersection(loose) > 0.5 * o.box.area for o in others):
            regions[PromptKind.LOOSE] = loose
        if neighbour is not None:
            regions[PromptKind.PAIR] = thing.box.union(neighbour.box)
        for kind, region in regions.items():
            if fitting(thing.kind, thing.color, region) == {thing.id}:
                yield Question(kind, Prompt(region, text), thing.id)
                if kind is PromptKind.WHOLE:
                    yield Question(PromptKind.FOREIGN, Prompt(whole, _foreign(thing)), thing.id)
        if others:
            other = others[rng.integers(len(others))]
            if not fitting(other.kind, other.color, tight):
                told = _text(other.kind, other.color, material=other.material)
                yield Question(PromptKind.ABSENT_ELSEWHERE, Prompt(tight, told), 0)

    kinds, colors = ({getattr(o, name) for o in view.objects if o.area} for name in ("kind", "color"))
    for thing in view.things:
        likely = set(KINDS[thing.kind].colors)
        new_kinds = {kind for kind in TRAINING_KINDS if thing.color in KINDS[kind].colors} - kinds
        for prompt_kind, words in (
            (PromptKind.ABSENT_KIND, {(kind, thing.color) for kind in new_kinds}),
            (PromptKind.ABSENT_COLOR, {(thing.kind, color) for color in likely - colors}),
            (PromptKind.ABSENT_PAIR, {(thing.kind, color) for color in likely & colors}),
        ):
            possible = sorted(pair for pair in words if not fitting(*pair, whole))
            if possible:
                chosen = possible[rng.integers(len(possible))]
                yield Question(prompt_kind, Prompt(whole, _text(*chosen)), 0)
                absent = replace(thing, kind=chosen[0], color=chosen[1])
                yield Question(PromptKind.ABSENT_FOREIGN, Prompt(whole, _foreign(absent)), 0)

    for thing in view.things:
        if fitting(thing.kind, None, whole) == {thing.id}:
            yield Question(PromptKind.WHOLE_KIND, Prompt(whole, _text(thing.kind)), thing.id)
    for _ in view.things:
        kind = TRAINING_KINDS[rng.integers(len(TRAINING_KINDS))]
        if not fitting(kind, None, whole):
            yield Question(PromptKind.ABSENT_KIND_ALONE, Prompt(whole, _text(kind)), 0)


def _text(kind: str, *colors: str, material: str | None = None) -> str:
    """`material`: of a thing that is there; a wooden spoon has no handle of another colour."""
    said = (f"{color} handle" if has_colored_handle(kind, color, material) else color for color in colors)
    return RegionProposal(Box(0, 0, 1, 1), english_name(kind), tuple(said)).description


def _foreign(thing: ObjectView) -> str:
    """Colour and kind of a thing in a language other than English."""
    others = [language for language in LANGUAGES if language != "en"]
    return GRAMMARS[others[thing.id % len(others)]](None, True).name(replace(thing, pattern="plain"))


def ask(segmenter: Segmenter, view: View, asked: Sequence[Question]) -> list[Reply]:
    """Put all questions about a view to a segmenter. Raises ModelRunError."""
    features = segmenter.encode(view.image)
    replies = []
    for question, prediction in zip(asked, segmenter.segment(features, [q.prompt for q in asked]), strict=True):
        target = question.target
        replies.append(
            Reply(
                question.kind,
                target > 0 and view.object(target).kind in THIN,
                mask_iou(prediction.mask, view.mask(target)) if target else float("nan"),
                shown_objects([prediction.mask], view.ids) == {target},
                prediction.presence,
            )
        )
    return replies


@dataclass(frozen=True)
class PromptScores:
    """Scores of one kind of prompt. NaN if it has no replies that count."""

    replies: int
    iou: float
    """Mean."""
    iou_thin: float
    """Mean over things of the kinds in `kinds.THIN`."""
    right: float
    """Share in which the mask fits the target better than any other thing."""
    refused: float
    """Share with a presence below the threshold: wrong if the thing is there, right if it is absent."""


def prompt_scores(replies: Sequence[Reply], threshold: float) -> dict[PromptKind, PromptScores]:
    """Scores by kind of prompt; `threshold`: on presence, like `TrackerConfig.min_presence`."""
    scores = {}
    for kind in PromptKind:
        chosen = [reply for reply in replies if reply.kind is kind]
        if not chosen:
            continue
        there = [] if kind.absent else chosen
        scores[kind] = PromptScores(
            len(chosen),
            mean([reply.iou for reply in there]),
            mean([reply.iou for reply in there if reply.thin]),
            mean([reply.right for reply in there]),
            mean([reply.presence < threshold for reply in chosen]) if kind.judges_presence else float("nan"),
        )
    return scores


def presence_auc(replies: Sequence[Reply]) -> float:
    """Probability that presence is higher for something that is there than for something that is not."""
    there = [reply.presence for reply in replies if not reply.kind.absent and reply.kind.judges_presence]
    absent = [reply.presence for reply in replies if reply.kind.absent]
    return area_under_curve(there, absent) if there and absent else float("nan")
