"""Geometry of every kind of thing that can lie on the table. numpy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.tabletop.shapes import food, household, tableware, tools
from rsvp_ros.tabletop.shapes.shape import Draft, Part, Rest, Shape, finish

SHAPES: dict[str, Callable[[np.random.Generator], Draft]] = {
    "mug": tableware.mug,
    "cup": tableware.cup,
    "bottle": tableware.bottle,
    "bowl": tableware.bowl,
    "plate": tableware.plate,
    "teapot": tableware.teapot,
    "pan": tableware.pan,
    "knife": tableware.knife,
    "fork": tableware.fork,
    "spoon": tableware.spoon,
    "scissors": tools.scissors,
    "hammer": tools.hammer,
    "screwdriver": tools.screwdriver,
    "spanner": tools.spanner,
    "tape": tools.tape,
    "book": household.book,
    "pen": tools.pen,
    "phone": household.phone,
    "remote": household.remote,
    "battery": household.battery,
    "key": tools.key,
    "banana": food.banana,
    "apple": food.apple,
    "orange": food.orange,
    "pear": food.pear,
    "lemon": food.lemon,
    "carrot": food.carrot,
    "can": household.can,
    "box": household.carton,
    "candle": household.candle,
    "sponge": household.sponge,
    "ball": household.ball,
    "cube": household.cube,
}


def build_shape(kind: str, rng: np.random.Generator) -> Shape:
    """One thing of a kind, a key of `kinds.KINDS`; its size and style come from `rng`.

    Raises ConfigurationError for a kind that has no shape.
    """
    if kind not in SHAPES:
        raise ConfigurationError(f"there is no shape for the kind {kind!r}; there are: {', '.join(SHAPES)}")
    return finish(kind, SHAPES[kind](rng))


__all__ = ["SHAPES", "Part", "Rest", "Shape", "build_shape"]
