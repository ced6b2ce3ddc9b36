"""Batches in order, made by the training process itself or by worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import cv2
import torch
from torch.utils.data import DataLoader

from rsvp_ros.errors import InvalidImageError, RsvpError


class Batches(Protocol):
    """Any number of batches, each determined by its number alone. Must be picklable if worker processes make them."""

    def __getitem__(self, number: int) -> Any:
        """The batch has a method `to(device)`. Raises RsvpError, or OSError for an image that cannot be read."""


def in_order(batches: Batches, numbers: Sequence[int], workers: int, device: torch.device) -> Iterator[Any]:
    """The batches with these numbers, on a device.

    `workers`: number of processes that make them; 0: this process does. Raises RsvpError, whichever process makes them.
    """
    loader = DataLoader(
        _Careful(batches),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        # A forked process would inherit torch's threads and the renderer's context.
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_alone,
    )
    for batch in loader:
        if isinstance(batch, RsvpError):
            raise batch
        yield batch.to(device)


def _alone(worker: int) -> None:
    """Has a worker process compute with one thread, as torch does in it by itself: there may be one for each core."""
    cv2.setNumThreads(1)


class _Careful:
    """Batches whose errors leave a worker process unchanged, without its traceback in their message."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> Any:
        try:
            return self.batches[number]
        except RsvpError as error:
            return error
        except OSError as error:
            return InvalidImageError(f"a training image cannot be read: {error}")
