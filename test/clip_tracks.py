"""What can be followed through a clip, and how much of it is seen when. numpy only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rsvp_ros.tabletop.view import MIN_AREA, View

IN_SIGHT, HIDDEN = 0.5, 0.05
"""At least this share of a thing is seen; at most this one."""
MOVED = 0.05
"""A thing that comes this far from where it was has moved, metres."""


@dataclass(frozen=True, eq=False)
class Track:
    """One object through all views of a clip."""

    id: int
    kind: str
    color: str
    seen: np.ndarray
    """float64, one a view: the share of it that is seen, 0 to 1; both what hides it and the image's edge count."""
    area: np.ndarray
    """float64, one a view: the share of the image that it covers."""
    moved: float
    """The farthest it comes from where it was in the first view, metres."""

    @property
    def in_sight(self) -> np.ndarray:
        """bool, one a view."""
        return self.seen >= IN_SIGHT

    @property
    def hidden(self) -> np.ndarray:
        """bool, one a view: nothing of it, or next to nothing, can be seen."""
        return self.seen <= HIDDEN

    @property
    def returns(self) -> bool:
        """Whether it is hidden, or out of the image, and in sight before and after."""
        hidden = np.flatnonzero(self.hidden)
        return bool(len(hidden) and self.in_sight[: hidden[0]].any() and self.in_sight[hidden[0] :].any())

    @property
    def good(self) -> bool:
        """Whether to follow it tests a tracker: clear to see in the first view, for at least half of the clip large
        enough, and it moves or is hidden."""
        begins = self.seen[0] >= 0.9 and self.area[0] >= 2 * MIN_AREA
        stays = np.mean(self.in_sight & (self.area >= MIN_AREA)) >= 0.5
        return bool(begins and stays and (self.moved >= MOVED or self.returns))


def tracks(views: Iterable[View]) -> tuple[Track, ...]:
    """Every object of a clip, in the order of ids. The views are looked at one after the other and not kept."""
    seen: dict[int, list[float]] = {}
    area: dict[int, list[float]] = {}
    places: dict[int, list[np.ndarray]] = {}
    last = None
    for last in views:
        for thing in last.objects:
            seen.setdefault(thing.id, []).append(thing.visible * thing.inside)
            area.setdefault(thing.id, []).append(thing.area / last.ids.size)
            places.setdefault(thing.id, []).append(thing.position)
    return tuple(
        Track(
            id=thing.id,
            kind=thing.kind,
            color=thing.color,
            seen=np.array(seen[thing.id]),
            area=np.array(area[thing.id]),
            moved=float(np.linalg.norm(np.array(places[thing.id]) - places[thing.id][0], axis=1).max()),
        )
        for thing in (last.objects if last is not None else ())
    )
