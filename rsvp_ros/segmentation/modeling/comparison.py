"""Where in an image a description fits, and whether what it describes is there: text against image, cell by cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsvp_ros.segmentation.modeling.text_encoder import TextFeatures


class Comparison(nn.Module):
    """Compares texts with the semantic map of an image.

    How well a text fits a cell is a product of the whole text with the cell, minus what each of its words misses there.
    The product alone is a sum over the words, in which one can make up for another: the reddest thing of all is still
    no red cup.
    """

    def __init__(self, text_dim: int) -> None:
        super().__init__()
        self.background = nn.Parameter(torch.randn(text_dim) * 0.02)
        self.scale = text_dim**-0.5

    @staticmethod
    def evidence_width(text_dim: int) -> int:
        return 3 + 3 * text_dim

    def grounding(self, semantic: Tensor, text: TextFeatures) -> Tensor:
        """Each cell against each of V texts, and against "none of them", which comes last.

        `semantic`: B x text_dim x h x w; returns logits B x (V + 1) x h x w, float32.
        """
        everything = torch.cat((text.query, self.background[None].to(text.query.dtype))).to(semantic.dtype)
        logits = (torch.einsum("vc,bchw->bvhw", everything, semantic) * self.scale).float()
        fits = torch.einsum("vlc,bchw->bvlhw", text.criteria.to(semantic.dtype), semantic)
        return torch.cat((logits[:, :-1] - self._missed(fits, text), logits[:, -1:]), 1)

    def similarity(self, semantic: Tensor, text: TextFeatures) -> Tensor:
        """How much better each prompt's text fits a cell than the background does: P x h x w, 0 without a text.

        `semantic`: P x text_dim x h x w.
        """
        cells, shape = semantic.flatten(2), semantic.shape[-2:]
        query = (text.query - self.background) * text.given[:, None] * self.scale
        logits = (query.to(cells.dtype)[:, None] @ cells).squeeze(1).float()
        fits = text.criteria.to(cells.dtype) @ cells
        return logits.unflatten(1, shape) - self._missed(fits.unflatten(2, shape), text)

    def _missed(self, fits: Tensor, text: TextFeatures) -> Tensor:
        """What the words of each of V texts miss in total: ... x V x words x h x w to ... x V x h x w, float32."""
        missed = F.softplus(text.demand.float()[..., None, None] - fits.float() * self.scale)
        return (text.relevance.float()[..., None, None] * missed).sum(-3)

    def evidence(self, semantic: Tensor, similarity: Tensor, inside: Tensor, text: TextFeatures) -> Tensor:
        """Evidence of whether a region shows what a text describes: P x `evidence_width`.

        How well the text fits best in the region, best elsewhere, and on average in the region; what the image shows
        where it fits best, times the text and alone; the text. `inside`: share of each cell that the region covers,
        P x h x w.
        """
        attention = (similarity + inside.clamp(min=1e-4).log()).flatten(1).softmax(1)
        seen = (semantic.flatten(2) @ attention[:, :, None].to(semantic.dtype)).squeeze(-1)
        peak = torch.where(inside > 0, similarity, -10.0).flatten(1).amax(1)
        elsewhere = torch.where(inside > 0, -10.0, similarity).flatten(1).amax(1)
        mean = (similarity.sigmoid() * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp(min=1e-3)
        fit = torch.stack((peak.clamp(-10, 10) / 4, elsewhere.clamp(-10, 10) / 4, mean), 1)
        return torch.cat((fit.to(seen.dtype), seen * text.query, seen, text.query), 1)
