"""Opening a user's own data sets by their format."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.training.datasets.annotated import AnnotatedImage, AnnotatedImages, missing_image
from rsvp_ros.training.datasets.coco import CocoInstances
from rsvp_ros.training.datasets.reasonseg import ReasonSeg
from rsvp_ros.training.datasets.refcoco import RefCoco
from rsvp_ros.training.sources import HELD_OUT

FORMATS = ("coco", "refcoco", "reasonseg")


@dataclass(frozen=True)
class DatasetConfig:
    """Where a data set is stored. docs/training_data.md shows the layouts."""

    format: str
    """One of FORMATS; "refcoco" is also for RefCOCO+ and RefCOCOg."""
    folder: str
    """COCO: holds annotations/ and the images; RefCOCO: holds refs(…).p and instances.json; ReasonSeg: holds train/."""
    split: str = "train"
    """COCO: "train2017" for annotations/instances_train2017.json; ReasonSeg: a folder; RefCOCO: as in refs(…).p."""
    annotations: str | None = None
    """COCO: the annotation file, if it has another name."""
    images: str | None = None
    """Folder of the images. COCO: by default train2017/, images/train2017/ or images/; RefCOCO: COCO's train2014."""
    split_by: str | None = None
    """RefCOCO: "unc", "google" or "umd", if the folder holds several."""
    exhaustive: bool = True
    """COCO, RefCOCO: all things of all categories are annotated, as in COCO. Only then can absence be learnt."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigurationError(f"no format {self.format!r} of a data set: choose one of {', '.join(FORMATS)}")
        if self.format == "refcoco" and self.images is None:
            raise ConfigurationError(f"the data set {self.folder} needs `images`: the folder of COCO's train2014")
        for name, formats in _ONLY_OF.items():
            if getattr(self, name) is not None and self.format not in formats:
                raise ConfigurationError(
                    f"the data set {self.folder} has `{name}`, which the format {self.format} does not know"
                )


_ONLY_OF = {"annotations": ("coco",), "images": ("coco", "refcoco"), "split_by": ("refcoco",)}

READ_FIRST = 50
"""Number of images looked for when a data set is opened, so that a wrong folder is noticed before training starts."""


def open_dataset(config: DatasetConfig) -> AnnotatedImages:
    """The annotated images; picklable, for the processes that make batches.

    Raises:
        ConfigurationError: a file is missing, damaged, or holds an unusable annotation.
        InvalidImageError: one of the first images is missing. Other missing images are noticed when they are read.
    """
    folder = Path(config.folder).expanduser()
    images = None if config.images is None else Path(config.images).expanduser()
    if config.format == "coco":
        name = config.annotations or folder / "annotations" / f"instances_{config.split}.json"
        usual = [folder / config.split, folder / "images" / config.split, folder / "images"]
        dataset = CocoInstances(Path(name).expanduser(), [images] if images else usual, config.exhaustive)
    elif config.format == "refcoco":
        dataset = RefCoco(folder, images, config.split, config.split_by, config.exhaustive)
    else:
        dataset = ReasonSeg(folder / config.split)
    for image in itertools.islice(dataset, READ_FIRST):
        if not image.path.is_file():
            raise missing_image(image.path)
    return dataset


_NOT_ITS_OWN = re.compile(r"^COCO_[a-z]+\d{4}_|(?<=\d{6})(_\d{1,2})+$")
"""The prefix of COCO's older file names, and the view and question numbers at the end of those of `rsvp tabletop
export`."""


@dataclass(frozen=True, eq=False)
class Selection(Sequence[AnnotatedImage]):
    """Some images of a data set."""

    images: Sequence[AnnotatedImage]
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> AnnotatedImage:
        return self.images[self.indices[index]]


def divided(images: AnnotatedImages, held_out: bool) -> Sequence[AnnotatedImage]:
    """The images to train on, or those for validation; all of them if there are too few to divide."""
    chosen = [index for index in range(len(images)) if _is_held_out(images.file_name(index)) == held_out]
    return Selection(images, chosen) if chosen else images


def _is_held_out(file_name: str) -> bool:
    """Decided by what all file names of the same photograph have in common, whichever data set it is in."""
    return zlib.crc32(_NOT_ITS_OWN.sub("", Path(file_name).stem).encode()) % HELD_OUT == 0
