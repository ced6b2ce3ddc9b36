"""Prompts about a scene with their answers: regions from a tight box to none at all, so that the text must decide."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from rsvp_ros.geometry import Box
from rsvp_ros.tabletop.descriptions import TELLING_COLORS
from rsvp_ros.training.drawn_scenes import COLORS, KINDS, Scene, Thing, is_held_out
from rsvp_ros.training.texts import (
    ALIKE_SHARE,
    NOUNS,
    colors_said,
    description,
    kind_text,
    lookalikes,
    pair_text,
    related,
    unknown_text,
)


class PromptKind(enum.Enum):
    """What information a prompt gives, and thus what can be learnt from it."""

    BOX = "box"
    """A jittered tight box, no text."""
    BOX_TEXT = "box + text"
    WHOLE_TEXT = "whole image + text"
    LOOSE_TEXT = "loose box + text"
    """A box that holds other things too."""
    PAIR_TEXT = "box around two + text"
    """The box around the target and its nearest neighbour."""
    SHIFTED = "shifted box"
    """A tight box moved by up to a third of its size, like a tracker's prediction."""
    UNKNOWN_TEXT = "box + unknown words"
    """Words that name nothing, so the box decides."""
    LEAF = "box, dead leaves"
    INSTRUCTION = "whole image + instruction"
    """What a person says, in any of the supported languages; it may mean several things."""
    ABSENT = "absent"
    """The text describes nothing in the region."""


@dataclass(frozen=True)
class Vocabulary:
    """The words of a world: what descriptions of absent things are made of."""

    kinds: tuple[str, ...]
    colors: tuple[str, ...]
    is_held_out: Callable[[str, str], bool]
    """Whether a pair of kind and colour is kept out of training."""
    imagine: Callable[[np.random.Generator, str, str], Thing]
    """A thing of this kind and colour, with all that can be said of such a thing."""

    def pair(self, rng: np.random.Generator) -> tuple[str, str]:
        return self.kinds[rng.integers(len(self.kinds))], self.colors[rng.integers(len(self.colors))]


DRAWN = Vocabulary(
    tuple(KINDS), tuple(COLORS), is_held_out, lambda rng, kind, color: Thing(0, kind, color, Box(0, 0, 1, 1), 0)
)


@dataclass(frozen=True)
class Sample:
    """A prompt about a scene, and the answer."""

    kind: PromptKind
    box: Box
    text: str
    targets: tuple[int, ...]
    """Ids of the things meant; empty if what is described is absent."""
    judged: bool = True
    """Whether presence can be learnt from this sample."""
    has_mask: bool = True
    """Whether its mask is learnt, too."""


# --- boxes ------------------------------------------------------------------------------------------------------------


def jitter(rng: np.random.Generator, box: Box, low: float, high: float) -> Box:
    """Move each side in or out by `low` to `high` times the box's width or height."""
    share = rng.uniform(low, high, (2, 2)) * rng.choice((-1.0, 1.0), (2, 2))
    dx, dy = share * np.array([[box.width], [box.height]])
    return Box.ordered(box.x0 + dx[0], box.y0 + dy[0], box.x1 + dx[1], box.y1 + dy[1])


def tight_box(rng: np.random.Generator, box: Box, scene: Scene) -> Box:
    """A box as a detector, an MLLM or the tracker gives it: a little off, and sometimes wider."""
    height, width = scene.ids.shape
    wide = box.pad(rng.uniform(0, 0.35)) if rng.random() < 0.4 else box
    return jitter(rng, wide, 0.0, rng.uniform(0.0, 0.15)).clip(width, height)


# --- prompts ----------------------------------------------------------------------------------------------------------

SHARES = {
    PromptKind.BOX: 0.07,
    PromptKind.BOX_TEXT: 0.16,
    PromptKind.WHOLE_TEXT: 0.20,
    PromptKind.LOOSE_TEXT: 0.11,
    PromptKind.PAIR_TEXT: 0.11,
    PromptKind.SHIFTED: 0.06,
    PromptKind.UNKNOWN_TEXT: 0.03,
    PromptKind.ABSENT: 0.26,
}
QUESTION_SHARES = {
    PromptKind.BOX_TEXT: 0.12,
    PromptKind.WHOLE_TEXT: 0.2,
    PromptKind.LOOSE_TEXT: 0.08,
    PromptKind.UNKNOWN_TEXT: 0.1,
    PromptKind.ABSENT: 0.5,
}
"""Those of prompts that ask only for presence. Without unknown words among them, a network learns that whatever it has
no word for is absent."""


