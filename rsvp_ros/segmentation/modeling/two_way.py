"""Two-way cross-attention between prompt tokens and image tokens (SAM's decoder, with a region prior as bias)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsvp_ros.segmentation.modeling.common import Attention, Mlp


class RegionBias(nn.Module):
    """Additive bias on the attention over image tokens: lower outside the region, higher where the text fits."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        # At the start, the heads range from "anywhere" to "hardly outside the region".
        self.outside = nn.Parameter(torch.linspace(0.5, 4.0, heads))
        self.similarity = nn.Parameter(torch.full((heads,), 0.3))

    def forward(self, coverage: Tensor, similarity: Tensor) -> Tensor:
        """Two maps P x M (image tokens) to P x heads x 1 x M."""
        outside = F.softplus(self.outside)[:, None] * (coverage[:, None] - 1.0)
        inside = self.similarity[:, None] * similarity[:, None].clamp(-8.0, 8.0)
        return (outside + inside)[:, :, None]


class TwoWayBlock(nn.Module):
    """Self-attention of the tokens, tokens to image, MLP, image to tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attention = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.to_image = Attention(dim, heads, dim // 2)
        self.region = RegionBias(heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 2 * dim)
        self.norm3 = nn.LayerNorm(dim)
        self.to_tokens = Attention(dim, heads, dim // 2)
        self.norm4 = nn.LayerNorm(dim)

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        token_position: Tensor,
        image_position: Tensor,
        token_bias: Tensor,
        region: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Tokens P x N x dim and image P x M x dim, both updated.

        Their positions are added to queries and keys anew at every step, as in SAM; `token_bias` hides padding;
        `region`: coverage and similarity, P x M each.
        """
        q = tokens + token_position
        tokens = self.norm1(tokens + self.self_attention(q, q, tokens, token_bias))
        k = image + image_position
        bias = self.region(*region)
        tokens = self.norm2(tokens + self.to_image(tokens + token_position, k, image, bias))
        tokens = self.norm3(tokens + self.mlp(tokens))
        q = tokens + token_position
        image = self.norm4(image + self.to_tokens(k, q, tokens, token_bias))
        return tokens, image
