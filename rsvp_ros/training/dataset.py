"""Batches of images and prompts with their answers, made on the fly.

A batch depends on (seed, step) alone: there is no state to save, and a resumed training sees exactly what an
uninterrupted one sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.segmentation.region import Region
from rsvp_ros.textures import TextureBank
from rsvp_ros.training.datasets.annotated import AnnotatedImage
from rsvp_ros.training.datasets.sampling import annotated_scenes
from rsvp_ros.training.drawn_scenes import UNKNOWN, Scene, dead_leaves, household_scene
from rsvp_ros.training.namings import names_of
from rsvp_ros.training.prompts import PromptKind, Sample, leaf_prompts, sample_prompts
from rsvp_ros.training.texts import confused_pairs, pair_text

CELL = 8
"""Width of a cell in the network's comparison of text and image, in pixels of the network's input."""

NAMED = 10
"""Maximum number of things in an image that are named."""

Prompted = tuple[Scene, list[Sample]]
"""An image with its content, and prompts about it."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Several scenes, several prompts about each: P in all, of which the first M have masks, too."""

    images: Tensor
    """uint8 B x 3 x H x W: the network's input."""
    boxes: Tensor
    """P x 4 float32, pixels of the network's input."""
    regions: Tensor
    """M x 4 float32, pixels of the network's input: the regions in which masks are drawn."""
    pixels: Tensor
    """uint8 M x 3 x G x G: the images in these regions, sampled at their own resolution."""
    image_index: Tensor
    """P: index of the image that each prompt is about."""
    texts: list[str]
    kinds: list[PromptKind]
    masks: Tensor
    """M x G x G float32: share of each cell of the region that the target covers."""
    known: Tensor
    """M x G x G float32: share of each cell of the region whose content is known."""
    cells: Tensor
    """P x H/8 x W/8 float32: share of each cell of the image that the target covers."""
    present: Tensor
    """P, bool."""
    judged: Tensor
    """P, bool: whether `present` is known to be right."""
    exhaustive: Tensor
    """P, bool: whether the text fits nothing in the whole image but the target, and all of the image is known."""
    vocabulary: list[str]
    """V texts: each pair of kind and colour in the batch, then similar pairs that are not in it."""
    grounding: Tensor
    """B x H/8 x W/8, long: index of the vocabulary text that is right for a cell, V for none, -1 where unknown."""
    named: Tensor
    """N x 3, long: image, row and column of N cells, each of them of a thing that has a name."""
    names: list[str]
    """NAMES for each of these cells, one cell after the other; the first of them is right."""

    def to(self, device: torch.device) -> Batch:
        """Move to a device; from pinned memory, copying is asynchronous."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Copy to pinned memory; called by `DataLoader(pin_memory=True)`."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(**{k: change(v) if isinstance(v, Tensor) else v for k, v in vars(self).items()})


def collate(rng: np.random.Generator, scenes: Sequence[Prompted], size: tuple[int, int], grid: int) -> Batch:
    """Scenes and their prompts as tensors.

    `size`: height and width of the network's input; scenes have the same proportions and are scaled to it. `grid`:
    cells on each side of a region.
    """
    height, width = size
    pairs = sorted({(t.kind, t.color) for scene, _ in scenes for t in scene.things if t.kind})
    perhaps = {(t.kind, color) for scene, _ in scenes for t in scene.things for color in t.perhaps}
    absent = confused_pairs(rng, pairs, perhaps)
    number = {pair: i for i, pair in enumerate(pairs)}
    certain = [scene.ids != UNKNOWN for scene, _ in scenes]
    images, grounding, named, names = [], [], [], []
    for index, (scene, _) in enumerate(scenes):
        images.append(_scaled(scene.image, size))
        sy, sx = _scale(scene, size)
        label = np.full(256, -1, np.int64)
        label[0] = len(pairs) + len(absent) if any(t.kind for t in scene.things) else -1
        for thing in scene.things:
            label[thing.id] = number.get((thing.kind, thing.color), -1)
        middles = [((np.arange(n // CELL) + 0.5) * CELL / s).astype(int) for n, s in ((height, sy), (width, sx))]
        ids = scene.ids[np.ix_(*middles)]
        grounding.append(label[ids])
        for thing in (scene.things[i] for i in rng.permutation(len(scene.things))[:NAMED]):
            of_thing = np.argwhere(ids == thing.id)
            if len(of_thing) and (texts := names_of(rng, thing)):
                named.append((index, *of_thing[rng.integers(len(of_thing))]))
                names += texts
    asked = [(index, sample) for index, (_, samples) in enumerate(scenes) for sample in samples]
    asked.sort(key=lambda one: not one[1].has_mask)
    samples = [sample for _, sample in asked]
    boxes, regions, pixels, masks, known, cells, exhaustive = [], [], [], [], [], [], []
    for index, sample in asked:
        scene = scenes[index][0]
        sy, sx = _scale(scene, size)
        mask = np.isin(scene.ids, sample.targets).astype(np.float32)
        boxes.append(sample.box.scale(sx, sy).as_tuple())
        cells.append(_scaled(mask, (height // CELL, width // CELL)))
        everywhere = sample.box.area == scene.ids.size
        exhaustive.append(everywhere and bool(sample.text) and sample.judged and bool(certain[index].all()))
        if sample.has_mask:
            whole = Region(0, 0, scene.ids.shape[1], scene.ids.shape[0])
            region = whole.around(sample.box, max(sx, sy))
            regions.append(region.box().scale(sx, sy).as_tuple())
            pixels.append(region.pixels(scene.image, grid))
            masks.append(region.pixels(mask, grid))
            known.append(region.pixels(certain[index].astype(np.float32), grid))
    return Batch(
        images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        boxes=torch.tensor(boxes, dtype=torch.float32),
        regions=torch.tensor(regions, dtype=torch.float32),
        pixels=torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2),
        image_index=torch.tensor([index for index, _ in asked]),
        texts=[sample.text for sample in samples],
        kinds=[sample.kind for sample in samples],
        masks=torch.from_numpy(np.stack(masks)),
        known=torch.from_numpy(np.stack(known)),
        cells=torch.from_numpy(np.stack(cells)),
        present=torch.tensor([bool(sample.targets) for sample in samples]),
        judged=torch.tensor([sample.judged for sample in samples]),
        exhaustive=torch.tensor(exhaustive),
        vocabulary=[pair_text(rng, *pair) for pair in (*pairs, *absent)],
        grounding=torch.from_numpy(np.stack(grounding)),
        named=torch.tensor(named, dtype=torch.long).reshape(-1, 3),
        names=names,
    )


def _scale(scene: Scene, size: tuple[int, int]) -> tuple[float, float]:
    """From the scene's pixels to the network's, vertically and horizontally."""
    return size[0] / scene.ids.shape[0], size[1] / scene.ids.shape[1]


def _scaled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scaled by averaging pixels; `size`: height and width."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class Shares:
    """Shares of the training images by source; the rest are dead leaves."""

    tabletop: float = 0.55
    """Rendered scenes of the simulated tabletop; they need the extra `sim`, or scenes exported beforehand."""
    household: float = 0.12
    """Drawn household scenes."""
    annotated: float = 0.0
    """Images from the given data sets; all data sets are equally likely."""

    def __post_init__(self) -> None:
        shares = vars(self)
        if not all(share >= 0 for share in shares.values()) or sum(shares.values()) > 1 + 1e-6:
            raise ConfigurationError(
                f"training option `shares` is {', '.join(f'{name} {share:g}' for name, share in shares.items())}: none "
                f"may be negative, and together, {sum(shares.values()):g}, they may not be above 1: lower some"
            )


SHARP_SHARE = 0.25
"""Share of the drawn scenes that have twice the network's resolution; most camera images are sharper than its input."""


