"""SAM 3 (Meta, 2025) from Hugging Face transformers: text and box in, mask and presence out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BatchEncoding
from transformers.modeling_outputs import BaseModelOutputWithPooling

from rsvp_ros.geometry import Box
from rsvp_ros.segmentation.box_segmenter import SamFeatures, clipped_box, nothing
from rsvp_ros.segmentation.sam_transform import ImageTransform
from rsvp_ros.segmentation.torch_runtime import choose_device, choose_dtype, running, set_encoder_dtype
from rsvp_ros.segmentation.transformers_loading import (
    TOKENIZER_FILES,
    load_image_processor,
    load_model,
    load_tokenizer,
    resolve,
)
from rsvp_ros.segmentation.transformers_sam import image_transform
from rsvp_ros.types import Prediction, Prompt

SAM3_TYPES = {"sam3": "Sam3Model", "sam3_video": "Sam3Model", "sam3_lite_text": "Sam3LiteTextModel"}
"""Class by `model_type`; the published checkpoint's type is "sam3_video", and only its detector is loaded."""

_TOKENS = 32
"""Longest text that SAM 3 was trained with, in tokens."""
_VISUAL = "visual"
"""SAM 3's text for "what these boxes show"."""


class Sam3Segmenter:
    """Segments the concept that a description names, and picks the instance that the region is about.

    SAM 3 answers a concept with all of its instances in the image, each with a box and a score; a separate presence
    head says whether the concept is there at all. The description alone is its prompt: also giving the region, as an
    example box, would assert that the target is in it, and presence would mean nothing. A prompt without a description
    is the opposite case: there the box is given, as an example with the text "visual", and the instance that fits it
    best is taken.
    """

    reads_text = True

    def __init__(
        self,
        model: nn.Module,
        transform: ImageTransform,
        tokenizer: Any,
        name: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        threshold: float = 0.3,
    ) -> None:
        """`threshold`: lowest score of an instance (transformers' default); below it, the answer is an empty mask."""
        self.name = name
        self.threshold = threshold
        self.transform = transform
        self.device = device
        self.model = model
        self.tokenizer = tokenizer
        self._dtype = dtype
        self._texts: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.image_encoder = model.vision_encoder
        set_encoder_dtype(self.image_encoder, dtype)
        set_encoder_dtype(model.text_encoder, dtype)
        # transformers computes the position sines in the features' dtype; in bfloat16, neighbouring cells share one.
        model.vision_encoder.neck.position_encoding.register_forward_pre_hook(_in_float32)

    @classmethod
    def from_pretrained(
        cls, model: str, model_type: str = "sam3", *, device: str = "auto", dtype: str = "auto"
    ) -> Sam3Segmenter:
        """Load from a local folder or the hub. Raises ModelLoadError."""
        target = choose_device(device)
        precision = choose_dtype(dtype, target)
        path = resolve(model, *TOKENIZER_FILES)
        transform = image_transform(load_image_processor("Sam3ImageProcessor", path))
        tokenizer = load_tokenizer(path)
        network = load_model(SAM3_TYPES[model_type], path, target)
        return cls(network, transform, tokenizer, f"{model_type} {model}", device=target, dtype=precision)

    def encode(self, image: np.ndarray) -> SamFeatures:
        """Encode an image, uint8 H x W x 3 RGB. Raises InvalidImageError, ModelRunError."""
        with running(self.name):
            pixels = self.transform.apply_image(image, self.device).to(self._dtype)
            return SamFeatures(self.model.get_vision_features(pixel_values=pixels), image.shape[:2])

    def segment(self, features: SamFeatures, prompts: Sequence[Prompt]) -> list[Prediction]:
        """One target per prompt; prompts with the same description share the work. Raises ModelRunError.

        `Prediction.presence` is SAM 3's score of the chosen instance: the concept's presence times the match.
        """
        size = features.size
        boxes = [clipped_box(prompt, size) for prompt in prompts]
        predictions = [nothing(size) for _ in prompts]
        described: dict[str, list[int]] = {}
        undescribed: list[int] = []
        for index, (prompt, box) in enumerate(zip(prompts, boxes, strict=True)):
            if box is None:
                continue
            if text := prompt.description.strip():
                described.setdefault(text, []).append(index)
            else:
                undescribed.append(index)
        with running(self.name):
            if described:
                output = self._detect(features, list(described))
                for row, indices in enumerate(described.values()):
                    for index in indices:
                        predictions[index] = self._choose(output, row, boxes[index], size)
            if undescribed:
                output = self._detect(features, [_VISUAL] * len(undescribed), [boxes[i] for i in undescribed])
                for row, index in enumerate(undescribed):
                    predictions[index] = self._choose(output, row, boxes[index], size)
        return predictions

    def _detect(self, features: SamFeatures, texts: list[str], examples: list[Box] | None = None) -> Any:
        """All instances of every text; `examples`: for each text, a box that shows an instance."""
        embedded = [self._embed(text) for text in texts]
        vision = features.embeddings
        batched = type(vision)(
            fpn_hidden_states=_repeat(vision.fpn_hidden_states, len(texts)),
            fpn_position_encoding=_repeat(vision.fpn_position_encoding, len(texts)),
        )
        boxes = None
        if examples is not None:
            height, width = features.size
            relative = [box.scale(1 / width, 1 / height) for box in examples]
            rows = [[*box.center, box.width, box.height] for box in relative]
            boxes = torch.tensor(rows, device=self.device)[:, None]
        return self.model(
            vision_embeds=batched,
            text_embeds=BaseModelOutputWithPooling(pooler_output=torch.cat([states for states, _ in embedded])),
            attention_mask=torch.cat([mask for _, mask in embedded]),
            input_boxes=boxes,
        )

    def _embed(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Text features 1 x 32 x C and their mask 1 x 32; cached, since a target's description stays the same."""
        if text not in self._texts:
            if len(self._texts) >= 256:
                self._texts.clear()
            tokens: BatchEncoding = self.tokenizer(
                text, return_tensors="pt", padding="max_length", max_length=_TOKENS, truncation=True
            ).to(self.device)
            output = self.model.get_text_features(tokens["input_ids"], tokens["attention_mask"], return_dict=True)
            self._texts[text] = (output.pooler_output, tokens["attention_mask"])
        return self._texts[text]

    def _choose(self, output: Any, row: int, region: Box, size: tuple[int, int]) -> Prediction:
        """The instance that the region is about, or an empty mask."""
        height, width = size
        match = output.pred_logits[row].sigmoid()
        scores = match * output.presence_logits[row].sigmoid()
        scale = torch.tensor([width, height, width, height], device=self.device)
        rank = scores * _agreement(output.pred_boxes[row] * scale, region)
        rank[scores < self.threshold] = 0
        best = int(rank.argmax())
        if rank[best] <= 0:
            return nothing(size, presence=min(float(scores.max()), self.threshold))
        mask = self.transform.restore_masks(output.pred_masks[row, best : best + 1].sigmoid(), size, threshold=0.5)[0]
        return Prediction(mask, score=float(match[best]), presence=float(scores[best]))


def _agreement(boxes: torch.Tensor, region: Box) -> torch.Tensor:
    """How well each of the boxes N x 4 fits a region, 0 to 1.

    The mean of IoU and the share of the box inside the region: in a tight region, the first tells neighbours apart; in
    a loose one, all instances are small and the second tells which ones are inside.
    """
    low = torch.maximum(boxes[:, :2], boxes.new_tensor([region.x0, region.y0]))
    high = torch.minimum(boxes[:, 2:], boxes.new_tensor([region.x1, region.y1]))
    intersection = (high - low).clamp(min=0).prod(dim=1)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)
    inside = intersection / area.clamp(min=1e-6)
    iou = intersection / (area + region.area - intersection).clamp(min=1e-6)
    return (inside + iou) / 2


def _in_float32(_module: nn.Module, arguments: tuple) -> tuple:
    """Sam3SinePositionEmbedding's arguments (shape, device, dtype), with float32 as the dtype."""
    shape, device, _, *rest = arguments
    return (shape, device, torch.float32, *rest)


def _repeat(tensors: Sequence[torch.Tensor], count: int) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.expand(count, -1, -1, -1) for tensor in tensors)
