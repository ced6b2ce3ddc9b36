"""How a description enters a pretrained SAM: through gates that are closed at first.

Every part adds `tanh(gate)` times something to what the SAM computes, and each gate starts at 0, as does the presence
head. So an untrained text path changes nothing, whatever the text, and says that everything is there; a trained one
still changes nothing where no text is given. Training opens the gates as far as it helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsvp_ros.segmentation.modeling.common import LayerNorm2d, Mlp
from rsvp_ros.segmentation.modeling.comparison import Comparison
from rsvp_ros.segmentation.modeling.text_encoder import TextEncoder, TextFeatures

PRESENT = 20.0
"""Logit of presence before training: its sigmoid is 1 in float32."""


@dataclass(frozen=True)
class TextPathSize:
    """The sizes of a text path that can be chosen."""

    heads: int = 8
    text_layers: int = 2
    text_dim: int = 128
    """Width of the space where text and image are compared."""
    text_buckets: int = 8192
    """Rows of the table that word pieces are hashed into."""
    piece_dim: int = 64
    max_words: int = 16
    """Words of a description that are read."""


@dataclass(frozen=True, kw_only=True)
class TextPathConfig(TextPathSize):
    """The SAM that a text path belongs to, and its own size. All of it is stored beside the weights in config.json."""

    backbone: str
    """A local folder or a hub name ("facebook/sam2.1-hiera-tiny")."""
    architecture: str
    """The backbone's class in transformers."""
    image_size: int
    """Side of the backbone's input, pixels."""
    parameters: int
    """How many the backbone has, which tells the sizes of a family apart."""
    width: int
    """Width of the backbone's decoder."""
    fine_width: int
    """Channels of the backbone's embedding level that is twice as fine (SAM 2); 0 if there is none (SAM)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if type(getattr(self, field.name)).__name__ != field.type:
                raise ValueError(f"{field.name} must be of type {field.type}")
        if self.heads < 1 or self.width % (2 * self.heads):
            raise ValueError(f"the width {self.width} is no multiple of twice the {self.heads} heads")


class Gate(nn.Module):
    """How far a part of the text path is open: 0 at first, later between -1 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, text: TextFeatures) -> Tensor:
        """P; 0 for a prompt without a text."""
        return self.value.tanh() * text.given


class GatedTextAttention(nn.Module):
    """Tokens of a SAM (of the image, or of the box) look at the words of the description."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, dim // 2)
        self.k = nn.Linear(dim, dim // 2)
        self.v = nn.Linear(dim, dim // 2)
        self.out = nn.Linear(dim // 2, dim)
        self.gate = Gate()

    def queries(self, x: Tensor, position: Tensor | float) -> Tensor:
        """Queries of tokens B x N x dim, independent of the text: an image's are computed once for all its prompts."""
        return self.q(self.norm(x) + position)

    def forward(self, x: Tensor, queries: Tensor, text: TextFeatures) -> Tensor:
        """Tokens P x N x dim, updated; `queries`: those of the tokens."""
        words = (self.k(text.tokens), self.v(text.tokens))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (queries, *words))
        padding = torch.where(text.valid, 0.0, -1e4)[:, None, None].expand(-1, -1, q.shape[2], -1)
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=padding)
        return torch.addcmul(x, self.gate(text)[:, None, None], self.out(read.transpose(1, 2).flatten(2)))


class SemanticHead(nn.Module):
    """A SAM's image embedding to the map that texts are compared with, cell by cell, at twice its resolution."""

    def __init__(self, dim: int, fine_dim: int, text_dim: int) -> None:
        """`fine_dim`: channels of the embedding's finer level (SAM 2), 0 where there is none."""
        super().__init__()
        self.coarse = nn.Sequential(LayerNorm2d(dim), nn.ConvTranspose2d(dim, text_dim, 2, stride=2))
        self.fine = nn.Conv2d(fine_dim, text_dim, 1) if fine_dim else None
        self.head = nn.Sequential(
            LayerNorm2d(text_dim), nn.GELU(), nn.Conv2d(text_dim, text_dim, 3, padding=1),
            LayerNorm2d(text_dim), nn.GELU(), nn.Conv2d(text_dim, text_dim, 1),
        )  # fmt: skip

    def forward(self, embedding: Tensor, fine: Sequence[Tensor]) -> Tensor:
        """B x dim x h x w, and B x fine_dim x 2h x 2w as the last of `fine`, to B x text_dim x 2h x 2w."""
        x = self.coarse(embedding)
        if self.fine is not None:
            x = x + self.fine(fine[-1])
        return self.head(x)


class TextPath(nn.Module):
    """All that is trained: text encoder, comparison of text and image, gated additions, presence."""

    def __init__(self, config: TextPathConfig) -> None:
        super().__init__()
        self.config = config
        dim, text_dim = config.width, config.text_dim
        self.text_encoder = TextEncoder(
            config.text_buckets, config.piece_dim, dim, config.text_layers, config.heads, text_dim, config.max_words
        )
        self.semantic_head = SemanticHead(dim, config.fine_width, text_dim)
        self.comparison = Comparison(text_dim)
        self.image_attention = GatedTextAttention(dim, config.heads)
        self.box_attention = GatedTextAttention(dim, config.heads)
        self.outside = nn.Parameter(torch.tensor(4.0))
        self.mask_gate = Gate()
        self.presence_head = Mlp(Comparison.evidence_width(text_dim), dim, 1)
        nn.init.zeros_(self.presence_head[-1].weight)
        nn.init.zeros_(self.presence_head[-1].bias)
        self.presence_gate = Gate()

    @property
    def is_open(self) -> bool:
        """Whether a text can change anything: False until training has moved a gate."""
        return any(bool(gate.value != 0) for gate in self.modules() if isinstance(gate, Gate))

    def mask_prompt(self, similarity: Tensor, inside: Tensor) -> Tensor:
        """The similarity as a mask prompt for SAM: logits P x 1 x 2h x 2w.

        `inside`: share of each cell that the box covers, P x h x w.
        """
        logits = similarity - F.softplus(self.outside) * (1 - inside)
        return F.interpolate(logits[:, None], scale_factor=2, mode="bilinear", align_corners=False)

    def presence(self, semantic: Tensor, similarity: Tensor, inside: Tensor, text: TextFeatures) -> Tensor:
        """Is what the text describes in the region? Logits P; `PRESENT` before training and without a text."""
        evidence = self.comparison.evidence(semantic, similarity, inside, text)
        logit = self.presence_head(evidence).squeeze(-1)
        return PRESENT * (1 - self.presence_gate(text)) + logit * text.given
