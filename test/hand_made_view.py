"""A small view of a tabletop with known pixels, without a renderer, and what may be said about it."""

from __future__ import annotations

import cv2
import numpy as np

from rsvp_ros.geometry import mask_to_box
from rsvp_ros.tabletop.instruction import ChainStep, Instruction, InstructionKind
from rsvp_ros.tabletop.view import Camera, ObjectView, View


def make_view(width: int = 160, height: int = 120) -> View:
    """1: a blue mug whose handle has a hole, 2: a yellow banana in two parts behind 3: a red can; 4: hidden."""
    sx, sy = width / 160, height / 120

    def at(*xy: float) -> tuple[int, int]:
        return round(xy[0] * sx), round(xy[1] * sy)

    ids = np.zeros((height, width), np.uint8)
    cv2.ellipse(ids, at(120, 60), at(22, 22), 0, 0, 360, 1, -1)
    cv2.ellipse(ids, at(130, 58), at(6, 9), 0, 0, 360, 0, -1)
    cv2.ellipse(ids, at(45, 80), at(38, 10), 10, 0, 360, 2, -1)
    full_banana = ids == 2
    cv2.rectangle(ids, at(36, 40), at(56, 100), 3, -1)

    image = np.full((height, width, 3), (150, 130, 110), np.uint8)
    for number, color in ((1, (30, 60, 180)), (2, (240, 205, 60)), (3, (200, 30, 30))):
        image[ids == number] = color
    depth = np.where(ids > 0, np.float32(0.8), np.float32(1.0))
    depth[:5] = np.nan

    def thing(number: int, kind: str, color: str, full: np.ndarray, position: tuple[float, float, float]) -> ObjectView:
        mask = ids == number
        pose = np.eye(4)
        pose[:3, 3] = position
        area = int(np.count_nonzero(mask))
        return ObjectView(
            id=number,
            kind=kind,
            color=color,
            pattern="plain",
            material="plastic",
            dimensions=(0.08, 0.08, 0.1),
            world_from_object=pose,
            upright=True,
            box=mask_to_box(mask),
            area=area,
            visible=area / max(1, np.count_nonzero(full)),
            inside=1.0,
            full_mask=full,
        )

    objects = (
        thing(1, "mug", "blue", ids == 1, (0.2, 0.0, 0.05)),
        thing(2, "banana", "yellow", full_banana, (-0.2, 0.0, 0.02)),
        thing(3, "can", "red", ids == 3, (-0.2, -0.1, 0.06)),
        thing(4, "key", "silver", np.zeros(ids.shape, bool), (0.0, 0.3, 0.0)),
    )
    pose = np.array([[1, 0, 0, 0.1], [0, -0.6, 0.8, -0.9], [0, -0.8, -0.6, 0.7], [0, 0, 0, 1]], float)
    return View(image, depth, ids, Camera(width, height, 150.25 * sx, pose), objects, (1.2, 0.8), stamp_ns=123_456_789)


def _instruction(text, language, kind, targets, names, attributes, chain, novel=()) -> Instruction:
    steps = tuple(ChainStep(name, said) for name, said in chain)
    return Instruction(text, language, kind, targets, names, attributes, steps, novel)


INSTRUCTIONS = (
    _instruction(
        "Hand me something to drink from.",
        "en",
        InstructionKind.USE,
        (1,),
        ("mug",),
        (("blue",),),
        (("target", "One drinks from a mug."), ("scene", "A blue mug, a red can and a banana."), ("presence", "Yes.")),
        ("words",),
    ),
    _instruction(
        "¿Qué está detrás de la lata roja?",
        "es",
        InstructionKind.RELATION,
        (2,),
        ("banana",),
        (("yellow",),),
        (("target", "Lo que está detrás de la lata."),),
    ),
    _instruction(
        "alles außer der Dose",
        "de",
        InstructionKind.NEGATION,
        (1, 2),
        ("mug", "banana"),
        (("blue",), ("yellow",)),
        (("target", "Die Tasse und die Banane."),),
    ),
    _instruction("剪刀在哪里？", "zh", InstructionKind.ATTRIBUTE, (), ("scissors",), ((),), (("presence", "没有。"),)),
)
"""One target with a hole, one in two parts, both, none."""
