"""The contract of stage 2: an image encoded once, any number of targets segmented in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rsvp_ros.types import Prediction, Prompt


@runtime_checkable
class Segmenter(Protocol):
    """A vision-language segmentation module (VLSM), or anything that makes a mask from a box.

    Not thread-safe: one thread loads, warms up and runs it. It takes images of any size from 2 x 2 pixels,
    and each may have another size than the one before.
    """

    name: str
    """For the log and the diagnostics: the architecture and where its weights are from."""
    reads_text: bool
    """Whether the description has any influence on the mask."""

    def encode(self, image: np.ndarray) -> Any:
        """Encode an image, uint8 H x W x 3 RGB, once; the result is for `segment` only."""

    def segment(self, features: Any, prompts: Sequence[Prompt]) -> list[Prediction]:
        """Segment the targets of all prompts, in order. Masks have the size of the encoded image.

        Raises ModelRunError where the model fails (out of memory).
        """
