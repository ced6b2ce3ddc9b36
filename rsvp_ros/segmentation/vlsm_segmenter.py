"""`VlsmSegmenter`: the project's own `Vlsm` behind the `Segmenter` protocol: images and boxes in, masks out."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rsvp_ros.errors import InvalidImageError
from rsvp_ros.geometry import Box
from rsvp_ros.segmentation.modeling.image_encoder import ImageFeatures
from rsvp_ros.segmentation.modeling.mask_decoder import MaskDecoder
from rsvp_ros.segmentation.modeling.text_encoder import TextFeatures
from rsvp_ros.segmentation.torch_runtime import choose_device, choose_dtype, move_to_device, running
from rsvp_ros.segmentation.vlsm import Vlsm
from rsvp_ros.types import Prediction, Prompt

EMBEDDED = Path(__file__).parent / "weights" / "vlsm_embedded"
"""The weights that the package brings along; their model card is the README.md beside them."""

IMAGE_SIDE = 320
"""Longest side of the whole image as the network sees it, pixels."""
CROP_SIDE = 192
"""Side of a crop around a small target as the network sees it, pixels."""
CROP_BELOW = 64
"""A box whose longer side is shorter than this on the network's grid is looked at again in a crop."""
REGION_PADDING = 0.25
"""A mask may reach out of its box by this share of the box's size, as in training."""
MASK_STRIDE = MaskDecoder.stride
RESIZE_FROM = 4
"""Cells of the mask of at least this many of the image's pixels are enlarged by `cv2.resize`, 4 times as fast as
`cv2.warpAffine`. That places pixels in steps of 1/32 of a cell, this to about a tenth of a pixel."""
CACHED_TEXTS = 256


@dataclass(frozen=True, eq=False)
class View:
    """Part of an image on the network's grid: (x, y) of the image lies at ((x - left) * scale, (y - top) * scale)."""

    pixels: np.ndarray
    """uint8 h x w x 3, sides multiples of 16; what lies outside the part repeats its border."""
    left: int
    top: int
    scale: tuple[float, float]


def make_view(image: np.ndarray, area: tuple[int, int, int, int], side: int, square: bool = False) -> View:
    """Scale the area x0, y0, x1, y1 of an image so that its longer side is `side`; pad to the grid, or to a square."""
    x0, y0, x1, y1 = area
    factor = side / max(x1 - x0, y1 - y0)
    width, height = max(1, round((x1 - x0) * factor)), max(1, round((y1 - y0) * factor))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    pixels = cv2.resize(image[y0:y1, x0:x1], (width, height), interpolation=method)
    right = (side if square else _grid_side(width)) - width
    below = (side if square else _grid_side(height)) - height
    if right or below:
        pixels = cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return View(pixels, x0, y0, (width / (x1 - x0), height / (y1 - y0)))


def _grid_side(side: int) -> int:
    """The next multiple of the stride, at least two: a bfloat16 convolution of oneDNN gives NaN for one column."""
    return max(2, math.ceil(side / Vlsm.stride)) * Vlsm.stride


