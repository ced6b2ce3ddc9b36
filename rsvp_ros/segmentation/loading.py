"""Which segmenter runs: read from a configuration, loaded, warmed up. torch is imported only when one is loaded."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsvp_ros.errors import ConfigurationError, ModelLoadError
from rsvp_ros.geometry import Box
from rsvp_ros.segmentation.segmenter import Segmenter
from rsvp_ros.types import Prompt

WARM_UP_SIZES = ((640, 480), (640, 360))
"""Width and height of images in the proportions of most cameras, for `warm_up` before the camera's are known."""


@dataclass(frozen=True)
class SegmenterConfig:
    """A segmentation model and where it runs."""

    backend: str = "vlsm"
    """"vlsm", "segment_anything", "transformers" or "text_sam"."""
    model: str = "embedded"
    """vlsm: "embedded" or a folder. segment_anything: a checkpoint file. transformers: a folder or a hub name.
    text_sam: the folder of a text path."""
    device: str = "auto"
    """"auto" (the GPU where there is one), "cpu", "cuda", "cuda:1"."""
    dtype: str = "auto"
    """Of the vlsm, or else of the image encoder: "auto" (half precision on a GPU; the vlsm also on CPUs that are faster
    with it), "float32", "bfloat16", "float16"."""
    model_type: str = ""
    """transformers only: read a folder as another type than its config.json says; "sam3_tracker" makes a SAM 3
    checkpoint a segmenter of boxes."""
    compile: bool = False
    """Compile the image encoder (torch.compile) when it is warmed up. The VLSM's is compiled for the image's
    proportions, and again at the first image with other ones."""


def load_segmenter(config: SegmenterConfig) -> Segmenter:
    """The segmenter that `config` describes.

    Raises ConfigurationError for an unknown backend, device, dtype or model type, ModelLoadError where the model or
    a package that it needs cannot be loaded.
    """
    loaders = {
        "vlsm": _load_vlsm,
        "segment_anything": _load_segment_anything,
        "transformers": _load_transformers,
        "text_sam": _load_text_sam,
    }
    if config.backend not in loaders:
        raise ConfigurationError(f"segmenter backend '{config.backend}' is unknown: use {', '.join(loaders)}")
    segmenter = loaders[config.backend](config)
    if config.compile:
        compile_encoder(segmenter)
    return segmenter


def compile_encoder(segmenter: Segmenter) -> None:
    """Have torch.compile compile the image encoder when it first runs."""
    segmenter.image_encoder.compile(dynamic=False)
    segmenter.name += ", compiled"
    if hasattr(segmenter, "encodes_alone"):
        segmenter.encodes_alone = True


def warm_up(segmenter: Segmenter, width: int, height: int) -> None:
    """Run it once on an image of this size, with a large box and a small one, so that the first real frame is as fast
    as the others.

    Raises ModelRunError.
    """
    features = segmenter.encode(np.zeros((height, width, 3), np.uint8))
    text = "object" if segmenter.reads_text else ""
    sizes = (0.5, 0.1)
    segmenter.segment(features, [Prompt(Box(0, 0, width * size, height * size), text) for size in sizes])


def _load_vlsm(config: SegmenterConfig) -> Segmenter:
    module = _import("rsvp_ros.segmentation.vlsm_segmenter", "torch")
    return module.VlsmSegmenter.from_pretrained(config.model, device=config.device, dtype=config.dtype)


def _load_segment_anything(config: SegmenterConfig) -> Segmenter:
    module = _import("rsvp_ros.segmentation.segment_anything_adapter", "'rsvp_ros[sam]'")
    return module.SegmentAnythingSegmenter.from_checkpoint(config.model, device=config.device, dtype=config.dtype)


def _load_transformers(config: SegmenterConfig) -> Segmenter:
    files = _import("rsvp_ros.segmentation.transformers_loading", "'rsvp_ros[transformers]'")
    boxes = _import("rsvp_ros.segmentation.transformers_sam", "'rsvp_ros[transformers]'")
    concepts = _import("rsvp_ros.segmentation.sam3", "'rsvp_ros[transformers]'")
    supported = sorted([*boxes.FAMILIES, *concepts.SAM3_TYPES])
    if config.model_type and config.model_type not in supported:
        raise ConfigurationError(f"model_type '{config.model_type}' is unknown: use one of {', '.join(supported)}")
    model_type = config.model_type or files.read_model_type(files.resolve(config.model))
    if model_type not in supported:
        raise ModelLoadError(
            f"{config.model} is a model of type '{model_type}', which is no segmenter known here: "
            f"supported are {', '.join(supported)}"
        )
    segmenter = boxes.TransformersSamSegmenter if model_type in boxes.FAMILIES else concepts.Sam3Segmenter
    return segmenter.from_pretrained(config.model, model_type, device=config.device, dtype=config.dtype)


def _load_text_sam(config: SegmenterConfig) -> Segmenter:
    module = _import("rsvp_ros.segmentation.text_sam_segmenter", "'rsvp_ros[transformers]'")
    return module.TextSamSegmenter.from_pretrained(config.model, device=config.device, dtype=config.dtype)


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if (error.name or "").startswith("rsvp_ros"):
            raise
        raise ModelLoadError(f"{error}: pip install {package}") from error
