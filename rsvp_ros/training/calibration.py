"""What presence means in the end: it is shifted so that the tracker's threshold cuts where it should."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from rsvp_ros.tracking.tracker import TrackerConfig
from rsvp_ros.training.dataset import Batch
from rsvp_ros.training.networks import Learner

LOST = 0.03
"""Share of what is there that may be called absent, on images that training does not use."""


@torch.no_grad()
def calibrate_presence(learner: Learner, batches: Iterable[Batch]) -> float:
    """Shift the presence of all answers so that, of the described things that are there, the share LOST is below
    `TrackerConfig.min_presence`; returns the shift of the logit, 0 where the batches describe nothing that is there, or
    where the network's presence must not be shifted (a text path, which untrained says that all is there).

    In training, presence is cross-entropy's: it leans to what is more frequent there, which says nothing of a robot.
    """
    if learner.presence_bias is None:
        return 0.0
    learner.eval()
    present: list[Tensor] = []
    for batch in batches:
        output, _ = learner(batch)
        described = torch.tensor([bool(text) for text in batch.texts], device=batch.present.device)
        present.append(output.presence[batch.present & batch.judged & described])
    logits = torch.cat(present) if present else torch.empty(0)
    if not len(logits):
        return 0.0
    cut = torch.logit(torch.tensor(TrackerConfig().min_presence)).item()
    shift = cut - torch.quantile(logits.float(), LOST).item()
    learner.presence_bias.add_(shift)
    return shift
