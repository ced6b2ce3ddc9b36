"""`VlsmSegmenter`: the project's own `Vlsm` behind the `Segmenter` protocol: images and boxes in, masks out."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from rsvp_ros.errors import InvalidImageError
from rsvp_ros.geometry import Box, mask_to_box
from rsvp_ros.segmentation.box_segmenter import clipped_box, nothing
from rsvp_ros.segmentation.modeling.image_encoder import ImageFeatures
from rsvp_ros.segmentation.modeling.region import sample_regions
from rsvp_ros.segmentation.modeling.text_encoder import TextFeatures
from rsvp_ros.segmentation.region import CROP_SIDE, Region
from rsvp_ros.segmentation.torch_runtime import choose_device, choose_dtype, move_to_device, running
from rsvp_ros.segmentation.vlsm import Vlsm
from rsvp_ros.types import Prediction, Prompt

IMAGE_SIDE = 320
"""Longest side of the whole image as the network sees it, pixels."""
CROP_BELOW = 72
"""A box whose longer side is shorter than this, in pixels of the whole image as the network sees it, is looked at in a
crop around it."""
CLOSER_BELOW = 0.2
"""What a description finds is looked at again if a square as wide as it is long covers less than this share of the
region."""
CLOSER_DOUBT = 1.25
"""Subtracted from the presence logit of what is looked at again, since it was picked for fitting best of all."""
FITS_TOO = 1.0
"""Parts of a mask belong to the best one if the description fits them worse by no more than this."""
CACHED_TEXTS = 256


@dataclass(frozen=True, eq=False)
class View:
    """Part of an image as the network sees it: (x, y) of the part lies at (x * scale[0], y * scale[1])."""

    part: Region
    pixels: np.ndarray
    """uint8 h x w x 3, sides multiples of 16; what lies outside the part repeats its border."""
    scale: tuple[float, float]

    def place(self, box: Box) -> Box:
        """A box of the image in pixels of the view."""
        return box.translate(-self.part.x0, -self.part.y0).scale(*self.scale)


def look_at(image: np.ndarray, part: Region, side: int, square: bool = False) -> View:
    """Scale a part of an image so that its longer side is `side`, and pad it at the right and below, to a `square` or
    as far as the network needs."""
    pixels = image[part.y0 : part.y1, part.x0 : part.x1]
    height, width = pixels.shape[:2]
    factor = side / max(width, height)
    w, h = max(1, round(width * factor)), max(1, round(height * factor))
    if (w, h) != (width, height):
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, (w, h), interpolation=method)
    right, below = (side - w, side - h) if square else (_grid_side(w) - w, _grid_side(h) - h)
    if right or below:
        pixels = cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return View(part, np.ascontiguousarray(pixels), (w / width, h / height))


def _grid_side(side: int) -> int:
    """The next multiple of the stride, at least two strides: oneDNN's bfloat16 convolution gives NaN for one column."""
    return max(2, math.ceil(side / Vlsm.stride)) * Vlsm.stride


class EncodedImage:
    """An image that is encoded only once a prompt is about more than a small part of it."""

    def __init__(self, image: np.ndarray, encode: Callable[[np.ndarray], ImageFeatures]) -> None:
        """`encode`: takes pixels, uint8 B x h x w x 3."""
        self.image = image
        height, width = image.shape[:2]
        self.whole = Region(0, 0, width, height)
        self.scale = IMAGE_SIDE / max(width, height)
        self._encode = encode

    @cached_property
    def encoded(self) -> tuple[View, ImageFeatures]:
        """The whole image."""
        view = look_at(self.image, self.whole, IMAGE_SIDE)
        return view, self._encode(view.pixels[None])


@dataclass(frozen=True, eq=False)
class _Asked:
    """A prompt and the view in which it is looked at."""

    box: Box
    """Pixels of the image, inside it."""
    text: str
    view: View
    place: int
    """Index of the view in the encoded batch."""


@dataclass(frozen=True, eq=False)
class _Look:
    """What was found for one prompt."""

    mask: np.ndarray
    score: float
    presence: float
    """A logit; infinite without a description."""
    closer: Box | None = None
    """Box around what fits the description best, if that is small in the region."""


