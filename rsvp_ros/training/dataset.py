"""Prompts with their answers, drawn on the fly, and batches of them.

A batch follows from (seed, step) alone: no state to save, and a resumed training sees what an uninterrupted one sees.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from rsvp_ros.geometry import Box
from rsvp_ros.training.drawn_scenes import COLORS, KINDS, Scene, Thing, dead_leaves, household_scene, is_held_out
from rsvp_ros.training.textures import TextureBank

MASK_STRIDE = 4
GROUNDING_STRIDE = 8


class PromptKind(enum.Enum):
    """What a prompt tells, and with it what can be learnt from it."""

    BOX = "box"
    """A jittered tight box, no text."""
    BOX_TEXT = "box + text"
    WHOLE_TEXT = "whole image + text"
    LOOSE_TEXT = "loose box + text"
    """A box that holds other things too."""
    PAIR_TEXT = "box around two + text"
    """The box around the target and its nearest neighbour."""
    SHIFTED = "shifted box"
    """A tight box moved by up to a third of its size: a tracker's prediction."""
    UNKNOWN_TEXT = "box + unknown words"
    """Words that name nothing: the box decides."""
    LEAF = "box, dead leaves"
    ABSENT = "absent"
    """The text describes nothing in the region."""


@dataclass(frozen=True)
class Sample:
    """A prompt about a scene, and the answer."""

    kind: PromptKind
    box: Box
    text: str
    target: int
    """Id of the thing meant; 0 where it is absent."""
    judged: bool = True
    """Whether presence can be learnt from it."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Several scenes, several prompts about each."""

    images: Tensor
    """uint8 B x 3 x H x W."""
    boxes: Tensor
    """P x 4 float32, pixels."""
    image_index: Tensor
    """P: the image a prompt is about."""
    texts: list[str]
    kinds: list[PromptKind]
    masks: Tensor
    """P x H/4 x W/4 float32: share of each cell that the target covers."""
    present: Tensor
    """P, bool."""
    judged: Tensor
    """P, bool: whether `present` is known to be right."""
    vocabulary: list[str]
    """V texts, each names one pair of kind and colour that is in the batch."""
    grounding: Tensor
    """B x H/8 x W/8, long: which text of the vocabulary is right in a cell, V for none, -1 where it is not known."""

    def to(self, device: torch.device) -> Batch:
        return Batch(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()})


# --- texts ------------------------------------------------------------------------------------------------------------


def pair_text(rng: np.random.Generator, kind: str, color: str) -> str:
    """A description by colour and kind, in English or (one in eight) Chinese."""
    names, colors = KINDS[kind], COLORS[color][3]
    if rng.random() < 0.125:
        name, shade = names[-1], colors[-1]
        return (f"{shade}的{name}", f"{name}, {shade}", f"{shade}{name}")[rng.integers(3)]
    name, shade = _english(rng, names), _english(rng, colors)
    forms = (f"{shade} {name}", f"the {shade} {name}", f"{name}, {shade}", f"a {shade} {name}", f"{name} ({shade})")
    return forms[rng.integers(len(forms))]


