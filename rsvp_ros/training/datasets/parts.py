"""A part of an annotated image, with a training image's proportions and size, and what is seen in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from rsvp_ros.geometry import Box, mask_to_box
from rsvp_ros.training.datasets.annotated import AnnotatedImage, AnnotatedThing
from rsvp_ros.training.drawn_scenes import UNKNOWN, Scene, Thing, photograph
from rsvp_ros.training.prompts import Sample

WHOLE_SHARE = 0.7
"""Share of the parts that are as large as the image's proportions allow; the others are smaller, so that things come in
all sizes."""
SMALLEST = 0.45
"""The smallest part's sides, as a share of the largest's."""
SHARP_SHARE = 0.5
"""Share of the parts that have twice the network's resolution, as most camera images do, if the image is large
enough."""
PHOTOGRAPH_SHARE = 0.5
"""Share of the photographs that are once more blurred, lit, made noisy and compressed."""
CUT = 0.6
"""A thing is not asked for if less than this share of it is left …"""
LEAST = 40 / (320 * 240)
"""… or if it covers less than this share of the part."""


@dataclass(frozen=True, eq=False)
class Seen:
    """An annotated thing in a part of its image."""

    annotated: AnnotatedThing
    thing: Thing
    targets: tuple[int, ...]
    """Ids of its pixels in the scene; where things overlap, the pixels have an id of their own."""


@dataclass(frozen=True, eq=False)
class Part:
    """A scene, and the annotations of its things."""

    scene: Scene
    """`Scene.things` are those of `asked`, `Scene.doubtful` those of `others`."""
    asked: tuple[Seen, ...]
    """Things that are visible enough."""
    others: tuple[Seen, ...]
    """Things that are hardly visible."""
    ignored: tuple[Seen, ...]
    share: float
    """Share of the image's area that the part covers."""


def take_part(rng: np.random.Generator, image: AnnotatedImage, size: tuple[int, int]) -> Part:
    """A part around one of the things, scaled to `size` (height, width) or to twice that.

    Raises InvalidImageError or ConfigurationError if the image or an annotation cannot be used.
    """
    masks = [image.mask(thing) for thing in image.things]
    boxes = [box for mask in masks if (box := mask_to_box(mask)) is not None]
    focus = boxes[rng.integers(len(boxes))] if boxes else Box(0, 0, image.width, image.height)
    window = _window(rng, image, size, focus)
    pixels = image.read()[window]
    sharp = rng.random() < SHARP_SHARE and pixels.shape[0] >= 1.5 * size[0]
    size = (size[0] * 2, size[1] * 2) if sharp else size
    shown = _fit(pixels, size)
    if rng.random() < PHOTOGRAPH_SHARE:
        shown = photograph(rng, shown)

    crops = [mask[window] for mask in masks]
    ids, owned = overlaid([_fit(crop, size) for crop in crops], size)
    unknown = [image.mask(thing)[window] for thing in image.ignored]
    for crop in unknown:
        ids[_fit(crop, size) & (ids == 0)] = UNKNOWN
    asked, others = [], []
    for annotated, mask, crop, own in zip(image.things, masks, crops, owned, strict=True):
        if crop.any():
            seen = _seen(annotated, crop, size, own)
            cut = np.count_nonzero(crop) < CUT * np.count_nonzero(mask)
            small = seen.thing.area < LEAST * ids.size or min(seen.thing.box.width, seen.thing.box.height) < 3
            (others if cut or small or not own else asked).append(seen)
    ignored = [_seen(t, crop, size, ()) for t, crop in zip(image.ignored, unknown, strict=True) if crop.any()]
    scene = Scene(shown, ids, tuple(s.thing for s in asked), tuple(s.thing for s in others))
    share = pixels.shape[0] * pixels.shape[1] / (image.width * image.height)
    return Part(scene, tuple(asked), tuple(others), tuple(ignored), share)


def _seen(annotated: AnnotatedThing, crop: np.ndarray, size: tuple[int, int], own: tuple[int, ...]) -> Seen:
    """`crop`: its mask in the part, not empty and not yet scaled, as scaling may make something small vanish."""
    box = mask_to_box(crop).scale(size[1] / crop.shape[1], size[0] / crop.shape[0])
    area = np.count_nonzero(crop) * size[0] * size[1] // crop.size
    return Seen(annotated, Thing(own[0] if own else 0, "", "", box, area), own)


def mirrored(scene: Scene, samples: Sequence[Sample]) -> tuple[Scene, list[Sample]]:
    """Left and right swapped."""
    width = scene.ids.shape[1]

    def swapped(box: Box) -> Box:
        return Box(width - box.x1, box.y0, width - box.x0, box.y1)

    things, doubtful = (tuple(replace(t, box=swapped(t.box)) for t in ts) for ts in (scene.things, scene.doubtful))
    image, ids = (np.ascontiguousarray(pixels[:, ::-1]) for pixels in (scene.image, scene.ids))
    return Scene(image, ids, things, doubtful), [replace(s, box=swapped(s.box)) for s in samples]


def overlaid(masks: Sequence[np.ndarray], shape: tuple[int, int]) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Combine masks that may overlap, bool H x W, into one map of ids, uint8 H x W; also returns each mask's ids.

    Each combination of masks has an id. If there are more combinations than ids, the smallest areas are UNKNOWN.
    """
    ids = np.zeros(shape, np.int32)
    holders: list[tuple[int, ...]] = [()]
    for number, mask in enumerate(masks):
        for below in np.unique(ids[mask]):
            holders.append((*holders[below], number))
            ids[mask & (ids == below)] = len(holders) - 1
    areas = np.bincount(ids.ravel(), minlength=len(holders))
    areas[0] = 0
    kept = np.argsort(-areas, kind="stable")[: min(UNKNOWN - 1, np.count_nonzero(areas))]
    final = np.full(len(holders), UNKNOWN, np.uint8)
    final[0] = 0
    final[kept] = np.arange(1, len(kept) + 1)
    own = [tuple(int(final[i]) for i in kept if number in holders[i]) for number in range(len(masks))]
    return final[ids], own


def _fit(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image or a mask scaled to `size` (height, width)."""
    shrinks = pixels.shape[0] > size[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    values = pixels.view(np.uint8) if pixels.dtype == bool else pixels
    return cv2.resize(values, size[::-1], interpolation=method).view(pixels.dtype)


def _window(rng: np.random.Generator, image: AnnotatedImage, size: tuple[int, int], focus: Box) -> tuple[slice, slice]:
    """Rows and columns of a part that holds `focus`, or lies in it."""
    ratio = size[1] / size[0]
    tall = min(image.height, image.width / ratio)
    if rng.random() >= WHOLE_SHARE:
        tall *= rng.uniform(SMALLEST, 1.0)
    rows = _span(rng, focus.y0, focus.y1, round(tall), image.height)
    return rows, _span(rng, focus.x0, focus.x1, round(tall * ratio), image.width)


def _span(rng: np.random.Generator, low: float, high: float, length: int, limit: int) -> slice:
    length = min(max(length, 1), limit)
    first, last = np.sort(np.clip((low, high - length), 0, limit - length))
    start = round(rng.uniform(first, last))
    return slice(start, start + length)
