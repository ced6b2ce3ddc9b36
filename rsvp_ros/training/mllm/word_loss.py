"""The loss of an answer's words: cross-entropy, with measures that are nearly right counting as nearly as good."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from rsvp_ros.training.mllm.chains import size
from rsvp_ros.training.mllm.extents import CLASSES
from rsvp_ros.training.mllm.tokenizer import answer_ids

SPREAD = 1.5
"""Standard deviation, in classes, of the normal distribution around a measure's class that is the target in its place.
Each of the many classes is seen rarely; otherwise, a few classes would be used for all similar ones."""


class WordLoss:
    """The loss of words of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, device: torch.device) -> None:
        classes = torch.arange(CLASSES, device=device)
        self._sizes = torch.tensor(answer_ids(tokenizer, [size(k) for k in range(CLASSES)])[:-1], device=device)
        apart = (classes[:, None] - classes).float()
        self._wanted = torch.exp(-(apart**2) / (2 * SPREAD**2))
        self._wanted /= self._wanted.sum(1, keepdim=True)

    def __call__(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """scores: N x vocabulary, float32; targets: N; returns N."""
        losses = functional.cross_entropy(scores, targets, reduction="none")
        rows, classes = (targets[:, None] == self._sizes).nonzero(as_tuple=True)
        told = scores[rows].log_softmax(1)[:, self._sizes]
        return losses.index_put((rows,), -(self._wanted[classes] * told).sum(1))
