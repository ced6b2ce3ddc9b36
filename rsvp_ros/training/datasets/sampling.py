"""Prompts about annotated images, with their answers.

A category's name is used if only one thing in the region has it. A description that somebody wrote means one thing (or
one set of things) in the whole image, and is used as long as what it may refer to is still visible. Absence is known
for categories whose things are all annotated, and in regions that do not contain what is described.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.geometry import Box
from rsvp_ros.tabletop.language.en import with_article
from rsvp_ros.training.datasets.annotated import AnnotatedImage, AnnotatedThing
from rsvp_ros.training.datasets.parts import Part, Seen, mirrored, take_part
from rsvp_ros.training.datasets.wording import says_name, says_place, says_side
from rsvp_ros.training.drawn_scenes import Scene
from rsvp_ros.training.prompts import QUESTION_SHARES, SHARES, PromptKind, Sample, draw_kinds, prompt_box, tight_box
from rsvp_ros.training.texts import unknown_text

NAME_SHARE = 0.2
"""Share of the texts about a described thing that use its category's name instead."""
NEARLY_WHOLE = 0.8
"""If a part holds at least this share of an image, statements about places in the image still hold."""
_FRUITLESS = 1000


def annotated_scenes(
    rng: np.random.Generator,
    datasets: Sequence[Sequence[AnnotatedImage]],
    size: tuple[int, int],
    prompts: int,
    count: int,
    questions: int = 0,
) -> list[tuple[Scene, list[Sample]]]:
    """Parts of images, each with up to `prompts` prompts about it, and up to `questions` that ask only for presence.

    `size`: height and width of the network's input; the parts have its proportions. All data sets are equally likely,
    and all images within a data set.

    Raises InvalidImageError or ConfigurationError if an image or its annotation cannot be used, ConfigurationError if
    the images hold nothing to ask for.
    """
    found: list[tuple[Scene, list[Sample]]] = []
    fruitless = 0
    while len(found) < count:
        dataset = datasets[rng.integers(len(datasets))]
        image, other = (dataset[int(i)] for i in rng.integers(0, len(dataset), 2))
        prompted = annotated_prompts(rng, image, other, size, prompts, questions)
        if prompted is not None:
            found.append(prompted)
            continue
        fruitless += 1
        if fruitless == _FRUITLESS:
            raise ConfigurationError(
                f"in {_FRUITLESS} images of the data sets, of which {image.path} is the last, there was nothing to ask "
                f"for at {size[1]} x {size[0]} pixels: look whether their things are large enough"
            )
    return found


def annotated_prompts(
    rng: np.random.Generator,
    image: AnnotatedImage,
    other: AnnotatedImage,
    size: tuple[int, int],
    count: int,
    questions: int = 0,
) -> tuple[Scene, list[Sample]] | None:
    """A part of an image, up to `count` prompts about it, and up to `questions` that ask only for presence.

    None if there is nothing to ask for. `other`: another image, whose descriptions may serve as those of absent things.
    """
    part = take_part(rng, image, size)

    def draw(shares: Mapping[PromptKind, float], most: int) -> list[Sample]:
        samples: list[Sample] = []
        for kind in draw_kinds(rng, shares, most):
            absent = kind is PromptKind.ABSENT
            sample = _absent(rng, part, image, other) if absent else _present(rng, part, image, kind)
            if sample is not None and sample not in samples:  # prompts about the whole image may come twice
                samples.append(sample)
            if len(samples) == most:
                break
        return samples

    samples = draw(SHARES, count)
    if samples:  # others alone would have no masks
        samples += [replace(sample, has_mask=False) for sample in draw(QUESTION_SHARES, questions)]
    else:
        return None
    if rng.random() < 0.5 and not any(says_side(sample.text) for sample in samples):
        return mirrored(part.scene, samples)
    return part.scene, samples


# --- what is there ----------------------------------------------------------------------------------------------------

_OF_SETS = {
    PromptKind.BOX_TEXT: PromptKind.BOX_TEXT,
    PromptKind.WHOLE_TEXT: PromptKind.INSTRUCTION,
    PromptKind.LOOSE_TEXT: PromptKind.LOOSE_TEXT,
}
"""Kinds of prompts about targets without a name, for which only the text says what in the box is meant."""


