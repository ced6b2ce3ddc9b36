"""What the vision tower is taught besides language: which thing covers each token, and what and where it is.

The truth is dense (every token of every image), so the tower learns to see from a fraction of the images that words
alone would need. The heads are discarded after the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rsvp_ros.geometry import Box, RegionGrid
from rsvp_ros.reasoning.mllm.model_folder import EMBEDDED_PROMPTS
from rsvp_ros.training.mllm.extents import CLASSES, Measure, edge_class
from rsvp_ros.training.mllm.model import MERGE, PATCH
from rsvp_ros.training.mllm.variety import Picture, moved, recast, repainted, resurfaced
from rsvp_ros.training.mllm.views import (
    COLOR_NAMES,
    HEIGHT,
    KIND_NAMES,
    PATTERN_NAMES,
    UNTOLD,
    WIDTH,
    SeenThing,
    ViewStore,
    network_image,
    recolored,
    to_patch_order,
    to_patches,
)
from rsvp_ros.training.places import FARTHEST, Ground

GRID = 9
"""Number of bands in each direction by which the heads tell where a thing is."""
MOST_THINGS = 12
NOTHING = len(KIND_NAMES)
"""Class of a token that no thing covers."""
RECAST_SHARE = 0.5
"""Share of the varied images with colours that are not taught."""
MIN_COVER = 0.15
"""Share of a token that a thing must cover to count as seen there; of several such things, the one covering most
counts. A thing with its middle in the token takes precedence; of several of these, the smallest, as larger ones also
show elsewhere."""
MIDDLE_WEIGHT = 3.0
"""Weight of the token with a thing's middle, which may be a small thing's only token; other tokens weigh 1."""
BARE_WEIGHT = 0.3
"""Weight of tokens that show no thing. Most tokens do: with full weight, nothing else would be learned at first."""

FIELDS = {
    "kind": len(KIND_NAMES) + 1,
    "color": len(COLOR_NAMES),
    "pattern": len(PATTERN_NAMES),
    "wooden": 2,
    "lying": 2,
    "left": GRID,
    "right": GRID,
    "top": GRID,
    "bottom": GRID,
    "rank": MOST_THINGS,
    "middle": 2,
    "x": 2 * FARTHEST + 1,
    "y": 2 * FARTHEST + 1,
    **{measure.name.lower(): CLASSES for measure in Measure},
}
"""What is predicted for each token, and the number of classes."""


def cell_truth(ids: np.ndarray, things: Sequence[SeenThing], ground: Ground, cell: int) -> np.ndarray:
    """The classes of FIELDS for each cell of `cell` pixels: int64 rows x columns x fields, UNTOLD where unknown.

    ids: uint8 HEIGHT x WIDTH; ground: under the image, of whatever size. Cells of things that are not named, or that
    things cover only a little, are unknown. Cells without a thing still have the distance to the table's edge.
    """
    rows, columns = HEIGHT // cell, WIDTH // cell
    truth = np.full((rows, columns, len(FIELDS)), UNTOLD, np.int64)
    names = list(FIELDS)
    grid = RegionGrid(GRID, GRID, WIDTH, HEIGHT)
    boxes = {}
    for thing in things:
        x, y, w, h = cv2.boundingRect((ids == thing.id).view(np.uint8))
        if w and h:
            boxes[thing.id] = Box(x, y, x + w, y + h)
    seen = [thing for thing in things if thing.id in boxes]
    ranks = {id_: k for k, id_ in enumerate(sorted((t.id for t in seen if t.named), key=lambda i: boxes[i].center[0]))}
    covers = np.zeros((len(seen) + 1, rows, columns), np.float32)
    middles = np.zeros((len(seen), rows, columns), bool)
    for k, thing in enumerate(seen):
        covers[k] = cv2.resize((ids == thing.id).astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
        x, y = boxes[thing.id].center
        middles[k, min(int(y / cell), rows - 1), min(int(x / cell), columns - 1)] = True
    total = covers.sum(0)
    sizes = np.array([boxes[thing.id].area for thing in seen]).reshape(-1, 1, 1)
    score = np.where((covers[:-1] > 0) & middles, 1 + 1 / sizes, np.where(covers[:-1] >= MIN_COVER, covers[:-1], 0))
    best = score.argmax(0) if seen else np.zeros((rows, columns), int)
    top = score.max(0) if seen else np.zeros((rows, columns))
    bare = total < 0.03
    truth[bare, names.index("kind")] = NOTHING
    truth[bare, names.index("middle")] = 0
    truth[bare, names.index("edge")] = _edges(ground, cell)[bare]
    for k, thing in enumerate(seen):
        here = (best == k) & (top > 0)
        if not thing.named or not here.any():
            continue
        spanned = grid.bands(boxes[thing.id])
        (place,) = ground.places([(thing.x, thing.y)])
        values = (
            thing.kind, thing.color, thing.pattern, thing.wooden, thing.lying,
            spanned[1][0] - 1, spanned[1][-1] - 1, spanned[0][0] - 1, spanned[0][-1] - 1,
            min(ranks[thing.id], MOST_THINGS - 1), 0, *(step + FARTHEST for step in place), *thing.measures(ground),
        )  # fmt: skip
        truth[here] = values
        truth[here & middles[k], names.index("middle")] = 1
    return truth


def _edges(ground: Ground, cell: int) -> np.ndarray:
    """Class of the distance to the table's edge, from the point of the table's plane at each cell's middle."""
    rows, columns = np.indices((HEIGHT // cell, WIDTH // cell))
    pixels = (np.column_stack((columns.ravel(), rows.ravel())) + 0.5) * cell * ground.width / WIDTH - 0.5
    steps = ground.to_rim(ground.points(pixels)) / ground.step
    return np.array([edge_class(value) for value in steps]).reshape(rows.shape)


@dataclass(frozen=True)
class DenseTruth:
    """The truth for a batch: int64 B x tokens x fields."""

    patches: torch.Tensor
    merged: torch.Tensor

    def to(self, device: torch.device) -> DenseTruth:
        return DenseTruth(self.patches.to(device), self.merged.to(device))


def dense_truth(ids: np.ndarray, things: Sequence[SeenThing], ground: Ground) -> tuple[np.ndarray, np.ndarray]:
    """The truth for one image's patches, in their order, and for its merged tokens."""
    fine = to_patch_order(cell_truth(ids, things, ground, PATCH))
    coarse = cell_truth(ids, things, ground, PATCH * MERGE)
    return fine, coarse.reshape(-1, coarse.shape[-1])


class SeeingHeads(nn.Module):
    """Linear heads on the tokens before and after the merger."""

    def __init__(self, vision_hidden: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(vision_hidden)
        self.patches = nn.Linear(vision_hidden, sum(FIELDS.values()))
        self.merged = nn.Linear(hidden, sum(FIELDS.values()))

    def forward(
        self, patches: torch.Tensor, merged: torch.Tensor, truth: DenseTruth
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss, and for each field the share of merged tokens that are right."""
        fine, _ = _loss(self.patches(self.norm(patches)), truth.patches)
        coarse, right = _loss(self.merged(merged), truth.merged)
        return 0.5 * fine + coarse, right


def _loss(scores: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    total = scores.new_zeros((), dtype=torch.float32)
    right = {}
    middle = truth[..., list(FIELDS).index("middle")].flatten() == 1
    bare = truth[..., list(FIELDS).index("kind")].flatten() == NOTHING
    for index, (name, part) in enumerate(zip(FIELDS, scores.float().split(list(FIELDS.values()), -1), strict=True)):
        target = truth[..., index].flatten()
        known = target != UNTOLD
        if not bool(known.any()):
            continue
        flat, target = part.reshape(-1, part.shape[-1])[known], target[known]
        weights = torch.where(bare[known] & (name in ("kind", "edge")), BARE_WEIGHT, 1.0)
        weights = torch.where(middle[known], MIDDLE_WEIGHT, weights)
        losses = functional.cross_entropy(flat, target, reduction="none")
        total = total + (losses * weights).sum() / weights.sum()
        hit = flat.argmax(-1) == target
        if name == "kind":
            there = target != NOTHING
            right["kind"] = hit[there].float().mean().item() if bool(there.any()) else 1.0
            right["nothing"] = hit[~there].float().mean().item() if bool((~there).any()) else 1.0
        else:
            right[name] = hit.float().mean().item()
    return total / len(FIELDS), right


def seeing_batch(
    store: ViewStore, rng: np.random.Generator, images: int, varied: bool = True
) -> tuple[torch.Tensor, DenseTruth]:
    """Views, or parts of them, half of them mirrored, which does not change what a thing is.

    varied: also moved, in other colours and on other grounds.
    """
    pictures, fine, coarse = [], [], []
    for index in rng.choice(len(store), images, replace=images > len(store)):
        picture = Picture.of(store, int(index))
        if varied:
            change = recast if rng.random() < RECAST_SHARE else repainted
            picture = moved(resurfaced(change(picture, rng), rng), rng)
        image, ids, ground = picture.image, picture.ids, picture.ground
        height, width = ids.shape
        if rng.random() < 0.7:
            share = rng.uniform(0.75, 1)
            h, w = int(height * share), int(width * share)
            y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
            image = cv2.resize(image[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_LINEAR)
            ids = cv2.resize(ids[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
            larger = np.diag((width / w, height / h))
            ground = ground.moved(np.column_stack((larger, larger @ (0.5 - x, 0.5 - y) - 0.5)))
        if rng.random() < 0.5:
            image, ids = image[:, ::-1].copy(), ids[:, ::-1].copy()
            ground = ground.moved(np.array([[-1.0, 0, width - 1], [0, 1, 0]]))
        ids = cv2.resize(ids, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST_EXACT)
        image = recolored(image, rng)
        pictures.append(network_image(image, EMBEDDED_PROMPTS[int(rng.integers(len(EMBEDDED_PROMPTS)))]))
        truth = dense_truth(ids, picture.things, ground)
        fine.append(truth[0])
        coarse.append(truth[1])
    truth = DenseTruth(torch.from_numpy(np.stack(fine)), torch.from_numpy(np.stack(coarse)))
    return torch.from_numpy(to_patches(np.stack(pictures))), truth
