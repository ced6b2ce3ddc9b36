"""`TextSamSegmenter`: a `TextSam` behind the `Segmenter` protocol: images, boxes and descriptions in, masks out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rsvp_ros.segmentation.box_segmenter import SamFeatures, clipped_box, nothing
from rsvp_ros.segmentation.modeling.text_encoder import TextFeatures
from rsvp_ros.segmentation.text_sam import TextSam
from rsvp_ros.segmentation.torch_runtime import choose_device, choose_dtype, move_to_device, running, set_encoder_dtype
from rsvp_ros.types import Prediction, Prompt


class TextSamSegmenter:
    """See `Segmenter` for the contract. With an untrained text path, it segments boxes and ignores text."""

    def __init__(self, model: TextSam, name: str, device: str = "auto", dtype: str = "auto") -> None:
        """`device`: "auto", "cpu", "cuda", "cuda:1", …; `dtype`, of the image encoder: "auto", "float32", "bfloat16",
        "float16".

        Raises ConfigurationError for other values, ModelLoadError where the model does not fit the device's memory.
        """
        self.name = name
        self.device = choose_device(device)
        precision = choose_dtype(dtype, self.device)
        self.model = move_to_device(model, name, self.device)
        self.image_encoder = model.sam.vision_encoder
        set_encoder_dtype(self.image_encoder, precision)
        self.reads_text = model.reads_text
        self._texts: list[str] = []
        self._encoded_texts: TextFeatures | None = None

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "auto", dtype: str = "auto") -> TextSamSegmenter:
        """`folder`: that of a text path; its config.json names the backbone.

        Raises ModelLoadError (a file that is missing, damaged or of another model), ConfigurationError (device, dtype).
        """
        return cls(TextSam.from_pretrained(folder, device), f"text_sam {folder}", device, dtype)

    def encode(self, image: np.ndarray) -> SamFeatures:
        """Encode an image, uint8 H x W x 3 RGB. Raises InvalidImageError, ModelRunError."""
        with running(self.name):
            pixels = self.model.transform.apply_image(image, self.device)
            return SamFeatures(self.model.encode_pixels(pixels), image.shape[:2])

    def segment(self, features: SamFeatures, prompts: Sequence[Prompt]) -> list[Prediction]:
        """One prediction per prompt, all of them in one run of the decoder; `presence` is 1 without a description.

        A box wholly outside the image, or without area, gets an empty mask. Raises ModelRunError.
        """
        size = features.size
        boxes = [clipped_box(prompt, size) for prompt in prompts]
        usable = [index for index, box in enumerate(boxes) if box is not None]
        predictions = [nothing(size) for _ in prompts]
        if not usable:
            return predictions
        transform = self.model.transform
        with running(self.name):
            on_grid = transform.apply_boxes([boxes[index] for index in usable], size, self.device)
            text = self._text([prompts[index].description for index in usable])
            output = self.model.decode(features.embeddings, text, on_grid)
            masks = transform.restore_masks(output.masks, size)
            scores, presences = torch.stack((output.quality, output.presence)).sigmoid().tolist()
        for index, *answer in zip(usable, masks, scores, presences, strict=True):
            predictions[index] = Prediction(*answer)
        return predictions

    def _text(self, descriptions: list[str]) -> TextFeatures:
        """Encoded descriptions; they mostly stay the same from frame to frame and are then encoded only once."""
        if self._encoded_texts is None or descriptions != self._texts:
            self._texts, self._encoded_texts = descriptions, self.model.encode_text(descriptions)
        return self._encoded_texts