def _present(rng: np.random.Generator, part: Part, image: AnnotatedImage, kind: PromptKind) -> Sample | None:
    if not part.asked:
        return None
    target = part.asked[rng.integers(len(part.asked))]
    if not target.annotated.name:
        if kind not in _OF_SETS:
            return None
        kind = _OF_SETS[kind]
    geometry = PromptKind.WHOLE_TEXT if kind is PromptKind.INSTRUCTION else kind
    box = prompt_box(rng, part.scene, geometry, target.thing)
    if box is None:
        return None
    text: str | None = ""
    if kind is PromptKind.UNKNOWN_TEXT:
        text = unknown_text(rng, "", made_up=True)
    elif kind is not PromptKind.BOX and (kind is not PromptKind.SHIFTED or rng.random() < 0.7):
        # In its own box, it need not be known where else there is such a thing
        sure = kind in (PromptKind.BOX_TEXT, PromptKind.SHIFTED)
        text = _text(rng, part, target, box, {target.annotated.name} if sure else set(image.complete))
    return None if text is None else Sample(kind, box, text, target.targets)


def _text(rng: np.random.Generator, part: Part, target: Seen, box: Box, sure: Collection[str]) -> str | None:
    """A text that means the target and nothing else in the region; None if there is none.

    `sure`: names of the categories for which everything that may be meant in the region is annotated.
    """
    texts = _told(part, target)
    name = target.annotated.name
    rivals = [s for s in (*part.asked, *part.others) if s is not target and s.annotated.name == name]
    alone = not any(s.thing.box.intersection(box) > 0.03 * s.thing.box.area for s in rivals)
    fits = bool(name) and name in sure and alone and not _names_in(part.ignored, box) & {name, ""}
    if fits and (not texts or rng.random() < NAME_SHARE):
        return _phrase(rng, name)
    return texts[rng.integers(len(texts))] if texts else None


def _told(part: Part, seen: Seen) -> list[str]:
    """Texts written about a thing that are also right in the part of the image."""
    return [text for text in seen.annotated.texts if part.share >= NEARLY_WHOLE or not says_place(text)]


def _phrase(rng: np.random.Generator, name: str) -> str:
    return (name, name, f"the {name}", with_article(name))[rng.integers(4)]


def _names_in(seen: Sequence[Seen], box: Box) -> set[str]:
    """Names of everything that reaches into a box."""
    return {s.annotated.name for s in seen if s.thing.box.intersection(box) > 0}


# --- what is not there ------------------------------------------------------------------------------------------------


def _absent(rng: np.random.Generator, part: Part, image: AnnotatedImage, other: AnnotatedImage) -> Sample | None:
    """A text that means nothing in the region."""
    box = _region(rng, part)
    if "" in _names_in(part.ignored, box):
        return None
    every = (*part.asked, *part.others, *part.ignored)
    missing = set(image.complete) - _names_in(every, box)
    any_missing = sorted(missing)
    near = sorted(missing.intersection(s.annotated.name for s in every))
    pools = (
        [text for s in part.asked if not s.thing.box.intersection(box) for text in _about(s.annotated, _told(part, s))],
        [text for t in other.things if t.name in missing for text in _about(t, t.texts) if not says_place(text)],
        [_phrase(rng, near[rng.integers(len(near))])] if near else [],
        [_phrase(rng, any_missing[rng.integers(len(any_missing))])] if any_missing else [],
        list(image.absent),
    )
    pools = [pool for pool in pools if pool]
    if not pools:
        return None
    pool = pools[rng.integers(len(pools))]
    return Sample(PromptKind.ABSENT, box, pool[rng.integers(len(pool))], ())


def _about(annotated: AnnotatedThing, texts: Sequence[str]) -> list[str]:
    """Those of its texts that cannot mean something of another category."""
    return [text for text in texts if not annotated.name or says_name(text, annotated.name)]


def _region(rng: np.random.Generator, part: Part) -> Box:
    """The whole scene, a tight or a loose box around a thing, or any box."""
    height, width = part.scene.ids.shape
    named = [s.thing for s in part.asked if s.annotated.name]
    form = rng.random()
    if form < 0.45:
        return Box(0, 0, width, height)
    if named:
        anchor = named[rng.integers(len(named))].box
        return tight_box(rng, anchor, part.scene) if form < 0.75 else anchor.pad(0.8).clip(width, height)
    x0, y0 = rng.uniform(0, 0.8, 2)
    wide, tall = rng.uniform(0.1, 0.5, 2)
    return Box(x0, y0, x0 + wide, y0 + tall).clip(1, 1).scale(width, height)
