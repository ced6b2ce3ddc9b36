"""The simulated tabletop as training images: rendered scenes, whole or in part. Needs the extra `sim`."""

from __future__ import annotations

import cv2
import numpy as np

from rsvp_ros.geometry import Box, mask_to_box
from rsvp_ros.tabletop.instruction import Instruction, InstructionKind
from rsvp_ros.tabletop.instructions import english_name, sample_instructions, visible_attributes
from rsvp_ros.tabletop.kinds import COLORS, TRAINING_KINDS, is_held_out_pair
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view import ObjectView, View
from rsvp_ros.tabletop.world import render_scene
from rsvp_ros.training.drawn_scenes import Scene, Thing
from rsvp_ros.training.prompts import PromptKind, Sample, Vocabulary, sample_prompts

TABLETOP = Vocabulary(
    tuple("block" if kind == "cube" else kind for kind in TRAINING_KINDS),
    tuple(COLORS),
    lambda kind, color: is_held_out_pair("cube" if kind == "block" else kind, color),
)

READABLE = (
    InstructionKind.ATTRIBUTE,
    InstructionKind.USE,
    InstructionKind.ALL,
    InstructionKind.NEGATION,
    InstructionKind.HAZARD,
)
"""Kinds of instructions that can be followed by what a thing is, without comparing places or sizes."""

VIEWS = 2
"""Of a scene, at most."""
WHOLE_SHARE = 0.65
"""Of the scenes are shown whole; the others are cut to a part, as the segmenter looks at small targets."""
INSTRUCTION_SHARE = 0.25
"""Of the prompts about whole images are what a person says."""


def _thing(view: View, seen: ObjectView, ids: np.ndarray) -> Thing | None:
    mask = ids == seen.id
    box = mask_to_box(mask)
    if box is None:
        return None
    attributes = [] if seen.pattern == "plain" else [seen.pattern]
    if seen.material == "wood" and seen.kind != "cube":
        attributes.append("wooden")
    kind = "block" if seen.kind == "cube" else seen.kind
    described = ", ".join((english_name(seen.kind), *visible_attributes(seen)))
    return Thing(seen.id, kind, seen.color, box, int(np.count_nonzero(mask)), tuple(attributes), described)


def to_scene(view: View, area: tuple[int, int, int, int], size: tuple[int, int]) -> Scene:
    """A part x0, y0, x1, y1 of a view, scaled to `size` (height, width)."""
    x0, y0, x1, y1 = area
    height, width = size
    shrinks = height < y1 - y0
    image = cv2.resize(
        view.image[y0:y1, x0:x1], (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    ids = cv2.resize(view.ids[y0:y1, x0:x1], (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    scale = height * width / ((y1 - y0) * (x1 - x0))
    named = {seen.id for seen in view.things}
    things, doubtful = [], []
    for seen in view.objects:
        thing = _thing(view, seen, ids)
        if thing is None:
            continue
        cut = thing.area < 0.6 * seen.area * scale
        small = thing.area < 40 or min(thing.box.width, thing.box.height) < 3
        (doubtful if seen.id not in named or cut or small else things).append(thing)
    return Scene(image, ids, tuple(things), tuple(doubtful))


def _part(rng: np.random.Generator, view: View, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A part of the view with the proportions of `size` (height, width) around one of its things."""
    height, width = view.ids.shape
    ratio = size[1] / size[0]
    tallest = min(height, width / ratio)
    tall = tallest * rng.uniform(0.35, 1.0)
    wide = tall * ratio
    middle = np.array((width, height)) / 2
    if view.things:
        middle = np.array(view.things[rng.integers(len(view.things))].box.center)
    middle = middle + rng.normal(0, 0.15, 2) * tall
    x0 = int(np.clip(middle[0] - wide / 2, 0, width - wide))
    y0 = int(np.clip(middle[1] - tall / 2, 0, height - tall))
    return x0, y0, x0 + int(wide), y0 + int(tall)


def instruction_sample(view: View, instruction: Instruction, size: tuple[int, int]) -> Sample:
    """The whole image and what a person says."""
    box = Box(0, 0, size[1], size[0])
    kind = PromptKind.ABSENT if instruction.absent else PromptKind.INSTRUCTION
    return Sample(kind, box, instruction.text, instruction.targets)


def tabletop_scenes(
    rng: np.random.Generator, size: tuple[int, int], prompts: int, count: int, split: Split = Split.TRAIN
) -> list[tuple[Scene, list[Sample]]]:
    """Images of rendered scenes, each with up to `prompts` prompts about it; `size`: height, width.

    A scene gives up to VIEWS of them, from different cameras: building one takes longer than another look at it.
    """
    found: list[tuple[Scene, list[Sample]]] = []
    while len(found) < count:
        seed, sharp = int(rng.integers(1 << 40)), rng.random() < 0.5
        views = min(count - len(found), VIEWS)
        for view in render_scene(split, seed, (640, 480) if sharp else (320, 240), views, full_masks=False):
            seen = _prompted(rng, view, size, prompts, split)
            if seen is not None:
                found.append(seen)
    return found


def _prompted(
    rng: np.random.Generator, view: View, size: tuple[int, int], prompts: int, split: Split
) -> tuple[Scene, list[Sample]] | None:
    height, width = view.ids.shape
    whole = rng.random() < WHOLE_SHARE and abs(size[1] / size[0] - width / height) < 0.01
    scene = to_scene(view, (0, 0, width, height) if whole else _part(rng, view, size), size)
    if not scene.things:
        return None
    said = int(rng.binomial(prompts, INSTRUCTION_SHARE)) if whole else 0
    samples = sample_prompts(rng, scene, prompts - said, TABLETOP)
    if said:
        spoken = sample_instructions(view, rng, said, is_training=split is Split.TRAIN, kinds=READABLE)
        known = {t.id for t in scene.things}
        samples += [instruction_sample(view, i, size) for i in spoken if known.issuperset(i.targets)]
    return (scene, samples) if samples else None
