"""The region that a mask is drawn in: a grid of cells over a box, and maps of the whole image sampled on it."""

from __future__ import annotations

import torch
from torch import Tensor


def sampling_weights(low: Tensor, high: Tensor, cells: int, size: int, stride: float) -> Tensor:
    """Weights by which `cells` equal cells from `low` to `high` read one map axis: P x cells x size, rows sum to 1.

    `low`, `high`: P, pixels of the network's input; the map has `size` cells of `stride` pixels. Linear interpolation
    where the grid is finer than the map, a mean with falling weights where it is coarser.
    """
    step = (high - low) / cells
    places = low[:, None] + (torch.arange(cells, device=low.device) + 0.5) * step[:, None]
    places = (places / stride - 0.5).clamp(0, size - 1)
    reach = (step / stride).clamp(min=1.0)[:, None, None]
    distance = (places[..., None] - torch.arange(size, device=low.device)).abs()
    weights = (1 - distance / reach).clamp(min=0)
    return weights / weights.sum(-1, keepdim=True)


def sample_regions(maps: Tensor, regions: Tensor, index: Tensor, cells: int, stride: float) -> Tensor:
    """Maps B x C x h x w as seen on a grid of `cells` x `cells` over each region: P x C x cells x cells.

    `regions`: P x 4, x0, y0, x1, y1 in pixels of the network's input; `index`: P, the image that each lies in. As the
    regions' sides are parallel to the map's, two matrix products do it, on any device and in any precision.
    """
    height, width = maps.shape[-2:]
    x0, y0, x1, y1 = regions.float().unbind(1)
    across = sampling_weights(x0, x1, cells, width, stride).to(maps.dtype)
    down = sampling_weights(y0, y1, cells, height, stride).to(maps.dtype)
    count = len(regions)
    lines = maps.permute(0, 2, 3, 1).flatten(2)  # B x h x w*C, without a copy where the maps are channels_last
    # If all prompts are about one image: one product.
    rows = down.flatten(0, 1) @ lines[0] if len(lines) == 1 else down @ lines[index]
    return (across[:, None] @ rows.view(count, cells, width, -1)).permute(0, 3, 1, 2)
