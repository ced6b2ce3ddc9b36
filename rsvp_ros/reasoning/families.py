"""How each family of MLLMs writes coordinates: a table, one entry per family.

`parsing.py` reads what surrounds the coordinates (JSON, tags, special tokens) in the same way for all families; only
what the numbers mean is a property of the family.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.geometry import Box

Size = tuple[int, int]
"""(width, height), pixels."""
SURE_PIXELS = 1024 * 28**2
"""Smallest area of an image that every server of Qwen2.5-VL leaves at its size …"""
MOST_SURE_PIXELS = 1280 * 28**2
"""… and the largest: many servers are configured to shrink larger images (max_pixels), and none says so."""


@dataclass(frozen=True)
class Family:
    """What a family's coordinates mean, and how to ask for them."""

    name: str
    scale: float | Literal["image", "model"]
    """The unit of the coordinates. A number: the image's width, and its height, are this many units; `image`: pixels of
    the image that was sent; `model`: pixels of the image as the model's processor resized it."""
    axes: Literal["xy", "yx"] = "xy"
    """Which coordinate of a corner or a point is written first."""
    box_key: str = "bbox_2d"
    """Name of the box in the JSON that the family is asked for."""
    integers: bool = True
    """Whether its coordinates are whole numbers."""
    gives_boxes: bool = True
    """False: it was trained to point, not to draw boxes."""
    pairs_are_corners: bool = False
    """What two points side by side, `(1,2),(3,4)`, mean: the corners of a box, or two points."""
    input_size: Size | None = None
    """The image must be resized to this, ignoring its aspect ratio, before the model gets it; None: see
    `size_to_send`."""
    largest: tuple[int, int] | None = None
    """Images with more pixels than the first of these, or a side longer than the second, are shrunk by its server,
    which does not say so; None: it does not matter."""
    patterns: tuple[str, ...] = ()
    """Regular expressions that match in a model's name, reduced to lower-case letters and digits
    ("qwen25vl7binstruct")."""

    @property
    def box_instruction(self) -> str:
        """One English sentence for a prompt: what the numbers of a box are."""
        corners = {"xy": "[x1, y1, x2, y2]", "yx": "[ymin, xmin, ymax, xmax]"}[self.axes]
        edges = {"xy": "left, top, right and bottom", "yx": "top, left, bottom and right"}[self.axes]
        if self.scale in ("image", "model"):
            return f"Boxes are {corners}: the {edges} edge in pixels of the image."
        return (
            f"Boxes are {corners}: the {edges} edge, as {'integers' if self.integers else 'numbers'} "
            f"from 0 to {self.scale:g} relative to the image's width and height."
        )

    def size_to_send(self, image_size: Size) -> Size:
        """The size at which to hand over an image, so that the size at which the model sees it is known.

        Servers treat small images differently: llama.cpp and Ollama scale them up to 1024 of Qwen2.5-VL's tokens,
        because, they say, it does not point well otherwise. So small images are scaled up beforehand. Those that a
        server would shrink are scaled down beforehand.
        """
        if self.input_size:
            return self.input_size
        if self.scale == "model" and math.prod(image_size) < SURE_PIXELS:
            return smart_resize(*image_size, min_pixels=SURE_PIXELS)
        if self.scale == "model" and math.prod(smart_resize(*image_size)) > MOST_SURE_PIXELS:
            return smart_resize(*image_size, max_pixels=MOST_SURE_PIXELS)
        if self.largest:
            pixels, side = self.largest
            shrink = max(1.0, math.sqrt(math.prod(image_size) / pixels), max(image_size) / side)
            width, height = (max(1, int(length / shrink)) for length in image_size)
            return width, height
        return image_size

    def pixels_per_unit(self, image_size: Size, model_image_size: Size | None = None) -> tuple[float, float]:
        """The size of one unit of x, and of one unit of y, in pixels of the original image.

        `model_image_size`: size of the image as the model saw it, or as it was sent to the model's server; None: the
        original's. The family's processor rounds what was sent to whole patches, and so does this method; a size in
        whole patches stays the same.
        """
        width, height = image_size
        if self.scale == "image":
            sent_width, sent_height = model_image_size or image_size
            return width / sent_width, height / sent_height
        if self.scale == "model":
            seen_width, seen_height = smart_resize(*(model_image_size or self.input_size or image_size))
            return width / seen_width, height / seen_height
        return width / self.scale, height / self.scale

    def write_box(
        self, box: Box, image_size: Size, model_image_size: Size | None = None
    ) -> tuple[float, float, float, float]:
        """A box in pixels of the original image as this family would write it."""
        ux, uy = self.pixels_per_unit(image_size, model_image_size)
        x0, y0, x1, y1 = (
            round(c) if self.integers else round(c, 1) for c in (box.x0 / ux, box.y0 / uy, box.x1 / ux, box.y1 / uy)
        )
        return (x0, y0, x1, y1) if self.axes == "xy" else (y0, x0, y1, x1)

    def read_point(
        self, numbers: Sequence[float], image_size: Size, model_image_size: Size | None = None
    ) -> tuple[float, float]:
        """A point as it was written: (x, y) in pixels of the original image, neither clipped nor checked."""
        ux, uy = self.pixels_per_unit(image_size, model_image_size)
        x, y = numbers if self.axes == "xy" else reversed(numbers)
        return x * ux, y * uy


