"""Mask decoder: SAM's dot product of a mask token with upsampled image features."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rsvp_ros.segmentation.modeling.common import LayerNorm2d, Mlp


class MaskDecoder(nn.Module):
    """Image tokens (stride 16) and the encoder's detail maps to mask logits at stride 4."""

    def __init__(self, dim: int, mask_dim: int, maps: int) -> None:
        super().__init__()
        fine = mask_dim // 2
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
        self.weights = Mlp(dim, dim, fine + 1)

    def forward(self, image: Tensor, mask_token: Tensor, dense8: Tensor, stride8: Tensor, stride4: Tensor) -> Tensor:
        """`image`: P x dim x H/16 x W/16; `dense8`: the region prior's maps; returns logits P x H/4 x W/4."""

        def up(x: Tensor, like: Tensor) -> Tensor:
            return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)

        x = stride8 + self.prompt8(dense8.to(stride8.dtype))
        x = x + up(self.from16(image), x)
        x = x + self.conv8(x)
        x = self.conv4(stride4 + up(self.from8(x), stride4))
        weights = self.weights(mask_token)
        logits = (x.flatten(2).transpose(1, 2) @ weights[:, :-1, None].to(x.dtype)).squeeze(-1)
        return (logits + weights[:, -1:]).unflatten(1, x.shape[-2:])
