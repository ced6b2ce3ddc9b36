"""Box in, mask out: SAM, SAM-HQ, SAM 2, EdgeTAM and SAM 3's tracker, from Hugging Face transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rsvp_ros.errors import ModelLoadError
from rsvp_ros.segmentation.box_segmenter import BoxSegmenter
from rsvp_ros.segmentation.sam_transform import ImageTransform
from rsvp_ros.segmentation.torch_runtime import choose_device, choose_dtype, set_encoder_dtype
from rsvp_ros.segmentation.transformers_loading import load_image_processor, load_model, resolve


@dataclass(frozen=True)
class Family:
    """The transformers classes for a model type."""

    model: str
    image_processor: str


FAMILIES = {
    "sam": Family("SamModel", "SamImageProcessor"),
    "sam_hq": Family("SamHQModel", "SamImageProcessor"),
    "sam2": Family("Sam2Model", "Sam2ImageProcessor"),
    "sam2_video": Family("Sam2Model", "Sam2ImageProcessor"),
    "edgetam": Family("EdgeTamModel", "Sam2ImageProcessor"),
    "edgetam_video": Family("EdgeTamModel", "Sam2ImageProcessor"),
    "sam3_tracker": Family("Sam3TrackerModel", "Sam3ImageProcessor"),
    "sam3_tracker_video": Family("Sam3TrackerModel", "Sam3ImageProcessor"),
}
"""By `model_type`. Only the image part of a video model is loaded: following a target is the tracker's job."""


def image_transform(processor: Any) -> ImageTransform:
    """What a transformers image processor does to an image."""
    size = processor.size
    keep_aspect = bool(size.longest_edge)
    target = (size.longest_edge, size.longest_edge) if keep_aspect else (size.height, size.width)
    scale = 1 / processor.rescale_factor
    mean, std = (tuple(value * scale for value in values) for values in (processor.image_mean, processor.image_std))
    return ImageTransform(target, keep_aspect, mean, std)


def load_sam(model: str, model_type: str, device: torch.device) -> tuple[nn.Module, ImageTransform]:
    """A network of the type `model_type`, from a local folder or the hub, in float32, and the transform of its images.

    Raises ModelLoadError where a file is missing or broken or holds another architecture.
    """
    family = FAMILIES[model_type]
    path = resolve(model)
    transform = image_transform(load_image_processor(family.image_processor, path))
    network = load_model(family.model, path, device)
    expected = network.config.prompt_encoder_config.image_size
    if transform.size != ((expected, expected) if isinstance(expected, int) else tuple(expected)):
        raise ModelLoadError(
            f"{model}: its image processor makes images of {transform.size} pixels, its model takes {expected}: "
            "the two configuration files are of different models, download the folder again"
        )
    return network, transform


class TransformersSamSegmenter(BoxSegmenter):
    """Any of `FAMILIES`."""

    def __init__(
        self, model: nn.Module, transform: ImageTransform, name: str, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(name, transform, device)
        self.model = model
        self._dtype = dtype
        self.image_encoder = model.vision_encoder
        set_encoder_dtype(self.image_encoder, dtype)

    @classmethod
    def from_pretrained(
        cls, model: str, model_type: str, *, device: str = "auto", dtype: str = "auto"
    ) -> TransformersSamSegmenter:
        """Load a model of the type `model_type` from a local folder or the hub.

        Raises ModelLoadError where a file is missing or broken or holds another architecture.
        """
        target = choose_device(device)
        precision = choose_dtype(dtype, target)
        network, transform = load_sam(model, model_type, target)
        return cls(network, transform, f"{model_type} {model}", device=target, dtype=precision)

    def _encode(self, pixels: torch.Tensor) -> dict[str, Any]:
        embeddings = self.model.get_image_embeddings(pixels.to(self._dtype))
        if isinstance(embeddings, tuple):  # SAM-HQ: its decoder also takes the encoder's early features
            return dict(zip(("image_embeddings", "intermediate_embeddings"), embeddings, strict=True))
        return {"image_embeddings": embeddings}

    def _decode(self, embeddings: dict[str, Any], boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.model(**embeddings, input_boxes=boxes[None], multimask_output=False)
        return output.pred_masks[0, :, 0], output.iou_scores[0, :, 0]
