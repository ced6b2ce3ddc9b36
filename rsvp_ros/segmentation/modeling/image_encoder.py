"""Image encoder: a convolutional stem down to stride 16, then a small ViT."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from rsvp_ros.segmentation.modeling.common import Attention, LayerNorm2d, Mlp, grid_centers, sine_encoding


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What is computed once for each image, whatever is asked of it later."""

    tokens: Tensor
    """B x (H/16 * W/16) x dim."""
    stride8: Tensor
    """B x C x H/8 x W/8: detail for the mask decoder."""
    stride4: Tensor
    """B x C x H/4 x W/4: finer detail for the mask decoder."""
    semantic: Tensor
    """B x text_dim x H/8 x W/8: what the text is compared with, cell by cell."""


class ConvBlock(nn.Module):
    """Residual: 3 x 3 convolution, normalisation, GELU, 1 x 1 convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, bias=False), LayerNorm2d(dim), nn.GELU(), nn.Conv2d(dim, dim, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def downsample(dim_in: int, dim_out: int) -> nn.Sequential:
    """Halves the sides."""
    return nn.Sequential(
        nn.Conv2d(dim_in, dim_out, 3, stride=2, padding=1, bias=False), LayerNorm2d(dim_out), nn.GELU()
    )


class ViTLayer(nn.Module):
    """Pre-norm self-attention and MLP (ViT)."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, dim * mlp_ratio)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, bias)
        return x + self.mlp(self.norm2(x))


class ImageEncoder(nn.Module):
    """B x 3 x H x W (0 to 1, RGB; H and W multiples of 16) to `ImageFeatures`."""

    def __init__(
        self, stem: tuple[int, int, int], blocks8: int, dim: int, layers: int, heads: int, text_dim: int
    ) -> None:
        super().__init__()
        c2, c4, c8 = stem
        self.stage2 = downsample(3, c2)
        self.stage4 = nn.Sequential(downsample(c2, c4), ConvBlock(c4))
        self.stage8 = nn.Sequential(downsample(c4, c8), *(ConvBlock(c8) for _ in range(blocks8)))
        self.stage16 = nn.Sequential(downsample(c8, dim), ConvBlock(dim))
        self.layers = nn.ModuleList(ViTLayer(dim, heads, 4) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.semantic_fine = nn.Conv2d(c8, text_dim, 1)
        self.semantic_coarse = nn.Conv2d(dim, text_dim, 1)
        self.semantic_head = nn.Sequential(
            ConvBlock(text_dim), LayerNorm2d(text_dim), nn.GELU(), nn.Conv2d(text_dim, text_dim, 1)
        )

    def forward(self, images: Tensor) -> ImageFeatures:
        x = (images - 0.45) * 4.0
        s4 = self.stage4(self.stage2(x))
        s8 = self.stage8(s4)
        s16 = self.stage16(s8)
        height, width = s16.shape[-2:]
        position = sine_encoding(grid_centers(height, width, 16, s16.device), s16.shape[1])
        tokens = s16.flatten(2).transpose(1, 2) + position.flatten(0, 1).to(s16.dtype)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        context = tokens.transpose(1, 2).unflatten(2, (height, width)).to(s8.dtype)
        coarse = F.interpolate(self.semantic_coarse(context), size=s8.shape[-2:], mode="bilinear", align_corners=False)
        return ImageFeatures(
            tokens=tokens, stride8=s8, stride4=s4, semantic=self.semantic_head(self.semantic_fine(s8) + coarse)
        )


def take(maps: Tensor, index: Tensor) -> Tensor:
    """For each prompt, the maps of its image; no copy if there is only one image."""
    return maps.expand(len(index), *maps.shape[1:]) if len(maps) == 1 else maps[index]
