"""Region prior: what a box says, as tokens and as maps over the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsvp_ros.segmentation.modeling.common import grid_centers, sine_encoding


def coverage(boxes: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Share of each cell that a box covers: boxes P x 4 (input pixels) to P x height x width, 0 to 1."""

    def overlap(low: Tensor, high: Tensor, size: int) -> Tensor:
        edges = torch.arange(size + 1, device=boxes.device, dtype=torch.float32) * stride
        covered = torch.minimum(high[:, None], edges[1:]) - torch.maximum(low[:, None], edges[:-1])
        return covered.clamp(0, stride) / stride

    x0, y0, x1, y1 = boxes.float().unbind(1)
    return overlap(y0, y1, height)[:, :, None] * overlap(x0, x1, width)[:, None, :]


class PromptEncoder(nn.Module):
    """Boxes to two corner tokens each, and to a map of where each cell lies relative to the box."""

    maps = 5
    """Channels of `dense`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.corners = nn.Parameter(torch.randn(2, dim) * 0.02)
        self.project = nn.Linear(dim, dim)

    def tokens(self, boxes: Tensor) -> Tensor:
        """P x 4 to P x 2 x dim."""
        encoded = sine_encoding(boxes.unflatten(1, (2, 2)), self.corners.shape[1])
        return self.project(encoded.to(self.corners.dtype)) + self.corners

    def dense(self, boxes: Tensor, similarity: Tensor, stride: int) -> Tensor:
        """Coverage, similarity, offset from the middle in box sizes (x, y), nearness to the middle: P x 5 x H x W."""
        height, width = similarity.shape[-2:]
        centers = grid_centers(height, width, stride, boxes.device)
        boxes = boxes.float()
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1.0)
        offset = ((centers[None] - middle[:, None, None]) / size[:, None, None]).clamp(-1.5, 1.5) * 2
        nearness = torch.exp(-offset.square().sum(-1))
        return torch.stack(
            (coverage(boxes, height, width, stride), similarity, offset[..., 0], offset[..., 1], nearness), 1
        )
