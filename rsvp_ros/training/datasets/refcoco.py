"""RefCOCO, RefCOCO+ and RefCOCOg: people's descriptions of things in COCO's photographs.

A folder as published (https://github.com/lichengunc/refer) holds instances.json, in COCO's format with everything that
COCO annotates in these photographs, and the descriptions in refs(unc).p, refs(google).p or refs(umd).p: a pickled list
of dictionaries with `ref_id`, `ann_id`, `split` and `sentences`. The photographs are those of COCO's train2014.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.training.datasets.annotated import AnnotatedImage, AnnotatedImages
from rsvp_ros.training.datasets.coco import CocoInstances
from rsvp_ros.training.datasets.files import read_bytes, wrong_content


class RefCoco(AnnotatedImages):
    """The photographs in which something is described in one of the splits."""

    def __init__(
        self, folder: Path, images: Path, split: str, split_by: str | None = None, exhaustive: bool = True
    ) -> None:
        """`images`: folder of train2014 or train2017; `split`: "train", "val", "testA", … as the file has it;
        `split_by`: which refs(…).p, None if there is only one; `exhaustive`: whether instances.json has all things of
        its categories (ignored for a file that has only the described things).

        Raises ConfigurationError naming the file and what to do.
        """
        path = _descriptions_file(folder, split_by)
        texts: dict[str, dict[int, tuple[str, ...]]] = {}
        described = set()
        try:
            for reference in _unpickle(path):
                number = int(reference["ann_id"])
                said = (str(sentence["sent"]).strip() for sentence in reference["sentences"])
                of_split = texts.setdefault(str(reference["split"]), {})
                of_split[number] = of_split.get(number, ()) + tuple(filter(None, said))
                described.add(number)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise wrong_content(path, f"its entries are not RefCOCO's: {error!r}") from error
        if split not in texts:
            raise ConfigurationError(f"{path} has no split {split!r}: choose one of {', '.join(sorted(texts))}")
        self._texts = texts[split]
        self._instances = CocoInstances(folder / "instances.json", [images])
        self._exhaustive = exhaustive and self._instances.annotations > len(described)
        self._indices = self._instances.indices_of(self._texts)

    def __len__(self) -> int:
        return len(self._indices)

    def file_name(self, index: int) -> str:
        return self._instances.file_name(self._indices[index])

    def __getitem__(self, index: int) -> AnnotatedImage:
        image = self._instances[self._indices[index]]
        return replace(
            image,
            path=_as_stored(image.path),
            things=tuple(replace(thing, texts=self._texts.get(thing.id, ())) for thing in image.things),
            complete=image.complete if self._exhaustive else (),
        )


def _as_stored(path: Path) -> Path:
    """COCO has renamed its photographs: COCO_train2014_000000000009.jpg is train2017's 000000000009.jpg."""
    renamed = path.with_name(path.name.removeprefix("COCO_train2014_"))
    return renamed if not path.is_file() and renamed.is_file() else path


def _descriptions_file(folder: Path, split_by: str | None) -> Path:
    if split_by is not None:
        return folder / f"refs({split_by}).p"
    found = sorted(folder.glob("refs(*).p"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "no refs(…).p"
        raise ConfigurationError(f"{folder} holds {names}: set `split_by` of the data set to unc, google or umd")
    return found[0]


class _PlainUnpickler(pickle.Unpickler):
    """Lists, dictionaries, text and numbers only: a pickle that names a class or a function could run anything."""

    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and RefCOCO's descriptions are plain lists")

    def persistent_load(self, pid: object) -> object:
        raise pickle.UnpicklingError("it names an object outside itself")


def _unpickle(path: Path) -> list:
    """Read a pickle written by Python 2, whose text may be bytes."""
    data = io.BytesIO(read_bytes(path))
    try:
        content = _PlainUnpickler(data, encoding="utf-8", errors="replace").load()
    except Exception as error:  # a damaged pickle can raise almost anything
        raise wrong_content(path, f"it is not RefCOCO's pickle ({error})") from error
    if not isinstance(content, list):
        raise wrong_content(path, "it does not hold a list")
    return content
