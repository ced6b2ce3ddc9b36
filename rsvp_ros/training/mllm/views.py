"""Rendered views as training data: one array for the images, one for the ids, and what is known about the things."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.reasoning.visual_prompt import VisualPrompt
from rsvp_ros.tabletop.descriptions import is_named_wooden, rolls
from rsvp_ros.tabletop.kinds import COLORS, KINDS, ROLLS_LYING
from rsvp_ros.tabletop.layout import Layout
from rsvp_ros.tabletop.view import ObjectView, View
from rsvp_ros.training.mllm.extents import EXTENT, measure_classes, millimetres
from rsvp_ros.training.mllm.model import MERGE, PATCH
from rsvp_ros.training.places import Ground, spot

KIND_NAMES = tuple(KINDS)
COLOR_NAMES = tuple(COLORS)
UNTOLD = -100
"""Class of what is not taught."""
PATTERN_NAMES = ("plain", "striped", "dotted", "checked")
HEIGHT, WIDTH = 288, 384
"""Size of the images that the network sees, pixels: a 4:3 image of whole merged tokens. A camera's smaller image is
scaled up, so that small things cover more patches."""
MEAN = STD = 0.5


@dataclass(frozen=True)
class SeenThing:
    """What a picture teaches about one thing."""

    id: int
    kind: int
    """Index in KIND_NAMES; `color` and `pattern` likewise."""
    color: int
    """UNTOLD: the colour has no name."""
    pattern: int
    wooden: bool
    lying: bool
    named: bool
    """Whether enough of it is seen to be named."""
    x: int
    """x of its middle on the table, world, millimetres; `y` likewise."""
    y: int
    extent: tuple[int, ...]
    """From `extents.millimetres`."""

    def measures(self, ground: Ground) -> tuple[int, ...]:
        """Classes of its measures in an image of that ground, in the order of `extents.Measure`."""
        return measure_classes(self.extent, ground)


def is_lying(thing: ObjectView) -> bool:
    """Whether it lies on its side, for kinds where that matters because they then roll."""
    return thing.kind in ROLLS_LYING.members and rolls(thing) is True


def seen_things(view: View) -> tuple[SeenThing, ...]:
    """All visible things."""
    named, layout = {o.id for o in view.things}, Layout(view)
    return tuple(
        SeenThing(
            o.id, KIND_NAMES.index(o.kind), COLOR_NAMES.index(o.color), PATTERN_NAMES.index(o.pattern),
            is_named_wooden(o), is_lying(o), o.id in named, *spot(o), millimetres(layout, o),
        )
        for o in view.objects if o.box is not None
    )  # fmt: skip


def to_patches(images: np.ndarray) -> np.ndarray:
    """Images, uint8 B x HEIGHT x WIDTH x 3, as the processor passes them to the network: float32 B x N x values.

    The patches of a merged token come together; the order within a patch is colour, row, column.
    """
    batch, height, width, _ = images.shape
    rows, columns = height // PATCH // MERGE, width // PATCH // MERGE
    split = images.reshape(batch, rows, MERGE, PATCH, columns, MERGE, PATCH, 3).transpose(0, 1, 4, 2, 5, 7, 3, 6)
    values = split.reshape(batch, rows * columns * MERGE**2, 3 * PATCH * PATCH).astype(np.float32)
    return (values / 255 - MEAN) / STD


def to_patch_order(cells: np.ndarray) -> np.ndarray:
    """Values of patches, rows x columns x ..., in the order of `to_patches`."""
    rows, columns = cells.shape[0] // MERGE, cells.shape[1] // MERGE
    split = cells.reshape(rows, MERGE, columns, MERGE, *cells.shape[2:])
    return np.moveaxis(split, 2, 1).reshape(rows * columns * MERGE**2, *cells.shape[2:])


def network_image(image: np.ndarray, prompt: VisualPrompt) -> np.ndarray:
    """A camera's image with its visual prompt, in the size that the network sees."""
    return cv2.resize(prompt.draw(image), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def recolored(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Slightly brighter or darker, warmer or colder, with noise; not so much that one colour becomes another."""
    gain = (rng.uniform(0.87, 1.13) * rng.uniform(0.96, 1.04, 3)).astype(np.float32)
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, 6))
    return np.clip(image * gain + np.float32(rng.uniform(-8, 8)) + noise, 0, 255).astype(np.uint8)


class ViewStore:
    """Views in a folder: images (uint8 N x H x W x 3) and ids (uint8 N x H x W), memory-mapped; things and grounds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.ids = np.load(folder / "ids.npy", mmap_mode="r")
        rows = np.load(folder / "things.npy")
        starts = np.searchsorted(rows[:, 0], np.arange(len(self.images) + 1))
        self.things: list[tuple[SeenThing, ...]] = [
            tuple(_read_thing(row[1:].tolist()) for row in rows[a:b]) for a, b in itertools.pairwise(starts)
        ]
        height, width = self.images.shape[1:3]
        center = (width - 1) / 2, (height - 1) / 2
        self.grounds = [
            Ground(matrix, center, width, tuple(table))
            for matrix, table in zip(np.load(folder / "grounds.npy"), np.load(folder / "tables.npy"), strict=True)
        ]

    def __reduce__(self) -> tuple[type[ViewStore], tuple[Path]]:
        """Another process maps the files itself; otherwise the images themselves would be pickled."""
        return ViewStore, (self._folder,)

    def __len__(self) -> int:
        return len(self.images)


def thing_rows(index: int, view: View) -> np.ndarray:
    """The things of a view: int32 rows of the view's index and what is known about each thing, extents last."""
    rows = [
        (index, t.id, t.kind, t.color, t.pattern, t.wooden, t.lying, t.named, t.x, t.y, *t.extent)
        for t in seen_things(view)
    ]
    return np.array(rows, np.int32).reshape(-1, 10 + EXTENT)


def _read_thing(values: Sequence[int]) -> SeenThing:
    """Raises ValueError or TypeError if there are more or fewer values than `thing_rows` writes."""
    known, extent = values[:-EXTENT], tuple(values[-EXTENT:])
    return SeenThing(*known, extent=extent)


def write_store(folder: Path, views: Iterable[View], count: int) -> None:
    """Write `count` views of one size, one at a time, so that they need not fit into memory together.

    Raises OSError, or ConfigurationError if their sizes differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, grounds, tables = [], [], []
    # Not memory-mapped: on a full disk, that would kill the process without a message
    with (folder / "images.npy").open("wb") as images, (folder / "ids.npy").open("wb") as ids:
        for index, view in enumerate(views):
            if index == 0:
                shape = view.ids.shape
                for file, of_view in ((images, (*shape, 3)), (ids, shape)):
                    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *of_view)}
                    np.lib.format.write_array_header_1_0(file, header)
            if view.ids.shape != shape or view.image.shape != (*shape, 3):
                raise ConfigurationError("the views are not all of the same size: export all with the same --size")
            images.write(view.image.tobytes())
            ids.write(view.ids.tobytes())
            rows.append(thing_rows(index, view))
            grounds.append(Ground.of(view).world_from_image)
            tables.append(view.table)
    np.save(folder / "things.npy", np.concatenate(rows))
    np.save(folder / "grounds.npy", np.stack(grounds))
    np.save(folder / "tables.npy", np.stack(tables))