SMALLER = 0.3
"""Small things are asked for more often, by the area to the power of -SMALLER (0: all equally) …"""
THINNER = 0.5
"""… and thin ones, by the share they cover of a square as wide as they are long, to the power of -THINNER."""
KIND_ALONE_SHARE = 0.15
"""Share of the absent descriptions that give a kind that is not there, without a colour; others do so, too. A network
that seldom hears of an absent "mug" believes in every mug that it is told of."""
UNKNOWN_SHARE = 0.06
"""Share of those that give a colour that is not there, with a noun that names nothing."""
RELATED_SHARE = 0.1
"""Share of the descriptions that also say where the thing is, be it there or not."""


def _absent(rng: np.random.Generator, scene: Scene, vocabulary: Vocabulary) -> Sample | None:
    """A description that fits nothing in the region, often by one word only."""
    height, width = scene.ids.shape
    whole = Box(0, 0, width, height)
    anchor = scene.things[rng.integers(len(scene.things))]
    form = rng.random()
    box = whole if form < 0.5 else tight_box(rng, anchor.box, scene) if form < 0.75 else anchor.box.pad(0.8)
    box = box.clip(width, height)
    others = [t for t in scene.things if t.box.intersection(box) > 0.03 * t.box.area] + list(scene.doubtful)
    form = rng.random()
    if form < KIND_ALONE_SHARE:
        text = _absent_kind(rng, scene, others, vocabulary)
    elif form < KIND_ALONE_SHARE + UNKNOWN_SHARE:
        colors = [c for c in TELLING_COLORS if c in vocabulary.colors and all(c not in colors_said(t) for t in others)]
        text = unknown_text(rng, colors[rng.integers(len(colors))], always=True) if colors else None
    else:
        imagined = _imagined(rng, scene, vocabulary)
        text = description(rng, imagined, others) if imagined else None
    if text and rng.random() < RELATED_SHARE:
        somewhere = replace(anchor, kind="", color="")
        text = related(rng, text, somewhere, [t for t in scene.things if t is not anchor])
    return Sample(PromptKind.ABSENT, box, text, ()) if text else None


def _absent_kind(rng: np.random.Generator, scene: Scene, others: list[Thing], vocabulary: Vocabulary) -> str | None:
    """A kind that is not in the region, without a colour."""
    kinds = [kind for kind in vocabulary.kinds if all(t.kind != kind for t in others)]
    if kinds and rng.random() < ALIKE_SHARE:
        kinds = lookalikes(scene.things[rng.integers(len(scene.things))].kind, kinds)
    return kind_text(rng, kinds[rng.integers(len(kinds))]) if kinds else None


def _imagined(rng: np.random.Generator, scene: Scene, vocabulary: Vocabulary) -> Thing | None:
    """A thing like those in the scene, or one of them; it may not be in the region."""
    kind, color = vocabulary.pair(rng)
    one, two = _hard_thing(rng, scene), _hard_thing(rng, scene)
    choice = rng.random()
    if choice < 0.34:  # both words fit, but different things
        kind, color = one.kind, two.color
    elif choice < 0.48:
        kind = one.kind
    elif choice < 0.84:
        if rng.random() < ALIKE_SHARE:
            kinds = lookalikes(one.kind, vocabulary.kinds)
            kind = kinds[rng.integers(len(kinds))]
        color = one.color
    elif choice < 0.97:
        kind, color = one.kind, one.color  # in the image, but perhaps not in the region
    if vocabulary.is_held_out(kind, color):
        return None
    return vocabulary.imagine(rng, kind, color)


def prompt_box(rng: np.random.Generator, scene: Scene, kind: PromptKind, target: Thing) -> Box | None:
    """The region of a prompt about a thing in the scene; None if it should hold another thing, too, but cannot."""
    height, width = scene.ids.shape
    if kind in (PromptKind.BOX, PromptKind.BOX_TEXT, PromptKind.UNKNOWN_TEXT):
        return tight_box(rng, target.box, scene)
    if kind is PromptKind.SHIFTED:
        shift = rng.uniform(-0.33, 0.33, 2) * (target.box.width, target.box.height)
        return target.box.translate(*shift).clip(width, height)
    if kind is PromptKind.WHOLE_TEXT:
        return Box(0, 0, width, height)
    others = [t for t in (*scene.things, *scene.doubtful) if t is not target]
    if not others:
        return None
    if kind is PromptKind.PAIR_TEXT:
        near = min(others, key=lambda t: float(np.hypot(*np.subtract(t.box.center, target.box.center))))
        return jitter(rng, target.box.union(near.box), 0.0, 0.05).clip(width, height)
    box = jitter(rng, target.box.pad(rng.uniform(0.3, 1.6)), 0.0, 0.25).clip(width, height)
    return box if sum(t.box.intersection(box) > 0.15 * t.box.area for t in scene.things) > 1 else None


