"""Mask decoder: looks at the image's own pixels in a region, and draws the mask there.

SAM upsamples its features for the whole image; here the same number of cells covers the region alone, so a small thing
gets as many as a large one. (`refinement.py` makes the outline as sharp as the image.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsvp_ros.segmentation.modeling.common import LayerNorm2d, Mlp
from rsvp_ros.segmentation.modeling.image_encoder import ConvBlock, ImageFeatures, downsample
from rsvp_ros.segmentation.modeling.region import sample_regions


class MaskDecoder(nn.Module):
    """A small U-Net on the region's pixels; what the image encoder knows of it comes in at the coarser levels."""

    def __init__(
        self, dim: int, stem: tuple[int, int, int], widths: tuple[int, int, int], fine_blocks: int, maps: int
    ) -> None:
        """`widths`: channels on the whole, half and quarter grid; `fine_blocks`: blocks on the whole grid; `maps`:
        channels of the region prior."""
        super().__init__()
        _, c4, c8 = stem
        fine, middle, coarse = widths
        self.pixels = nn.Sequential(nn.Conv2d(3, fine, 3, padding=1, bias=False), LayerNorm2d(fine), nn.GELU())
        self.to_middle = downsample(fine, middle)
        self.from4 = nn.Conv2d(c4, middle, 1)
        self.from8 = nn.Conv2d(c8 + maps, middle, 1)
        self.middle = ConvBlock(middle)
        self.to_coarse = downsample(middle, coarse)
        self.from16 = nn.Conv2d(dim, coarse, 1)
        self.of_token = nn.Linear(dim, coarse)
        self.coarse = nn.Sequential(ConvBlock(coarse), ConvBlock(coarse))
        self.up_middle = nn.Conv2d(coarse, middle, 1)
        self.merge_middle = nn.Sequential(ConvBlock(middle), ConvBlock(middle))
        self.up_fine = nn.Conv2d(middle, fine, 1)
        self.merge_fine = nn.Sequential(LayerNorm2d(fine), nn.Conv2d(fine, fine, 3, padding=1), nn.GELU())
        self.fine = nn.Sequential(*(ConvBlock(fine) for _ in range(fine_blocks)))
        self.rough = Mlp(dim, dim, middle + 1)
        self.outline = Mlp(dim, dim, fine)

    def forward(
        self,
        pixels: Tensor,
        regions: Tensor,
        index: Tensor,
        features: ImageFeatures,
        image: Tensor,
        prior: Tensor,
        mask_token: Tensor,
    ) -> Tensor:
        """Logits P x G x G over the regions.

        `pixels`: P x 3 x G x G, RGB from 0 to 1, G a multiple of 4; `regions`: P x 4, input pixels; `image`: P x dim x
        H/16 x W/16, what the blocks made of the image for each prompt; `prior`: P x maps x H/8 x W/8.
        """
        grid = pixels.shape[-1]
        own = torch.arange(len(regions), device=regions.device)
        fine = self.pixels((pixels - 0.45) * 4.0)
        at8 = torch.cat(
            (
                sample_regions(features.stride8, regions, index, grid // 2, 8),
                sample_regions(prior.to(pixels.dtype), regions, own, grid // 2, 8),
            ),
            1,
        )
        at4 = sample_regions(features.stride4, regions, index, grid // 2, 4)
        at16 = sample_regions(image, regions, own, grid // 4, 16)
        middle = self.middle(self.to_middle(fine) + self.from4(at4) + self.from8(at8))
        coarse = self.to_coarse(middle) + self.from16(at16) + self.of_token(mask_token)[:, :, None, None]
        coarse = self.coarse(coarse)
        middle = self.merge_middle(middle + _doubled(self.up_middle(coarse)))
        rough = self.rough(mask_token)
        logits = _dot(middle, rough[:, :-1]) + rough[:, -1:, None]
        fine = fine + _doubled(self.up_fine(middle))
        fine = self.fine(fine + self.merge_fine(fine))
        return _doubled(logits[:, None])[:, 0] + _dot(fine, self.outline(mask_token))


def _doubled(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


def _dot(maps: Tensor, weights: Tensor) -> Tensor:
    """P x C x G x G and P x C to P x G x G."""
    product = maps.permute(0, 2, 3, 1).flatten(1, 2) @ weights[:, :, None].to(maps.dtype)
    return product.squeeze(-1).unflatten(1, maps.shape[-2:])