def _english(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[0] if rng.random() < 0.7 else names[rng.integers(len(names) - 1)]


def description(rng: np.random.Generator, target: Thing, others: list[Thing]) -> str | None:
    """A text that fits the target and none of the others; None where there is none."""
    if any((t.kind, t.color) == (target.kind, target.color) for t in others):
        return None
    form = rng.random()
    if form < 0.25 and all(t.kind != target.kind for t in others):
        name = KINDS[target.kind][-1] if rng.random() < 0.125 else _english(rng, KINDS[target.kind])
        return name if rng.random() < 0.6 else f"the {name}"
    if form < 0.35 and all(t.color != target.color for t in others):
        shade = _english(rng, COLORS[target.color][3])
        return (f"the {shade} one", f"the {shade} thing", f"{shade} object")[rng.integers(3)]
    return pair_text(rng, target.kind, target.color)


_SYLLABLES = ("ba", "der", "il", "mon", "tra", "ush", "ke", "vo", "pli", "ang", "sor", "wi", "che", "gu", "ent", "fla")
_KNOWN = frozenset(word for names in KINDS.values() for name in names for word in name.split())


def unknown_text(rng: np.random.Generator, color: str) -> str:
    """A description with a noun that names nothing drawn here; `color`: may be used, empty for a random one."""
    if rng.random() < 0.25:
        noun = "".join(chr(c) for c in rng.integers(0x4E00, 0x8C00, int(rng.integers(1, 4))))
    else:
        noun = "".join(_SYLLABLES[i] for i in rng.integers(0, len(_SYLLABLES), int(rng.integers(1, 4))))
    if noun in _KNOWN:
        noun += "ush"
    shade = color or list(COLORS)[rng.integers(len(COLORS))]
    forms = (noun, f"{shade} {noun}", f"the {noun}", f"{noun}, {shade}", f"{noun} with a {shade} {_SYLLABLES[0]}{noun}")
    return forms[rng.integers(len(forms))]


# --- boxes ------------------------------------------------------------------------------------------------------------


def jitter(rng: np.random.Generator, box: Box, low: float, high: float) -> Box:
    """Each side moved, in or out, by `low` to `high` times the box's width or height."""
    share = rng.uniform(low, high, (2, 2)) * rng.choice((-1.0, 1.0), (2, 2))
    dx, dy = share * np.array([[box.width], [box.height]])
    return Box.ordered(box.x0 + dx[0], box.y0 + dy[0], box.x1 + dx[1], box.y1 + dy[1])


def _tight(rng: np.random.Generator, box: Box, scene: Scene) -> Box:
    height, width = scene.ids.shape
    wide = box.pad(rng.uniform(0, 0.12)) if rng.random() < 0.3 else box
    return jitter(rng, wide, 0.0, rng.uniform(0.0, 0.15)).clip(width, height)


# --- prompts ----------------------------------------------------------------------------------------------------------

_SHARES = {
    PromptKind.BOX: 0.12,
    PromptKind.BOX_TEXT: 0.14,
    PromptKind.WHOLE_TEXT: 0.24,
    PromptKind.LOOSE_TEXT: 0.13,
    PromptKind.PAIR_TEXT: 0.12,
    PromptKind.SHIFTED: 0.04,
    PromptKind.UNKNOWN_TEXT: 0.04,
    PromptKind.ABSENT: 0.17,
}


def _inside(scene: Scene, box: Box) -> list[Thing]:
    """Things of which a part that can be told lies in the box."""
    return [t for t in scene.things if t.box.intersection(box) > 0.15 * t.box.area]


def _absent(rng: np.random.Generator, scene: Scene) -> Sample | None:
    """A description that fits nothing in the region, often by one word only."""
    height, width = scene.ids.shape
    whole = Box(0, 0, width, height)
    anchor = scene.things[rng.integers(len(scene.things))]
    form = rng.random()
    box = whole if form < 0.45 else _tight(rng, anchor.box, scene) if form < 0.75 else anchor.box.pad(0.8)
    box = box.clip(width, height)
    others = _inside(scene, box)
    kinds, colors = list(KINDS), list(COLORS)
    kind, color = kinds[rng.integers(len(kinds))], colors[rng.integers(len(colors))]
    one, two = (scene.things[i] for i in rng.integers(0, len(scene.things), 2))
    choice = rng.random()
    if choice < 0.45:  # both words are there, on different things
        kind, color = one.kind, two.color
    elif choice < 0.6:
        kind = one.kind
    elif choice < 0.75:
        color = one.color
    elif choice < 0.9:
        kind, color = one.kind, one.color  # perhaps in the image, not in the region
    if choice >= 0.93 and all(t.kind != kind for t in others):
        return Sample(PromptKind.ABSENT, box, f"the {KINDS[kind][0]}", 0)
    if is_held_out(kind, color) or any((kind, color) == (t.kind, t.color) for t in others):
        return None
    return Sample(PromptKind.ABSENT, box, pair_text(rng, kind, color), 0)


def _present(rng: np.random.Generator, scene: Scene, kind: PromptKind) -> Sample | None:
    height, width = scene.ids.shape
    target = scene.things[rng.integers(len(scene.things))]
    others = [t for t in scene.things if t is not target]
    text: str | None = ""
    if kind in (PromptKind.BOX, PromptKind.BOX_TEXT, PromptKind.UNKNOWN_TEXT):
        box = _tight(rng, target.box, scene)
    elif kind is PromptKind.SHIFTED:
        shift = rng.uniform(-0.33, 0.33, 2) * (target.box.width, target.box.height)
        box = target.box.translate(*shift).clip(width, height)
    elif kind is PromptKind.WHOLE_TEXT:
        box = Box(0, 0, width, height)
    else:
        if not others:
            return None
        if kind is PromptKind.PAIR_TEXT:
            near = min(others, key=lambda t: float(np.hypot(*np.subtract(t.box.center, target.box.center))))
            box = jitter(rng, target.box.union(near.box), 0.0, 0.05).clip(width, height)
        else:
            box = jitter(rng, target.box.pad(rng.uniform(0.3, 1.6)), 0.0, 0.25).clip(width, height)
            if len(_inside(scene, box)) < 2:
                return None
    if kind is PromptKind.UNKNOWN_TEXT:
        text = unknown_text(rng, target.color)
    elif kind is not PromptKind.BOX and (kind is not PromptKind.SHIFTED or rng.random() < 0.7):
        rivals = [t for t in others if t.box.intersection(box) > 0.03 * t.box.area]
        text = description(rng, target, rivals)
    return None if text is None else Sample(kind, box, text, target.id)


def sample_prompts(rng: np.random.Generator, scene: Scene, count: int) -> list[Sample]:
    """Up to `count` prompts about a household scene, of the kinds in their shares."""
    kinds = rng.choice(np.array(list(_SHARES), object), count * 3, p=np.array(list(_SHARES.values())))
    samples: list[Sample] = []
    for kind in kinds if scene.things else ():
        sample = _absent(rng, scene) if kind is PromptKind.ABSENT else _present(rng, scene, kind)
        if sample is not None:
            samples.append(sample)
        if len(samples) == count:
            break
    return samples


def pair_prompt(rng: np.random.Generator, scene: Scene, target: Thing) -> Sample | None:
    """The whole image and the target's colour and kind; None where another thing has both."""
    if sum((t.kind, t.color) == (target.kind, target.color) for t in scene.things) > 1:
        return None
    height, width = scene.ids.shape
    return Sample(PromptKind.WHOLE_TEXT, Box(0, 0, width, height), pair_text(rng, target.kind, target.color), target.id)


def leaf_prompts(rng: np.random.Generator, scene: Scene, count: int, with_text: float = 0.5) -> list[Sample]:
    """Up to `count` boxes in dead leaves, where no text can be right: the box decides.

    A share `with_text` has words: half of them unknown ones, half the names of kinds. The latter teach that a tight box
    counts for more than a word in pictures unlike the household scenes; they teach nothing about presence.
    """
    samples = []
    for index in rng.permutation(len(scene.things))[:count]:
        thing = scene.things[index]
        text, judged = "", True
        if rng.random() < with_text:
            judged = rng.random() < 0.5
            kind, color = list(KINDS)[rng.integers(len(KINDS))], list(COLORS)[rng.integers(len(COLORS))]
            known = KINDS[kind][0] if rng.random() < 0.5 else pair_text(rng, kind, color)
            text = unknown_text(rng, "") if judged else known
        samples.append(Sample(PromptKind.LEAF, _tight(rng, thing.box, scene), text, thing.id, judged))
    return samples


# --- batches ----------------------------------------------------------------------------------------------------------


def make_scene(
    rng: np.random.Generator, bank: TextureBank, size: tuple[int, int], household: bool, prompts: int
) -> tuple[Scene, list[Sample]]:
    """A scene with at least one prompt."""
    while True:
        scene = household_scene(rng, bank, *size) if household else dead_leaves(rng, bank, *size)
        samples = (sample_prompts if household else leaf_prompts)(rng, scene, prompts)
        if samples:
            return scene, samples


def collate(rng: np.random.Generator, scenes: list[tuple[Scene, list[Sample]]]) -> Batch:
    """Scenes of one size and their prompts as tensors."""
    pairs = sorted({(t.kind, t.color) for scene, _ in scenes for t in scene.things if t.kind})
    number = {pair: i for i, pair in enumerate(pairs)}
    boxes, index, texts, kinds, masks, present, judged, grounding = [], [], [], [], [], [], [], []
    half = GROUNDING_STRIDE // 2
    for i, (scene, samples) in enumerate(scenes):
        height, width = scene.ids.shape
        named = any(t.kind for t in scene.things)
        label = np.full(256, -1, np.int64)
        label[0] = len(pairs) if named else -1
        for thing in scene.things:
            label[thing.id] = number.get((thing.kind, thing.color), -1)
        grounding.append(label[scene.ids[half::GROUNDING_STRIDE, half::GROUNDING_STRIDE]])
        for sample in samples:
            mask = (scene.ids == sample.target) if sample.target else np.zeros_like(scene.ids, bool)
            small = cv2.resize(
                mask.astype(np.float32), (width // MASK_STRIDE, height // MASK_STRIDE), interpolation=cv2.INTER_AREA
            )
            masks.append(small)
            boxes.append(sample.box.as_tuple())
            index.append(i)
            texts.append(sample.text)
            kinds.append(sample.kind)
            present.append(sample.target > 0)
            judged.append(sample.judged)
    return Batch(
        images=torch.from_numpy(np.stack([scene.image for scene, _ in scenes])).permute(0, 3, 1, 2),
        boxes=torch.tensor(boxes, dtype=torch.float32),
        image_index=torch.tensor(index),
        texts=texts,
        kinds=kinds,
        masks=torch.from_numpy(np.stack(masks)),
        present=torch.tensor(present),
        judged=torch.tensor(judged),
        vocabulary=[pair_text(rng, *pair) for pair in pairs],
        grounding=torch.from_numpy(np.stack(grounding)),
    )


@dataclass(frozen=True, eq=False)
class DrawnDataset:
    """Endless batches, each from its number: household scenes and dead leaves mixed."""

    seed: int
    sizes: tuple[tuple[int, int], ...]
    """Height and width of images, multiples of 16; each batch takes one of them."""
    images: int
    """Images in a batch."""
    prompts: int
    """Prompts about each image, at most."""
    bank: TextureBank
    household_share: float = 0.5
    """Of the images; the others are dead leaves."""

    def batch(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        size = self.sizes[int(rng.integers(len(self.sizes)))]
        scenes = [
            make_scene(rng, self.bank, size, rng.random() < self.household_share, self.prompts)
            for _ in range(self.images)
        ]
        return collate(rng, scenes)
