"""Held-out measures of a segmenter: drawn scenes by kind of prompt, and photographs with masks.

`rsvp evaluate drawn` and `rsvp evaluate images` print them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.geometry import box_to_mask, mask_iou, mask_to_box
from rsvp_ros.segmentation.segmenter import Segmenter
from rsvp_ros.textures import TextureBank
from rsvp_ros.training.drawn_scenes import Scene, dead_leaves, household_scene, is_held_out
from rsvp_ros.training.prompts import PromptKind, Sample, jitter, leaf_prompts, pair_prompt, sample_prompts
from rsvp_ros.types import Prompt

UNSEEN = "whole image + unseen pair"
"""A pair of colour and kind that was never drawn or named in training; both words are known from other pairs."""
WITH_TEXT = (PromptKind.BOX_TEXT, PromptKind.WHOLE_TEXT, PromptKind.LOOSE_TEXT, PromptKind.PAIR_TEXT)


@dataclass
class Measure:
    """Results of one kind of prompt."""

    ious: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    """Whether the mask fits the target better than any other thing in the scene."""
    presences: list[float] = field(default_factory=list)


def held_out_scenes(
    seed: int, count: int, size: tuple[int, int] = (240, 320), prompts: int = 8
) -> Iterator[tuple[Scene, list[tuple[str, Sample]]]]:
    """Scenes from other textures and random numbers than training's, half household, half dead leaves, with prompts and
    the names of their kinds."""
    bank = TextureBank(np.random.default_rng((seed, 1 << 31)))
    for number in range(count):
        rng = np.random.default_rng((seed, number, 7))
        if number % 2:
            scene = dead_leaves(rng, bank, *size)
            yield scene, [(s.kind.value, s) for s in leaf_prompts(rng, scene, prompts, with_text=0.0)]
            continue
        scene = household_scene(rng, bank, *size, held_out_pairs=True)
        samples = [(s.kind.value, s) for s in sample_prompts(rng, scene, prompts)]
        unseen = [t for t in scene.things if is_held_out(t.kind, t.color)]
        samples += [(UNSEEN, s) for t in unseen if (s := pair_prompt(rng, scene, t)) is not None]
        yield scene, samples


def measure_scenes(
    segmenter: Segmenter, scenes: Iterable[tuple[Scene, list[tuple[str, Sample]]]]
) -> dict[str, Measure]:
    """Run every prompt; returns measures by name of kind."""
    measures: dict[str, Measure] = defaultdict(Measure)
    for scene, samples in scenes:
        features = segmenter.encode(scene.image)
        predictions = segmenter.segment(features, [Prompt(s.box, s.text) for _, s in samples])
        for (name, sample), prediction in zip(samples, predictions, strict=True):
            measure = measures[name]
            measure.presences.append(prediction.presence)
            if not sample.targets:
                continue
            (target,) = sample.targets
            ious = {t.id: mask_iou(prediction.mask, scene.mask(t)) for t in scene.things}
            measure.ious.append(ious[target])
            measure.right.append(ious[target] == max(ious.values()) > 0)
    return dict(measures)


def area_under_curve(positive: Iterable[float], negative: Iterable[float]) -> float:
    """Probability that a positive scores above a negative (ROC AUC); ties count half."""
    positive, negative = np.asarray(list(positive)), np.sort(np.asarray(list(negative)))
    below = np.searchsorted(negative, positive, "left")
    not_above = np.searchsorted(negative, positive, "right")
    return float((below + not_above).mean() / 2 / len(negative))


def read_masked_images(folder: Path) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """`images/NAME.jpg` with `masks/NAME.png` (palette or grey: one value per object, 0 for none), as in DAVIS.

    A mask that is larger or smaller than its image by a pixel or two, as for videos with odd sides, is cut or padded at
    its right and lower side. Raises ConfigurationError, also for a mask of another size.
    """
    paths = sorted((folder / "masks").glob("*.png"))
    if not paths:
        raise ConfigurationError(f"{folder} holds no masks/*.png: give a folder with images/ and masks/")
    for path in paths:
        pixels = cv2.imread(str(folder / "images" / f"{path.stem}.jpg"))
        if pixels is None:
            raise ConfigurationError(f"{path} has no image images/{path.stem}.jpg beside it that can be read")
        ids = np.zeros(pixels.shape[:2], np.int32)
        stored = _read_ids(path)
        if max(abs(a - b) for a, b in zip(stored.shape, ids.shape, strict=True)) > 2:
            raise ConfigurationError(
                f"the mask {path} has {stored.shape[1]} x {stored.shape[0]} pixels, its image {ids.shape[1]} x "
                f"{ids.shape[0]} (turned as its EXIF says): save it as large as the image"
            )
        stored = stored[: ids.shape[0], : ids.shape[1]]
        ids[: stored.shape[0], : stored.shape[1]] = stored
        yield cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), [ids == i for i in np.unique(ids) if i]


def _read_ids(path: Path) -> np.ndarray:
    """H x W. Raises ConfigurationError."""
    from PIL import Image  # OpenCV turns palette numbers into colours

    try:
        with Image.open(path) as mask:
            ids = np.asarray(mask)
    except Exception as error:  # a damaged file can make PIL raise almost anything
        raise ConfigurationError(f"the mask {path} is damaged ({error}): put it there again, or delete it") from error
    if ids.ndim != 2:
        raise ConfigurationError(f"the mask {path} has several channels: save it as palette or grey, without alpha")
    return ids


def measure_images(
    segmenter: Segmenter,
    images: Iterable[tuple[np.ndarray, list[np.ndarray]]],
    jitters: tuple[float, float] = (0.05, 0.10),
    repeats: int = 5,
    seed: int = 0,
) -> tuple[list[float], list[float]]:
    """IoU of masks from boxes with each side moved, in or out, by a share from `jitters`; IoU of the boxes themselves.

    `repeats`: number of random boxes for each mask.
    """
    rng = np.random.default_rng(seed)
    ious, baseline = [], []
    for image, masks in images:
        features = segmenter.encode(image)
        height, width = image.shape[:2]
        for mask in masks:
            tight = mask_to_box(mask)
            boxes = [jitter(rng, tight, *jitters).clip(width, height) for _ in range(repeats)]
            for box, prediction in zip(boxes, segmenter.segment(features, [Prompt(b) for b in boxes]), strict=True):
                ious.append(mask_iou(prediction.mask, mask))
                baseline.append(mask_iou(box_to_mask(box, width, height), mask))
    return ious, baseline


def report(measures: dict[str, Measure], threshold: float) -> str:
    """Markdown: mean IoU and right object by kind of prompt, and how well presence tells what is there.

    `threshold`: on presence, like `TrackerConfig.min_presence`.
    """
    lines = ["| prompt | N | mean IoU | right object |", "|---|---|---|---|"]
    for name, measure in sorted(measures.items()):
        if measure.ious:
            right = f"{np.mean(measure.right):.3f}"
            lines.append(f"| {name} | {len(measure.ious)} | {np.mean(measure.ious):.3f} | {right} |")
    absent = measures.get(PromptKind.ABSENT.value, Measure()).presences
    present = [p for kind in WITH_TEXT for p in measures.get(kind.value, Measure()).presences]
    if absent and present:
        refused, lost = np.mean(np.array(absent) < threshold), np.mean(np.array(present) < threshold)
        lines += [
            "",
            f"Presence: {refused:.3f} of {len(absent)} absent descriptions refused at {threshold:g}, {lost:.3f} of "
            f"{len(present)} present ones refused by mistake, AUC {area_under_curve(present, absent):.3f}.",
        ]
    return "\n".join(lines)
