"""Failures that may stop a training of either model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rsvp_ros.errors import ModelRunError, RsvpError
from rsvp_ros.segmentation.torch_runtime import is_out_of_memory


class TrainingDivergedError(RsvpError):
    """The loss is no longer a number. The last checkpoint is untouched."""


def check_finite(weights: nn.Module) -> None:
    """Raises TrainingDivergedError if any weight is no finite number."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.state_dict().values()):
        raise TrainingDivergedError("the weights are no finite numbers: start again with a smaller `learning_rate`")


@contextmanager
def memory_errors(trainer: Any, remedy: str) -> Iterator[None]:
    """In this context, raises ModelRunError if the training runs out of memory; `trainer` has a `step`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelRunError(
            f"training ran out of memory at step {trainer.step}: choose {remedy}; it goes on from the last checkpoint"
        ) from error
