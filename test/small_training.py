"""A training of seconds: a VLSM of 40 000 parameters on drawn images of 64 pixels."""

from __future__ import annotations

import contextlib
import resource

import torch
from torch import nn

from rsvp_ros.segmentation.vlsm import VlsmConfig
from rsvp_ros.training.config import TrainConfig
from rsvp_ros.training.dataset import Shares

DRAWN = Shares(tabletop=0.0, household=0.5)
SMALL = VlsmConfig(
    dim=32, heads=2, image_layers=1, stem=(8, 16, 24), two_way_layers=1, grid=32, mask_widths=(8, 12, 16),
    fine_blocks=0, text_dim=24, text_buckets=256, piece_dim=16, max_words=8,
)  # fmt: skip


def small_config(out, **changes) -> TrainConfig:
    values = {
        "out": str(out), "steps": 6, "images": 2, "prompts": 3, "sizes": ((64, 64), (64, 96)), "textures": 6,
        "warmup_steps": 2, "checkpoint_every": 3, "validate_every": 3, "validation_batches": 1, "model": SMALL,
        "shares": DRAWN, "device": "cpu",
    }  # fmt: skip
    return TrainConfig(**(values | changes))


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@contextlib.contextmanager
def files_of_at_most(size: int):
    """As where a disk takes no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