def crop_area(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """A square of twice the box's longer side around it, moved and cut to lie inside the image: x0, y0, x1, y1."""
    side = max(2.0 * max(box.width, box.height), 16.0)
    spans = []
    for middle, size in zip(box.center, (width, height), strict=True):
        low = min(max(middle - side / 2, 0.0), max(size - side, 0.0))
        spans.append((math.floor(low), math.ceil(min(low + side, size))))
    (x0, x1), (y0, y1) = spans
    return x0, y0, x1, y1


@dataclass(frozen=True, eq=False)
class _Target:
    """One prompt and the view in which it is looked at."""

    view: View
    place: int
    """Of the view in the batch of encoded ones."""
    box: Box
    """Pixels of the image, clipped to it."""
    text: str


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An encoded image; holds the image too, for crops around small targets."""

    image: np.ndarray
    view: View
    features: ImageFeatures


class VlsmSegmenter:
    """Runs a `Vlsm`: see `Segmenter` for the contract.

    The whole image is encoded once. A target that is small on the network's grid is looked at again in a crop around
    its box (the paper always crops); all crops of a call are encoded in one batch, as are all prompts decoded.
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
        self._texts: OrderedDict[str, TextFeatures] = OrderedDict()

    @classmethod
    def from_pretrained(
        cls, folder: str | Path = "embedded", device: str = "auto", dtype: str = "auto"
    ) -> VlsmSegmenter:
        """`folder`: with config.json and model.safetensors, or "embedded" for the weights in the package.

        Raises ModelLoadError (a missing, damaged or unfitting file), ConfigurationError (device, dtype).
        """
        path = EMBEDDED if str(folder) == "embedded" else Path(folder).expanduser()
        return cls(Vlsm.from_pretrained(path), f"vlsm ({folder})", device, dtype)

    def encode(self, image: np.ndarray) -> EncodedImage:
        """uint8 H x W x 3 RGB. It is kept, not copied: leave it unchanged as long as the result is in use.

        Raises InvalidImageError for anything else, ModelRunError where the model fails.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise InvalidImageError(f"an image must be uint8 H x W x 3 with pixels, got {image.dtype} {image.shape}")
        height, width = image.shape[:2]
        with running(self.name):
            view = make_view(image, (0, 0, width, height), IMAGE_SIDE)
            return EncodedImage(image, view, self.model.encode_image(self._to_tensor(view.pixels[None])))

    def segment(self, features: EncodedImage, prompts: Sequence[Prompt]) -> list[Prediction]:
        """One prediction a prompt, in order. `presence` is 1 for a description without words.

        Raises ModelRunError where the model fails (out of memory).
        """
        if not prompts:
            return []
        height, width = features.image.shape[:2]
        boxes = [prompt.box.clip(width, height) for prompt in prompts]
        texts = [prompt.description for prompt in prompts]
        scale = max(features.view.scale)
        whole, close = [], []
        for i, box in enumerate(boxes):
            (close if max(box.width, box.height) * scale < CROP_BELOW else whole).append(i)
        results: dict[int, Prediction] = {}
        with running(self.name):
            if whole:
                targets = [_Target(features.view, 0, boxes[i], texts[i]) for i in whole]
                results |= dict(zip(whole, self._decode(features.features, targets, height, width), strict=True))
            if close:
                areas = {i: crop_area(boxes[i], width, height) for i in close}
                crops = {a: make_view(features.image, a, CROP_SIDE, square=True) for a in set(areas.values())}
                place = {area: n for n, area in enumerate(crops)}
                pixels = np.stack([crop.pixels for crop in crops.values()])
                targets = [_Target(crops[areas[i]], place[areas[i]], boxes[i], texts[i]) for i in close]
                encoded = self.model.encode_image(self._to_tensor(pixels))
                results |= dict(zip(close, self._decode(encoded, targets, height, width), strict=True))
        return [results[i] for i in range(len(prompts))]

    def _decode(self, features: ImageFeatures, targets: list[_Target], height: int, width: int) -> list[Prediction]:
        """Predictions for the targets, all in one batch, with masks of the image's size."""
        on_grid = [t.box.translate(-t.view.left, -t.view.top).scale(*t.view.scale).as_tuple() for t in targets]
        text = self._text([target.text for target in targets])
        output = self.model.decode(
            features,
            text,
            torch.tensor(on_grid, dtype=torch.float32, device=self.device),
            torch.tensor([target.place for target in targets], device=self.device),
        )
        masks = output.masks.cpu().numpy()
        scores = output.quality.sigmoid().tolist()
        presences = torch.where(text.given, output.presence.sigmoid(), 1.0).tolist()
        predictions = []
        for target, logits, score, presence in zip(targets, masks, scores, presences, strict=True):
            mask = full_size_mask(logits, target.view, target.box, height, width)
            predictions.append(Prediction(mask, score if mask.any() else 0.0, presence))
        return predictions

    def _text(self, descriptions: list[str]) -> TextFeatures:
        """Encoded descriptions, from the cache where they were asked before: from frame to frame they stay the same."""
        for text in descriptions:
            if text not in self._texts:
                self._texts[text] = self.model.encode_text([text])
            self._texts.move_to_end(text)
        parts = [self._texts[text] for text in descriptions]
        longest = max(part.valid.shape[1] for part in parts)
        result = TextFeatures(
            tokens=torch.cat([F.pad(p.tokens, (0, 0, 0, longest - p.tokens.shape[1])) for p in parts]),
            valid=torch.cat([F.pad(p.valid, (0, longest - p.valid.shape[1])) for p in parts]),
            query=torch.cat([p.query for p in parts]),
            given=torch.cat([p.given for p in parts]),
        )
        while len(self._texts) > max(CACHED_TEXTS, len(descriptions)):
            self._texts.popitem(last=False)
        return result

    def _to_tensor(self, pixels: np.ndarray) -> Tensor:
        """uint8 B x h x w x 3 to B x 3 x h x w from 0 to 1; the permuted array is channels_last as it stands."""
        return torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).to(self.dtype) / 255


