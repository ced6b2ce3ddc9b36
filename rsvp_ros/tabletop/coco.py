"""Views in the format of COCO's instances: images, annotations with run-length encoded masks, categories."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rsvp_ros.tabletop import rle
from rsvp_ros.tabletop.kinds import CATEGORIES, KINDS, is_held_out_pair
from rsvp_ros.tabletop.view import ObjectView, View
from rsvp_ros.tabletop.view_files import camera_to_json

CATEGORY_IDS: dict[str, int] = {kind: number for number, kind in enumerate(KINDS, start=1)}


def categories() -> list[dict]:
    """All kinds of things, whether or not they occur; those in no category have the supercategory "thing"."""
    return [
        {
            "id": CATEGORY_IDS[kind],
            "name": kind,
            "supercategory": next((name for name, group in CATEGORIES.items() if group.holds(kind)), "thing"),
        }
        for kind in KINDS
    ]


def instances(named_views: Iterable[tuple[str, View]], description: str) -> dict:
    """The content of instances_<split>.json.

    Args:
        named_views: the images' file names and the views; images and annotations are numbered from 1 in this order.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, (file_name, view) in enumerate(named_views, start=1):
        camera = view.camera
        images.append(
            {
                "id": image_id,
                "file_name": file_name,
                "width": camera.width,
                "height": camera.height,
                "camera": camera_to_json(camera),
            }
        )
        for thing in view.objects:
            if thing.area:
                annotations.append({"id": len(annotations) + 1, "image_id": image_id, **_annotation(view, thing)})
    return {
        "info": {"description": description, "version": "1.0"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories(),
    }


def _annotation(view: View, thing: ObjectView) -> dict:
    """What is visible of a thing and, if the view has it, what would be visible of it alone."""
    mask = view.mask(thing.id)
    box = thing.box
    annotation = {
        "category_id": CATEGORY_IDS[thing.kind],
        "segmentation": rle.encode(mask),
        "area": int(np.count_nonzero(mask)),
        "bbox": [box.x0, box.y0, box.width, box.height],
        "iscrowd": 0,
        "attributes": {
            "object_id": thing.id,
            "color": thing.color,
            "pattern": thing.pattern,
            "material": thing.material,
            "upright": thing.upright,
            "visible": thing.visible,
            "inside": thing.inside,
            "dimensions": list(thing.dimensions),
            "world_from_object": thing.world_from_object.tolist(),
            "held_out": KINDS[thing.kind].held_out or is_held_out_pair(thing.kind, thing.color),
        },
    }
    if thing.full_mask is not None:
        annotation["full_segmentation"] = rle.encode(thing.full_mask)
    return annotation
