"""Mask decoder: SAM's dot product of a mask token with upsampled image features."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rsvp_ros.segmentation.modeling.common import LayerNorm2d, Mlp
from rsvp_ros.segmentation.modeling.image_encoder import ImageFeatures


class MaskDecoder(nn.Module):
    """Image tokens (stride 16) and the encoder's detail maps to mask logits at stride 2."""

    stride = 2

    def __init__(self, dim: int, mask_dim: int, maps: int) -> None:
        super().__init__()
        fine, finest = mask_dim // 2, mask_dim // 4
        self.from16 = nn.Conv2d(dim, mask_dim, 1)
        self.prompt8 = nn.Conv2d(maps, mask_dim, 1)
        self.conv8 = nn.Sequential(
            LayerNorm2d(mask_dim), nn.GELU(), nn.Conv2d(mask_dim, mask_dim, 3, padding=1),
            LayerNorm2d(mask_dim), nn.GELU(), nn.Conv2d(mask_dim, mask_dim, 3, padding=1),
        )  # fmt: skip
        self.from8 = nn.Conv2d(mask_dim, fine, 1)
        self.conv4 = nn.Sequential(
            LayerNorm2d(fine), nn.GELU(), nn.Conv2d(fine, fine, 3, padding=1), LayerNorm2d(fine), nn.GELU()
        )
        self.from4 = nn.Conv2d(fine, finest, 1)
        self.conv2 = nn.Sequential(nn.GELU(), nn.Conv2d(finest, finest, 3, padding=1), nn.GELU())
        self.coarse = Mlp(dim, dim, fine + 1)
        self.outline = Mlp(dim, dim, finest)

    def forward(self, image: Tensor, mask_token: Tensor, dense8: Tensor, features: ImageFeatures) -> Tensor:
        """`image`: P x dim x H/16 x W/16; `dense8`: the region prior's maps; returns logits P x H/2 x W/2.

        The mask is made at stride 4; at stride 2, with the image's own detail, its outline is drawn.
        """

        def up(x: Tensor, like: Tensor) -> Tensor:
            return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)

        x = features.stride8 + self.prompt8(dense8.to(features.stride8.dtype))
        x = x + up(self.from16(image), x)
        x = x + self.conv8(x)
        x = self.conv4(features.stride4 + up(self.from8(x), features.stride4))
        weights = self.coarse(mask_token)
        logits = _dot(x, weights[:, :-1]) + weights[:, -1:, None]
        x = self.conv2(features.stride2 + up(self.from4(x), features.stride2))
        return up(logits[:, None], x)[:, 0] + _dot(x, self.outline(mask_token))


def _dot(maps: Tensor, weights: Tensor) -> Tensor:
    """P x C x H x W and P x C to P x H x W."""
    product = maps.flatten(2).transpose(1, 2) @ weights[:, :, None].to(maps.dtype)
    return product.squeeze(-1).unflatten(1, maps.shape[-2:])
