"""One view of the tabletop on disk: colour, depth, which object is where, and the rest of the truth as JSON. No MuJoCo.

`rsvp tabletop render` writes one, `rsvp tabletop export` many. What is read back is what was written, except that
depth is in whole millimetres and JPEG changes the colours slightly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from rsvp_ros.errors import InvalidImageError
from rsvp_ros.files import write_whole
from rsvp_ros.tabletop import rle
from rsvp_ros.tabletop.bag import objects_from_json, objects_to_json, to_millimetres
from rsvp_ros.tabletop.instruction import ChainStep, Instruction, InstructionKind
from rsvp_ros.tabletop.view import Camera, View

JPEG_QUALITY = 95


@dataclass(frozen=True)
class ViewFiles:
    """Where the files of a view are."""

    image: Path
    """Colour: PNG, or JPEG if its suffix is ".jpg"."""
    depth: Path
    """16-bit PNG, millimetres along the optical axis; 0: unknown (ROS: 16UC1)."""
    ids: Path
    """8-bit PNG: the object in each pixel; 0: none."""
    record: Path
    """JSON: camera, objects, instructions; written last, so if it is there, everything is."""

    @property
    def there(self) -> bool:
        """Whether no part is missing or empty."""
        parts = (self.record, self.image, self.depth, self.ids)
        return all(part.is_file() and part.stat().st_size for part in parts)

    @classmethod
    def alone(cls, folder: Path) -> ViewFiles:
        """The files of the only view in a folder."""
        return cls(folder / "rgb.png", folder / "depth.png", folder / "ids.png", folder / "scene.json")

    @classmethod
    def among(cls, folder: Path, name: str) -> ViewFiles:
        """The files of one of many views in a folder, with a sub-folder for each part."""
        return cls(
            folder / "images" / f"{name}.jpg",
            folder / "depth" / f"{name}.png",
            folder / "ids" / f"{name}.png",
            folder / "scenes" / f"{name}.json",
        )


def write_view(
    files: ViewFiles,
    view: View,
    instructions: Sequence[Instruction] = (),
    made_with: Mapping[str, object] | None = None,
) -> None:
    """Write a view and what is said about it; creates the folders. Raises OSError.

    Args:
        made_with: options from which the view can be made again (split, seed, …), as JSON values; kept in the record.
    """
    colors = cv2.cvtColor(view.image, cv2.COLOR_RGB2BGR)
    write_whole(files.image, encoded(files.image.suffix, colors))
    write_whole(files.depth, encoded(".png", to_millimetres(view.depth)))
    write_whole(files.ids, encoded(".png", view.ids))
    folder = files.record.parent
    record = {
        "made_with": dict(made_with or {}),
        "image": _relative(files.image, folder),
        "depth": _relative(files.depth, folder),
        "ids": _relative(files.ids, folder),
        "camera": camera_to_json(view.camera),
        **json.loads(objects_to_json(view)),
        "full_masks": {o.id: rle.encode(o.full_mask) for o in view.objects if o.full_mask is not None},
        "instructions": [instruction_to_json(instruction) for instruction in instructions],
    }
    write_json(files.record, record)


def read_view(record: Path) -> tuple[View, list[Instruction]]:
    """A view and what is said about it, from its JSON file. Raises OSError, InvalidImageError if it is damaged."""
    data = read_record(record)
    try:
        return _view(data, record), [_instruction_from_json(instruction) for instruction in data["instructions"]]
    except _NOT_OURS as error:
        raise _damaged(record, record) from error


def read_record(record: Path) -> dict:
    """The JSON of a view. Raises OSError, InvalidImageError if it is damaged."""
    try:
        data = json.loads(record.read_text(encoding="utf-8"))
        data["made_with"].items()
    except _NOT_OURS as error:
        raise _damaged(record, record) from error
    return data


_NOT_OURS = (ValueError, KeyError, TypeError, IndexError, AttributeError)
"""What reading raises if a file holds something else."""


def _damaged(path: Path, record: Path) -> InvalidImageError:
    return InvalidImageError(f"{path} is missing or damaged: delete {record} and run what wrote it again")


def _view(data: dict, record: Path) -> View:
    image, depth, ids = (_decoded(record.parent / data[part], record) for part in ("image", "depth", "ids"))
    camera = data["camera"]
    objects, table = objects_from_json(json.dumps(data))
    full_masks = {int(number): rle.decode(mask) for number, mask in data["full_masks"].items()}
    return View(
        image=cv2.cvtColor(image, cv2.COLOR_BGR2RGB),
        depth=np.where(depth == 0, np.float32(np.nan), depth * np.float32(0.001)),
        ids=ids,
        camera=Camera(camera["width"], camera["height"], camera["f"], np.array(camera["world_from_optical"], float)),
        objects=tuple(replace(thing, full_mask=full_masks.get(thing.id)) for thing in objects),
        table=table,
        stamp_ns=data["stamp_ns"],
    )


def camera_to_json(camera: Camera) -> dict:
    return {
        "width": camera.width,
        "height": camera.height,
        "f": camera.f,
        "center": list(camera.center),
        "world_from_optical": camera.world_from_optical.tolist(),
    }


def instruction_to_json(instruction: Instruction) -> dict:
    return {**asdict(instruction), "kind": instruction.kind.value}


def _instruction_from_json(data: dict) -> Instruction:
    return Instruction(
        text=data["text"],
        language=data["language"],
        kind=InstructionKind(data["kind"]),
        targets=tuple(data["targets"]),
        names=tuple(data["names"]),
        attributes=tuple(tuple(words) for words in data["attributes"]),
        chain=tuple(ChainStep(**step) for step in data["chain"]),
        novel=tuple(data["novel"]),
    )


def write_json(path: Path, data: object) -> None:
    """In ASCII, so that readers need not know the encoding. Raises OSError."""
    write_whole(path, (json.dumps(data, separators=(",", ":")) + "\n").encode("ascii"))


def encoded(suffix: str, image: np.ndarray) -> bytes:
    """The content of an image file in the format of `suffix` (".png", ".jpg"); colours are BGR."""
    quality = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY) if suffix == ".jpg" else ()
    return cv2.imencode(suffix, image, quality)[1].tobytes()


def _decoded(path: Path, record: Path) -> np.ndarray:
    data = np.fromfile(path, np.uint8) if path.is_file() else np.empty(0, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None:
        raise _damaged(path, record)
    return image


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
