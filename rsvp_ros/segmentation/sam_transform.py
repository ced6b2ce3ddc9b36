"""From an image to the input of a SAM, and from its mask logits back to the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms.v2.functional import resize

from rsvp_ros.errors import InvalidImageError
from rsvp_ros.geometry import Box

Size = tuple[int, int]
"""Height and width, pixels."""

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ImageTransform:
    """Makes the same pixels as the families' own processors, but where the network runs (docs/segmenters.md).

    The camera's uint8 image, a quarter as large as the float one, goes to the GPU and is resized there; on the CPU,
    torch's antialiased resize takes the interleaved image as it is.
    """

    size: Size
    """Size of the network's input."""
    keep_aspect: bool
    """SAM and SAM-HQ: resize the longest side and pad at the right and the bottom. Later ones: stretch."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of each of the three channels, for values from 0 to 255."""
    std: tuple[float, float, float] = IMAGENET_STD

    def resized(self, size: Size) -> Size:
        """Size that an image of `size` takes up in the network's input, without the padding."""
        if not self.keep_aspect:
            return self.size
        scale = max(self.size) / max(size)
        return max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)

    def apply_image(self, image: np.ndarray, device: torch.device) -> torch.Tensor:
        """uint8 H x W x 3 to float32 1 x 3 x `size`, normalised and padded with zeros.

        Raises InvalidImageError for an array of another kind.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InvalidImageError(f"a segmenter takes uint8 H x W x 3 RGB, got {image.dtype} {image.shape}")
        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).to(device)
        height, width = self.resized(image.shape[:2])
        pixels = resize(pixels.permute(2, 0, 1)[None], [height, width], antialias=True)
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (self.mean, self.std))
        pixels = pixels.contiguous().float().sub_(mean).div_(std)
        return F.pad(pixels, (0, self.size[1] - width, 0, self.size[0] - height))

    def apply_boxes(self, boxes: Sequence[Box], size: Size, device: torch.device) -> torch.Tensor:
        """Boxes in an image of `size` to float32 N x 4, x0 y0 x1 y1 in pixels of the network's input."""
        height, width = self.resized(size)
        scale = (width / size[1], height / size[0])
        return torch.tensor([box.scale(*scale).as_tuple() for box in boxes], device=device).view(-1, 4)

    def restore_masks(self, masks: torch.Tensor, size: Size, threshold: float = 0.0) -> np.ndarray:
        """Logits float N x h x w of the network's input to bool N x H x W of an image of `size`."""
        restored = torch.empty((len(masks), *size), dtype=torch.bool, device=masks.device)
        # One by one: many float32 masks of a 4K image are gigabytes.
        for mask, out in zip(masks, restored, strict=True):
            mask = mask[None, None].float()
            if self.keep_aspect:
                height, width = self.resized(size)
                mask = F.interpolate(mask, self.size, mode="bilinear", align_corners=False)[..., :height, :width]
            mask = F.interpolate(mask, size, mode="bilinear", align_corners=False)
            torch.gt(mask[0, 0], threshold, out=out)
        return restored.cpu().numpy()