@dataclass(frozen=True, eq=False)
class MixedDataset:
    """Endless batches, each determined by its number: tabletop, household, dead-leaves and annotated images mixed."""

    seed: int
    sizes: tuple[tuple[int, int], ...]
    """Heights and widths of the network's input, multiples of 16; each batch takes one pair."""
    images: int
    """Images in a batch."""
    prompts: int
    """Maximum number of prompts about each image."""
    bank: TextureBank
    shares: Shares = field(default_factory=Shares)
    grid: int = 64
    """Cells on each side of a region."""
    records: tuple[str, ...] = ()
    """JSON files of exported tabletop scenes (`view_files.py`); if empty, scenes are rendered on the fly."""
    annotated: tuple[Sequence[AnnotatedImage], ...] = ()
    """Data sets (`datasets.loading`); required if and only if `shares.annotated` is above 0."""
    cutouts: tuple[np.ndarray, ...] = ()
    """For the dead leaves (`cutouts.py`)."""
    questions: int = 0
    """Maximum number of prompts about each image, besides `prompts`, that ask only for presence."""

    def __post_init__(self) -> None:
        if (self.shares.annotated > 0) != bool(self.annotated):
            raise ConfigurationError(
                f"{len(self.annotated)} data sets are given, and `shares.annotated` is {self.shares.annotated:g}: give "
                "both, or neither"
            )

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        size = self.sizes[int(rng.integers(len(self.sizes)))]
        drawn = 1 - self.shares.annotated
        annotated = int(rng.binomial(self.images, self.shares.annotated)) if self.annotated else 0
        rendered = int(rng.binomial(self.images - annotated, min(self.shares.tabletop / max(drawn, 1e-9), 1.0)))
        household = self.shares.household / max(drawn - self.shares.tabletop, 1e-9)
        scenes = self._drawn(rng, size, household, self.images - annotated - rendered)
        if rendered:
            from rsvp_ros.training.tabletop_scenes import tabletop_scenes  # here, so that the rest works without `sim`

            scenes += tabletop_scenes(rng, size, self.prompts, rendered, self.records, questions=self.questions)
        if annotated:
            scenes += annotated_scenes(rng, self.annotated, size, self.prompts, annotated, self.questions)
        return collate(rng, scenes, size, self.grid)

    def _drawn(
        self, rng: np.random.Generator, size: tuple[int, int], household_share: float, count: int
    ) -> list[Prompted]:
        """Drawn scenes, each with at least one prompt."""
        scenes: list[Prompted] = []
        while len(scenes) < count:
            household = rng.random() < household_share
            scale = 2 if rng.random() < SHARP_SHARE else 1
            height, width = size[0] * scale, size[1] * scale
            if household:
                scene = household_scene(rng, self.bank, height, width)
                samples = sample_prompts(rng, scene, self.prompts, questions=self.questions)
            else:
                scene = dead_leaves(rng, self.bank, height, width, self.cutouts)
                samples = leaf_prompts(rng, scene, self.prompts, questions=self.questions)
            if samples:
                scenes.append((scene, samples))
        return scenes
