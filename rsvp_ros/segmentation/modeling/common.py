"""Layers that several parts of the network use."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of B x C x H x W; free of copies for channels_last tensors."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mlp(nn.Sequential):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, out or dim))


class Attention(nn.Module):
    """Multi-head attention of queries B x N x dim over keys and values B x M x dim, with an additive bias.

    `inner` is the width inside: cross-attention between tokens and image works at half width, as in SAM.
    """

    def __init__(self, dim: int, heads: int, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or dim
        self.heads = heads
        self.q = nn.Linear(dim, inner)
        self.k = nn.Linear(dim, inner)
        self.v = nn.Linear(dim, inner)
        self.out = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """`bias`: broadcastable to B x heads x N x M, added to the logits before the softmax."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.q, q), (self.k, k), (self.v, v))
        )
        if bias is not None:
            bias = bias.to(q.dtype).expand(-1, -1, q.shape[2], -1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(x.transpose(1, 2).flatten(2))


def sine_encoding(positions: Tensor, dim: int, longest: float = 1024.0) -> Tensor:
    """Sines and cosines of (x, y) positions in pixels, ... x 2 to ... x dim, wavelengths from 8 to `longest` pixels.

    Pixels rather than shares of the image, so that a cell means the same at every size and shape of the model's input.
    """
    count = dim // 4
    wavelengths = torch.logspace(math.log10(8.0), math.log10(longest), count, device=positions.device)
    angles = positions.float().unsqueeze(-1) * (2 * math.pi / wavelengths)
    return torch.cat((angles.sin(), angles.cos()), -1).flatten(-2)


def grid_centers(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """Centres (x, y) of the cells of a feature map, input pixels, height x width x 2."""
    ys = (torch.arange(height, device=device) + 0.5) * stride
    xs = (torch.arange(width, device=device) + 0.5) * stride
    return torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1)
