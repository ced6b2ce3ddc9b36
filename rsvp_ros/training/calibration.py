"""Final calibration of presence: it is shifted so that the tracker's threshold cuts where it should."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from rsvp_ros.tracking.tracker import TrackerConfig
from rsvp_ros.training.dataset import Batch
from rsvp_ros.training.networks import Learner
from rsvp_ros.training.prompts import PromptKind

LOST = 0.03
"""Share of the present things that may be called absent, on images that training does not use."""

_UNKNOWN = PromptKind.UNKNOWN_TEXT, PromptKind.LEAF


@torch.no_grad()
def calibrate_presence(learner: Learner, batches: Iterable[Batch]) -> float:
    """Shift the presence of all answers so that at their first look the share LOST of the described things that are
    present falls below `TrackerConfig.min_presence`; words that name nothing do not count.

    Returns the shift of the logit: 0 if the batches describe nothing that is present, or if the network's presence must
    not be shifted (a text path, which says that everything is present while untrained).

    Training by cross-entropy biases presence towards the more frequent case, and how frequent the cases are in the
    training data says nothing about a robot.
    """
    if learner.presence_bias is None:
        return 0.0
    learner.eval()
    present: list[Tensor] = []
    for batch in batches:
        output, _ = learner(batch)
        described = torch.tensor(
            [bool(text) and kind not in _UNKNOWN for text, kind in zip(batch.texts, batch.kinds, strict=True)],
            device=batch.present.device,
        )
        present.append(output.presence[batch.present & batch.judged & described])
    logits = torch.cat(present) if present else torch.empty(0)
    if not len(logits):
        return 0.0
    cut = torch.logit(torch.tensor(TrackerConfig().min_presence)).item()
    shift = cut - torch.quantile(logits.float(), LOST).item()
    learner.presence_bias.add_(shift)
    return shift
