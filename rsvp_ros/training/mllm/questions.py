"""Fast questions about views: what is measured between two things is measured only once."""

from __future__ import annotations

import functools
from collections.abc import Callable

from rsvp_ros.tabletop.layout import Layout
from rsvp_ros.tabletop.view import ObjectView, View


def _remembered(method: Callable) -> Callable:
    """A method of things (and names) whose result is computed only once for the same arguments."""

    @functools.wraps(method)
    def wrapper(self: RememberingLayout, *arguments: ObjectView | str) -> object:
        key = (method.__name__, *(a if isinstance(a, str) else a.id for a in arguments))
        if key not in self.known:
            self.known[key] = method(self, *arguments)
        return self.known[key]

    return wrapper


class RememberingLayout(Layout):
    """A layout that many questions are asked about."""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.known: dict[tuple, object] = {}

    gap = _remembered(Layout.gap)
    seen_gap = _remembered(Layout.seen_gap)
    right_of = _remembered(Layout.right_of)
    behind = _remembered(Layout.behind)
    nearer = _remembered(Layout.nearer)
    is_on_side = _remembered(Layout.is_on_side)
    is_within = _remembered(Layout.is_within)
    edge_distance = _remembered(Layout.edge_distance)
    distance = _remembered(Layout.distance)
