"""What all segmenters that make a mask from a box and read no text have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rsvp_ros.geometry import Box
from rsvp_ros.segmentation.sam_transform import ImageTransform, Size
from rsvp_ros.segmentation.torch_runtime import running
from rsvp_ros.types import Prediction, Prompt


@dataclass(frozen=True, eq=False)
class SamFeatures:
    """An encoded image."""

    embeddings: Any
    """What the family's own decoder takes."""
    size: Size
    """The image's size."""


def clipped_box(prompt: Prompt, size: Size) -> Box | None:
    """The part of a prompt's box inside an image of `size`; None where nothing is left of it."""
    box = prompt.box.clip(size[1], size[0])
    return box if box.area > 0 else None


def nothing(size: Size, presence: float = 0.0) -> Prediction:
    """The answer where there is no target: an empty mask."""
    return Prediction(np.zeros(size, bool), score=0.0, presence=presence)


class BoxSegmenter(ABC):
    """A `Segmenter` around an image encoder and a promptable mask decoder."""

    reads_text = False

    def __init__(self, name: str, transform: ImageTransform, device: torch.device) -> None:
        self.name = name
        self.transform = transform
        self.device = device

    @abstractmethod
    def _encode(self, pixels: torch.Tensor) -> Any:
        """Embeddings of a normalised image, float32 1 x 3 x H x W."""

    @abstractmethod
    def _decode(self, embeddings: Any, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask logits N x h x w and quality N of the boxes N x 4, float32, pixels of the network's input."""

    def encode(self, image: np.ndarray) -> SamFeatures:
        """Encode an image, uint8 H x W x 3 RGB. Raises InvalidImageError, ModelRunError."""
        with running(self.name):
            pixels = self.transform.apply_image(image, self.device)
            return SamFeatures(self._encode(pixels), image.shape[:2])

    def segment(self, features: SamFeatures, prompts: Sequence[Prompt]) -> list[Prediction]:
        """Masks of what the boxes show, all of them in one run of the decoder.

        A box wholly outside the image, or without area, gets an empty mask. Raises ModelRunError.
        """
        size = features.size
        boxes = [clipped_box(prompt, size) for prompt in prompts]
        usable = [box for box in boxes if box is not None]
        if not usable:
            return [nothing(size) for _ in prompts]
        with running(self.name):
            logits, quality = self._decode(features.embeddings, self.transform.apply_boxes(usable, size, self.device))
            masks = iter(self.transform.restore_masks(logits, size))
            scores = iter(quality.float().clamp(0, 1).tolist())
        return [nothing(size) if box is None else Prediction(next(masks), next(scores)) for box in boxes]
