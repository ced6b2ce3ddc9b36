"""The simulated tabletop as training images: rendered scenes, whole or in part. Needs the extra `sim`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsvp_ros.geometry import Box, mask_to_box
from rsvp_ros.segmentation.region import CROP_REACH, CROP_SIDE
from rsvp_ros.tabletop.descriptions import has_color, is_named_wooden
from rsvp_ros.tabletop.instruction import LANGUAGES, Instruction, InstructionKind
from rsvp_ros.tabletop.instructions import english_name, sample_instructions, visible_attributes
from rsvp_ros.tabletop.kinds import COLORS, KINDS, TRAINING_KINDS, is_held_out_pair
from rsvp_ros.tabletop.language import GRAMMARS
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view import ObjectView, View
from rsvp_ros.tabletop.view_files import read_view
from rsvp_ros.training.drawn_scenes import Scene, Thing
from rsvp_ros.training.places import Ground
from rsvp_ros.training.prompts import PromptKind, Sample, Vocabulary, sample_prompts
from rsvp_ros.training.repainting import is_repaintable, other_color, repaint
from rsvp_ros.training.resurfacing import resurface
from rsvp_ros.training.texts import imagined_view, simulated

READABLE = (
    InstructionKind.ATTRIBUTE,
    InstructionKind.USE,
    InstructionKind.ALL,
    InstructionKind.NEGATION,
    InstructionKind.HAZARD,
)
"""Kinds of instructions that depend only on what a thing is, not on comparing places or sizes."""

VIEWS = 2
"""Maximum number of views of a scene."""
REPAINTED_SHARE = 0.3
"""Share of the repaintable things that get another colour (repainting.py)."""
RESURFACED_SHARE = 0.5
"""Share of the images that get another ground (resurfacing.py)."""
WHOLE_SHARE = 0.7
"""Share of the scenes that are shown whole; the others are cropped, so that things come in all sizes."""
INSTRUCTION_SHARE = 0.06
"""Share of the prompts about whole images that are instructions as a person gives them."""


def _thing(seen: ObjectView, box: Box, area: int) -> Thing:
    """`box`, `area`: what is seen of it."""
    attributes = [] if seen.pattern == "plain" else [seen.pattern]
    if is_named_wooden(seen):
        attributes.append("wooden")
    elif seen.material in ("ceramic", "metal") and len(KINDS[seen.kind].materials) > 1:
        attributes.append(seen.material)
    kind = "block" if seen.kind == "cube" else seen.kind
    described = ", ".join((english_name(seen.kind), *visible_attributes(seen)))
    foreign = tuple(GRAMMARS[language](None, True).name(seen) for language in LANGUAGES if language != "en")
    perhaps = tuple(c for c in COLORS if c != seen.color and has_color(seen, c) is not False)
    return Thing(seen.id, kind, seen.color, box, area, tuple(attributes), described, foreign, perhaps)


def _imagine(rng: np.random.Generator, kind: str, color: str) -> Thing:
    """A thing as it could lie there, perhaps with a pattern."""
    patterns = KINDS[simulated(kind)].patterns if kind != "ball" else ("plain",)  # with seams, it may seem patterned
    seen = imagined_view(kind, color, patterns[rng.integers(len(patterns))])
    return _thing(seen, seen.box, 0)


TABLETOP = Vocabulary(
    tuple("block" if kind == "cube" else kind for kind in TRAINING_KINDS),
    tuple(COLORS),
    lambda kind, color: is_held_out_pair(simulated(kind), color),
    _imagine,
)


def to_scene(view: View, area: tuple[int, int, int, int]) -> Scene:
    """The part x0, y0, x1, y1 of a view as a scene."""
    x0, y0, x1, y1 = area
    ids = view.ids[y0:y1, x0:x1]
    named = {seen.id for seen in view.things}
    least = 40 * view.ids.size / (320 * 240)
    things, doubtful = [], []
    for seen in view.objects:
        mask = ids == seen.id
        box = mask_to_box(mask)
        if box is None:
            continue
        thing = _thing(seen, box, int(np.count_nonzero(mask)))
        cut = thing.area < 0.6 * seen.area
        small = thing.area < least or min(thing.box.width, thing.box.height) < 3
        (doubtful if seen.id not in named or cut or small else things).append(thing)
    return Scene(np.ascontiguousarray(view.image[y0:y1, x0:x1]), ids, tuple(things), tuple(doubtful))


def _part(rng: np.random.Generator, view: View, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A part of the view with the proportions of `size` (height, width), around one of its things.

    If `size` is that of the segmenter's crops, the part covers about what such a crop does; otherwise it has any size.
    """
    height, width = view.ids.shape
    ratio = size[1] / size[0]
    tallest = min(height, width / ratio)
    thing = view.things[rng.integers(len(view.things))] if view.things else None
    if max(size) <= CROP_SIDE and thing is not None:
        longer = max(thing.box.width, thing.box.height)
        tall = min(max(longer * CROP_REACH * rng.uniform(0.7, 1.6), 24.0), tallest)
        astray = 0.08
    else:
        tall = tallest * rng.uniform(0.45, 1.0)
        astray = 0.15
    wide = tall * ratio
    middle = np.array(thing.box.center if thing is not None else (width / 2, height / 2))
    middle = middle + rng.normal(0, astray, 2) * tall
    x0 = int(np.clip(middle[0] - wide / 2, 0, width - wide))
    y0 = int(np.clip(middle[1] - tall / 2, 0, height - tall))
    return x0, y0, x0 + int(wide), y0 + int(tall)


