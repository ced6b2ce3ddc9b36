"""Files that training images are made from."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.tabletop.export import records
from rsvp_ros.tabletop.splits import Split

HELD_OUT = 50
"""One in this many exported scenes, with all its views, is kept for validation, and likewise one in this many
photographs: the same ones in every data set that has them."""
PHOTOGRAPHED = 0.5
"""Share of the textures that are cut from photographs, if there are any."""
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def tabletop_records(folders: Sequence[str], held_out: bool) -> tuple[str, ...]:
    """JSON files of the exported training scenes in these folders: those to train on, or those held out. A folder with
    a single scene is used for both.

    Raises ConfigurationError for a folder that holds none.
    """
    chosen: list[str] = []
    for folder in folders:
        found = sorted(str(path) for path in records(Path(folder).expanduser(), Split.TRAIN))
        if not found:
            raise ConfigurationError(
                f"{folder} holds no scenes of the split {Split.TRAIN.value}: write some with "
                f"`rsvp tabletop export --split {Split.TRAIN.value} --out {folder}`, or leave out `tabletop`"
            )
        scenes = {scene: i for i, scene in enumerate(dict.fromkeys(map(_scene, found)))}
        chosen += [path for path in found if (scenes[_scene(path)] % HELD_OUT == 0) == held_out] or found
    return tuple(chosen)


def _scene(record: str) -> str:
    """A scene's split and seed, which all its views have in common."""
    return "_".join(Path(record).stem.split("_")[:2])


def read_photographs(folder: str | None, count: int) -> list[np.ndarray]:
    """`count` of the pictures in a folder, evenly spread, or all if there are fewer; uint8 H x W x 3 RGB; none if
    `folder` is None.

    Raises ConfigurationError if it holds none.
    """
    if folder is None:
        return []
    paths = sorted(path for path in Path(folder).expanduser().glob("*") if path.suffix.lower() in PICTURES)
    spread = sorted(range(len(paths)), key=lambda i: i * count % len(paths) >= count)  # the others come last, as spares
    readable = (picture for i in spread if (picture := cv2.imread(str(paths[i]))) is not None)
    pictures = list(itertools.islice(readable, count))
    if not pictures:
        raise ConfigurationError(f"`photographs` {folder} holds no picture that can be read ({', '.join(PICTURES)})")
    return [cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) for picture in pictures]
