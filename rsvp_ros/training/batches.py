"""Batches in order, made by the training's own process or by others beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from rsvp_ros.errors import InvalidImageError, RsvpError


class Batches(Protocol):
    """Any number of batches, each of which follows from its number; to be pickled where others make them."""

    def __getitem__(self, number: int) -> Any:
        """It has a method `to(device)`. Raises RsvpError, OSError for an image that cannot be read."""


def in_order(batches: Batches, numbers: Sequence[int], workers: int, device: torch.device) -> Iterator[Any]:
    """Some of the batches, on a device.

    `workers`: processes that make them; 0: this one does. Raises RsvpError, whoever makes them.
    """
    loader = DataLoader(
        _Careful(batches),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        # A forked process would inherit torch's threads and the renderer's context.
        multiprocessing_context="spawn" if workers else None,
    )
    for batch in loader:
        if isinstance(batch, RsvpError):
            raise batch
        yield batch.to(device)


class _Careful:
    """Batches whose errors come out of a worker process as they are, without its traceback in their message."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> Any:
        try:
            return self.batches[number]
        except RsvpError as error:
            return error
        except OSError as error:
            return InvalidImageError(f"a training image cannot be read: {error}")
