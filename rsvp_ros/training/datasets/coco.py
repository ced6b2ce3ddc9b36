"""COCO's instances, and other data in its format: instances_<split>.json and a folder of images.

The annotations of all of COCO's 118 000 training images must fit into the memory of every process that makes batches.
So numbers go into arrays while the file is read, and an image's annotations are taken out of them on request.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from rsvp_ros.training.datasets.annotated import AnnotatedImage, AnnotatedImages, AnnotatedThing
from rsvp_ros.training.datasets.areas import Area, Polygons, RunLengths
from rsvp_ros.training.datasets.files import read_json, wrong_annotation, wrong_content

_log = logging.getLogger(__name__)

MANY_CROWDS = 0.2
"""Share of crowds among a file's annotations that triggers a warning; in COCO it is one in a hundred."""


class CocoInstances(AnnotatedImages):
    """The images that have annotations, in the file's order. Crowds (`iscrowd`) are ignored areas."""

    def __init__(self, annotations: Path, folders: Sequence[Path], exhaustive: bool = True) -> None:
        """`folders`: where the images may be; the first folder that holds the first image is used for all.
        `exhaustive`: whether all things of the file's categories are annotated.

        Raises ConfigurationError naming the file, the annotation and what to do.
        """
        self.path = annotations
        self._columns = columns = _Columns(annotations)
        content = read_json(annotations, object_hook=columns.take)
        try:
            described = {
                int(i["id"]): (str(i["file_name"]), int(i["width"]), int(i["height"])) for i in content["images"]
            }
            self._names = {int(c["id"]): str(c["name"]).replace("_", " ") for c in content["categories"]}
            strays = [value for value in content["annotations"] if value is not None]
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_content(
                annotations, f"`images`, `annotations` or `categories` are not COCO's: {error!r}"
            ) from error
        if len(described) < len(content["images"]):
            raise wrong_content(annotations, "two of its `images` have the same `id`")
        if strays:
            number = strays[0].get("id") if isinstance(strays[0], dict) else strays[0]
            raise wrong_annotation(annotations, number, "it lacks `segmentation` or `image_id`")
        if not columns.ids:
            raise wrong_content(annotations, "nothing is annotated in its images")
        columns.check({key: size for key, (_, *size) in described.items()}, self._names)
        crowds = sum(columns.crowd)
        if crowds == len(columns.ids):
            raise wrong_content(
                annotations,
                "all of its annotations are crowds (`iscrowd` 1), of which nothing is learnt. CVAT and Datumaro write "
                "every mask drawn with a brush so: set it to 0 where it is one thing",
            )
        if crowds > MANY_CROWDS * len(columns.ids):
            _log.warning(
                "%s: %d of %d annotations are crowds (`iscrowd` 1), of which nothing is learnt: set it to 0 where it "
                "is one thing (CVAT and Datumaro write every mask drawn with a brush so)",
                annotations, crowds, len(columns.ids),
            )  # fmt: skip
        self._complete = tuple(self._names.values()) if exhaustive else ()

        number = {key: n for n, key in enumerate(described)}
        used, self._image_of_row = np.unique([number[key] for key in columns.image_ids], return_inverse=True)
        listed = list(described.values())
        self._described = [listed[n] for n in used]
        first_image, _, _ = self._described[0]
        self._folder = next((folder for folder in folders if (folder / first_image).is_file()), folders[0])
        self._rows = np.argsort(self._image_of_row, kind="stable")
        self._first = np.searchsorted(self._image_of_row[self._rows], np.arange(len(used) + 1))

    def __len__(self) -> int:
        return len(self._described)

    def file_name(self, index: int) -> str:
        return self._described[index][0]

    def __getitem__(self, index: int) -> AnnotatedImage:
        name, width, height = self._described[index]
        rows = self._rows[self._first[index] : self._first[index + 1]].tolist()
        things = [self._thing(row) for row in rows]
        crowd = self._columns.crowd
        return AnnotatedImage(
            self._folder / name,
            width,
            height,
            tuple(thing for row, thing in zip(rows, things, strict=True) if not crowd[row]),
            tuple(thing for row, thing in zip(rows, things, strict=True) if crowd[row]),
            self._complete,
        )

    @property
    def annotations(self) -> int:
        return len(self._columns.ids)

    def indices_of(self, annotations: Collection[int]) -> list[int]:
        """Indices of the images with these annotations. Raises ConfigurationError if one of them is not in the file."""
        rows = np.flatnonzero(np.isin(self._columns.ids, list(annotations)))
        missing = set(annotations).difference(self._columns.ids[row] for row in rows.tolist())
        if missing:
            raise wrong_content(self.path, f"annotation {min(missing)} is described, and is not in it")
        return np.unique(self._image_of_row[rows]).tolist()

    def _thing(self, row: int) -> AnnotatedThing:
        columns = self._columns
        return AnnotatedThing(columns.ids[row], columns.area(row), self._names[columns.category_ids[row]])


