"""Targets as RViz markers: a translucent box around what is seen of each, and its name above it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from rsvp_ros.ros.conversions import clean_text, seconds_to_duration
from rsvp_ros.types import Target, TargetState
from rsvp_ros.visualization import target_color

MINIMUM_SIZE_M = 0.02


@dataclass(frozen=True, eq=False)
class Place:
    """Where a target was seen last."""

    position: np.ndarray
    """x, y, z in metres (`surface.target_position`)."""
    size: np.ndarray
    """Extent in x, y, z in metres (`surface.target_size`)."""
    header: Header
    """Of that image: the camera may have turned since."""


def targets_to_markers(
    targets: Iterable[Target], places: Mapping[int, Place], header: Header, lifetime_s: float = 1.0
) -> MarkerArray:
    """Markers in the camera's optical frame, in the colours of the overlay.

    Targets without a place (no depth) and lost ones get none. The first marker deletes all earlier ones, so that a
    subscriber which missed a message shows nothing stale; `lifetime_s` clears the display when the node stops.

    Args:
        places: by target id.
        header: of the newest image. A marker has the header of the image in which its target was seen.
    """
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    for target in targets:
        place = places.get(target.id)
        if place is None or target.state == TargetState.LOST:
            continue
        x, y, z = (float(value) for value in place.position)
        size = np.maximum(place.size, MINIMUM_SIZE_M)
        red, green, blue = (channel / 255 for channel in target_color(target.id))
        seen = target.state == TargetState.TRACKING

        body = Marker(header=place.header, ns="targets", id=target.id, type=Marker.CUBE, action=Marker.ADD)
        body.pose.position = Point(x=x, y=y, z=z)
        body.scale = Vector3(x=float(size[0]), y=float(size[1]), z=float(size[2]))
        body.color = ColorRGBA(r=red, g=green, b=blue, a=0.5 if seen else 0.2)

        text_height = float(np.clip(size[1] / 3, 0.02, 0.1))
        name = Marker(header=place.header, ns="names", id=target.id, type=Marker.TEXT_VIEW_FACING, action=Marker.ADD)
        name.pose.position = Point(x=x, y=y - float(size[1]) / 2 - text_height, z=z)  # y points down
        name.scale.z = text_height
        name.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0 if seen else 0.5)
        name.text = clean_text(f"{target.id} {target.name}" if seen else f"{target.id} {target.name} (occluded)")

        for marker in (body, name):
            marker.pose.orientation.w = 1.0
            marker.lifetime = seconds_to_duration(lifetime_s)
            markers.append(marker)
    return MarkerArray(markers=markers)
