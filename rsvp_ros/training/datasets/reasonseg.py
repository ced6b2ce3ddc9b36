"""ReasonSeg (LISA, CVPR 2024), and what `rsvp tabletop export` writes in its format: NAME.jpg beside NAME.json.

The JSON holds `text`, a list of instructions that all mean the same, and labelme's `shapes`. They are interpreted
exactly as by LISA's own reader (utils/data_processing.py). Whether the texts are sentences (`is_sentence`) matters only
to a language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.training.datasets.annotated import (
    AnnotatedImage,
    AnnotatedImages,
    AnnotatedThing,
    missing_image,
    picture_size,
)
from rsvp_ros.training.datasets.files import read_json, wrong_content


@dataclass(frozen=True, eq=False)
class Shapes:
    """One of two areas, target or ignored; polygons paint them over each other, the largest polygon first."""

    polygons: tuple[np.ndarray, ...]
    """N x 2 int32: x, y of pixels."""
    ignored: tuple[bool, ...]
    """Whether each polygon paints ignored area."""
    wanted: bool
    """Which of the areas this is; True: the ignored one."""

    def mask(self, width: int, height: int) -> np.ndarray:
        drawn = [_drawn(polygon, width, height) for polygon in self.polygons]
        # LISA sorts this way, also where two are of the same size.
        order = np.argsort([np.count_nonzero(mask) for mask in drawn])[::-1]
        area = np.zeros((height, width), bool)
        for index in order:
            area[drawn[index]] = self.ignored[index] == self.wanted
        return area


def _drawn(polygon: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bool H x W: the inside and the outline, in whole pixels."""
    mask = np.zeros((height, width), np.uint8)
    cv2.polylines(mask, [polygon], True, 1)
    cv2.fillPoly(mask, [polygon], 1)
    return mask.view(bool)


class ReasonSeg(AnnotatedImages):
    """The images of a folder, by name; each has one target, which may be several things."""

    def __init__(self, folder: Path) -> None:
        """`folder`: of one split (train, val, test). Its files are read on request, which raises ConfigurationError if
        one is unusable.

        Raises ConfigurationError if it holds no annotations, InvalidImageError if an image is missing.
        """
        names = {path.name for path in folder.glob("*.*")}
        self._paths = [folder / name for name in sorted(names) if name.endswith(".json")]
        if not self._paths:
            raise ConfigurationError(
                f"{folder} holds no annotations NAME.json: give the folder that holds ReasonSeg's splits as `folder`, "
                "and one of them as `split`"
            )
        for path in self._paths:
            if path.with_suffix(".jpg").name not in names:
                raise missing_image(path.with_suffix(".jpg"), "put it there, beside its annotations")

    def __len__(self) -> int:
        return len(self._paths)

    def file_name(self, index: int) -> str:
        return self._paths[index].with_suffix(".jpg").name

    def __getitem__(self, index: int) -> AnnotatedImage:
        path = self._paths[index]
        content = read_json(path, ("utf-8", "cp1252"))
        picture = path.with_suffix(".jpg")
        width, height = picture_size(picture)
        try:
            texts = _texts(content["text"])
            shapes = [shape for shape in content["shapes"] if shape["label"].lower() != "flag"]
            polygons = tuple(_polygon(shape["points"], width, height) for shape in shapes)
            ignored = tuple("ignore" in shape["label"].lower() for shape in shapes)
        except KeyError as error:
            raise wrong_content(path, f"it lacks {error}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise wrong_content(path, str(error)) from error
        has_target = not all(ignored)
        return AnnotatedImage(
            picture,
            width,
            height,
            (AnnotatedThing(0, Shapes(polygons, ignored, False), texts=texts),) if has_target else (),
            (AnnotatedThing(0, Shapes(polygons, ignored, True)),) if any(ignored) else (),
            absent=() if shapes else texts,
        )


def _texts(value: object) -> tuple[str, ...]:
    """Raises ValueError."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError("its `text` is no list of texts")
    return tuple(text.strip() for text in value if text.strip())


def _polygon(value: object, width: int, height: int) -> np.ndarray:
    """Raises ValueError, TypeError."""
    points = np.array(value, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError("the `points` of one of its `shapes` are not pairs of numbers")
    if (points.max(0) < 0).any() or (points.min(0) >= (width, height)).any():
        raise ValueError(
            f"one of its `shapes`, from {points[0].tolist()}, lies outside its image of {width} x {height} pixels"
        )
    return points.astype(np.int32)