class _Columns:
    """The annotations of a file, one per row, in arrays that are filled while its JSON is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids = array("q")
        self.image_ids = array("q")
        self.category_ids = array("q")
        self.crowd = array("b")
        self.boxes = array("f")
        """x, y, width, height; all 0 for annotations without a box."""
        self.numbers = array("f")
        """x and y of all corners of all polygons."""
        self.corners = array("q", [0])
        """Polygon k has the corners from corners[k] up to corners[k + 1]."""
        self.polygons = array("q", [0])
        """Row r has the polygons from polygons[r] up to polygons[r + 1]."""
        self.run_lengths: dict[int, RunLengths] = {}
        """By row, for the rows that have no polygons."""

    def take(self, value: dict) -> dict | None:
        """Hook for every JSON object: an annotation goes into the arrays, any other object is returned unchanged.

        Raises ConfigurationError naming the annotation.
        """
        if "segmentation" not in value or "image_id" not in value:
            return value
        try:
            self._add(value)
        except KeyError as error:
            raise wrong_annotation(self.path, value.get("id"), f"it lacks {error}") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise wrong_annotation(self.path, value.get("id"), str(error)) from error
        return None

    def _add(self, value: dict) -> None:
        self.ids.append(value["id"])
        self.image_ids.append(value["image_id"])
        self.category_ids.append(value["category_id"])
        self.crowd.append(value.get("iscrowd", 0))
        box = value.get("bbox", (0, 0, 0, 0))
        if len(box) != 4 or min(box[2:]) < 0:
            raise ValueError(f"its `bbox` {box} is not x, y, width, height")
        self.boxes.extend(box)
        outline = value["segmentation"]
        if isinstance(outline, dict):
            counts = outline["counts"]
            height, width = outline["size"]
            packed = counts if isinstance(counts, str) else np.array(counts, np.int32)
            self.run_lengths[len(self.ids) - 1] = RunLengths((height, width), packed)
        else:
            for polygon in outline:
                if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                    raise ValueError("its `segmentation` is no list of polygons [x0, y0, x1, y1, x2, y2, …]")
                self.numbers.extend(polygon)
                self.corners.append(len(self.numbers) // 2)
            if not outline:
                raise ValueError("its `segmentation` is empty, and masks cannot be learnt from a box")
        self.polygons.append(len(self.corners) - 1)

    def area(self, row: int) -> Area:
        if row in self.run_lengths:
            return self.run_lengths[row]
        points = np.frombuffer(self.numbers, np.float32).reshape(-1, 2)
        first, last = self.polygons[row : row + 2]
        return Polygons(tuple(points[self.corners[k] : self.corners[k + 1]] for k in range(first, last)))

    def check(self, sizes: Mapping[int, tuple[int, int]], categories: Mapping[int, str]) -> None:
        """Raise ConfigurationError for an annotation outside its image, or whose image or category is missing.

        Areas that are partly outside their image are allowed: they are cut off when the mask is made.
        """
        self._refuse(~np.isin(self.image_ids, list(sizes)), "its `image_id` is not among the `images`")
        self._refuse(~np.isin(self.category_ids, list(categories)), "its `category_id` is not among the `categories`")
        size = np.array([sizes[key] for key in self.image_ids], np.float32)
        boxes = np.array(self.boxes, np.float32).reshape(-1, 4)
        points = np.array(self.numbers, np.float32).reshape(-1, 2)
        count = np.diff(self.polygons)
        row = np.repeat(np.arange(len(count)), count)
        starts = np.array(self.corners[:-1])
        low, high = np.empty((2, len(row), 2), np.float32)
        if len(row):
            low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
        finite = np.isfinite(low + high).all(1)
        self._refuse(np.bincount(row, ~finite, len(count)) > 0, "its `segmentation` has a number that is not finite")
        inside = ((high >= 0) & (low <= size[row])).all(1)
        inside = (np.bincount(row, inside, len(count)) > 0) | (count == 0)
        inside &= ((boxes[:, :2] <= size) & (boxes[:, :2] + boxes[:, 2:] >= 0)).all(1)
        self._refuse(~inside, "it lies outside its image")
        for number, runs in self.run_lengths.items():
            if runs.size != (size[number, 1], size[number, 0]):
                wide, high = size[number].astype(int)
                what = f"its run lengths are of {runs.size[1]} x {runs.size[0]} pixels, its image has {wide} x {high}"
                raise wrong_annotation(self.path, self.ids[number], what)

    def _refuse(self, rows: np.ndarray, what: str) -> None:
        if rows.any():
            raise wrong_annotation(self.path, self.ids[int(np.argmax(rows))], what)
