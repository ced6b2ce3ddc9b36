"""The same things in other colours, so that a kind must be known by its shape and a colour by what it looks like.

The training split has each kind in a few colours only; a network that has seen no others takes a thing in another
colour for another kind, or as absent. No thing gets a colour that the training split holds out for its kind.
"""

from __future__ import annotations

import colorsys
from collections.abc import Collection

import cv2
import numpy as np

from rsvp_ros.tabletop.descriptions import NEUTRALS
from rsvp_ros.tabletop.kinds import COLORS, KINDS, PAINTED, is_held_out_pair

HUE_RANGE = 30
"""Degrees around a colour's hue within which a pixel counts as of that colour."""
VIVID = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
"""Colours whose pixels can be told by their hue."""


def is_repaintable(kind: str, color: str, wooden: bool) -> bool:
    """Whether people would still call a thing of this kind and colour by its kind if it had another colour, and its
    coloured pixels can be told. `wooden`: whether people would call it wooden."""
    return color in VIVID and not wooden and "fruit" not in KINDS[kind].materials


def other_color(rng: np.random.Generator, kind: str, color: str, pattern: str, kept: Collection[str] = ()) -> str:
    """A colour that a thing of this kind, colour and pattern could get; `kept`: colours that it must not get."""
    kept = {color, *kept, *(NEUTRALS if pattern != "plain" else ())}  # a pattern must be seen on it
    return str(rng.choice([c for c in PAINTED if c not in kept and not is_held_out_pair(kind, c)]))


def repaint(image: np.ndarray, mask: np.ndarray, old: str, new: str, rng: np.random.Generator) -> np.ndarray | None:
    """A copy in which the masked pixels of one colour have another, with the light on them kept; None if few of the
    masked pixels are of the old colour.

    image: uint8 H x W x 3 RGB; mask: bool H x W.
    """
    inside = image[mask]
    if len(inside) < 12:
        return None
    hue, saturation, _ = cv2.cvtColor(inside[None], cv2.COLOR_RGB2HSV)[0].T.astype(np.float32)
    named = np.mean(COLORS[old], 0)
    away = np.abs((2 * hue - 360 * colorsys.rgb_to_hsv(*named)[0] + 180) % 360 - 180)
    chosen = (away < HUE_RANGE) & (saturation > 60)
    if chosen.mean() < 0.2:
        return None
    pixels = inside[chosen].astype(np.float32)
    usual = np.median(pixels, 0) + 1
    light = np.clip(usual.mean() / (255 * named.mean()), 0.3, 1.5)
    low, high = COLORS[new]
    wanted = 255 * light * (np.array(low) + rng.random() * (np.array(high) - low))
    shade = np.clip(pixels @ usual / (usual @ usual), 0, 2.5)[:, None]
    inside[chosen] = np.clip(shade * wanted + 0.6 * (pixels - shade * usual), 0, 255).astype(np.uint8)
    image = image.copy()
    image[mask] = inside
    return image
