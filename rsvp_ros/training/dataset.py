"""Batches of images and prompts with their answers, made on the fly.

A batch follows from (seed, step) alone: no state to save, and a resumed training sees what an uninterrupted one sees.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor

from rsvp_ros.segmentation.modeling.mask_decoder import MaskDecoder
from rsvp_ros.textures import TextureBank
from rsvp_ros.training.drawn_scenes import Scene, dead_leaves, household_scene
from rsvp_ros.training.prompts import PromptKind, Sample, leaf_prompts, sample_prompts
from rsvp_ros.training.texts import pair_text

MASK_STRIDE = MaskDecoder.stride
GROUNDING_STRIDE = 8


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
    """P x H/2 x W/2 float32: share of each cell that the target covers."""
    present: Tensor
    """P, bool."""
    judged: Tensor
    """P, bool: whether `present` is known to be right."""
    exhaustive: Tensor
    """P, bool: whether the text fits nothing in the whole image but the target."""
    vocabulary: list[str]
    """V texts, each names one pair of kind and colour that is in the batch."""
    grounding: Tensor
    """B x H/8 x W/8, long: which text of the vocabulary is right in a cell, V for none, -1 where it is not known."""

    def to(self, device: torch.device) -> Batch:
        return Batch(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()})


def collate(rng: np.random.Generator, scenes: list[tuple[Scene, list[Sample]]]) -> Batch:
    """Scenes of one size and their prompts as tensors."""
    pairs = sorted({(t.kind, t.color) for scene, _ in scenes for t in scene.things if t.kind})
    number = {pair: i for i, pair in enumerate(pairs)}
    boxes, index, texts, kinds, masks, present, judged, exhaustive, grounding = [], [], [], [], [], [], [], [], []
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
            mask = np.isin(scene.ids, sample.targets)
            small = cv2.resize(
                mask.astype(np.float32), (width // MASK_STRIDE, height // MASK_STRIDE), interpolation=cv2.INTER_AREA
            )
            masks.append(small)
            boxes.append(sample.box.as_tuple())
            index.append(i)
            texts.append(sample.text)
            kinds.append(sample.kind)
            present.append(bool(sample.targets))
            judged.append(sample.judged)
            exhaustive.append(bool(sample.text) and sample.judged and sample.box.area == height * width)
    return Batch(
        images=torch.from_numpy(np.stack([scene.image for scene, _ in scenes])).permute(0, 3, 1, 2),
        boxes=torch.tensor(boxes, dtype=torch.float32),
        image_index=torch.tensor(index),
        texts=texts,
        kinds=kinds,
        masks=torch.from_numpy(np.stack(masks)),
        present=torch.tensor(present),
        judged=torch.tensor(judged),
        exhaustive=torch.tensor(exhaustive),
        vocabulary=[pair_text(rng, *pair) for pair in pairs],
        grounding=torch.from_numpy(np.stack(grounding)),
    )


@dataclass(frozen=True)
class Shares:
    """What the images of a training are; the rest are dead leaves."""

    tabletop: float = 0.5
    """Rendered scenes of the simulated tabletop; they need the extra `sim`."""
    household: float = 0.15
    """Drawn household scenes."""


@dataclass(frozen=True, eq=False)
class MixedDataset:
    """Endless batches, each from its number: tabletop, household scenes and dead leaves mixed."""

    seed: int
    sizes: tuple[tuple[int, int], ...]
    """Height and width of images, multiples of 16; each batch takes one of them."""
    images: int
    """Images in a batch."""
    prompts: int
    """Prompts about each image, at most."""
    bank: TextureBank
    shares: Shares = field(default_factory=Shares)

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        size = self.sizes[int(rng.integers(len(self.sizes)))]
        rendered = int(rng.binomial(self.images, self.shares.tabletop))
        household = self.shares.household / max(1 - self.shares.tabletop, 1e-9)
        scenes = self._drawn(rng, size, household, self.images - rendered)
        if rendered:
            from rsvp_ros.training.tabletop_scenes import tabletop_scenes  # without the extra `sim` the others work

            scenes += tabletop_scenes(rng, size, self.prompts, rendered)
        return collate(rng, scenes)

    def _drawn(
        self, rng: np.random.Generator, size: tuple[int, int], household_share: float, count: int
    ) -> list[tuple[Scene, list[Sample]]]:
        """Drawn scenes, each with at least one prompt."""
        scenes: list[tuple[Scene, list[Sample]]] = []
        while len(scenes) < count:
            household = rng.random() < household_share
            scene = household_scene(rng, self.bank, *size) if household else dead_leaves(rng, self.bank, *size)
            samples = (sample_prompts if household else leaf_prompts)(rng, scene, self.prompts)
            if samples:
                scenes.append((scene, samples))
        return scenes