# Sources: each family's README, cookbook or documentation; recorded outputs that were drawn on their images fit.
_TABLE = (
    # The name of a fine-tuned model often contains its base model's, so it comes before that.
    Family("vision_reasoner", "model", input_size=(840, 840), patterns=("visionreasoner", "segzero")),
    Family("robobrain2", "image", patterns=("robobrain2(?!5)",)),
    Family("rex_omni", 999, patterns=("rexomni",)),
    Family("qwen3_vl", 1000, patterns=("qwen3", "robobrain25")),
    Family("qwen2_5_vl", "model", patterns=("qwen25(vl|omni)", "cosmosreason1")),
    Family("qwen2_vl", 1000, pairs_are_corners=True, patterns=("qwen2vl", "qvq")),
    Family("qwen_vl", 1000, pairs_are_corners=True, patterns=("qwenvl(chat|$)",)),
    Family("internvl", 1000, patterns=("internvl",)),
    Family("gemini", 1000, axes="yx", box_key="box_2d", patterns=("gemini",)),
    Family("gemma4", 1000, axes="yx", box_key="box_2d", patterns=("gemma4(?!b)",)),
    Family("deepseek_vl2", 999, patterns=("deepseekvl2",)),
    Family("molmo2", 1000, gives_boxes=False, patterns=("molmo2",)),
    Family("molmo", 100, integers=False, gives_boxes=False, patterns=("molmo",)),
    Family("paligemma", 1024, axes="yx", box_key="box_2d", patterns=("paligemma",)),
    Family("florence2", 999, patterns=("florence2",)),
    # The weights in the package, which have seen images of this size only.
    Family("embedded", 1000, input_size=(320, 240), patterns=("^mllmembedded",)),
    # Last of the names: models that were distilled from it bear its name beside their own.
    Family("claude", "image", largest=(1_150_000, 1568), patterns=("claude",)),
    Family("generic", 1000),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _TABLE}
"""All families by name; `generic` is for models that have no convention of their own and follow the prompt's."""


def family_for(model_name: str) -> Family:
    """Guess the family from a hub name, a folder or a server's model id; `generic` where nothing fits.

    The last part of a path that matches decides: a folder is more reliably named after its model than its parents are.
    """
    for part in reversed(re.split(r"[/\\]", model_name.lower())):
        part = re.sub(r"[^a-z0-9]", "", part)
        for family in _TABLE:
            if any(re.search(pattern, part) for pattern in family.patterns):
                return family
    return FAMILIES["generic"]


def find_family(name: str) -> Family:
    """The family of this name. Raises ConfigurationError for an unknown one."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise ConfigurationError(f"the MLLM family {name!r} is unknown; use one of {', '.join(FAMILIES)}") from None


def smart_resize(
    width: int, height: int, factor: int = 28, min_pixels: int = 56 * 56, max_pixels: int = 12_845_056
) -> Size:
    """The size to which Qwen2.5-VL's image processor resizes an image (defaults: its preprocessor_config.json).

    Both sides become multiples of `factor` (14-pixel patches, merged 2 x 2); the area stays within the limits and the
    aspect ratio nearly the same.
    """
    columns, rows = round(width / factor), round(height / factor)
    area = columns * rows * factor**2
    if area > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        columns, rows = (max(1, math.floor(side / shrink / factor)) for side in (width, height))
    elif area < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        columns, rows = (math.ceil(side * grow / factor) for side in (width, height))
    return columns * factor, rows * factor
