"""Files that training images are made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.tabletop.splits import Split

HELD_OUT = 50
"""One of this many exported scenes is for validation."""
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def tabletop_records(folders: Sequence[str], held_out: bool) -> tuple[str, ...]:
    """JSON files of the exported training scenes in these folders: those to train on, or those held out.

    Raises ConfigurationError for a folder that holds none.
    """
    records: list[str] = []
    for folder in folders:
        found = sorted(str(path) for path in (Path(folder).expanduser() / "scenes").glob(f"{Split.TRAIN.value}_*.json"))
        if not found:
            raise ConfigurationError(
                f"{folder} holds no scenes of the split {Split.TRAIN.value}: write some with "
                f"`rsvp tabletop export --split {Split.TRAIN.value} --out {folder}`, or leave out `tabletop`"
            )
        records += [path for i, path in enumerate(found) if (i % HELD_OUT == 0) == held_out]
    return tuple(records)


def read_photographs(folder: str | None) -> list[np.ndarray]:
    """The pictures in a folder, uint8 H x W x 3 RGB; none for None. Raises ConfigurationError where it holds none."""
    if folder is None:
        return []
    paths = sorted(path for path in Path(folder).expanduser().glob("*") if path.suffix.lower() in PICTURES)
    pictures = [picture for path in paths if (picture := cv2.imread(str(path))) is not None]
    if not pictures:
        raise ConfigurationError(f"`photographs` {folder} holds no picture that can be read ({', '.join(PICTURES)})")
    return [cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) for picture in pictures]
