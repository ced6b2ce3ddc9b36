"""Losses of the VLSM: cross-entropy and Dice for masks (RSVP, sec. 3.3), presence, quality and grounding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rsvp_ros.segmentation.vlsm import VlsmOutput
from rsvp_ros.training.dataset import Batch

BACKGROUND_WEIGHT = 0.3
"""Weight of a cell without a thing in the grounding loss: there are about four times as many of these."""

ABSENT_WEIGHT = 2.0
"""Weight of an absent description in the presence loss: about one in six prompts is absent."""


TARGET_WEIGHT = 8.0
"""Weight of a target's cells in the loss of the words: a target covers only a small part of an image."""


@dataclass(frozen=True, eq=False)
class Losses:
    """Means over a batch; scalars."""

    cross_entropy: Tensor
    dice: Tensor
    presence: Tensor
    quality: Tensor
    grounding: Tensor
    """Of the names of things, compared with the whole image."""
    words: Tensor
    """Of a prompt's own words, compared with the whole image."""
    naming: Tensor
    """Of the choice of a thing's name."""

    @property
    def total(self) -> Tensor:
        masks = 2 * self.cross_entropy + self.dice
        return masks + self.presence + 0.5 * self.quality + self.grounding + 0.5 * self.words + 2 * self.naming


def soft_iou(probability: Tensor, truth: Tensor, known: Tensor | None = None) -> Tensor:
    """IoU (P) of masks thresholded at 0.5, on their regions, in cells more than half `known` (None: in all cells)."""
    a, b = probability > 0.5, truth > 0.5
    if known is not None:
        a, b = a & (known > 0.5), b & (known > 0.5)
    intersection = (a & b).flatten(1).sum(1)
    return intersection / (a | b).flatten(1).sum(1).clamp(min=1)


def compute_losses(output: VlsmOutput, batch: Batch, grounding: Tensor, naming: Tensor) -> Losses:
    """`grounding`: logits of `Comparison.grounding` for the batch's vocabulary; `naming`: logits of the batch's names,
    N x NAMES.

    The mask losses count only prompts with a mask whose target is present, and only known cells.
    """
    present = batch.present.float()
    shown = present[: len(batch.masks)]
    count = shown.sum().clamp(min=1)

    def over_present(values: Tensor) -> Tensor:
        return (values * shown).sum() / count

    known = batch.known
    pixelwise = F.binary_cross_entropy_with_logits(output.masks, batch.masks, known, reduction="none")
    probability = output.masks.sigmoid()
    overlap = (probability * batch.masks * known).flatten(1).sum(1)
    total = ((probability + batch.masks) * known).flatten(1).sum(1)
    iou = soft_iou(probability.detach(), batch.masks, known)
    presence_weight = torch.where(batch.present, 1.0, ABSENT_WEIGHT) * batch.judged
    weight_of_label = grounding.new_ones(grounding.shape[1])
    weight_of_label[-1] = BACKGROUND_WEIGHT
    weight_of_cell = torch.where(batch.grounding >= 0, weight_of_label[batch.grounding], 0.0)
    of_words = F.binary_cross_entropy_with_logits(
        output.similarity, batch.cells, reduction="none", pos_weight=batch.cells.new_tensor(TARGET_WEIGHT)
    )
    return Losses(
        cross_entropy=over_present(pixelwise.flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)),
        dice=over_present(1 - (2 * overlap + 1) / (total + 1)),
        presence=F.binary_cross_entropy_with_logits(output.presence, present, presence_weight),
        quality=over_present((output.quality[: len(iou)].sigmoid() - iou).square()),
        grounding=F.cross_entropy(grounding, batch.grounding, weight_of_label, ignore_index=-1, reduction="sum")
        / weight_of_cell.sum().clamp(min=1),
        words=(of_words.flatten(1).mean(1) * batch.exhaustive).sum() / batch.exhaustive.sum().clamp(min=1),
        naming=(naming.logsumexp(1) - naming[:, 0]).sum() / max(len(naming), 1),
    )
