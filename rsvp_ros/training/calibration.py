"""What presence and masks mean in the end: both are shifted so that they are cut where they should be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from rsvp_ros.tracking.tracker import TrackerConfig
from rsvp_ros.training.dataset import Batch
from rsvp_ros.training.losses import soft_iou
from rsvp_ros.training.networks import Learner

LOST = 0.025
"""Share of what is there that may be called absent, on images that training does not use."""
MASK_SHIFTS = tuple(k / 10 for k in range(-10, 11))
"""Of masks' logits; from these the best is taken."""


@dataclass(frozen=True)
class Shifts:
    """Of logits; 0 where the batches describe, or hold, nothing that is there, or where the network must not be
    shifted (a text path, which untrained is its SAM and says that all is there)."""

    presence: float = 0.0
    masks: float = 0.0


@torch.no_grad()
def calibrate(learner: Learner, batches: Iterable[Batch]) -> Shifts:
    """Shift the presence of all answers so that, of the described things that are there, the share LOST is below
    `TrackerConfig.min_presence`, and the masks so that their mean IoU is the greatest.

    In training, presence is cross-entropy's: it leans to what is more frequent there, which says nothing of a robot.
    Masks are cut where a cell is as likely in as out; where they are unsure, to take in more cells gives a greater IoU.
    """
    if learner.biases is None:
        return Shifts()
    learner.eval()
    presence, ious = [], []
    for batch in batches:
        output, _ = learner(batch)
        described = torch.tensor([bool(text) for text in batch.texts], device=batch.present.device)
        presence.append(output.presence[batch.present & batch.judged & described].float())
        masks, truth, known = (values[batch.present] for values in (output.masks.float(), batch.masks, batch.known))
        ious.append(torch.stack([soft_iou((masks + shift).sigmoid(), truth, known) for shift in MASK_SHIFTS], 1))
    shifts = Shifts(_presence_shift(torch.cat(presence)), _mask_shift(torch.cat(ious))) if presence else Shifts()
    learner.biases.presence.add_(shifts.presence)
    learner.biases.masks.add_(shifts.masks)
    return shifts


def _presence_shift(logits: Tensor) -> float:
    if not len(logits):
        return 0.0
    cut = torch.logit(torch.tensor(TrackerConfig().min_presence)).item()
    return cut - torch.quantile(logits, LOST).item()


def _mask_shift(ious: Tensor) -> float:
    """`ious`: prompts x MASK_SHIFTS."""
    return MASK_SHIFTS[int(ious.mean(0).argmax())] if len(ious) else 0.0