def repainted(view: View, rng: np.random.Generator) -> View:
    """The view with some things in another colour."""
    image, objects = view.image, []
    for thing in view.objects:
        if is_repaintable(thing.kind, thing.color, is_named_wooden(thing)) and rng.random() < REPAINTED_SHARE:
            new = other_color(rng, thing.kind, thing.color, thing.pattern)
            painted = repaint(image, view.ids == thing.id, thing.color, new, rng)
            if painted is not None:
                image, thing = painted, dataclasses.replace(thing, color=new)
        objects.append(thing)
    return dataclasses.replace(view, image=image, objects=tuple(objects))


def instruction_sample(view: View, instruction: Instruction) -> Sample:
    """The whole image and what a person says."""
    box = Box(0, 0, view.ids.shape[1], view.ids.shape[0])
    kind = PromptKind.ABSENT if instruction.absent else PromptKind.INSTRUCTION
    return Sample(kind, box, instruction.text, instruction.targets)


def tabletop_scenes(
    rng: np.random.Generator,
    size: tuple[int, int],
    prompts: int,
    count: int,
    records: Sequence[str] = (),
    split: Split = Split.TRAIN,
    questions: int = 0,
) -> list[tuple[Scene, list[Sample]]]:
    """Images of rendered scenes, each with up to `prompts` prompts about it, and up to `questions` that ask only for
    presence. `size`: height and width of the network's input; the images have its proportions.

    `records`: exported scenes to choose from. If empty, scenes are rendered, with up to VIEWS images each, as building
    a scene takes longer than rendering another view. Raises InvalidImageError if an exported scene is damaged.
    """
    found: list[tuple[Scene, list[Sample]]] = []
    while len(found) < count:
        if records:
            views = [read_view(Path(records[rng.integers(len(records))]))[0]]
        else:
            from rsvp_ros.tabletop.world import render_scene

            seed, sharp = int(rng.integers(1 << 40)), rng.random() < 0.5
            wanted = min(count - len(found), VIEWS)
            views = render_scene(split, seed, (640, 480) if sharp else (320, 240), wanted, full_masks=False)
        found += [seen for view in views if (seen := _prompted(rng, view, size, prompts, split, questions)) is not None]
    return found


def _prompted(
    rng: np.random.Generator, view: View, size: tuple[int, int], prompts: int, split: Split, questions: int
) -> tuple[Scene, list[Sample]] | None:
    height, width = view.ids.shape
    view = repainted(view, rng)
    if rng.random() < RESURFACED_SHARE:
        table = Ground.of(view).shows_table(height, width)
        view = dataclasses.replace(view, image=resurface(view.image, view.ids, table, rng))
    whole = rng.random() < WHOLE_SHARE and abs(size[1] / size[0] - width / height) < 0.01
    scene = to_scene(view, (0, 0, width, height) if whole else _part(rng, view, size))
    if not scene.things:
        return None
    said = int(rng.binomial(prompts, INSTRUCTION_SHARE)) if whole else 0
    samples = sample_prompts(rng, scene, prompts - said, TABLETOP, questions)
    if said:
        spoken = sample_instructions(view, rng, said, is_training=split.known, kinds=READABLE)
        known = {t.id for t in scene.things}
        samples += [instruction_sample(view, i) for i in spoken if known.issuperset(i.targets)]
    return (scene, samples) if samples else None