def full_size_mask(logits: np.ndarray, view: View, box: Box, height: int, width: int) -> np.ndarray:
    """Mask logits of a view to a bool mask of the image; computed in the padded box only, False elsewhere."""
    sx, sy = view.scale
    reach = Box(box.x0 - 8 / sx, box.y0 - 8 / sy, box.x1 + 8 / sx, box.y1 + 8 / sy)
    region = box.pad(REGION_PADDING).union(reach)
    seen = Box(view.left, view.top, view.left + view.pixels.shape[1] / sx, view.top + view.pixels.shape[0] / sy)
    region = Box(max(region.x0, seen.x0), max(region.y0, seen.y0), region.x1, region.y1).clip(seen.x1, seen.y1)
    rows, columns = region.to_slices(width, height)
    mask = np.zeros((height, width), bool)
    w, h = columns.stop - columns.start, rows.stop - rows.start
    if w <= 0 or h <= 0:
        return mask
    kx, ky = sx / MASK_STRIDE, sy / MASK_STRIDE
    if max(kx, ky) <= 1 / RESIZE_FROM:
        (across, x), (down, y) = _covering(columns, view.left, kx), _covering(rows, view.top, ky)
        fine = cv2.resize(logits[down, across], None, fx=1 / kx, fy=1 / ky, interpolation=cv2.INTER_LINEAR)
        fine = fine[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    else:
        # From the centre of a pixel of the region to the centre of a cell of the logits.
        to_cells = np.array(
            [
                [kx, 0, (columns.start - view.left + 0.5) * kx - 0.5],
                [0, ky, (rows.start - view.top + 0.5) * ky - 0.5],
            ]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        fine = cv2.warpAffine(logits, to_cells, (w, h), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    np.greater(fine, 0, out=mask[rows, columns])
    return mask


def _covering(pixels: slice, origin: int, scale: float) -> tuple[slice, int]:
    """Cells that cover a range of pixels, and the pixel where they begin; `scale`: cells a pixel, below 1.

    A cell rarely begins with a pixel: of the last few before the range, the one that comes nearest to that is taken.
    """
    first = math.floor((pixels.start - origin + 0.5) * scale - 0.5)
    last = math.ceil((pixels.stop - origin - 0.5) * scale - 0.5)
    starts = np.arange(max(first, 0), max(first - 9, -1), -1)
    edges = starts / scale
    best = np.abs(edges - edges.round()).argmin()
    return slice(int(starts[best]), last + 1), origin + round(edges[best])


def _choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """As for other models, but bfloat16 on a CPU that has it, too: faster there, at the same accuracy.

    The measurement is benchmark/vlsm_latency.py.
    """
    native = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    if name == "auto" and device.type == "cpu" and (native.get("amx_bf16") or native.get("avx512_bf16")):
        return torch.bfloat16
    return choose_dtype(name, device)