class VlsmSegmenter:
    """Runs a `Vlsm`: see `Segmenter` for the contract.

    The whole image is encoded once, for all prompts that are about much of it; a small target is looked at in a crop
    around it (the paper always crops), with all crops in one batch. If what fits a description best is much smaller
    than the region, it is looked at again from nearby, as if its box had been given; its presence then combines both
    looks.
    """

    reads_text = True

    def __init__(self, model: Vlsm, name: str, device: str = "auto", dtype: str = "auto") -> None:
        """`device`: "auto", "cpu", "cuda", "cuda:1", …; `dtype`: "auto", "float32", "bfloat16", "float16".

        Raises ConfigurationError for other values, ModelLoadError where the model does not fit the device's memory.
        """
        self.name = name
        self.device = choose_device(device)
        self.dtype = _choose_dtype(dtype, self.device)
        self.model = move_to_device(model.to(self.dtype, memory_format=torch.channels_last), name, self.device)
        self.image_encoder = self.model.image_encoder
        """What `SegmenterConfig.compile` compiles."""
        self.encodes_alone = False
        """Whether images are encoded one at a time: a compiled encoder is compiled anew for every batch size."""
        self._texts: OrderedDict[str, TextFeatures] = OrderedDict()

    @classmethod
    def from_pretrained(
        cls, folder: str | Path = "embedded", device: str = "auto", dtype: str = "auto"
    ) -> VlsmSegmenter:
        """`folder`: with config.json and model.safetensors, or "embedded" for the weights in the package.

        Raises ModelLoadError (a missing, damaged or unfitting file), ConfigurationError (device, dtype).
        """
        return cls(Vlsm.from_pretrained(folder), f"vlsm ({folder})", device, dtype)

    def encode(self, image: np.ndarray) -> EncodedImage:
        """`image`: uint8 H x W x 3 RGB. It is kept, not copied: leave it unchanged as long as the result is in use.

        Raises InvalidImageError for anything else.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise InvalidImageError(f"an image must be uint8 H x W x 3 with pixels, got {image.dtype} {image.shape}")
        return EncodedImage(image, self._encode)

    def segment(self, features: EncodedImage, prompts: Sequence[Prompt]) -> list[Prediction]:
        """One prediction per prompt, in order. `presence` is 1 for a description without words.

        A box wholly outside the image, or without area, gets an empty mask. Raises ModelRunError where the model fails
        (out of memory).
        """
        size = features.image.shape[:2]
        clipped = [clipped_box(prompt, size) for prompt in prompts]
        asked = [(box, p.description) for box, p in zip(clipped, prompts, strict=True) if box is not None]
        answers = iter(self._segment(features, asked))
        return [nothing(size) if box is None else next(answers) for box in clipped]

    def _segment(self, features: EncodedImage, asked: Sequence[tuple[Box, str]]) -> list[Prediction]:
        """Predictions for boxes inside the image and their descriptions."""
        if not asked:
            return []
        boxes, texts = map(list, zip(*asked, strict=True))
        with running(self.name):
            looks = self._look(features, boxes, texts)
            closer = {i: look.closer for i, look in enumerate(looks) if look.closer is not None}
            again = self._look(features, list(closer.values()), [texts[i] for i in closer]) if closer else []
        for i, look in zip(closer, again, strict=True):
            presence = (looks[i].presence + look.presence) / 2 - CLOSER_DOUBT
            # A mask seen from afar is better than none
            looks[i] = replace(look if look.mask.any() else looks[i], presence=presence)
        return [
            Prediction(look.mask, look.score if look.mask.any() else 0.0, _sigmoid(look.presence)) for look in looks
        ]

    def _look(self, features: EncodedImage, boxes: list[Box], texts: list[str]) -> list[_Look]:
        """Decode prompts: those about much of the image in one batch, those about little in another."""
        image, (height, width) = features.image, features.image.shape[:2]
        small = [max(box.width, box.height) * features.scale < CROP_BELOW for box in boxes]
        far, near = ([i for i, is_small in enumerate(small) if is_small == wanted] for wanted in (False, True))
        looks: dict[int, _Look] = {}
        if far:
            view, encoded = features.encoded
            asked = [_Asked(boxes[i], texts[i], view, 0) for i in far]
            looks |= zip(far, self._decode(image, encoded, asked, from_afar=True), strict=True)
        if near:
            parts = [Region.crop(boxes[i], width, height) for i in near]
            views = {part: look_at(image, part, CROP_SIDE, square=True) for part in parts}
            place = {part: n for n, part in enumerate(views)}
            asked = [_Asked(boxes[i], texts[i], views[p], place[p]) for i, p in zip(near, parts, strict=True)]
            encoded = self._encode(np.stack([view.pixels for view in views.values()]))
            looks |= zip(near, self._decode(image, encoded, asked, from_afar=False), strict=True)
        return [looks[i] for i in range(len(boxes))]

    def _decode(self, image: np.ndarray, encoded: ImageFeatures, asked: list[_Asked], from_afar: bool) -> list[_Look]:
        """Decode prompts, all in one batch, and draw their masks.

        from_afar: what fits a description best may have to be looked at again; a crop already shows it from nearby.
        """
        grid = self.model.config.grid
        regions = [a.view.part.around(a.box, max(a.view.scale)) for a in asked]
        text = self._text([a.text for a in asked])
        on_grid = self._tensor([a.view.place(region.box()) for a, region in zip(asked, regions, strict=True)])
        output = self.model.decode(
            encoded,
            text,
            self._tensor([a.view.place(a.box) for a in asked]),
            on_grid,
            self._to_tensor(np.stack([region.pixels(image, grid) for region in regions])),
            torch.tensor([a.place for a in asked], device=self.device),
        )
        logits = output.masks.cpu().numpy()
        scores = output.quality.sigmoid().tolist()
        presences = torch.where(text.given, output.presence, math.inf).tolist()
        fits = None
        if from_afar and any(a.text for a in asked):
            each = torch.arange(len(asked), device=self.device)
            fits = sample_regions(output.similarity[:, None], on_grid, each, grid, 8)[:, 0].cpu().numpy()
        looks = []
        for n, region in enumerate(regions):
            mask = np.zeros(image.shape[:2], bool)
            region.draw(logits[n], image, mask)
            part = _best_part(logits[n] > 0, fits[n]) if fits is not None and asked[n].text else None
            closer = region.from_grid(part, grid)
            looks.append(_Look(mask, scores[n], presences[n], closer))
        return looks

    def _tensor(self, boxes: list[Box]) -> Tensor:
        """P x 4."""
        return torch.tensor([box.as_tuple() for box in boxes], dtype=torch.float32, device=self.device)

    def _encode(self, pixels: np.ndarray) -> ImageFeatures:
        """uint8 B x h x w x 3."""
        images = self._to_tensor(pixels)
        if len(images) == 1 or not self.encodes_alone:
            return self.model.encode_image(images)
        # Split, not indexed: indexing gives other strides, for which the encoder would be compiled anew
        each = [vars(self.model.encode_image(image)) for image in images.split(1)]
        return ImageFeatures(**{name: torch.cat([features[name] for features in each]) for name in each[0]})

    def _text(self, descriptions: list[str]) -> TextFeatures:
        """Encoded descriptions, cached because they stay the same from frame to frame."""
        for text in descriptions:
            if text not in self._texts:
                self._texts[text] = self.model.encode_text([text])
            self._texts.move_to_end(text)
        result = TextFeatures.join([self._texts[text] for text in descriptions])
        while len(self._texts) > max(CACHED_TEXTS, len(descriptions)):
            self._texts.popitem(last=False)
        return result

    def _to_tensor(self, pixels: np.ndarray) -> Tensor:
        """uint8 B x h x w x 3 to B x 3 x h x w from 0 to 1; the permuted array is already channels_last."""
        return torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).to(self.dtype) / 255


def _sigmoid(logit: float) -> float:
    return 0.5 * (1 + math.tanh(0.5 * logit))


def _best_part(mask: np.ndarray, fit: np.ndarray) -> Box | None:
    """The box of the part of a mask in which a description fits best; mask and fit are on a region's grid.

    None if the mask is empty or the box is as long as one that takes up much of the grid. Parts with less than two
    cells between them count as one.
    """
    count, parts = cv2.connectedComponents(cv2.dilate(mask.view(np.uint8), np.ones((3, 3), np.uint8)))
    if count == 1:
        return None
    peaks = np.full(count, -np.inf)
    np.maximum.at(peaks, parts[mask], fit[mask])
    box = mask_to_box(mask & (peaks >= peaks.max() - FITS_TOO)[parts])
    # By its length: a knife in its own tight box covers little of the region, which is never so narrow
    return box if max(box.width, box.height) < math.sqrt(CLOSER_BELOW * mask.size) else None


def _choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """As for other models, but "auto" is bfloat16 also on a CPU that computes faster with it, at the same accuracy.

    These are CPUs with AMX, and AMD's with AVX-512 BF16. Not Intel's with AVX-512 BF16 alone (a virtual machine that
    hides AMX): there a frame takes 1.3 to 1.7 times as long as in float32 (benchmark/vlsm_latency.py).
    """
    native = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    faster = native.get("amx_bf16") or (native.get("avx512_bf16") and "Intel" not in native.get("cpu_name", ""))
    if name == "auto" and device.type == "cpu" and faster:
        return torch.bfloat16
    return choose_dtype(name, device)
