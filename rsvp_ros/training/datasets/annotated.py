"""An annotated image from a user's own data, whatever format it comes from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from rsvp_ros.errors import ConfigurationError, InvalidImageError
from rsvp_ros.training.datasets.areas import Area


@dataclass(frozen=True, eq=False)
class AnnotatedThing:
    """A thing, or several things that a text means together."""

    id: int
    """The annotation's number if the format has one, otherwise 0."""
    area: Area
    name: str = ""
    """Its category ("dining table"); empty: several things may be meant, and only the texts say which."""
    texts: tuple[str, ...] = ()
    """Each of them means this and nothing else in the image."""


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """Where an image is stored and what is in it. Small, as pixels and masks are only made on request."""

    path: Path
    width: int
    height: int
    things: tuple[AnnotatedThing, ...]
    """They may overlap."""
    ignored: tuple[AnnotatedThing, ...] = ()
    """Areas where it is not known what belongs to a thing: crowds have their category's name, others have none."""
    complete: tuple[str, ...] = ()
    """Names of the categories whose things are all in `things` or `ignored`."""
    absent: tuple[str, ...] = ()
    """Texts that mean nothing in the image."""

    def read(self) -> np.ndarray:
        """uint8 H x W x 3 RGB. Raises InvalidImageError if it is missing, damaged, or another image."""
        size = (self.height, self.width)
        pixels = read_picture(self.path)
        if pixels.shape[:2] == size[::-1] != size:  # annotated as stored, before the rotation that EXIF asks for
            pixels = read_picture(self.path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels.shape[:2] != size:
            raise InvalidImageError(
                f"the image {self.path} has {pixels.shape[1]} x {pixels.shape[0]} pixels, and its annotations are "
                f"about {self.width} x {self.height}: put the image there that was annotated"
            )
        return pixels

    def mask(self, thing: AnnotatedThing) -> np.ndarray:
        """Bool H x W. Raises ConfigurationError if the annotation is damaged."""
        try:
            return thing.area.mask(self.width, self.height)
        except ValueError as error:
            raise ConfigurationError(
                f"annotation {thing.id} of the image {self.path}: {error}; correct it, or take it out of the data set"
            ) from error


class AnnotatedImages(Sequence[AnnotatedImage]):
    """A data set."""

    @abstractmethod
    def file_name(self, index: int) -> str:
        """An image's file name, without reading anything."""


def read_picture(path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """uint8 H x W x 3 RGB. Raises InvalidImageError."""
    if not path.is_file():
        raise missing_image(path)
    data = np.fromfile(path, np.uint8)
    pixels = cv2.imdecode(data, flags) if data.size else None
    if pixels is None:
        raise damaged_image(path)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as displayed, without reading its pixels. Raises InvalidImageError."""
    if not path.is_file():
        raise missing_image(path)
    try:
        with Image.open(path) as picture:
            turned = picture.getexif().get(_ORIENTATION, 1) >= 5
            return picture.size[::-1] if turned else picture.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise damaged_image(path) from error


_ORIENTATION = 0x0112  # EXIF: for values from 5 on, the stored image lies on its side


def damaged_image(path: Path) -> InvalidImageError:
    return InvalidImageError(f"the image {path} is damaged: put it there again, or take it out of the data set")


def missing_image(
    path: Path, remedy: str = "put it there, or give the folder that holds it as `images` of the data set"
) -> InvalidImageError:
    return InvalidImageError(f"the image {path} is missing: {remedy}")
