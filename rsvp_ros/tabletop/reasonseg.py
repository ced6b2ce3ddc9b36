"""Views and instructions in the format of ReasonSeg (LISA, CVPR 2024): NAME.jpg beside NAME.json.

The JSON holds `text`, `is_sentence` and labelme's `shapes`. LISA's reader draws the shapes from the largest to the
smallest, borders included, and everything drawn is target (or ignored, if its label says so): a shape cannot erase what
another has drawn. So a region with a hole is cut in two through the hole, and the pixels come back exactly.

ReasonSeg has one mask per image. Here each instruction has its own NAME, and the images of a view are one file with
several names (hard links) if the file system allows it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from rsvp_ros.files import write_whole
from rsvp_ros.tabletop.instruction import Instruction
from rsvp_ros.tabletop.view import View
from rsvp_ros.tabletop.view_files import instruction_to_json, write_json


def polygons(mask: np.ndarray) -> list[np.ndarray]:
    """A bool mask H x W as polygons, N x 2 int (x, y of pixels), that cover it exactly when drawn with their borders.

    A polygon runs through the middles of the outermost pixels that still belong to it; no polygon has a hole.
    """
    result: list[np.ndarray] = []
    pieces = [(np.ascontiguousarray(mask, np.uint8), (0, 0))]
    while pieces:
        piece, (x, y) = pieces.pop()
        contours, hierarchy = cv2.findContours(piece, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        for contour, (_, _, hole, parent) in zip(contours, hierarchy[0] if contours else (), strict=True):
            if parent >= 0:
                continue
            if hole < 0:
                points = contour[:, 0] + (x, y)
                # labelme wants three corners, even for a dot or a line.
                result.append(np.concatenate((points, np.repeat(points[-1:], max(0, 3 - len(points)), 0))))
                continue
            # Isolate the region, then cut it at the hole's middle: each half has fewer holes.
            left, top, width, height = cv2.boundingRect(contour)
            part = cv2.connectedComponents(piece, connectivity=8)[1]
            part = part[top : top + height, left : left + width] == part[tuple(contour[0, 0, ::-1])]
            part = part.astype(np.uint8)
            hole_left, _, hole_width, _ = cv2.boundingRect(contours[hole])
            cut = hole_left + hole_width // 2 - left
            pieces.append((np.ascontiguousarray(part[:, :cut]), (x + left, y + top)))
            pieces.append((np.ascontiguousarray(part[:, cut:]), (x + left + cut, y + top)))
    return result


def annotation(view: View, instruction: Instruction, about: dict) -> dict:
    """The content of NAME.json.

    Args:
        about: where it comes from (split, seed, …); kept under "tabletop" beside ReasonSeg's own keys, with language,
            kind, targets and chain of thought.
    """
    shapes = [
        {
            "label": "target",
            "points": points.tolist(),
            "group_id": target,
            "shape_type": "polygon",
            "flags": {},
        }
        for target in instruction.targets
        for points in polygons(view.mask(target))
    ]
    return {
        "text": [instruction.text],
        # LISA puts a phrase into a question ("What is … in this image?") and leaves a sentence as it is.
        "is_sentence": instruction.text.rstrip().endswith((".", "?", "!", "。", "？", "！")),
        "shapes": shapes,
        "imageHeight": view.camera.height,
        "imageWidth": view.camera.width,
        "tabletop": {**about, **instruction_to_json(instruction)},
    }


def explanation(image_name: str, instruction: Instruction) -> dict:
    """An entry of explanatory/train.json: the question and the reasoning as text."""
    return {
        "image": image_name,
        "query": instruction.text,
        "outputs": " ".join(step.text for step in instruction.chain),
    }


def write_annotations(
    folder: Path, name: str, image: Path, view: View, instructions: Sequence[Instruction], about: dict
) -> list[dict]:
    """Write NAME_<k>.json and NAME_<k>.jpg for each instruction; returns their explanations. Raises OSError.

    Args:
        image: the view's JPEG; NAME_<k>.jpg becomes another name for it, or a copy.
    """
    explanations = []
    for k, instruction in enumerate(instructions):
        picture = folder / f"{name}_{k}.jpg"
        write_json(picture.with_suffix(".json"), annotation(view, instruction, about))
        _link(image, picture)
        explanations.append(explanation(picture.name, instruction))
    return explanations


def _link(source: Path, target: Path) -> None:
    if target.exists():
        if os.path.samefile(source, target):
            return
        target.unlink()
    with contextlib.suppress(OSError):  # no hard links on this file system, or the target is on another one
        os.link(source, target)
        return
    write_whole(target, source.read_bytes())