def _hard_thing(rng: np.random.Generator, scene: Scene) -> Thing:
    """Any thing, but small and thin ones more often."""
    areas = np.array([thing.area for thing in scene.things], float)
    sides = np.array([max(thing.box.width, thing.box.height) for thing in scene.things])
    weights = areas**-SMALLER * (areas / sides**2) ** -THINNER
    return scene.things[rng.choice(len(scene.things), p=weights / weights.sum())]


def _present(rng: np.random.Generator, scene: Scene, kind: PromptKind) -> Sample | None:
    target = _hard_thing(rng, scene)
    box = prompt_box(rng, scene, kind, target)
    if box is None:
        return None
    others = [t for t in (*scene.things, *scene.doubtful) if t is not target]
    text: str | None = ""
    if kind is PromptKind.UNKNOWN_TEXT:
        text = unknown_text(rng, target.color)
    elif kind is not PromptKind.BOX and (kind is not PromptKind.SHIFTED or rng.random() < 0.7):
        rivals = [t for t in others if t.box.intersection(box) > 0.03 * t.box.area]
        text = description(rng, target, rivals)
        if text and rng.random() < RELATED_SHARE:
            text = related(rng, text, target, others)
    return None if text is None else Sample(kind, box, text, (target.id,))


def draw_kinds(rng: np.random.Generator, shares: Mapping[PromptKind, float], count: int) -> Iterable[PromptKind]:
    """Kinds of prompts, three times as many as wanted, as some will not be found."""
    return rng.choice(np.array(list(shares), object), count * 3, p=np.array(list(shares.values())))


def sample_prompts(
    rng: np.random.Generator, scene: Scene, count: int, vocabulary: Vocabulary = DRAWN, questions: int = 0
) -> list[Sample]:
    """Up to `count` prompts about a scene of named things, and up to `questions` that ask only for presence."""
    asked = _sample(rng, scene, count, SHARES, vocabulary)
    return asked + [replace(s, has_mask=False) for s in _sample(rng, scene, questions, QUESTION_SHARES, vocabulary)]


def _sample(
    rng: np.random.Generator, scene: Scene, count: int, shares: Mapping[PromptKind, float], vocabulary: Vocabulary
) -> list[Sample]:
    kinds = draw_kinds(rng, shares, count)
    samples: list[Sample] = []
    for kind in kinds if scene.things else ():
        sample = _absent(rng, scene, vocabulary) if kind is PromptKind.ABSENT else _present(rng, scene, kind)
        if sample is not None:
            samples.append(sample)
        if len(samples) == count:
            break
    return samples


def pair_prompt(rng: np.random.Generator, scene: Scene, target: Thing) -> Sample | None:
    """A prompt with the whole image and the target's colour and kind; None if another thing has both."""
    if sum((t.kind, t.color) == (target.kind, target.color) for t in (*scene.things, *scene.doubtful)) > 1:
        return None
    height, width = scene.ids.shape
    text = pair_text(rng, target.kind, target.color)
    return Sample(PromptKind.WHOLE_TEXT, Box(0, 0, width, height), text, (target.id,))


def leaf_prompts(
    rng: np.random.Generator, scene: Scene, count: int, with_text: float = 0.5, questions: int = 0
) -> list[Sample]:
    """Up to `count` boxes in dead leaves, where no text can be right, so the box decides, and up to `questions` about
    the other leaves that ask only for presence.

    A share `with_text` of the former has words: half unknown words, half names of kinds. The latter teach that in
    pictures unlike the household scenes a tight box counts for more than a word; they teach nothing about presence.
    Questions have unknown words.
    """
    order, samples = rng.permutation(len(scene.things)), []
    for thing in (scene.things[index] for index in order[:count]):
        text, judged = "", True
        if rng.random() < with_text:
            judged = rng.random() < 0.5
            kind, color = DRAWN.pair(rng)
            known = NOUNS[kind][0] if rng.random() < 0.5 else pair_text(rng, kind, color)
            text = unknown_text(rng, "") if judged else known
        samples.append(Sample(PromptKind.LEAF, tight_box(rng, thing.box, scene), text, (thing.id,), judged))
    for thing in (scene.things[index] for index in order[count : count + questions]):
        text = unknown_text(rng, "")
        box = tight_box(rng, thing.box, scene)
        samples.append(Sample(PromptKind.LEAF, box, text, (thing.id,), has_mask=False))
    return samples
